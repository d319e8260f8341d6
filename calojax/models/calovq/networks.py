"""The networks between voxels and codes: fully connected, or convolutions on the cylinder.

An encoder maps voxels [b, v], as fractions of their layer in the compressed space of
`transforms.arctanh_compress`, to latents [b, t, d]. A decoder maps quantised latents to outputs for
every voxel [b, v, n], the parameters of a `likelihoods.Likelihood`. A context network describes the
shower for the prior, [b, width] or [b, t, width]. All are conditioned on a `Condition`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.calovq.config import AutoencoderConfig
from calojax.models.calovq.energies import LayerEnergies
from calojax.nn import cylinder
from calojax.nn.mlp import MLP


class Condition(NamedTuple):
    """What the networks know about a shower besides its voxels or codes."""

    energy: Float[Array, "b 1"]  # incident energy, as from `calojax.models.voxels.energy_condition`
    layers: LayerEnergies | None  # standardised layer energies, or None if they are not given

    def flat(self) -> jax.Array:
        """All numbers of a shower: [b, 2 + 2 l], or [b, 1] without layer energies."""
        if self.layers is None:
            return self.energy
        share, present, visible = self.layers
        present = present.astype(share.dtype)
        return jnp.concatenate([self.energy, share, present, visible[:, None]], -1)

    def by_layer(self, n_layers: int) -> jax.Array:
        """The numbers of each layer: [b, l, 4], or [b, l, 1] without layer energies."""
        energy = jnp.broadcast_to(self.energy[:, None], (self.energy.shape[0], n_layers, 1))
        if self.layers is None:
            return energy
        share, present, visible = self.layers
        visible = jnp.broadcast_to(visible[:, None], share.shape)
        layers = jnp.stack([share, present.astype(share.dtype), visible], -1)
        return jnp.concatenate([energy, layers], -1)


# --- fully connected ------------------------------------------------------------------------------


class DenseEncoder(nn.Module):
    """A multilayer perceptron from all voxels to t latents with d dimensions."""

    hidden: tuple[int, ...]
    length: int
    width: int

    @nn.compact
    def __call__(self, voxels: jax.Array, condition: Condition) -> jax.Array:
        """Compressed fractions [b, v] -> latents [b, t, d]."""
        x = jnp.concatenate([voxels, condition.flat()], -1)
        x = MLP(self.hidden, self.length * self.width, name="mlp")(x)
        return x.reshape(-1, self.length, self.width)


class DenseDecoder(nn.Module):
    """A multilayer perceptron from all latents to n outputs for each voxel."""

    hidden: tuple[int, ...]
    voxels: int
    outputs: int

    @nn.compact
    def __call__(self, latents: jax.Array, condition: Condition) -> jax.Array:
        """Latents [b, t, d] -> [b, v, n]."""
        x = jnp.concatenate([latents.reshape(latents.shape[0], -1), condition.flat()], -1)
        x = MLP(self.hidden, self.voxels * self.outputs, name="mlp")(x)
        return x.reshape(-1, self.voxels, self.outputs)


class DenseContext(nn.Module):
    """Features of the shower."""

    width: int

    @nn.compact
    def __call__(self, condition: Condition) -> jax.Array:
        """Condition -> [b, width]."""
        return MLP((self.width,), self.width, name="mlp")(condition.flat())


# --- on the cylinder ------------------------------------------------------------------------------
#
# After the Calo-VQ talk: three layers each, kernels over (z, alpha, r). The first layer of the
# encoder and the last of the decoder map between voxels and the coarser grid of the codes. The
# other two work on that grid: their cost does not depend on the number of voxels. Convolutions are
# translation invariant, so every place of the coarse grid also has learnt features and the
# condition of its layers, and the decoder adds a profile of each layer over r to its result.


class Grid(NamedTuple):
    """The patches of voxels that become codes."""

    voxels: tuple[int, int, int]
    kernel: tuple[int, int, int]  # bins of a patch (z, alpha, r)
    # Bins from a patch to the next; z and r hold as many patches as fit ("valid").
    strides: tuple[int, int, int]

    @property
    def codes(self) -> tuple[int, int, int]:
        """Patches in (z, alpha, r)."""
        z, _, r = (
            (n - k) // s + 1 for n, k, s in zip(self.voxels, self.kernel, self.strides, strict=True)
        )
        return z, -(-self.voxels[1] // self.strides[1]), r

    @property
    def even(self) -> bool:
        """Whether every code has a neighbour across the axis."""
        return self.codes[1] % 2 == 0

    @property
    def options(self) -> dict[str, Any]:
        """Options of the convolutions between voxels and codes."""
        return {"strides": self.strides, "z_padding": "valid", "r_padding": "valid"}


def _grid(config: AutoencoderConfig, detector: Detector) -> Grid:
    if detector.grid is None:
        raise CalojaxError(
            f"{detector.name}: its layers differ, so there is no grid to convolve over; "
            "take --autoencoder.network dense."
        )
    grid = Grid(detector.grid, config.kernel, config.strides)
    if min(grid.codes) < 1:
        raise CalojaxError(
            f"{detector.name}: patches of {grid.kernel} bins, {grid.strides} apart, do not fit "
            f"its {grid.voxels} bins; take a smaller --autoencoder.kernel."
        )
    return grid


def _at_codes(grid: Grid, features: int, condition: Condition) -> jax.Array:
    """Features of the layers at every place of the coarse grid: [b, z', 1, r', features]."""
    layers = condition.by_layer(grid.voxels[0])[:, :, None, None]
    kernel, strides = (grid.kernel[0], 1, 1), (grid.strides[0], 1, 1)
    return cylinder.Conv(features, kernel, strides, "valid", name="told")(layers)


class _Places(nn.Module):
    """Learnt features of every place of the coarse grid, added to those of its layers."""

    grid: Grid
    features: int

    @nn.compact
    def __call__(self, condition: Condition) -> jax.Array:
        """Condition -> [b, z', 1, r', features]."""
        z, _, r = self.grid.codes
        own = self.param("own", nn.initializers.normal(0.02), (z, 1, r, self.features))
        return own + _at_codes(self.grid, self.features, condition)


class _Block(nn.Module):
    """A convolution on the coarse grid with a residual connection."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, z', alpha', r', f] -> the same shape."""
        y = cylinder.Conv(x.shape[-1], (3, 3, 3), across_axis=x.shape[2] % 2 == 0)(nn.silu(x))
        return x + y


