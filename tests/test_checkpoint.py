"""Checkpoints: what is refused, and in which words."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from calojax import checkpoint
from calojax.checkpoint import Checkpoints, Progress
from calojax.errors import CalojaxError

PROGRESS = Progress(5, "prior", 5, ("autoencoder", "energies", "prior"), 0, (1e3, 1e5))


@pytest.fixture
def run(tmp_path, model, variables):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(model, variables, {"moment": np.ones(3)}, PROGRESS)
    return tmp_path


def test_round_trip(run, model, variables):
    found = checkpoint.load(run)
    assert found.model == model
    assert found.progress == PROGRESS
    book = found.variables["state"]["codebook"]["vectors"]
    np.testing.assert_array_equal(book, variables["state"]["codebook"]["vectors"])
    with Checkpoints(run) as checkpoints:
        optimizer = checkpoints.load_optimizer({"moment": np.zeros(3)})
        np.testing.assert_array_equal(optimizer["moment"], np.ones(3))
        with pytest.raises(CalojaxError, match="does not fit the settings"):
            checkpoints.load_optimizer({"moment": np.zeros(4)})


def test_missing_runs(tmp_path):
    with pytest.raises(CalojaxError, match="is not a run of calojax"):
        checkpoint.load(tmp_path / "nothing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CalojaxError, match="no complete checkpoint"):
        checkpoint.load(tmp_path)


def test_unfinished_runs(tmp_path, model, variables):
    half = PROGRESS._replace(done=("autoencoder",))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(model, variables, {"moment": np.ones(3)}, half)
    with pytest.raises(CalojaxError, match="energies and prior missing"):
        checkpoint.load(tmp_path)


def files(run, item):
    return [p for p in (run / "checkpoints" / "5" / item).rglob("*") if p.is_file()]


@pytest.mark.parametrize("item", ["description", "variables"])
def test_truncated_checkpoints(run, item):
    for path in files(run, item):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(CalojaxError, match=r"checkpoints/5: (is damaged|was not written)"):
        checkpoint.load(run)


@pytest.mark.parametrize("item", ["description", "variables"])
def test_checkpoints_that_lack_an_item(run, item):
    shutil.rmtree(run / "checkpoints" / "5" / item)
    with pytest.raises(CalojaxError, match="checkpoints/5: "):
        checkpoint.load(run)


def edit_description(run, change):
    for path in files(run, "description"):
        try:
            description = json.loads(path.read_text())
        except json.JSONDecodeError:
            continue
        if "config" in description:
            change(description)
            path.write_text(json.dumps(description))
            return
    raise AssertionError("no description found")


def test_foreign_descriptions(run):
    edit_description(run, lambda d: d.update(model="calogan"))
    with pytest.raises(CalojaxError, match="'calogan'"):
        checkpoint.load(run)
    edit_description(run, lambda d: d.pop("progress"))
    with pytest.raises(CalojaxError, match="was not written by calojax"):
        checkpoint.load(run)


def test_arrays_that_do_not_fit_the_description(run):
    edit_description(run, lambda d: d["config"]["prior"].update(width=17))
    with pytest.raises(CalojaxError, match=r"array 'params/prior/.*needs"):
        checkpoint.load(run)


def test_half_written_checkpoints_are_ignored(run):
    # What a kill leaves behind while Orbax writes.
    source = run / "checkpoints" / "5"
    shutil.copytree(source, pathlib.Path(f"{run}/checkpoints/9.orbax-checkpoint-tmp"))
    assert checkpoint.load(run).progress.total == 5
