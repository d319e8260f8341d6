"""The networks between voxels and codes: fully connected, or convolutions on the cylinder.

An encoder takes voxels [b, v], as fractions of their layer in the compressed space of
`transforms.arctanh_compress`, to latents [b, t, d]; a decoder takes quantised latents to
numbers for every voxel [b, v, n], which a `likelihoods.Head` reads. Both are told a `Condition`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.models.calovq.energies import LayerEnergies
from calojax.nn import cylinder
from calojax.nn.mlp import MLP


class Condition(NamedTuple):
    """What is known of a shower beside its codes.

    Attributes:
      energy: incident energy as from `calojax.models.voxels.energy_condition` [b, 1].
      layers: standardised layer energies, or None if they are not told.
    """

    energy: jax.Array
    layers: LayerEnergies | None

    def flat(self) -> jax.Array:
        """All of it in a row: [b, 2 + 2 l], or [b, 1]."""
        if self.layers is None:
            return self.energy
        share, present, visible = self.layers
        present = present.astype(share.dtype)
        return jnp.concatenate([self.energy, share, present, visible[:, None]], -1)

    def by_layer(self, n_layers: int) -> jax.Array:
        """What concerns each layer: [b, l, 4], or [b, l, 1]."""
        energy = jnp.broadcast_to(self.energy[:, None], (len(self.energy), n_layers, 1))
        if self.layers is None:
            return energy
        share, present, visible = self.layers
        visible = jnp.broadcast_to(visible[:, None], share.shape)
        layers = jnp.stack([share, present.astype(share.dtype), visible], -1)
        return jnp.concatenate([energy, layers], -1)


# --- fully connected ------------------------------------------------------------------------------


class DenseEncoder(nn.Module):
    """A multilayer perceptron from all voxels to all latents.

    Attributes:
      hidden: widths of the hidden layers.
      length: latents a shower t.
      width: dimensions of a latent d.
    """

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
    """A multilayer perceptron from all latents to all voxels.

    Attributes:
      hidden: widths of the hidden layers.
      voxels: number of voxels v.
      numbers: that each voxel needs n.
    """

    hidden: tuple[int, ...]
    voxels: int
    numbers: int

    @nn.compact
    def __call__(self, latents: jax.Array, condition: Condition) -> jax.Array:
        """Latents [b, t, d] -> [b, v, n]."""
        x = jnp.concatenate([latents.reshape(len(latents), -1), condition.flat()], -1)
        x = MLP(self.hidden, self.voxels * self.numbers, name="mlp")(x)
        return x.reshape(-1, self.voxels, self.numbers)


# --- on the cylinder ------------------------------------------------------------------------------
#
# After the Calo-VQ talk: three layers each, kernels over (z, alpha, r). The first layer of the
# encoder, and the last of the decoder, steps between voxels and the coarser grid of the codes, on
# which the other two work: their cost does not depend on the number of voxels. Convolutions do not
# know where they are, so what is the same all around the cylinder is told them: every place of the
# coarse grid has numbers of its own in z and r, layers tell theirs what they know, and the decoder
# adds to its result a profile of each layer over r.


class Grid(NamedTuple):
    """How the patches that become codes lie on the voxels.

    Attributes:
      voxels: bins of the detector (z, alpha, r).
      kernel: bins of a patch (z, alpha, r).
      strides: from a patch to the next; z and r hold as many patches as fit ("valid").
    """

    voxels: tuple[int, int, int]
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]

    @property
    def codes(self) -> tuple[int, int, int]:
        """Patches in (z, alpha, r)."""
        z, _, r = (
            (n - k) // s + 1 for n, k, s in zip(self.voxels, self.kernel, self.strides, strict=True)
        )
        return z, -(-self.voxels[1] // self.strides[1]), r

    @property
    def options(self) -> dict[str, object]:
        """Of the convolution that steps between voxels and codes."""
        return {"strides": self.strides, "z_padding": "valid", "r_padding": "valid"}


class _Places(nn.Module):
    """What every place of the coarse grid knows: [b, z', 1, r', features].

    Attributes:
      grid: the places.
      features: numbers a place.
    """

    grid: Grid
    features: int

    @nn.compact
    def __call__(self, condition: Condition) -> jax.Array:
        """Condition -> its own numbers, and those that its layers tell."""
        z, _, r = self.grid.codes
        own = self.param("own", nn.initializers.normal(0.02), (z, 1, r, self.features))
        layers = condition.by_layer(self.grid.voxels[0])[:, :, None, None]
        kernel, strides = (self.grid.kernel[0], 1, 1), (self.grid.strides[0], 1, 1)
        told = cylinder.Conv(self.features, kernel, strides, "valid", name="told")(layers)
        return own + told


class _Block(nn.Module):
    """A convolution on the coarse grid with a way around it.

    Attributes:
      kernel: bins (z, alpha, r).
    """

    kernel: tuple[int, int, int] = (3, 3, 3)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, z', alpha', r', f] -> the same shape."""
        y = cylinder.Conv(x.shape[-1], self.kernel, across_axis=x.shape[2] % 2 == 0)(nn.silu(x))
        return x + y


