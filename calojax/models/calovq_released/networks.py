"""The networks of the released Calo-VQ (arXiv:2405.06605 and its configurations).

Datasets 2 and 3 (`Convolutional`): convolutions over (z, alpha) with the bins of r as channels;
between them alpha is resampled by Fourier series, and z is reduced by strides. Dataset 1 (`Dense`):
multilayer perceptrons around convolutions along the codes. Every encoder and decoder is conditioned
on the incident energy.
"""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.models.voxels import energy_condition
from calojax.nn import cylinder

ArchitectureName = Literal["ds1", "ds2", "ds3"]


# --- datasets 2 and 3 -----------------------------------------------------------------------------


class Step(NamedTuple):
    """A convolution over (z, alpha), with a stride and a padding in z."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: cylinder.Padding = "same"

    def conv(self, x: jax.Array) -> jax.Array:
        """Applies the convolution inside a compact method."""
        return cylinder.Conv(self.features, self.kernel, (self.stride, 1), self.padding)(x)


class Architecture(NamedTuple):
    """Steps over (z, alpha), and between them numbers of bins to which alpha is resampled."""

    encoder: tuple[Step | int, ...]
    # Steps of the decoder before the last, whose channels are the bins of r.
    decoder: tuple[Step | int, ...]
    inner: int  # channels between codes and decoder
    sparse: bool = False  # whether voxels can be zero: relu and expm1 instead of an exponential


def _valid(features: int, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> Step:
    return Step(features, kernel, stride, "valid")


# fmt: off
ARCHITECTURES = {
    "ds2": Architecture(
        encoder=(
            Step(16), Step(32, (5, 3), 3), 8, Step(64), Step(128), 4,
            _valid(256), Step(128, (1, 1)),
        ),
        decoder=(_valid(256), 8, Step(128), Step(64), 16, Step(32, (5, 3), 3), Step(16)),
        inner=128,
    ),
    "ds3": Architecture(
        encoder=(
            _valid(32), _valid(32), 34, _valid(64, stride=2), _valid(64), 22,
            _valid(128), _valid(128), 14, _valid(256), Step(256, (1, 1)),
        ),
        decoder=(
            _valid(128), 22, _valid(128), _valid(64), 34, _valid(64), _valid(32, stride=2), 50,
            _valid(32), _valid(32),
        ),
        inner=256,
        sparse=True,
    ),
}
# fmt: on


class Plan(NamedTuple):
    """An architecture for a detector."""

    architecture: Architecture
    grid: tuple[int, int, int]  # bins of the detector (z, alpha, r)
    z_padding: tuple[int, int]  # layers of zeros (in front, behind)

    @property
    def codes(self) -> tuple[int, int]:
        """Bins (z, alpha) of the codes; z < 1 if there are too few layers."""
        turns = [self.grid[1], *(x for x in self.architecture.encoder if not isinstance(x, Step))]
        return self._before()[-1], turns[-1]

    @property
    def unstrided(self) -> int:
        """Bins in z before the encoder's strided step and after the decoder's."""
        steps = [step for step in self.architecture.encoder if isinstance(step, Step)]
        (strided,) = (i for i, step in enumerate(steps) if step.stride > 1)
        return self._before()[strided]

    def _before(self) -> list[int]:
        """Bins in z before every step of the encoder, and after the last."""
        sizes = [self.grid[0] + sum(self.z_padding)]
        for step in self.architecture.encoder:
            if isinstance(step, Step):
                n, k, s = sizes[-1], step.kernel[0], step.stride
                sizes.append((n - k) // s + 1 if step.padding == "valid" else -(-n // s))
        return sizes


class Convolutional(NamedTuple):
    """The networks of datasets 2 and 3, for a detector with equal layers."""

    plan: Plan
    detector: Detector
    context = None
    conditions = 1

    @property
    def codes(self) -> int:
        return math.prod(self.plan.codes)

    @property
    def parts(self) -> int:
        return self.detector.n_layers

    def encoder(self, width: int) -> nn.Module:
        return ConvEncoder(self.plan, width)

    def decoder(self) -> nn.Module:
        return ConvDecoder(self.plan)

    def condition(self, energies: Float[Array, " b"]) -> Float[Array, "b 1"]:
        """Logarithm of incident energies in MeV, scaled to [-1, 1]."""
        return energy_condition(energies, self.detector)

    def shares(self, out: Float[Array, "b v"]) -> Float[Array, "b v"]:
        """Shares of the shower's energy, from decoder outputs."""
        if not self.plan.architecture.sparse:
            return nn.softmax(out)
        # At most e^20, to stay within float32; equal shares if no output is positive.
        positive = jnp.expm1(jnp.minimum(nn.relu(out), 20.0))
        total = positive.sum(-1, keepdims=True)
        even = 1.0 / math.prod(out.shape[1:])
        return jnp.where(total > 0, positive / jnp.where(total > 0, total, 1.0), even)


class ConvEncoder(nn.Module):
    """Showers to latents with d dimensions on a grid (z, alpha)."""

    plan: Plan
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """[b, v] and condition [b, 1] -> [b, t, d]."""
        x = x.reshape(-1, *self.plan.grid)
        x = jnp.pad(x, ((0, 0), self.plan.z_padding, (0, 0), (0, 0)))
        x = _with_condition(x, condition)
        *steps, last = self.plan.architecture.encoder
        for step in steps:
            if isinstance(step, Step):
                x = nn.silu(step.conv(x))
            else:
                x = cylinder.resample_alpha(x, step)
        assert isinstance(last, Step)
        return nn.Dense(self.width, name="quant")(last.conv(x)).reshape(x.shape[0], -1, self.width)


