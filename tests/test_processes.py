"""Several processes: the same numbers as one, stopped together, lost, resumed by another number."""

import contextlib
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable

import forks
import jax
import numpy as np
import pytest

from calojax import checkpoint, cli
from calojax.checkpoint import Checkpoint, Checkpoints
from calojax.distributed import mesh, processes
from calojax.distributed.processes import Group, joined
from calojax.errors import CalojaxError
from calojax.io.cache import open_cached
from calojax.io.reader import open_showers
from calojax.training import metrics, run, step
from calojax.training.batches import Dataset
from calojax.training.loop import Interrupted
from calojax.training.run import METRICS_FILE, Options, train

STAGES = ("autoencoder", "energies", "prior")
STEPS = 12  # of each stage
OPTIONS = Options(checkpoint_every=5)
SIGTERM_AT = 4  # Both see it at step 16, and leave a checkpoint there.
SIGKILL_AT = 10  # After that: in the third stage.
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


def signal_at(count: int, number: signal.Signals) -> None:
    """Has the ``count``-th training step from now on send a signal to this process."""
    original, calls = step.make, 0

    def make(*arguments):
        compiled = original(*arguments)

        def counted(*inputs):
            nonlocal calls
            calls += 1
            if calls == count:
                signal.raise_signal(number)
            return compiled(*inputs)

        return counted

    step.make = make


def companion(process: int, arguments: list[str], output: pathlib.Path) -> None:
    """One of two that train: process 1 gets SIGTERM, both resume, and process 1 gets SIGKILL."""

    def interrupted(*positional, **_) -> None:
        if process == 1:
            signal_at(SIGTERM_AT, signal.SIGTERM)
        try:
            run.train(*positional)
        except Interrupted as stop:
            print(stop, flush=True)
        if process == 1:
            signal_at(SIGKILL_AT, signal.SIGKILL)
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
        f"train calovq-tiny --data {data} --cache {folder / 'cache'} --out {folder / 'run'} "
        f"--checkpoint-every 5 --coordinator localhost:{free_port()} --processes 2"
    )
    steps = "".join(f" --{stage}.schedule.steps {STEPS}" for stage in STAGES)
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
    cached = open_cached(open_showers([data], tiny), [data], folder / "cache")
    return Dataset(cached.energies, cached.showers)


@pytest.fixture(scope="module")
def alone(left, dataset, folder):
    """Variables of one process with as many devices that nothing interrupted."""
    devices = mesh.make(jax.devices()[:2])
    return jax.device_get(train(left.model, dataset, folder / "alone", OPTIONS, mesh=devices))