class CylinderEncoder(nn.Module):
    """Three convolutions from voxels to a grid of latents with d dimensions."""

    grid: Grid
    filters: int
    width: int

    @nn.compact
    def __call__(self, voxels: jax.Array, condition: Condition) -> jax.Array:
        """Compressed fractions [b, v] -> latents [b, t, d], (z, alpha, r) in this order."""
        grid = self.grid
        x = voxels.reshape(-1, *grid.voxels)
        x = jnp.stack([x, (x > 0).astype(x.dtype)], -1)
        x = cylinder.Conv(self.filters, grid.kernel, name="patches", **grid.options)(x)
        x = _Block(name="block")(x + _Places(grid, self.filters, name="places")(condition))
        x = cylinder.Conv(self.width, (3, 3, 3), across_axis=grid.even, name="latents")(nn.silu(x))
        return x.reshape(x.shape[0], -1, self.width)


class CylinderDecoder(nn.Module):
    """Three convolutions from a grid of latents to n outputs per voxel, and layer profiles."""

    grid: Grid
    filters: int
    outputs: int
    profile: int = 32

    @nn.compact
    def __call__(self, latents: jax.Array, condition: Condition) -> jax.Array:
        """Latents [b, t, d] -> [b, v, n]."""
        b, grid, outputs = latents.shape[0], self.grid, self.outputs
        z, _, r = grid.voxels
        x = latents.reshape(b, *grid.codes, -1)
        x = cylinder.Conv(self.filters, (3, 3, 3), across_axis=grid.even, name="latents")(x)
        x = _Block(name="block")(x + _Places(grid, self.filters, name="places")(condition))
        patches = cylinder.ConvTranspose(
            outputs, grid.kernel, shape=grid.voxels, name="patches", **grid.options
        )(nn.silu(x))

        own = self.param("layers", nn.initializers.normal(1.0), (z, 8))
        own = jnp.broadcast_to(own, (b, *own.shape))
        layers = jnp.concatenate([condition.by_layer(z), own], -1)
        profile = MLP((self.profile, self.profile), r * outputs, name="profile")(layers)
        return (patches + profile.reshape(b, z, 1, r, outputs)).reshape(b, -1, outputs)


class CylinderContext(nn.Module):
    """Features of the shower and of the layers at every code."""

    grid: Grid
    width: int

    @nn.compact
    def __call__(self, condition: Condition) -> jax.Array:
        """Condition -> [b, t, width]."""
        shower = nn.Dense(self.width, name="shower")(condition.flat())
        x = nn.silu(_at_codes(self.grid, self.width, condition) + shower[:, None, None, None])
        x = nn.Dense(self.width, name="context")(x)
        x = jnp.broadcast_to(x, (x.shape[0], *self.grid.codes, self.width))
        return x.reshape(x.shape[0], -1, self.width)


# --- all of them ----------------------------------------------------------------------------------


class Networks(NamedTuple):
    """The networks of a model, and the numbers of codes (z, alpha, r); a line is (t, 1, 1)."""

    encoder: nn.Module
    decoder: nn.Module
    context: nn.Module
    code_grid: tuple[int, int, int]


def networks_of(
    config: AutoencoderConfig, detector: Detector, *, width: int, outputs: int, context: int
) -> Networks:
    """The networks that settings name, for d = ``width``, n = ``outputs``, ``context`` features.

    Raises:
      CalojaxError: if the settings do not fit the detector.
    """
    if config.network == "dense":
        return Networks(
            DenseEncoder(config.hidden, config.length, width),
            DenseDecoder(config.hidden[::-1], detector.n_voxels, outputs),
            DenseContext(context),
            (config.length, 1, 1),
        )
    grid = _grid(config, detector)
    return Networks(
        CylinderEncoder(grid, config.filters, width),
        CylinderDecoder(grid, config.filters, outputs),
        CylinderContext(grid, context),
        grid.codes,
    )
