"""The files in examples/: Geant4 showers of dataset 2, and trained models that sample."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from calojax import checkpoint
from calojax.io import open_showers
from calojax.models.pointflow import model as pointflow
from calojax.sampling import generation

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["geant4_ds2_train.hdf5", "geant4_ds2_test.hdf5"])
def test_example_showers_are_those_of_dataset_2(name):
    source = open_showers([EXAMPLES / name], None)
    assert source.detector.name == "ds2"
    showers = source.read(0, 50)
    assert 0.9 < (showers.sum(1) / source.energies[:50]).mean() < 1.0


# Mean and spread of the visible share of the incident energy in Geant4, from 1 to 64 GeV.
VISIBLE = {
    "ds1-photons": (0.997, 0.06),
    "ds1-pions": (0.88, 0.26),
    "ds2": (0.954, 0.06),
    "ds3": (0.953, 0.06),
}


def test_every_dataset_has_a_trained_model():
    assert {name.split("-", 1)[1] for name in checkpoint.shipped()} == VISIBLE.keys()


@pytest.mark.parametrize("name", checkpoint.shipped())
def test_the_trained_models_sample_showers(name, monkeypatch):
    # The flow of points is compiled for one size, not for four.
    monkeypatch.setattr(pointflow, "_FRACTIONS", (1,))
    model, variables, progress = checkpoint.load(EXAMPLES / name)
    assert set(progress.done) == {stage.name for stage in model.stages}
    energies = np.geomspace(1e3, 64e3, 32).astype(np.float32)
    # The size of blocks in test_api, so that both use one compiled program.
    blocks = functools.partial(
        *(generation.generate, model, variables, energies),
        batch_size=4,
        devices=jax.devices()[:1],
    )
    showers = np.concatenate([block for _, block in blocks(packed=True)])
    dense = blocks(parts=[range(8, 12)])
    np.testing.assert_array_equal(next(dense)[1], showers[8:12])
    visible = showers.sum(1) / energies
    mean, spread = VISIBLE[model.detector.name]
    assert visible.mean() == pytest.approx(mean, abs=0.8 * spread)
    assert (visible > 0).all()
    assert (np.diff((showers > 0).sum(1).reshape(4, 8).mean(1)) > 0).all()
