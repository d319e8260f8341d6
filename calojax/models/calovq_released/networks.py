"""The networks of the released Calo-VQ (arXiv:2405.06605 and its configurations).

Datasets 2 and 3: convolutions over (z, alpha) with the bins of r as channels, alpha resampled by
Fourier series between them, z by strides. Dataset 1: multilayer perceptrons around convolutions
along the codes. Every encoder and decoder is told the incident energy.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax.nn import cylinder

ArchitectureName = Literal["ds1", "ds2", "ds3"]


class Step(NamedTuple):
    """A convolution over (z, alpha).

    Attributes:
      features: channels of the output.
      kernel: bins (z, alpha).
      stride: in z.
      padding: of z.
    """

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: cylinder.Padding = "same"


class Architecture(NamedTuple):
    """Encoder and decoder over (z, alpha); numbers between steps resample alpha to so many bins.

    Attributes:
      encoder: its steps.
      decoder: its steps but the last, which gives every bin of r its number.
      inner: channels between codes and decoder.
    """

    encoder: tuple[Step | int, ...]
    decoder: tuple[Step | int, ...]
    inner: int


ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    "ds2": Architecture(
        encoder=(
            Step(16),
            Step(32, (5, 3), stride=3),
            8,
            Step(64),
            Step(128),
            4,
            Step(256, padding="valid"),
            Step(128, (1, 1)),
        ),
        decoder=(
            Step(256, padding="valid"),
            8,
            Step(128),
            Step(64),
            16,
            Step(32, (5, 3), stride=3),
            Step(16),
        ),
        inner=128,
    ),
    "ds3": Architecture(
        encoder=(
            Step(32, padding="valid"),
            Step(32, padding="valid"),
            34,
            Step(64, stride=2, padding="valid"),
            Step(64, padding="valid"),
            22,
            Step(128, padding="valid"),
            Step(128, padding="valid"),
            14,
            Step(256, padding="valid"),
            Step(256, (1, 1)),
        ),
        decoder=(
            Step(128, padding="valid"),
            22,
            Step(128, padding="valid"),
            Step(64, padding="valid"),
            34,
            Step(64, padding="valid"),
            Step(32, stride=2, padding="valid"),
            50,
            Step(32, padding="valid"),
            Step(32, padding="valid"),
        ),
        inner=256,
    ),
}


# --- datasets 2 and 3 -----------------------------------------------------------------------------


class Shape(NamedTuple):
    """Bins on the way through an architecture.

    Attributes:
      grid: bins of the detector (z, alpha, r).
      z_padding: layers of zeros in front and behind.
    """

    grid: tuple[int, int, int]
    z_padding: tuple[int, int]

    def codes(self, architecture: Architecture) -> tuple[int, int]:
        """Bins (z, alpha) of the codes; fewer than one in z if there are too few layers."""
        z, alpha = self._before(architecture)[-1], self.grid[1]
        for step in architecture.encoder:
            alpha = alpha if isinstance(step, Step) else step
        return z, alpha

    def unstrided(self, architecture: Architecture) -> int:
        """Bins in z in front of the encoder's strided step, to which the decoder's returns."""
        steps = [step for step in architecture.encoder if isinstance(step, Step)]
        (strided,) = (i for i, step in enumerate(steps) if step.stride > 1)
        return self._before(architecture)[strided]

    def _before(self, architecture: Architecture) -> list[int]:
        """Bins in z in front of every step of the encoder, and behind the last."""
        sizes = [self.grid[0] + sum(self.z_padding)]
        for step in architecture.encoder:
            if isinstance(step, Step):
                n, k, s = sizes[-1], step.kernel[0], step.stride
                sizes.append((n - k) // s + 1 if step.padding == "valid" else -(-n // s))
        return sizes


class ConvEncoder(nn.Module):
    """Showers to latents on a grid (z, alpha).

    Attributes:
      architecture: its steps.
      shape: bins.
      width: dimensions of a latent d.
    """

    architecture: Architecture
    shape: Shape
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """[b, v] and condition [b, 1] -> [b, t, d]."""
        x = x.reshape(-1, *self.shape.grid)
        x = jnp.pad(x, ((0, 0), self.shape.z_padding, (0, 0), (0, 0)))
        x = _beside(x, condition)
        for number, step in enumerate(self.architecture.encoder):
            if not isinstance(step, Step):
                x = cylinder.resample_alpha(x, step)
                continue
            x = cylinder.Conv(step.features, step.kernel, (step.stride, 1), step.padding)(x)
            if number < len(self.architecture.encoder) - 1:
                x = nn.silu(x)
        return nn.Dense(self.width, name="quant")(x).reshape(len(x), -1, self.width)


class ConvDecoder(nn.Module):
    """Latents to a number for every voxel, which `normalised` turns into shares.

    Attributes:
      architecture: its steps.
      shape: bins.
    """

    architecture: Architecture
    shape: Shape

    @nn.compact
    def __call__(self, latents: jax.Array, condition: jax.Array) -> jax.Array:
        """[b, t, d] and condition [b, 1] -> [b, v]."""
        z, alpha, r = self.shape.grid
        x = nn.Dense(self.architecture.inner, name="post_quant")(latents)
        x = x.reshape(len(x), *self.shape.codes(self.architecture), -1)
        x = _beside(x, condition)
        for step in self.architecture.decoder:
            if not isinstance(step, Step):
                x = cylinder.resample_alpha(x, step)
                continue
            shape = None
            if step.stride > 1:
                shape = (self.shape.unstrided(self.architecture), x.shape[2])
            strides = (step.stride, 1)
            x = cylinder.ConvTranspose(
                step.features, step.kernel, strides, step.padding, shape=shape
            )(x)
            x = nn.silu(x)
        x = cylinder.ConvTranspose(r, (1, 1))(x)
        # The architecture's last number of bins need not be the detector's.
        x = cylinder.resample_alpha(x, alpha) if x.shape[2] != alpha else x
        front = self.shape.z_padding[0]
        return x[:, front : front + z].reshape(len(x), -1)


def _beside(x: jax.Array, condition: jax.Array) -> jax.Array:
    """A condition [b, c] as further channels of every bin."""
    condition = condition.reshape(len(x), *(1,) * (x.ndim - 2), -1)
    shape = (*x.shape[:-1], condition.shape[-1])
    return jnp.concatenate([x, jnp.broadcast_to(condition, shape)], -1)


# --- dataset 1 ------------------------------------------------------------------------------------

_LENGTH = 32


class DenseEncoder(nn.Module):
    """Showers to 32 latents.

    Attributes:
      width: dimensions of a latent d.
      labels: incident energies to tell apart.
    """

    width: int
    labels: int = 15

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array) -> jax.Array:
        """[b, v] and number of the incident energy [b] -> [b, 32, d]."""
        x = jnp.concatenate([x, nn.Embed(self.labels, 3)(label)], -1)
        for width in (512, 512, 32 * _LENGTH):
            x = nn.relu(nn.Dense(width)(x))
        x = x.reshape(len(x), 32, _LENGTH).swapaxes(1, 2)
        for _ in range(3):
            x = nn.relu(nn.Conv(256, (3,))(x))
        x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(self.width, name="quant")(x)


class DenseDecoder(nn.Module):
    """32 latents to a number for every voxel.

    Attributes:
      voxels: number of voxels v.
      labels: incident energies to tell apart.
    """

    voxels: int
    labels: int = 15

    @nn.compact
    def __call__(self, latents: jax.Array, label: jax.Array) -> jax.Array:
        """[b, 32, d] and number of the incident energy [b] -> [b, v]."""
        x = nn.Dense(256, name="post_quant")(latents)
        x = _beside(x, nn.Embed(self.labels, 3)(label))
        for features in (256, 256, 256, 32):
            x = nn.relu(nn.Conv(features, (3,))(x))
        x = x.swapaxes(1, 2).reshape(len(x), -1)
        for width in (512, 512):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.voxels)(x)


# --- shares ---------------------------------------------------------------------------------------


def normalised(out: jax.Array, architecture: ArchitectureName, slices: tuple[slice, ...]):
    """Outputs [b, v] -> shares [b, v] that sum to one over each layer (ds1), or over all voxels.

    Dataset 3 alone can be zero: relu and expm1 instead of an exponential.
    """
    if architecture == "ds1":
        return jnp.concatenate([nn.softmax(out[:, where]) for where in slices], -1)
    if architecture == "ds2":
        return nn.softmax(out)
    # Held below e^20, which no share needs, for float32; all equal where nothing is positive.
    positive = jnp.expm1(jnp.minimum(nn.relu(out), 20.0))
    total = positive.sum(-1, keepdims=True)
    return jnp.where(
        total > 0, positive / jnp.where(total > 0, total, 1.0), 1.0 / np.prod(out.shape[1:])
    )
