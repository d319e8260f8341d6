"""The random numbers of a model as one array, as programs outside of Python hand them over.

`Layout` lists them in order. They can also be made inside a program, from a few normal numbers:
`from_seed` is a counter generator, so that a simulation that has only ten numbers of its engine to
give determines a whole shower.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from calojax import rng
from calojax.errors import CalojaxError
from calojax.models.base import Keys, Model, Noise


class Part(NamedTuple):
    """Some of the random numbers of a shower."""

    name: str  # step of the model and distribution, such as ``voxels.uniform.0``
    distribution: str  # distribution of each number (see `calojax.models.base.Noise`)
    shape: tuple[int, ...]  # shape of the numbers of a shower

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The order of the random numbers of a model in one array [b, n]."""

    parts: tuple[Part, ...]
    tree: Any  # structure of `Noise`

    @property
    def size(self) -> int:
        """Random numbers of a shower, n."""
        return sum(part.size for part in self.parts)

    def flatten(self, noise: Noise) -> np.ndarray:
        """The numbers of showers as one array, float32 [b, n]."""
        leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(noise)]
        return np.concatenate([x.reshape(len(x), -1) for x in leaves], 1)

    def unflatten(self, numbers: jax.Array) -> Noise:
        """The inverse of `flatten`."""
        return jax.tree.unflatten(self.tree, self._pieces(numbers))

    def from_normal(self, numbers: jax.Array) -> Noise:
        """The noise of showers from standard normal numbers [b, n] only."""
        return self._drawn(_OF_NORMAL, numbers)

    def from_seed(self, normal: jax.Array) -> Noise:
        """The noise of showers from a few standard normal numbers [b, k]; needs 64-bit integers."""
        return self._drawn(_OF_BITS, random_bits(normal, self.size))

    def _pieces(self, numbers: jax.Array) -> list[jax.Array]:
        if numbers.ndim != 2 or numbers.shape[1] != self.size:
            raise CalojaxError(
                f"noise must have {self.size:,} numbers for each shower, got shape {numbers.shape}."
            )
        ends = np.cumsum([part.size for part in self.parts])
        return [
            numbers[:, end - part.size : end].reshape(-1, *part.shape)
            for part, end in zip(self.parts, ends.tolist(), strict=True)
        ]

    def _drawn(self, functions: dict[str, Callable], numbers: jax.Array) -> Noise:
        """The noise of numbers [b, n] by the function of each distribution."""
        pieces = zip(self.parts, self._pieces(numbers), strict=True)
        leaves = [functions[part.distribution](x) for part, x in pieces]
        return jax.tree.unflatten(self.tree, leaves)


def noise_of(model: Model) -> Callable[[Keys], Noise]:
    """The function that gives a model's noise for keys, in arrays if the model has both."""
    return getattr(model, "array_noise", model.noise)


def _shapes(noise: Callable[[Keys], Noise]) -> tuple[Noise, bool]:
    """The shapes of the noise of one shower, and whether all of it is arrays, not keys."""
    shapes = jax.eval_shape(noise, rng.per_item(rng.root(0), jnp.arange(1)))
    return shapes, not any("key" in part for part in shapes.values())


def is_fixed(model: Model) -> bool:
    """Whether every shower of a model has the same number of random numbers."""
    return _shapes(model.noise)[1]


def layout_of(model: Model) -> Layout:
    """The layout of a model's random numbers.

    Raises:
      CalojaxError: if their number is itself random.
    """
    shapes, fixed = _shapes(noise_of(model))
    if not fixed:
        raise CalojaxError(
            "The model draws random numbers from keys, for which it has no arrays (array_noise); "
            "take --format stablehlo."
        )
    leaves, tree = jax.tree.flatten_with_path(shapes)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    parts = [
        Part(name, name.split(".")[1], leaf.shape[1:])
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return Layout(tuple(parts), tree)


# --- distributions --------------------------------------------------------------------------------

# The largest float32 below 1.
_BELOW_ONE = np.float32(1 - 2**-24)


def _normal_to_uniform(x: jax.Array) -> jax.Array:
    # By erfc, which is exact in the tail.
    return jnp.minimum(0.5 * lax.erfc(-x * np.float32(math.sqrt(0.5))), _BELOW_ONE)


def _gumbel(uniform: jax.Array) -> jax.Array:
    tiny = np.float32(np.finfo(np.float32).tiny)
    return -jnp.log(-jnp.log(jnp.clip(uniform, tiny, _BELOW_ONE)))


_OF_NORMAL = {
    "normal": lambda x: x,
    "uniform": _normal_to_uniform,
    "gumbel": lambda x: _gumbel(_normal_to_uniform(x)),
}


# --- a counter generator --------------------------------------------------------------------------
#
# Number i of a shower is i after four rounds of x -> (m x + key)^5 modulo p = 2^31 - 1, which
# permutes 0..p-1, since 5 and p - 1 have no common divisor. The key of a round is a sum of all
# seeding numbers with random weights: four keys of 31 bits, so that different seeds hardly ever
# give equal showers. ONNX multiplies and divides 64-bit integers, but has no exclusive or of bits
# in opset 17.

_P = 2**31 - 1
_ROUNDS = 4
# Steps per unit of a normal number, and what makes it positive: exact in float32.
_STEPS, _SHIFT = 2.0**16, 2**20


def random_bits(normal: jax.Array, number: int) -> jax.Array:
    """Whole numbers in [0, 2^31 - 1), int64 [b, number], determined by normal numbers [b, k]."""
    generator = np.random.default_rng(20261125)
    k = normal.shape[1]
    whole = jnp.floor(normal * np.float32(_STEPS)).astype(jnp.int64) + _SHIFT
    # Negative only for normal numbers below -16, so `jax.lax.rem` does for all other remainders.
    whole = whole % _P
    x = jnp.arange(number, dtype=jnp.int64)[None]
    for multiplier in generator.integers(1, _P, _ROUNDS):
        # Each term modulo p, because ONNX Runtime's sums of larger numbers are not exact.
        terms = lax.rem(whole * generator.integers(1, _P, k)[None], _P)
        key = lax.rem(terms.sum(1, keepdims=True), _P)
        base = lax.rem(x * multiplier + key, _P)
        square = lax.rem(base * base, _P)
        x = lax.rem(lax.rem(square * square, _P) * base, _P)
    return x


def _bits_to_uniform(x: jax.Array) -> jax.Array:
    return lax.div(x, 2**7).astype(jnp.float32) * np.float32(2.0**-24)


def _bits_to_normal(x: jax.Array) -> jax.Array:
    # From the nearer end, so that the tail keeps its digits.
    odd = 2 * jnp.minimum(x, _P - 1 - x) + 1
    tail = rng.normal_quantile(odd.astype(jnp.float32) * np.float32(0.5 / _P))
    return jnp.where(2 * x < _P, tail, -tail)


_OF_BITS = {
    "normal": _bits_to_normal,
    "uniform": _bits_to_uniform,
    "gumbel": lambda x: _gumbel(_bits_to_uniform(x)),
}
