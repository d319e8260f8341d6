"""The texture of showers: turns, what a turn sees, and turns of the cylinder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config, trained_by

from calojax import models, rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.calovq.config import TextureConfig
from calojax.models.calovq.texture import Texture
from calojax.models.voxels import layer_sums

# Layers are filled up from 4 to 6, and there is an odd number of radii.
GRID = 4, 4, 3
TEXTURE = Texture(GRID, outputs=2, width=8)
LAYER, ALPHA, R = np.indices(GRID).reshape(3, -1)
TURN = 4 * (LAYER % 3) + 2 * (ALPHA % 2) + R % 2


@pytest.fixture(scope="module")
def given():
    """Random variables, outputs and residuals of two showers."""
    out, residuals = jax.random.normal(jax.random.key(0), (2, 2, 48, 2))
    variables = jax.jit(TEXTURE.init)(jax.random.key(1), out, residuals)
    generator = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: np.float32(generator.normal(0, 0.5, x.shape)), variables)
    return moved, out, residuals


def test_it_starts_without_corrections(given):
    _, out, residuals = given
    variables = TEXTURE.init(jax.random.key(1), out, residuals)
    np.testing.assert_array_equal(TEXTURE.apply(variables, out, residuals), out)


def test_a_voxel_sees_the_voxels_around_it_of_earlier_turns_only(given):
    variables, out, residuals = given

    def of_first(residuals):
        return TEXTURE.apply(variables, out[:1], residuals[None])[0].sum(-1)

    seen = np.abs(jax.jit(jax.jacobian(of_first))(residuals[0])).sum(-1) > 0
    around = (ALPHA[:, None] - ALPHA + 1) % GRID[1] <= 2
    near = (np.abs(LAYER[:, None] - LAYER) <= 2) & around
    np.testing.assert_array_equal(seen, near & (TURN[:, None] > TURN))


def test_turn_after_turn_equals_all_at_once(given):
    variables, out, _ = given
    noise = jax.random.normal(jax.random.key(2), (2, 48, 1))

    def draw(corrected, noise):
        drawn = corrected + noise
        return jnp.concatenate([corrected, drawn], -1), jnp.tanh(drawn)

    both = TEXTURE.apply(variables, out, (noise,), draw, method="in_turns")
    corrected, drawn = jnp.split(both, 2, -1)
    np.testing.assert_allclose(
        TEXTURE.apply(variables, out, jnp.tanh(drawn)), corrected, rtol=1e-5, atol=1e-6
    )


def test_turned_showers_have_turned_corrections(given):
    variables, out, residuals = given

    def turned(x, by):
        return jnp.roll(x.reshape(2, *GRID, -1), by, axis=2).reshape(x.shape)

    before = TEXTURE.apply(variables, out, residuals)
    after = TEXTURE.apply(variables, turned(out, 2), turned(residuals, 2))
    np.testing.assert_allclose(after, turned(before, 2), rtol=1e-5, atol=1e-6)


def textured(config, detector):
    config = dataclasses.replace(config, texture=TextureConfig("neighbours", width=8))
    return models.build(config, detector)


def test_a_model_trains_it_as_a_stage_and_draws_with_it(tiny, variables, batch):
    model = textured(tiny_config(), tiny)
    fresh = jax.jit(model.init)(jax.random.key(0), variables["transforms"], batch)
    variables = variables | {"params": fresh["params"] | variables["params"]}
    stage = next(stage for stage in model.stages if stage.name == "texture")
    assert trained_by(model, stage, variables, batch) == {"decoder", "texture"}
    keys = rng.per_item(rng.root(0), np.arange(64))
    again = jax.jit(model.reconstruct)(variables, keys, batch)
    plain = jax.jit(models.build(tiny_config(), tiny).reconstruct)(variables, keys, batch)
    # Without corrections the draws are those of the decoder.
    np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-4)
    expected = layer_sums(batch["showers"], model.detector)
    np.testing.assert_allclose(layer_sums(again, model.detector), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("detector", "head"), [("ds1-photons", "density"), ("tiny", "point")])
def test_voxels_that_cannot_be_drawn_in_turns_are_refused(detector, head):
    model = textured(tiny_config(head=head, rotate=False), DETECTORS[detector])
    with pytest.raises(CalojaxError, match="take --texture"):
        model.fit([])
