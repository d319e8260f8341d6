"""The interface for Python programs."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import calojax
from calojax.sampling import generation

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained():
    return calojax.load("calovq-ds2")


def test_every_public_name_is_there_and_documented():
    reference = (ROOT / "docs" / "api.md").read_text()
    for name in calojax.__all__:
        assert getattr(calojax, name).__doc__, name
        assert re.search(rf":: {name}$", reference, re.MULTILINE), name
    assert set(calojax.__all__) <= set(dir(calojax))
    with pytest.raises(AttributeError, match="'calojax' has no attribute 'generat'"):
        calojax.generat  # noqa: B018


def test_import_is_quick():
    code = "import sys, calojax; sys.exit(bool({'jax', 'h5py', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_generated_showers_are_those_of_the_command(trained):
    energies = np.array([5e3, 2e4], np.float32)
    showers = calojax.generate(trained, energies, seed=3, batch_size=4)
    batches = generation.generate(trained.model, trained.variables, energies, seed=3, batch_size=4)
    np.testing.assert_array_equal(showers, np.concatenate([s for _, s in batches]))
    assert showers.shape == (2, trained.detector.n_voxels)


def test_sampling_can_be_traced_inside_the_users_own_function(trained):
    keys, energies = jax.random.split(jax.random.key(0), 4), np.full(4, 1e4, np.float32)
    total = jax.eval_shape(lambda k, e: trained.sample(k, e).sum(1), keys, energies)
    assert total.shape == (4,)


def test_a_trained_model_prints_as_one_line(trained):
    size = sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))
    assert repr(trained) == (
        f"<calovq of ds2, {size:,} parameters, trained on 1000.08 to 63994.8 MeV>"
    )


def test_what_cannot_be_made_is_named(trained):
    with pytest.raises(calojax.CalojaxError, match="There is no preset 'calovq-ds5'; choose one"):
        calojax.train("calovq-ds5", "x.hdf5", "run")
    with pytest.raises(calojax.CalojaxError, match="There are no incident energies"):
        calojax.generate(trained, [])
    with pytest.raises(calojax.CalojaxError, match="calovq-ds2, calovq-ds3, pointflow-ds2"):
        calojax.load("calovq-ds9")


def test_showers_are_evaluated_from_files_sources_or_arrays(tmp_path, tiny, showers):
    ours, theirs = (
        (showers.energies[rows], showers.showers[rows]) for rows in (slice(0, 90), slice(90, 180))
    )
    paths = [tmp_path / "ours.hdf5", tmp_path / "theirs.hdf5"]
    for path, (energies, voxels) in zip(paths, (ours, theirs), strict=True):
        calojax.write_showers(path, tiny, energies, [voxels])
    sources = [calojax.open_showers(path) for path in paths]
    found = [
        calojax.evaluate(*pair, metrics=["correlations"], slices=())
        for pair in (paths, sources, (ours, theirs), ([paths[0]], theirs))
    ]
    assert "correlation_layers" in found[0].scores
    assert all(one.scores == found[0].scores for one in found)
    # An array of showers has the reference's incident energies.
    same = calojax.evaluate(ours[1], ours, metrics="correlations", slices=())
    assert same.scores["correlation_showers"] == 0
    with pytest.raises(calojax.CalojaxError, match="No built-in geometry has 7 voxels"):
        calojax.evaluate((np.ones(3), np.ones((3, 7))), (np.ones(3), np.ones((3, 7))))


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generation, "default_batch_size", lambda: 4)
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    source = calojax.open_showers("showers.hdf5")
    assert len(source) == 3
    assert source.detector.grid == (45, 16, 9)
