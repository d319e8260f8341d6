"""Quantisers: maps from latents to codes and back, with gradients, and the learning of codebooks.

Vector quantisation follows van den Oord et al. 2017 (arXiv:1711.00937, equations 1 to 3). The
codebook is learnt by gradient (`ByGradient`) or by exponential moving averages (`ByAverages`,
appendix A.1 there) with revival of dead codes (Jukebox, arXiv:2005.00341, section 3.1). Finite
scalar quantisation (`Finite`, Mentzer et al. 2023, arXiv:2309.15505) rounds and has no codebook.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Quantised(NamedTuple):
    """Quantised latents, in training.

    Attributes:
      codes: codes of the latents.
      vectors: vectors of the codes, with the gradient of the latents.
      commitment: mean squared distance of the latents from their codes.
      penalty: weighted terms to add to the loss.
      codebook: codebook after this step.
    """

    codes: Int[Array, "*shape"]
    vectors: Float[Array, "*shape d"]
    commitment: Float[Array, ""]
    penalty: Float[Array, ""]
    codebook: Any


class Quantizer(Protocol):
    """The interface of quantisers, with k codes (``size``) of d dimensions (``width``).

    The codebook is an argument of every method. Its ``home`` is the collection "params" if it is
    learnt by gradient, "state" if by other rules, and None if there is no codebook.
    """

    @property
    def size(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def home(self) -> str | None: ...

    def start(self, key: jax.Array, latents: Float[Array, "*shape d"]) -> Any:
        """The initial codebook, from latents of a batch; the key is consumed."""
        ...

    def codes(self, codebook: Any, latents: Float[Array, "*shape d"]) -> Int[Array, "*shape"]: ...

    def vectors(self, codebook: Any, codes: Int[Array, "*shape"]) -> Float[Array, "*shape d"]: ...

    def through(
        self, codebook: Any, latents: Float[Array, "*shape d"], key: jax.Array
    ) -> Quantised:
        """Quantises latents in training; the key is consumed."""
        ...


@dataclasses.dataclass(frozen=True)
class ByAverages:
    """A codebook of moving averages of latents.

    The codebook is a dict of ``vectors`` [k, d] and two moving averages: the ``count`` [k] of the
    latents of each code in a batch, and the ``total`` [k, d] of these latents.

    Attributes:
      size: number of codes k.
      width: dimensions of a latent d.
      beta: weight of the commitment term.
      decay: decay of the averages per step.
      revive_below: fraction of an even share of latents; codes with a smaller count are moved to
        random latents of the batch.
    """

    size: int
    width: int
    beta: float
    decay: float
    revive_below: float
    home = "state"

    def start(self, key: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
        """Random latents as codes, so that all codes are used from the first step."""
        latents = latents.reshape(-1, self.width)
        vectors = _draw(key, latents, self.size)
        count = jnp.full((self.size,), len(latents) / self.size, latents.dtype)
        return {"vectors": vectors, "count": count, "total": vectors * count[:, None]}

    def codes(self, codebook: dict[str, jax.Array], latents: jax.Array) -> jax.Array:
        return nearest(latents, codebook["vectors"])

    def vectors(self, codebook: dict[str, jax.Array], codes: jax.Array) -> jax.Array:
        return codebook["vectors"][codes]

    def through(
        self, codebook: dict[str, jax.Array], latents: jax.Array, key: jax.Array
    ) -> Quantised:
        codes = self.codes(codebook, latents)
        chosen = codebook["vectors"][codes]
        commitment = _distance(latents, chosen)
        after = self.update(codebook, latents.reshape(-1, self.width), codes.reshape(-1), key)
        chosen = straight_through(latents, chosen)
        return Quantised(codes, chosen, commitment, self.beta * commitment, after)

    def update(
        self,
        codebook: dict[str, jax.Array],
        latents: Float[Array, "n d"],
        codes: Int[Array, " n"],
        key: jax.Array,
    ) -> dict[str, jax.Array]:
        """Moves codes towards the means of their latents, and revives dead ones.

        Latents are those of the whole batch, on all devices together; the key is consumed.
        """
        latents = jax.lax.stop_gradient(latents)
        batch_count = jax.ops.segment_sum(jnp.ones(len(codes), latents.dtype), codes, self.size)
        batch_total = jax.ops.segment_sum(latents, codes, self.size)
        count = self.decay * codebook["count"] + (1 - self.decay) * batch_count
        total = self.decay * codebook["total"] + (1 - self.decay) * batch_total

        share = len(latents) / self.size
        dead = count < self.revive_below * share
        # With an even share, a revived code is not soon dead again.
        reborn = _draw(key, latents, self.size)
        count = jnp.where(dead, share, count)
        total = jnp.where(dead[:, None], reborn * share, total)
        return {"vectors": total / count[:, None], "count": count, "total": total}


@dataclasses.dataclass(frozen=True)
class ByGradient:
    """A codebook [k, d] that is a parameter like others.

    Attributes:
      size: number of codes k.
      width: dimensions of a latent d.
      beta: weight of the commitment term.
      pull: weight of the codebook term.
      spread: half the range of uniform initial codes; with 0 codes start on latents.
    """

    size: int
    width: int
    beta: float
    pull: float = 1.0
    spread: float = 0.0
    home = "params"

    def start(self, key: jax.Array, latents: jax.Array) -> jax.Array:
        if self.spread:
            shape = (self.size, self.width)
            return jax.random.uniform(key, shape, latents.dtype, -self.spread, self.spread)
        return _draw(key, latents.reshape(-1, self.width), self.size)

    def codes(self, codebook: jax.Array, latents: jax.Array) -> jax.Array:
        return nearest(latents, codebook)

    def vectors(self, codebook: jax.Array, codes: jax.Array) -> jax.Array:
        return codebook[codes]

    def through(self, codebook: jax.Array, latents: jax.Array, key: jax.Array) -> Quantised:
        codes = self.codes(codebook, latents)
        chosen = codebook[codes]
        commitment = _distance(latents, chosen)
        penalty = self.beta * commitment + self.pull * _distance(chosen, latents)
        return Quantised(codes, straight_through(latents, chosen), commitment, penalty, codebook)


@dataclasses.dataclass(frozen=True)
class Finite:
    """Rounding of every dimension of a latent to one of a few levels, without a codebook.

    Attributes:
      levels: number of levels of each dimension; every combination of levels is a code.
    """

    levels: tuple[int, ...]
    home = None

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    @property
    def width(self) -> int:
        return len(self.levels)

    def start(self, key: jax.Array, latents: jax.Array) -> None:
        return None

    def codes(self, codebook: None, latents: jax.Array) -> jax.Array:
        steps = jnp.round(self._bounded(latents)) + _row(self._half.astype(np.float32), latents)
        return (steps @ self._worth.astype(np.float32)).astype(jnp.int32)

    def vectors(self, codebook: None, codes: jax.Array) -> jax.Array:
        """Vectors of codes, with components in [-1, 1]."""
        codes = codes[..., None]
        steps = codes // _row(self._worth, codes) % _row(self.levels, codes)
        half = _row(self._half, codes)
        return (steps - half) / half.astype(np.float32)

    def through(self, codebook: None, latents: jax.Array, key: jax.Array) -> Quantised:
        bounded = self._bounded(latents)
        passed = straight_through(bounded, jnp.round(bounded)) / _row(self._half, latents)
        zero = jnp.zeros((), latents.dtype)
        return Quantised(self.codes(codebook, latents), passed, zero, zero, codebook)

    @property
    def _half(self) -> np.ndarray:
        return np.array(self.levels) // 2

    @property
    def _worth(self) -> np.ndarray:
        """Change of the code for a step in each dimension."""
        return np.cumprod((1, *self.levels[:-1]))

    def _bounded(self, latents: jax.Array) -> jax.Array:
        """Latents squeezed so that rounding gives each level (arXiv:2309.15505, appendix A.1)."""
        levels = _row(self.levels, latents)
        # An even number of levels has none in the middle, hence the offset. With the small excess
        # the hyperbolic tangent reaches the outermost levels.
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.arctanh(offset / half).astype(np.float32)
        half, offset = half.astype(np.float32), offset.astype(np.float32)
        return jnp.tanh(latents + shift) * half - offset


def nearest(
    latents: Float[Array, "*shape d"], vectors: Float[Array, "k d"]
) -> Int[Array, "*shape"]:
    """Code whose vector is nearest to each latent."""
    # |z - e|^2 without |z|^2, which is the same for all codes.
    distance = _row((vectors**2).sum(-1), latents) - 2.0 * latents @ vectors.T
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def straight_through(
    latents: Float[Array, "*shape d"], vectors: Float[Array, "*shape d"]
) -> Float[Array, "*shape d"]:
    """The value of ``vectors`` with the gradient of ``latents``."""
    return latents + jax.lax.stop_gradient(vectors - latents)


def frequency(codes: Int[Array, "*shape"], size: int) -> Float[Array, "{size}"]:
    """The share of each of ``size`` codes."""
    return jnp.zeros(size).at[codes.reshape(-1)].add(1.0 / codes.size)


def perplexity(frequency: Float[Array, " k"]) -> Float[Array, ""]:
    """exp(entropy) of code frequencies that sum to one: the effective number of codes."""
    return jnp.exp(jax.scipy.special.entr(frequency).sum())


def summarise(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers from averaged metrics: ``code_frequency`` [k] becomes perplexity and live codes."""
    metrics = dict(metrics)
    shares = metrics.pop("code_frequency", None)
    summary = {name: float(value) for name, value in metrics.items()}
    if shares is not None:
        summary["perplexity"] = float(perplexity(jnp.asarray(shares)))
        summary["live_codes"] = float(np.mean(np.asarray(shares) > 0))
    return summary


def _distance(moved: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared distance, whose gradient reaches ``moved`` only."""
    return jnp.mean((moved - jax.lax.stop_gradient(target)) ** 2)


def _row(values: jax.Array | np.ndarray | tuple[int, ...], latents: jax.Array) -> Any:
    """Values [d] with as many axes as latents [..., d]."""
    values = values if isinstance(values, jax.Array) else np.asarray(values)
    return values.reshape(*[1] * (latents.ndim - 1), -1)


def _draw(key: jax.Array, latents: jax.Array, size: int) -> jax.Array:
    """``size`` of latents [n, d], without repetition if n is large enough."""
    index = jax.random.choice(key, len(latents), (size,), replace=size > len(latents))
    return latents[index]
