"""Several processes: same numbers as one, a common stop, a lost process, resumption by others."""

import functools
import pathlib
import signal
import socket

import forks
import jax
import numpy as np
import pytest
from two_stages import signal_at

from calojax import checkpoint, cli, distributed
from calojax.checkpoint import Checkpoint, Checkpoints
from calojax.distributed import Group, joined
from calojax.errors import CalojaxError
from calojax.io import open_showers
from calojax.io.cache import open_cached
from calojax.training import metrics, run, step
from calojax.training.batches import Dataset
from calojax.training.interruption import Interrupted
from calojax.training.run import METRICS_FILE, Options, train

STAGES = ("first", "second")
STEPS = 20  # of each stage
OPTIONS = Options(checkpoint_every=50)  # Only at the end of a stage.
SIGTERM_AT = 4  # Both see it at step 16, and leave a checkpoint there.
SIGKILL_AT = 10  # After that: in the second stage.
SECONDS = 300  # for two processes on a busy machine


def free_port() -> int:
    """One that systems do not give to clients: who knocks there before a server cannot get it."""
    for port in np.random.default_rng().integers(20_000, 32_000, 100):
        try:
            socket.create_server(("", int(port))).close()
        except OSError:
            continue
        return int(port)
    raise AssertionError("no free port")


pytestmark = pytest.mark.usefixtures("two_stages_known")


def companion(process: int, arguments: list[str], output: pathlib.Path) -> None:
    """One of two that train: process 1 gets SIGTERM, both resume, and process 1 gets SIGKILL."""

    def interrupted(*positional, **_) -> None:
        if process == 1:
            step.make = signal_at(SIGTERM_AT, signal.SIGTERM)
        try:
            run.train(*positional)
        except Interrupted as stop:
            print(stop, flush=True)
        if process == 1:
            step.make = signal_at(SIGKILL_AT, signal.SIGKILL)
        run.train(*positional, resume=True)

    cli.train.train = interrupted
    forks.calojax([*arguments, "--process", str(process)], output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def data(folder) -> pathlib.Path:
    path = folder / "data.hdf5"
    cli.main(f"simulate --geometry tiny --num 400 --seed 1 --out {path}".split())
    return path


@pytest.fixture(scope="module")
def companions(folder, data) -> list[tuple[int, str]]:
    """(exit status, what it printed) of two processes of one device each."""
    line = (
        f"train two --data {data} --cache {folder / 'cache'} --out {folder / 'run'} "
        f"--checkpoint-every 50 --coordinator localhost:{free_port()} --processes 2"
    )
    steps = "".join(f" --{stage}.steps {STEPS}" for stage in STAGES)
    arguments = (line + steps).split()
    outputs = [folder / f"printed-{process}" for process in (0, 1)]
    running = [
        forks.start(companion, process, arguments, output) for process, output in enumerate(outputs)
    ]
    try:
        for process in running:
            process.join(SECONDS)
    finally:
        for process in running:
            process.kill()
    texts = [output.read_text() for output in outputs]
    assert "Traceback" not in "".join(texts), texts
    return [(process.exitcode, text) for process, text in zip(running, texts, strict=True)]


@pytest.fixture(scope="module")
def left(companions, folder) -> Checkpoint:
    """The checkpoint that the two have left."""
    with Checkpoints(folder / "run") as kept:
        return kept.load()


@pytest.fixture(scope="module")
def dataset(companions, folder, data, tiny) -> Dataset:
    cached = open_cached(open_showers([data], tiny), folder / "cache")
    return Dataset(cached.energies, cached.showers)


@pytest.fixture(scope="module")
def alone(left, dataset, folder):
    """Variables of one process with as many devices that nothing interrupted."""
    devices = distributed.make_mesh(jax.devices()[:2])
    return jax.device_get(train(left.model, dataset, folder / "alone", OPTIONS, mesh=devices))


def test_sigterm_of_one_stops_both_at_the_same_step(companions):
    for _, text in companions:
        assert f"Stopped in stage 'first' after step 16 of {STEPS}" in text


def test_a_lost_process_stops_the_other(companions):
    (status, text), (killed, _) = companions
    assert killed == -signal.SIGKILL
    assert status == 1
    assert text.splitlines()[-1].startswith("error: Process 0 of 2 has lost another process")


def test_two_processes_learn_what_one_does(left, alone):
    assert left.progress.total == STEPS
    jax.tree.map(
        np.testing.assert_array_equal, left.variables["params"]["mean"], alone["params"]["mean"]
    )
    jax.tree.map(np.testing.assert_array_equal, left.variables["state"], alone["state"])


def test_another_number_of_processes_and_devices_resumes(left, alone, dataset, folder):
    devices = distributed.make_mesh(jax.devices()[:1])
    train(left.model, dataset, folder / "run", OPTIONS, resume=True, mesh=devices)
    found = checkpoint.load(folder / "run")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, found.variables["params"], alone["params"])
    # One of the processes has written metrics, and what was done again is there once.
    records = [r for r in metrics.read(folder / "run" / METRICS_FILE) if "loss" in r]
    lines = [(record["stage"], record["step"]) for record in records]
    assert lines == sorted(set(lines))
    assert set(lines) >= {(stage, STEPS) for stage in STAGES}


def test_processes_cannot_share_one_file(capsys):
    with pytest.raises(SystemExit):
        cli.main(f"sample run --num 5 --out x.hdf5 --processes {2} --process 0".split())
    assert "2 processes cannot write one file; add --part-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(processes=2), "--processes and --process need --coordinator"),
        (Group("localhost:1", processes=2), "with --processes"),
        (Group("localhost:1", process=0), "with --processes"),
        (Group("localhost:1", 2, 2), "got 2 and 2"),
        (Group("localhost:1", 2, -1), "got -1 and 2"),
        (Group("localhost:1", 0, 0), "got 0 and 0"),
        (Group("localhost", 2, 0), "localhost: give HOST:PORT"),
        (Group("localhost:http", 2, 0), "give HOST:PORT"),
        (Group("auto", 2, 0), "or auto alone"),
    ],
)
def test_wrong_arguments(group, words):
    with pytest.raises(CalojaxError, match=words), joined(group):
        raise AssertionError("joined")


def test_no_arguments_join_nothing():
    with joined(Group()):
        assert distributed.is_first()
        asked = lambda: True  # noqa: E731
        assert distributed.agreed(asked) is asked


def lonely(port: int, output: pathlib.Path) -> None:
    """Process 1 of two, where process 0 does not start."""
    distributed._PATIENCE = 0.5
    forks.calojax(
        f"sample run --out x --coordinator localhost:{port} --processes 2 --process 1".split(),
        output,
    )


def test_a_process_alone_ends_with_one_sentence(tmp_path):
    child = forks.start(lonely, free_port(), tmp_path / "printed")
    child.join(SECONDS)
    assert child.exitcode == 1
    (line,) = (tmp_path / "printed").read_text().splitlines()
    assert "not all processes connected within" in line


def test_a_port_in_use_is_reported():
    with socket.create_server(("", free_port())) as server:
        group = Group(f"localhost:{server.getsockname()[1]}", 2, 0)
        with pytest.raises(CalojaxError, match="cannot listen on port"), joined(group):
            raise AssertionError("joined")
