"""Signals end a command at once, after what is unfinished was removed."""

import contextlib
import os
import signal
from collections.abc import Iterator

from calojax import files

_STOPPED = b"\nerror: stopped; nothing half-written is left behind.\n"


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within it, `files.SIGNALS` remove what is unfinished before they end the process.

    Those that are ignored (as SIGHUP under nohup) or that have another handler stay as they are.
    An exception instead would strike anywhere: inside a callback of HDF5, which cannot be closed
    after that, or of the garbage collector, which drops it, so that the command would go on.
    """
    ending = (signal.SIG_DFL, signal.default_int_handler)
    handlers = {n: signal.signal(n, _stop) for n in files.SIGNALS if signal.getsignal(n) in ending}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _stop(number: int, _) -> None:
    files.remove_unfinished()
    with contextlib.suppress(OSError):
        os.write(2, _STOPPED)
    # So that who started the process learns what ended it.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
