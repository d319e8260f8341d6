"""Full and read-only disks, damaged checkpoints: a sentence each, and nothing half-written."""

import json
import pathlib
import re
import shutil

import forks
import jax
import numpy as np
import pytest
from two_stages import TwoConfig

from calojax import checkpoint, models
from calojax.checkpoint import Checkpoints, Progress
from calojax.errors import CalojaxError
from calojax.io import write_showers

PROGRESS = Progress(5, "second", 5, ("first", "second"), 0, (1e3, 1e5))


@pytest.fixture(scope="module")
def model(two_stages_known, tiny):
    # A vector so long that Orbax gives it a file of its own.
    return models.build(TwoConfig(width=5000), tiny)


@pytest.fixture(scope="module")
def variables(model, batch):
    return jax.device_get(model.init(jax.random.key(0), model.fit([]), batch))


@pytest.fixture(scope="module")
def run(model, variables, tmp_path_factory):
    """A run of which only the checkpoint is there."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(model, variables, {"moment": np.ones(3)}, PROGRESS)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, showers, tiny):
    path = tmp_path_factory.mktemp("data") / "data.hdf5"
    write_showers(path, tiny, showers.energies, [showers.showers])
    return path


SIMULATE = "simulate --geometry tiny --num 2000 --out {disk}/s.hdf5"
# A checkpoint has two megabytes.
TRAIN = (
    "train two --out {disk}/r --data {data} --cache {cache} --checkpoint-every 2 "
    "--first.steps 40 --width 500000"
)
EVALUATE = "evaluate {data} {data} --out {disk}/e --metrics histograms"
EVALUATE_RUN = "evaluate --run {run} {data} --out {disk}/e --metrics correlations"


def command_on(room, line, tmp_path, **names) -> dict:
    """What came of a command on a small disk, or on one without any room to write."""
    disk = forks.Disk(tmp_path / "disk", room)
    disk.folder.mkdir()
    arguments = line.format(disk=disk.folder, cache=tmp_path / "cache", **names).split()
    process = forks.start(forks.calojax_on, disk, arguments, tmp_path / "report")
    process.join()
    assert process.exitcode == 0, (tmp_path / "report.output").read_text()
    return json.loads((tmp_path / "report").read_text())


@pytest.mark.parametrize(
    ("line", "room"),
    [(SIMULATE, 2**16), (EVALUATE, 2**12), (EVALUATE_RUN, 2**16)],
)
def test_full_disks(line, room, run, data, tmp_path):
    found = command_on(room, line, tmp_path, run=run, data=data)
    assert found["status"] == 1
    assert re.search("^error: .*(disk is full|No space left|File too large)", found["line"])
    assert found["left"] == []


def test_checkpoints_before_the_disk_was_full_are_kept(data, tmp_path):
    found = command_on(5_000_000, TRAIN, tmp_path, data=data)
    assert found["status"] == 1
    assert re.search("^error: .*(disk is full|No space left|File too large)", found["line"])
    assert 2 <= found["newest"] < 40


@pytest.mark.parametrize("line", [SIMULATE, TRAIN, EVALUATE])
def test_folders_that_cannot_be_written(line, run, data, tmp_path):
    found = command_on(None, line, tmp_path, run=run, data=data)
    assert found["status"] == 1
    assert found["line"].startswith(f"error: {tmp_path}/disk")
    assert "cannot be" in found["line"]
    assert found["left"] == []


def files(run: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in (run / "checkpoints").rglob("*") if path.is_file())


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_file_of_a_checkpoint_may_be_damaged(damage, run, variables, tmp_path, capfd):
    refused = []
    for number in range(len(files(run))):
        copy = tmp_path / str(number)
        shutil.copytree(run, copy)
        DAMAGES[damage](files(copy)[number])
        try:
            found = checkpoint.load(copy)
        except CalojaxError as error:
            refused.append(str(error))
        else:  # The file says nothing of what is loaded.
            assert found.progress == PROGRESS
            jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    assert len(refused) >= 5
    for sentence in refused:
        assert re.fullmatch(rf"{tmp_path}/\d+/checkpoints.*", sentence)
    assert "Traceback" not in capfd.readouterr().err
