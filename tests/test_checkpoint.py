"""Checkpoints: what is refused, and in which words."""

import errno
import json
import os
import pathlib
import re
import resource
import shutil

import jax
import numpy as np
import optax
import pytest
from two_stages import TwoConfig

from calojax import checkpoint, models
from calojax.checkpoint import Checkpoints, Progress
from calojax.errors import CalojaxError

PROGRESS = Progress(5, "second", 5, ("first", "second"), 0, (1e3, 1e5))
OPTIMIZER = optax.adam(0.1).init({"moment": np.ones(3)})


@pytest.fixture(scope="module")
def model(two_stages_known, tiny):
    """A model of two small stages; Orbax gives its long vector a file of its own."""
    return models.build(TwoConfig(width=5000), tiny)


@pytest.fixture(scope="module")
def variables(model, batch):
    return jax.device_get(model.init(jax.random.key(0), model.fit([]), batch))


@pytest.fixture(scope="module")
def saved(model, variables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(model, variables, OPTIMIZER, PROGRESS)
    return folder


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def test_round_trip(saved, model, variables):
    found = checkpoint.load(saved)
    assert found.model == model
    assert found.progress == PROGRESS
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    with Checkpoints(saved) as checkpoints:
        optimizer = checkpoints.load_optimizer(jax.tree.map(np.zeros_like, OPTIMIZER))
        assert jax.tree.structure(optimizer) == jax.tree.structure(OPTIMIZER)
        jax.tree.map(np.testing.assert_array_equal, optimizer, OPTIMIZER)
        with pytest.raises(CalojaxError, match=r"cannot be read .* it is damaged"):
            checkpoints.load_optimizer(optax.sgd(0.1).init({"moment": np.ones(3)}))
        with pytest.raises(CalojaxError, match="does not fit the settings"):
            checkpoints.load_optimizer(jax.tree.map(lambda x: np.zeros((*x.shape, 2)), OPTIMIZER))


def test_missing_runs(tmp_path):
    with pytest.raises(CalojaxError, match="is not a run folder"):
        checkpoint.load(tmp_path / "nothing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CalojaxError, match="no complete checkpoint"):
        checkpoint.load(tmp_path)


def test_unfinished_runs(tmp_path, model, variables):
    half = PROGRESS._replace(done=("first",))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(model, variables, OPTIMIZER, half)
    with pytest.raises(CalojaxError, match="second missing"):
        checkpoint.load(tmp_path)


def files(run, item="."):
    return sorted(p for p in (run / "checkpoints" / "5" / item).rglob("*") if p.is_file())


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_file_of_a_checkpoint_may_be_damaged(damage, saved, variables, tmp_path, capfd):
    refused = []
    for number in range(len(files(saved))):
        copy = shutil.copytree(saved, tmp_path / str(number))
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
        assert re.fullmatch(rf"{tmp_path}/\d+/checkpoints/5: .*", sentence)
    assert "Traceback" not in capfd.readouterr().err


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


UNKNOWN = {
    "config.colour": lambda d: d["config"].update(colour=1),
    "config.second.speed": lambda d: d["config"]["second"].update(speed=1),
    "detector.weight": lambda d: d["detector"].update(weight=1),
    "detector.layers.id2": lambda d: d["detector"]["layers"][3].update(id2=1),
    "format 2": lambda d: d.update(format=2),
}
IMPOSSIBLE = {
    "steps": lambda d: d["config"]["second"].update(steps=0),
    "learning-rate": lambda d: d["config"]["second"].update(learning_rate=float("nan")),
    "100000.0 to 1000": lambda d: d["progress"].update(energy_range=[1e5, 1e3]),
    "0.0 to": lambda d: d["progress"].update(energy_range=[0.0, 1e3]),
    "nan to": lambda d: d["progress"].update(energy_range=[float("nan"), 1e3]),
    "to inf": lambda d: d["progress"].update(energy_range=[1e3, float("inf")]),
    "seed": lambda d: d["progress"].update(seed=-1),
    "stages": lambda d: d["progress"].update(stage="third"),
    "step 9 of 5": lambda d: d["progress"].update(step=9),
    "energy range": lambda d: d["detector"].update(energy_range=[1e5, 1e3]),
    "readout_threshold": lambda d: d["detector"].update(readout_threshold=float("nan")),
    "an incident energy": lambda d: d["detector"].update(energies=[0.0]),
    "r edges": lambda d: d["detector"]["layers"][0].update(r_edges=[0.0, 1.0, float("nan")]),
    "thickness": lambda d: d["detector"]["layers"][0].update(thickness=float("nan")),
}


@pytest.mark.parametrize("message", [*UNKNOWN, *IMPOSSIBLE])
def test_settings_that_are_unknown_or_impossible(message, run):
    edit_description(run, (UNKNOWN | IMPOSSIBLE)[message])
    with pytest.raises(CalojaxError, match=f"checkpoints/5: .*{message}"):
        checkpoint.load(run)


def test_a_description_without_a_format_is_of_the_first(run, model):
    edit_description(run, lambda d: d.pop("format"))
    assert checkpoint.load(run).model == model


def test_arrays_that_are_not_finite_are_neither_kept_nor_loaded(run, model, variables, monkeypatch):
    later = PROGRESS._replace(total=7, step=7)
    vector = np.full(5000, np.nan, np.float32)
    spoilt = variables | {"params": variables["params"] | {"vector": vector}}
    array = "'params/vector'"
    with Checkpoints(run) as checkpoints:
        with pytest.raises(CalojaxError, match=f"{array} .*not finite after step 7.*last .* kept"):
            checkpoints.save(model, spoilt, OPTIMIZER, later)
        checkpoints.wait()
    assert checkpoint.load(run).progress.total == 5
    with monkeypatch.context() as patch, Checkpoints(run) as checkpoints:
        patch.setattr(checkpoint, "_not_finite", lambda arrays: None)
        checkpoints.save(model, spoilt, OPTIMIZER, later)
    with pytest.raises(CalojaxError, match=f"checkpoints/7: array {array} is not finite"):
        checkpoint.load(run)


def test_a_checkpoint_that_the_system_refuses(run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "restore", refuse)
    with pytest.raises(CalojaxError, match=r"cannot be read \(.*Stale.*; check its permissions"):
        checkpoint.load(run)


def test_a_folder_that_is_lost_is_told_before_orbax_writes(model, variables, tmp_path, capfd):
    with Checkpoints(tmp_path / "run") as checkpoints:
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").touch()
        with pytest.raises(CalojaxError, match="run/checkpoints: cannot be written"):
            checkpoints.save(model, variables, OPTIMIZER, PROGRESS)
    assert capfd.readouterr().err == ""


def test_a_disk_that_fills_prints_one_sentence_and_keeps_the_last(run, model, variables, capfd):
    def save():
        checkpoints.save(model, variables, OPTIMIZER, PROGRESS._replace(total=7, step=7))
        checkpoints.wait()

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limit[1]))
    try:
        with (
            Checkpoints(run) as checkpoints,
            pytest.raises(CalojaxError, match="a checkpoint cannot be written"),
        ):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert capfd.readouterr().err == ""
    assert checkpoint.load(run).progress.total == 5


def test_a_path_that_is_not_utf8_is_told(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("odd") / os.fsdecode(b"l\xe4ufe")
    shutil.copytree(run, place)
    with pytest.raises(CalojaxError, match=r"is not UTF-8.*rename"):
        checkpoint.load(place)


def test_arrays_that_do_not_fit_the_description(run):
    edit_description(run, lambda d: d["config"].update(width=17))
    with pytest.raises(CalojaxError, match=r"array 'params/vector' .*needs"):
        checkpoint.load(run)


def test_half_written_checkpoints_are_ignored(run):
    # What a kill leaves behind while Orbax writes.
    source = run / "checkpoints" / "5"
    shutil.copytree(source, pathlib.Path(f"{run}/checkpoints/9.orbax-checkpoint-tmp"))
    assert checkpoint.load(run).progress.total == 5