class ConvDecoder(nn.Module):
    """Latents on a grid (z, alpha) to one output per voxel."""

    plan: Plan

    @nn.compact
    def __call__(self, latents: jax.Array, condition: jax.Array) -> jax.Array:
        """[b, t, d] and condition [b, 1] -> [b, v]."""
        architecture, (z, alpha, r), (front, _) = self.plan
        x = nn.Dense(architecture.inner, name="post_quant")(latents)
        x = x.reshape(x.shape[0], *self.plan.codes, -1)
        x = _with_condition(x, condition)
        for step in architecture.decoder:
            if not isinstance(step, Step):
                x = cylinder.resample_alpha(x, step)
                continue
            shape = (self.plan.unstrided, x.shape[2]) if step.stride > 1 else None
            options = (step.features, step.kernel, (step.stride, 1), step.padding)
            x = nn.silu(cylinder.ConvTranspose(*options, shape=shape)(x))
        x = cylinder.ConvTranspose(r, (1, 1))(x)
        # The detector may have more or fewer bins than the data set of the architecture.
        x = cylinder.resample_alpha(x, alpha) if x.shape[2] != alpha else x
        return x[:, front : front + z].reshape(x.shape[0], -1)


def _with_condition(x: jax.Array, condition: jax.Array) -> jax.Array:
    """Adds a condition [b, c] to the channels of every bin."""
    condition = condition.reshape(x.shape[0], *(1,) * (x.ndim - 2), -1)
    shape = (*x.shape[:-1], condition.shape[-1])
    return jnp.concatenate([x, jnp.broadcast_to(condition, shape)], -1)


# --- dataset 1 ------------------------------------------------------------------------------------

_LENGTH = 32
_LABELS = 15


class Dense(NamedTuple):
    """The networks of dataset 1, where incident energies are discrete."""

    detector: Detector
    codes = _LENGTH
    # Embedding of the condition for the prior, which takes the condition itself where it is None.
    # The released table has three rows more than there are energies.
    context = nn.Embed(18, 3)
    conditions = 3  # size of the prior's context
    parts = 1  # number of parts of a shower whose centres and widths are compared

    def encoder(self, width: int) -> nn.Module:
        return DenseEncoder(width)

    def decoder(self) -> nn.Module:
        return DenseDecoder(self.detector.n_voxels)

    def condition(self, energies: Float[Array, " b"]) -> Int[Array, " b"]:
        """Number of the incident energy in MeV: log2 of its ratio to 256 MeV."""
        return jnp.clip(jnp.round(jnp.log2(energies)) - 8, 0, _LABELS - 1).astype(jnp.int32)

    def shares(self, out: Float[Array, "b v"]) -> Float[Array, "b v"]:
        """Shares of each layer's energy, from decoder outputs."""
        return jnp.concatenate([nn.softmax(out[:, x]) for x in self.detector.layer_slices], -1)


class DenseEncoder(nn.Module):
    """Showers to 32 latents with d dimensions."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array) -> jax.Array:
        """[b, v] and label of the incident energy [b] -> [b, 32, d]."""
        x = jnp.concatenate([x, nn.Embed(_LABELS, 3)(label)], -1)
        for width in (512, 512, 32 * _LENGTH):
            x = nn.relu(nn.Dense(width)(x))
        x = x.reshape(x.shape[0], 32, _LENGTH).swapaxes(1, 2)
        for _ in range(3):
            x = nn.relu(nn.Conv(256, (3,))(x))
        x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(self.width, name="quant")(x)


class DenseDecoder(nn.Module):
    """32 latents to one output per voxel."""

    voxels: int

    @nn.compact
    def __call__(self, latents: jax.Array, label: jax.Array) -> jax.Array:
        """[b, 32, d] and label of the incident energy [b] -> [b, v]."""
        x = nn.Dense(256, name="post_quant")(latents)
        x = _with_condition(x, nn.Embed(_LABELS, 3)(label))
        for features in (256, 256, 256, 32):
            x = nn.relu(nn.Conv(features, (3,))(x))
        x = x.swapaxes(1, 2).reshape(x.shape[0], -1)
        for width in (512, 512):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.voxels)(x)


Networks = Dense | Convolutional


def make(name: ArchitectureName, detector: Detector, z_padding: tuple[int, int]) -> Networks:
    """The networks of a data set.

    Raises:
      CalojaxError: if the detector does not fit the networks.
    """
    if name == "ds1":
        return Dense(detector)
    if detector.grid is None:
        raise CalojaxError(
            f"{detector.name}: its layers differ, so there is no grid to convolve over; "
            "take --autoencoder.architecture ds1."
        )
    plan = Plan(ARCHITECTURES[name], detector.grid, z_padding)
    if plan.codes[0] < 1:
        raise CalojaxError(
            f"{detector.name}: {detector.n_layers} layers are too few for the networks of {name}; "
            "increase --autoencoder.z-padding."
        )
    return Convolutional(plan, detector)
