"""Presets: each trains and samples, small, on the tiny geometry; sizes are as promised."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import models, rng
from calojax.geometry import DETECTORS
from calojax.models.base import Model
from calojax.models.calovq import CaloVQConfig
from calojax.models.calovq_released import ReleasedConfig
from calojax.models.pointflow import GenerationConfig, PointFlowConfig
from calojax.nn.flow import Summary
from calojax.presets import PRESETS
from calojax.sampling import generation
from calojax.training.run import Options, train


def scheduled(block, **changes):
    schedule = dataclasses.replace(block.schedule, steps=2, batch_size=16)
    return dataclasses.replace(block, schedule=schedule, **changes)


def small(config, grid):
    """A preset's settings, with sizes that a test can afford and patches that fit a grid."""
    replace = dataclasses.replace
    if isinstance(config, CaloVQConfig):
        kernel = tuple(map(min, config.autoencoder.kernel, grid))
        sizes = {"hidden": (32,), "filters": 4, "codebook_size": 8, "kernel": kernel}
        return replace(
            config,
            autoencoder=scheduled(config.autoencoder, **sizes),
            energies=scheduled(config.energies, hidden=(16,)),
            prior=scheduled(config.prior, width=16, embedding=8, context=8),
        )
    if isinstance(config, ReleasedConfig):
        # Its networks come in one size; the tiny detector has few layers.
        return replace(
            config,
            autoencoder=scheduled(config.autoencoder, z_padding=(8, 8)),
            prior=scheduled(config.prior),
        )
    if isinstance(config, PointFlowConfig):
        summary = Summary((8,), (8,), 4)
        sizes = {"depth": 2, "bins": 4, "hidden": (16,)}
        buffer = {"summary": summary, "group": 8, "points_per_shower": 110}
        return replace(
            config,
            totals=scheduled(config.totals, **sizes),
            encoder=replace(config.encoder, point=(8,), shower=(8,)),
            latent=replace(config.latent, dimensions=4, **sizes),
            points=scheduled(config.points, **sizes, **buffer),
            placement=scheduled(config.placement, hidden=8),
            generation=GenerationConfig(showers=8, points=512),
        )
    raise TypeError(f"no small version of {type(config).__name__}: add one")


# Presets that differ only in what is made small here are tried once.
GRID = DETECTORS["tiny"].grid
DIFFERENT = {small(PRESETS[name].model, GRID): name for name in reversed(list(PRESETS))}


@pytest.mark.parametrize("name", DIFFERENT.values())
def test_each_preset_trains_and_samples(name, tiny, showers, one_device, tmp_path):
    model = models.build(small(PRESETS[name].model, tiny.grid), tiny)
    variables = train(model, showers, tmp_path, Options(), mesh=one_device)
    energies = showers.energies[:4]
    ((_, new),) = generation.generate(
        model, variables, energies, batch_size=len(energies), mesh=one_device
    )
    assert new.shape == (4, tiny.n_voxels)
    assert np.isfinite(new).all()
    assert (new >= 0).all()
    batch = {"energies": energies, "showers": showers.showers[:4]}
    keys = rng.per_item(rng.root(0), np.arange(4))
    again = jax.jit(model.reconstruct)(variables, keys, batch)
    assert again.shape == new.shape
    assert np.isfinite(again).all()


def shapes(name: str) -> tuple[Model, dict]:
    """A preset's model and the shapes of its variables."""
    preset = PRESETS[name]
    detector = DETECTORS[preset.geometry]
    model = models.build(preset.model, detector)
    batch = {
        "energies": jax.ShapeDtypeStruct((64,), jnp.float32),
        "showers": jax.ShapeDtypeStruct((64, detector.n_voxels), jnp.float32),
    }
    some = np.random.default_rng(0).exponential(1.0, (2, detector.n_voxels))
    fitted = model.fit([(some.sum(1), some.astype(np.float32))])
    return model, jax.eval_shape(lambda b: model.init(rng.root(0), fitted, b), batch)


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Encoder and decoder alone, prior, layers around the codebook, and all that generation needs, as in
# the official tables (10.5281/zenodo.15961728 and the following), in which the table of incident
# energies of dataset 1's prior (54 numbers) is not counted.
COUNTS = {
    "calovq-ds2-paper": (429_584, 701_833, 234_560, 33_024, 32_896, 1_231_433),
    "calovq-ds3-paper": (652_576, 592_050, 37_984, 49_344, 49_408, 876_050),
    "calovq-ds1-photons-paper": (1_462_829, 1_593_789, 230_912, 65_792, 65_792, 2_152_637),
    "calovq-ds1-pions-paper": (1_547_309, 1_678_434, 231_168, 65_792, 65_792, 2_237_538),
}


@pytest.mark.parametrize("name", COUNTS)
def test_released_presets_have_the_published_numbers_of_parameters(name):
    _, variables = shapes(name)
    params = variables["params"]
    quant, post_quant = params["encoder"].pop("quant"), params["decoder"].pop("post_quant")
    encoder, decoder, prior = (size(params[part]) for part in ("encoder", "decoder", "prior"))
    whole = decoder + size(post_quant) + size(params["codebook"]) + prior
    found = (encoder, decoder, prior, size(quant), size(post_quant), whole)
    assert found == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "grid"), [("calovq-ds2", (13, 8, 4)), ("calovq-ds3", (13, 10, 5))]
)
def test_networks_after_the_talk_are_as_small_as_promised(name, grid):
    model, variables = shapes(name)
    assert size(variables["params"]["encoder"]) < 150_000
    assert size(variables["params"]["decoder"]) < 150_000
    assert 28 <= PRESETS[name].model.autoencoder.filters <= 40
    assert model.networks.grid.codes == grid
    assert np.prod(grid) <= {"calovq-ds2": 416, "calovq-ds3": 700}[name]
