"""The notebooks of the documentation run, with short trainings."""

import dataclasses
import json
import pathlib

import jax
import matplotlib
import pytest

from calojax import distributed
from calojax.io import open_showers, write_showers
from calojax.models.calovq.presets import PRESETS
from calojax.sampling import generation

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def shortened(config):
    """The model's settings with two steps of 32 showers in every stage."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "schedule":
            value = dataclasses.replace(value, steps=2, batch_size=32, warmup=1)
        elif dataclasses.is_dataclass(value):
            value = shortened(value)
        config = dataclasses.replace(config, **{field.name: value})
    return config


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch, one_device):
    for name in ("calovq-demo", "calovq-tiny"):
        preset = PRESETS[name]
        small = dataclasses.replace(preset, model=shortened(preset.model))
        monkeypatch.setitem(PRESETS, name, small)
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(generation, "default_batch_size", lambda: 4)
    # One device, because every program is compiled for each.
    monkeypatch.setattr(distributed, "make_mesh", lambda *_: one_device)
    monkeypatch.setattr(jax, "local_devices", lambda **_: jax.devices()[:1])
    # The notebooks find the examples of the repository two folders up; here few of the showers.
    (tmp_path / "docs" / "notebooks").mkdir(parents=True)
    (tmp_path / "examples").mkdir()
    for name, count in (("geant4_ds2_train.hdf5", 200), ("geant4_ds2_test.hdf5", 32)):
        source = open_showers(NOTEBOOKS[0].parents[2] / "examples" / name)
        showers = source.read(0, count)
        path_here = tmp_path / "examples" / name
        write_showers(path_here, source.detector, source.energies[:count], [showers])
    monkeypatch.chdir(tmp_path / "docs" / "notebooks")
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    names: dict = {"__name__": "__main__"}
    with matplotlib.rc_context():
        for number, cell in enumerate(cells):
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
