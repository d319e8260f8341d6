"""Signals end a command at once, after its unfinished files are removed."""

import contextlib
import os
import signal
from collections.abc import Iterator

from calojax import files

_STOPPED = b"\nerror: stopped; nothing half-written is left behind.\n"


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Lets `files.SIGNALS` remove unfinished files before they end the process.

    Signals that are ignored (such as SIGHUP under nohup) or have another handler stay as they are.
    An exception instead could be raised anywhere: inside a callback of HDF5, which then cannot be
    closed, or of the garbage collector, which drops it, so that the command would continue.
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
    # The parent process should see which signal ended this one.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
