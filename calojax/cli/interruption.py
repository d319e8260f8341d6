"""SIGTERM and ctrl-C as exceptions, so that files which are being written are removed."""

import signal
import sys

# Which signal an exception was.
_SIGNALS = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
_PAUSE = 0.01  # seconds


class StoppedBySignals:
    """Within it, SIGTERM raises `SystemExit` as ctrl-C raises `KeyboardInterrupt`.

    Python drops an exception that strikes inside a callback of the garbage collector, as JAX has
    one, and the command would go on as if nothing had been asked. Such a signal is sent once more,
    a moment later and by the clock: in the callback it would be dropped again.
    """

    def __enter__(self) -> None:
        self._dropped: signal.Signals | None = None
        self._reporting = False
        self._hook = sys.unraisablehook
        self._handlers = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, _stop),
            signal.SIGALRM: signal.signal(signal.SIGALRM, self._send_again),
        }
        sys.unraisablehook = self._report

    def __exit__(self, *_) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = self._hook
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _report(self, unraisable) -> None:
        self._reporting = True
        number = _SIGNALS.get(unraisable.exc_type)
        if number is None:
            self._hook(unraisable)
        else:
            self._dropped = number
            signal.setitimer(signal.ITIMER_REAL, _PAUSE)
        self._reporting = False

    def _send_again(self, *_) -> None:
        if self._reporting:  # On a busy machine, the moment is over before that is.
            signal.setitimer(signal.ITIMER_REAL, _PAUSE)
        elif self._dropped is not None:
            signal.raise_signal(self._dropped)


def _stop(*_) -> None:
    sys.exit(128 + signal.SIGTERM)