def assert_equal(a, b) -> None:
    flat_a, flat_b = (jax.tree.leaves_with_path(tree) for tree in (a, b))
    for (path, x), (_, y) in zip(flat_a, flat_b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def assert_close(a, b) -> None:
    flat_a, flat_b = (jax.tree.leaves_with_path(tree) for tree in (a, b))
    for (path, x), (_, y) in zip(flat_a, flat_b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7, err_msg=jax.tree_util.keystr(path))


def test_sigterm_of_one_stops_both_at_the_same_step(companions):
    for _, text in companions:
        assert f"Stopped in stage 'energies' after step 4 of {STEPS}" in text


def test_a_lost_process_stops_the_other(companions):
    (status, text), (killed, _) = companions
    assert killed == -signal.SIGKILL
    assert status == 1
    assert text.splitlines()[-1].startswith("error: Process 0 of 2 has lost another one")


def test_two_processes_learn_what_one_does(left, alone):
    assert left.progress.total == 2 * STEPS
    for name in ("encoder", "decoder", "energies"):
        assert_equal(left.variables["params"][name], alone["params"][name])
    assert_equal(left.variables["state"], alone["state"])


def test_another_number_of_processes_and_devices_resumes(left, alone, dataset, folder):
    devices = mesh.make(jax.devices()[:4])
    train(left.model, dataset, folder / "run", OPTIONS, resume=True, mesh=devices)
    found = checkpoint.load(folder / "run")
    assert_close(found.variables["params"], alone["params"])
    # One of the processes has written metrics, and what was done again is there once.
    records = [r for r in metrics.read(folder / "run" / METRICS_FILE) if "loss" in r]
    lines = [(record["stage"], record["step"]) for record in records]
    assert lines == sorted(set(lines))
    assert set(lines) >= {(stage, STEPS) for stage in STAGES}


def test_processes_share_parts_without_a_coordinator(left, folder, capsys):
    run, out = folder / "run", folder / "showers"
    line = f"sample {run} --num 50 --part-size 20 --out {out} --processes 2 --process"
    for process, names in ((1, ["part-00001.hdf5"]), (0, [f"part-0000{i}.hdf5" for i in range(3)])):
        cli.main([*line.split(), str(process)])
        assert sorted(path.name for path in out.glob("part-*")) == names
    with pytest.raises(SystemExit):
        cli.main(f"sample {run} --num 5 --out {out}.hdf5 --processes 2 --process 0".split())
    assert "2 processes cannot write one file; add --part-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(processes=2), "--processes and --process need --coordinator"),
        (Group("localhost:1", processes=2), "needs both --processes"),
        (Group("localhost:1", process=0), "needs both --processes"),
        (Group("localhost:1", 2, 2), "--process 2 is none of 2 processes"),
        (Group("localhost:1", 2, -1), "--process -1 is none of 2 processes"),
        (Group("localhost:1", 0, 0), "--processes 0 is none"),
        (Group("localhost", 2, 0), "'localhost' is not HOST:PORT"),
        (Group("localhost:http", 2, 0), "is not HOST:PORT"),
        (Group("auto", 2, 0), "leave out --processes"),
    ],
)
def test_wrong_arguments(group, words):
    with pytest.raises(CalojaxError, match=words), joined(group):
        raise AssertionError("joined")


def test_no_arguments_join_nothing():
    with joined(Group()):
        assert (processes.index(), processes.count(), processes.is_first()) == (0, 1, True)
        asked = lambda: True  # noqa: E731
        assert processes.agreed(asked) is asked


def outcomes(*calls: Callable[[], object]) -> list[str]:
    """What calls at the same time raise, as text; empty for what returns."""
    found = [""] * len(calls)

    def run(number: int) -> None:
        try:
            calls[number]()
        except CalojaxError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_roll_is_called_and_strangers_are_ignored():
    port = free_port()

    def stranger():
        # Process 0 waits for the others when this one comes.
        while True:
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection(("localhost", port), timeout=5) as connection,
            ):
                connection.sendall(b"GET / HTTP/1.1\n")
                break
            time.sleep(0.01)
        processes._answer("localhost", port, 1, 3)

    calls = [
        lambda: processes._call_roll(port, 3),
        stranger,
        lambda: processes._answer("localhost", port, 2, 3),
    ]
    assert outcomes(*calls) == ["", "", ""]


def test_processes_that_contradict_each_other():
    port = free_port()
    found = outcomes(
        lambda: processes._call_roll(port, 3),
        lambda: processes._answer("localhost", port, 1, 2),
    )
    assert found[0] == found[1]
    assert "Process 1 was started with --processes 2 and process 0 with --processes 3" in found[0]
    port = free_port()
    twice = lambda: processes._answer("localhost", port, 1, 3)  # noqa: E731
    found = outcomes(lambda: processes._call_roll(port, 3), twice, twice)
    assert found[0] == found[1] == found[2]
    assert "Two processes were started with --process 1" in found[0]


def test_those_who_do_not_come(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    port = free_port()
    with pytest.raises(CalojaxError, match="Of 3 processes, 1, 2 did not come"):
        processes._call_roll(port, 3)
    with pytest.raises(CalojaxError, match=f"localhost:{port} does not answer"):
        processes._answer("localhost", port, 1, 2)
    with socket.create_server(("", port)) as _, pytest.raises(CalojaxError, match="cannot listen"):
        processes._call_roll(port, 2)
