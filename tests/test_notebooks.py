"""The notebooks of the documentation run, with few showers, small models and short trainings."""

import dataclasses
import json
import pathlib

import jax
import matplotlib
import pytest
from conftest import tiny_config
from two_stages import TwoConfig

from calojax import distributed
from calojax.evaluation import distances
from calojax.io import open_showers, write_showers
from calojax.models.calovq.presets import PRESETS
from calojax.sampling import generation
from calojax.training import loop

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# Numbers in the notebooks of training steps and of showers, and those that are taken instead.
SHORTER = {", 300)": ", 2)", "--num 2000": "--num 200", "--num 500": "--num 32"}


def shorter(source):
    for number, small in SHORTER.items():
        source = source.replace(number, small)
    return source


def test_the_numbers_are_in_the_notebooks():
    sources = "".join(path.read_text() for path in NOTEBOOKS)
    assert all(number in sources for number in SHORTER)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch, one_device, two_stages_known):
    # The notebook that trains calovq-tiny changes its settings, so it needs those of a Calo-VQ.
    for name, config in (("calovq-demo", TwoConfig()), ("calovq-tiny", tiny_config(steps=2))):
        monkeypatch.setitem(PRESETS, name, dataclasses.replace(PRESETS[name], model=config))
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(generation, "default_batch_size", lambda: 4)
    # Scores during a training compile the model once more, and FPD takes a second per batch.
    monkeypatch.setattr(loop, "_judge", lambda *_: lambda variables: {})
    monkeypatch.setitem(distances.fpd.__kwdefaults__, "num_batches", 1)
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
            source = shorter("".join(cell["source"]))
            exec(compile(source, f"{path.name}, cell {number}", "exec"), names)
