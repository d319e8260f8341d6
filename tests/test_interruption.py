"""Signals end a command at once, and nothing half-written is left."""

import signal

import forks
import numpy as np
import pytest

from calojax import files
from calojax.cli.process import stopped_by_signals
from calojax.geometry import DETECTORS
from calojax.io import ShowerWriter


def strike(number: signal.Signals, folder) -> None:
    """A command in a child that a signal strikes where an exception would be dropped."""

    class Dropped:
        def __del__(self):
            signal.raise_signal(number)

    forks.redirect(folder / "output")
    # Jobs in the background of a shell, as the tests may be, ignore some signals.
    signal.signal(number, signal.SIG_DFL)
    with stopped_by_signals():
        with ShowerWriter(folder / "done.hdf5", DETECTORS["tiny"], 1) as writer:
            writer.append(np.ones(1), np.ones((1, 120)))
        with (
            ShowerWriter(folder / "showers.hdf5", DETECTORS["tiny"], 1),
            files.replacing(folder / "other") as partial,
        ):
            partial.write_text("half")
            Dropped()


@pytest.mark.parametrize("number", files.SIGNALS)
def test_signals_end_a_command_at_once_and_leave_nothing_unfinished(number, tmp_path):
    process = forks.start(strike, number, tmp_path)
    process.join()
    assert process.exitcode == -number
    assert {path.name for path in tmp_path.iterdir()} == {"done.hdf5", "output"}
    sentence = "error: stopped; nothing half-written is left behind."
    assert (tmp_path / "output").read_text().strip() == sentence


def test_signals_that_are_ignored_or_handled_stay_so():
    before = {signal.SIGHUP: signal.SIG_IGN, signal.SIGUSR1: lambda *_: None}
    old = {number: signal.signal(number, handler) for number, handler in before.items()}
    try:
        with stopped_by_signals():
            assert {number: signal.getsignal(number) for number in before} == before
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