class CylinderEncoder(nn.Module):
    """Three convolutions from voxels to a grid of latents.

    Attributes:
      grid: of the codes.
      filters: channels inside.
      width: dimensions of a latent d.
    """

    grid: Grid
    filters: int
    width: int

    @nn.compact
    def __call__(self, voxels: jax.Array, condition: Condition) -> jax.Array:
        """Compressed fractions [b, v] -> latents [b, t, d], (z, alpha, r) in this order."""
        x = voxels.reshape(-1, *self.grid.voxels)
        x = jnp.stack([x, (x > 0).astype(x.dtype)], -1)
        x = cylinder.Conv(self.filters, self.grid.kernel, name="patches", **self.grid.options)(x)
        x = _Block(name="block")(x + _Places(self.grid, self.filters, name="places")(condition))
        even = self.grid.codes[1] % 2 == 0
        x = cylinder.Conv(self.width, (3, 3, 3), across_axis=even, name="latents")(nn.silu(x))
        return x.reshape(len(x), -1, self.width)


class CylinderDecoder(nn.Module):
    """Three convolutions from a grid of latents to voxels, and a profile of each layer.

    Attributes:
      grid: of the codes.
      filters: channels inside.
      numbers: that each voxel needs n.
      profile: hidden width of the network that draws the profiles.
    """

    grid: Grid
    filters: int
    numbers: int
    profile: int = 32

    @nn.compact
    def __call__(self, latents: jax.Array, condition: Condition) -> jax.Array:
        """Latents [b, t, d] -> [b, v, n]."""
        b, _, width = latents.shape
        z, _, r = self.grid.voxels
        even = self.grid.codes[1] % 2 == 0
        x = latents.reshape(b, *self.grid.codes, width)
        x = cylinder.Conv(self.filters, (3, 3, 3), across_axis=even, name="latents")(x)
        x = _Block(name="block")(x + _Places(self.grid, self.filters, name="places")(condition))
        patches = cylinder.ConvTranspose(
            self.numbers,
            self.grid.kernel,
            shape=self.grid.voxels,
            name="patches",
            **self.grid.options,
        )(nn.silu(x))

        layers = condition.by_layer(z)
        own = self.param("layers", nn.initializers.normal(1.0), (z, 8))
        layers = jnp.concatenate([layers, jnp.broadcast_to(own, (b, *own.shape))], -1)
        profile = MLP((self.profile, self.profile), r * self.numbers, name="profile")(layers)
        x = patches + profile.reshape(b, z, 1, r, self.numbers)
        return x.reshape(b, -1, self.numbers)


class CylinderContext(nn.Module):
    """What a prior is told of every place of the coarse grid: the shower, and the layers there.

    Attributes:
      grid: of the codes.
      width: numbers a place.
    """

    grid: Grid
    width: int

    @nn.compact
    def __call__(self, condition: Condition) -> jax.Array:
        """Condition -> [b, t, width]."""
        shower = nn.Dense(self.width, name="shower")(condition.flat())
        layers = condition.by_layer(self.grid.voxels[0])[:, :, None, None]
        kernel, strides = (self.grid.kernel[0], 1, 1), (self.grid.strides[0], 1, 1)
        told = cylinder.Conv(self.width, kernel, strides, "valid", name="told")(layers)
        x = nn.silu(told + shower[:, None, None, None])
        x = nn.Dense(self.width, name="context")(x)
        return jnp.broadcast_to(x, (len(x), *self.grid.codes, self.width)).reshape(
            len(x), -1, self.width
        )


class DenseContext(nn.Module):
    """What a prior is told of the shower.

    Attributes:
      width: numbers.
    """

    width: int

    @nn.compact
    def __call__(self, condition: Condition) -> jax.Array:
        """Condition -> [b, width]."""
        return MLP((self.width,), self.width, name="mlp")(condition.flat())
