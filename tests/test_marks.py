"""Marks of showers, and the warning of a reference that a model was trained on."""

import dataclasses

import numpy as np
import pytest

from calojax.evaluation import suite
from calojax.io import ShowerArrays, marks, open_showers, write_showers
from calojax.training import batches
from calojax.training.run import _marks


def test_showers_that_differ_in_one_voxel_have_different_marks():
    showers = np.random.default_rng(0).exponential(1, (50, 120)).astype(np.float32)
    swapped = showers[:, [1, 0, *range(2, 120)]]
    nudged = np.nextafter(
        showers, np.float32(9), where=np.eye(50, 120, dtype=bool), out=showers + 0
    )
    found = marks.marks(np.concatenate([showers, swapped, nudged]))
    assert len(np.unique(found)) == 150
    np.testing.assert_array_equal(marks.marks(showers[7:]), found[7:50])
    np.testing.assert_array_equal(marks.from_text(marks.to_text(found)), found)
    assert not len(marks.from_text("no marks"))


@pytest.mark.parametrize(("reference", "warned"), [("seen", True), ("half", True), ("new", False)])
def test_a_reference_of_training_showers_is_noticed(tmp_path, tiny, reference, warned):
    draw = np.random.default_rng(1)
    sets = {
        name: draw.exponential(400, (300, 120)).astype(np.float32)
        for name in ("seen", "new", "own")
    }
    sets["half"] = np.concatenate([sets["seen"][:150], sets["new"][:150]])
    energies = np.full(300, 5e4, np.float32)
    text = _marks(batches.Dataset(energies, sets["seen"]), np.arange(300))
    write_showers(tmp_path / "own.hdf5", tiny, energies, [sets["own"]], {marks.TRAINED_ON: text})
    generated = open_showers(tmp_path / "own.hdf5")
    options = suite.Options(metrics=("correlations",), slices=())
    judge = ShowerArrays(tiny, energies, sets[reference])
    for chosen in (options, dataclasses.replace(options, energy_range=(1e3, 1e5))):
        found = suite.evaluate(generated, judge, chosen).warnings
        assert any("that the model was trained on" in sentence for sentence in found) == warned
