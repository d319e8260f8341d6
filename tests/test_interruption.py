"""Runs that are stopped at any moment go on to the same parameters and the same files."""

import contextlib
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable

import forks
import jax
import numpy as np
import pytest

from calojax import files
from calojax.checkpoint import Checkpoint, Checkpoints
from calojax.cli.interruption import stopped_by_signals
from calojax.geometry import DETECTORS
from calojax.io import ShowerWriter

STOPS = 2
# Exit statuses: a SIGTERM may come too late, leave a checkpoint, or end the process at once.
_ENDS = {signal.SIGTERM: {0, 1, -signal.SIGTERM}, signal.SIGKILL: {0, -signal.SIGKILL}}


pytestmark = pytest.mark.usefixtures("two_stages_known")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interruption")


def words(line: str, **names) -> list[str]:
    return line.format(**names).split()


def run(arguments: list[str], folder: pathlib.Path) -> float:
    """Runs a command to its end; how long that took, in seconds."""
    begin = time.monotonic()
    process = forks.start(forks.calojax, arguments, folder / "output")
    process.join()
    assert process.exitcode == 0, (folder / "output").read_text()
    return time.monotonic() - begin


def stop_often(
    how: signal.Signals,
    arguments: list[str],
    folder: pathlib.Path,
    duration: float,
    check: Callable[[bool], None],
) -> None:
    """Starts a command repeatedly until it was stopped `STOPS` times, at random moments.

    Args:
      how: signal that stops it.
      arguments: command.
      folder: folder for its output.
      duration: seconds that the command takes if it is not stopped.
      check: function that is called after each start with whether the command came to its end.
    """
    moments = np.random.default_rng([6, how])
    stops = 0
    while stops < STOPS:
        # That of the last start would pass for this one's.
        (folder / "output").unlink(missing_ok=True)
        process = forks.start(forks.calojax, arguments, folder / "output")
        process.join(moments.uniform(0, duration))
        # It may come to its end just now.
        with contextlib.suppress(ProcessLookupError):
            if process.is_alive():
                os.kill(process.pid, how)
                stops += 1
        process.join()
        output = (folder / "output").read_text() if (folder / "output").exists() else ""
        assert process.exitcode in _ENDS[how], output
        assert "Traceback" not in output
        assert (process.exitcode == 1) == ("continue with --resume" in output)
        check(process.exitcode == 0)


TRAIN = (
    "train two --resume --out {out} --data {data} --cache {folder}/cache "
    "--checkpoint-every 2 --log-every 1 --validate-every 4"
)


@pytest.fixture(scope="module")
def data(folder):
    path = folder / "data.hdf5"
    run(words("simulate --geometry tiny --num 200 --out {path}", path=path), folder)
    return path


@pytest.fixture(scope="module")
def trained(folder, data):
    """(an uninterrupted run, how long it takes when all is compiled)."""
    for name in ("first", "trained"):
        seconds = run(words(TRAIN, out=folder / name, data=data, folder=folder), folder)
    return folder / "trained", seconds


def newest(run: pathlib.Path) -> Checkpoint:
    with Checkpoints(run) as checkpoints:
        return checkpoints.load()


def assert_equal_runs(a: pathlib.Path, b: pathlib.Path) -> None:
    one, other = newest(a), newest(b)
    assert one.model == other.model
    assert one.progress == other.progress
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_training_goes_on_to_the_same_parameters(how, data, trained, folder):
    reference, duration = trained
    # Then a run is usually stopped more than once.
    duration /= 2
    finished = []

    def out() -> pathlib.Path:
        return folder / f"{how.name}-{len(finished)}"

    def check(ended: bool) -> None:
        if ended:
            finished.append(out())
            arguments[:] = words(TRAIN, out=out(), data=data, folder=folder)

    arguments = words(TRAIN, out=out(), data=data, folder=folder)
    stop_often(how, arguments, folder, duration, check)
    run(arguments, folder)
    for path in [*finished, out()]:
        assert_equal_runs(path, reference)


SAMPLE = "sample {run} --num 200 --batch 25 --part-size 50 --out {out}"


@pytest.fixture(scope="module")
def sampled(folder, trained):
    """(the files of an uninterrupted sampling, how long it takes when all is compiled)."""
    for name in ("first", "whole"):
        out = folder / f"samples-{name}"
        seconds = run(words(SAMPLE, run=trained[0], out=out), folder)
    whole = contents(out)
    assert len(whole) == 5
    return whole, seconds


def test_killed_sampling_goes_on_to_the_same_files(trained, sampled, folder):
    whole, duration = sampled
    place = folder / "parts"

    def check(ended: bool) -> None:
        found = contents(place)
        assert {name: found[name] for name in found.keys() & whole.keys()}.items() <= whole.items()
        if ended:
            assert found.keys() == whole.keys()
            shutil.rmtree(place)

    arguments = words(SAMPLE, run=trained[0], out=place)
    stop_often(signal.SIGKILL, arguments, folder, duration, check)
    run(arguments, folder)
    assert contents(place) == whole


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def strike(number: signal.Signals, folder: pathlib.Path) -> None:
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
