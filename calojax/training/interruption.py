"""Signals that stop a training after the step in progress, with a checkpoint."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from calojax import files
from calojax.errors import CalojaxError


class Interrupted(CalojaxError):
    """Training stopped on a signal, after a checkpoint was written."""


class StopFlag:
    """Turns the first signal into a flag; a second signal does what it did before.

    ``with StopFlag() as stop: ... if stop(): ...``
    """

    # Seconds in which further signals are copies of the first one.
    ECHO = 0.1

    def __enter__(self) -> Callable[[], bool]:
        self._since: float | None = None
        self._before = {}
        for number in files.SIGNALS:
            # Under nohup, for example, SIGHUP stays ignored.
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # Only the main thread may handle signals.
                break
        return lambda: self._since is not None

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _) -> None:
        if self._since is None:
            self._since = time.monotonic()
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step, with a checkpoint; again: at once\n")
        elif time.monotonic() - self._since > self.ECHO:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
