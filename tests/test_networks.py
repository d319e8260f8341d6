"""Networks between voxels and codes: grids of patches, rotations, and what conditions reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import with_autoencoder

from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.calovq.energies import LayerEnergies
from calojax.models.calovq.networks import Condition, CylinderDecoder, CylinderEncoder, Grid

GRID = Grid((7, 8, 5), (3, 4, 3), (2, 2, 2))


def condition(seed, told=True):
    generator = np.random.default_rng(seed)
    share, visible = generator.normal(size=(2, 7)), generator.normal(size=2)
    layers = LayerEnergies(share, share > -1, visible)
    return Condition(generator.normal(size=(2, 1)), layers if told else None)


@pytest.mark.parametrize(
    ("voxels", "kernel", "strides", "codes"),
    [
        ((45, 16, 9), (9, 4, 3), (3, 2, 2), (13, 8, 4)),
        ((45, 50, 18), (9, 7, 6), (3, 5, 3), (13, 10, 5)),
        ((7, 8, 5), (3, 4, 3), (2, 2, 2), (3, 4, 2)),
    ],
)
def test_patches_cover_every_voxel(voxels, kernel, strides, codes):
    grid = Grid(voxels, kernel, strides)
    assert grid.codes == codes
    for axis in (0, 2):
        assert (codes[axis] - 1) * strides[axis] + kernel[axis] == voxels[axis]


@pytest.mark.parametrize("told", [True, False])
def test_networks_are_equivariant_under_rotations(told):
    encoder, decoder = CylinderEncoder(GRID, 6, 3), CylinderDecoder(GRID, 6, 2)
    x = np.random.default_rng(0).random((2, *GRID.voxels), np.float32)
    now = condition(1, told)

    @jax.jit
    def encoded(x, rotated):
        variables = encoder.init(jax.random.key(0), x, now)
        return encoder.apply(variables, x, now), encoder.apply(variables, rotated, now)

    @jax.jit
    def decoded(latents, rotated):
        variables = decoder.init(jax.random.key(1), latents, now)
        return decoder.apply(variables, latents, now), decoder.apply(variables, rotated, now)

    latents, found = encoded(x.reshape(2, -1), np.roll(x, 4, 2).reshape(2, -1))
    assert latents.shape == (2, 24, 3)
    rotated = np.roll(latents.reshape(2, *GRID.codes, 3), 2, 2).reshape(latents.shape)
    np.testing.assert_allclose(found, rotated, atol=1e-5)
    out, found = decoded(latents, rotated)
    assert out.shape == (2, 280, 2)
    grid = (2, *GRID.voxels, 2)
    np.testing.assert_allclose(found.reshape(grid), np.roll(out.reshape(grid), 4, 2), atol=1e-5)


def test_codes_and_conditions_reach_the_voxels_that_they_should():
    decoder = CylinderDecoder(GRID, 6, 1)
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 3)))
    now = condition(1)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(latents, share):
        variables = decoder.init(jax.random.key(1), latents, now)
        layers = now.layers._replace(share=share)
        out = decoder.apply(variables, latents, now._replace(layers=layers))
        return out.reshape(2, 7, -1)[0, 6].sum()

    to_latents, to_share = slopes(latents, now.layers.share)
    assert not np.any(to_latents[1])
    # The last layer is seen by the last patches, whose three convolutions see all three.
    assert np.any(to_latents[0].reshape(3, -1)[2])
    assert np.any(to_share[0, 6])
    assert not np.any(to_share[1])


def test_detectors_and_patches_that_do_not_fit_are_refused(model):
    with pytest.raises(CalojaxError, match="do not fit its"):
        _ = with_autoencoder(model, network="cylinder", kernel=(99, 4, 3)).networks
    irregular = type(model)(
        with_autoencoder(model, network="cylinder").config, DETECTORS["ds1-photons"]
    )
    with pytest.raises(CalojaxError, match="no grid to convolve over"):
        _ = irregular.networks
