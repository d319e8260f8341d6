"""Quantisation: latents become codes, with a gradient through them, and codebooks learn.

Vector quantisation after van den Oord et al. 2017 (arXiv:1711.00937), equations 1-3, its codebook
learnt by gradient (`ByGradient`) or by exponential moving averages (`ByAverages`, appendix A.1
there) with revival of dead codes (Jukebox, arXiv:2005.00341, section 3.1); and finite scalar
quantisation (`Finite`, Mentzer et al. 2023, arXiv:2309.15505), which rounds and learns no codebook.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Quantised(NamedTuple):
    """Latents that went through a bottleneck.

    Attributes:
      codes: int32 [..., t].
      vectors: what the codes stand for [..., t, d], with the gradient of the latents.
      commitment: the term that keeps the latents near their codes, unweighted [].
      penalty: what to add to the loss, weights included [].
      codebook: as it is after this step.
    """

    codes: jax.Array
    vectors: jax.Array
    commitment: jax.Array
    penalty: jax.Array
    codebook: Any


class Quantizer(Protocol):
    """A kind of quantisation; what it learns, its codebook, is given to every method.

    Attributes:
      size: number of codes k.
      width: dimensions of a latent d.
      home: where a model keeps the codebook: among its "params" if it learns by gradient, in its
        "state" if by other rules, None if there is nothing to learn.
    """

    size: int
    width: int
    home: str | None

    def start(self, key: jax.Array, latents: jax.Array) -> Any:
        """The codebook at the start, from latents [..., t, d]; the key is consumed."""
        ...

    def codes(self, codebook: Any, latents: jax.Array) -> jax.Array:
        """Latents [..., t, d] -> int32 [..., t]."""
        ...

    def vectors(self, codebook: Any, codes: jax.Array) -> jax.Array:
        """Codes [..., t] -> [..., t, d]."""
        ...

    def through(self, codebook: Any, latents: jax.Array, key: jax.Array) -> Quantised:
        """Latents [..., t, d] through the bottleneck in training; the key is consumed."""
        ...


@dataclasses.dataclass(frozen=True)
class ByAverages:
    """A codebook that follows the latents by moving averages; a `Quantizer`.

    Attributes:
      size: number of codes.
      width: dimensions of a latent.
      beta: weight of the commitment term.
      decay: of the averages, a step.
      revive_below: fraction of an even share of latents below which a code is dead.
    """

    size: int
    width: int
    beta: float
    decay: float
    revive_below: float
    home = "state"

    def start(self, key: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
        """See `Quantizer`; the fields of a `Codebook`, as a dict for checkpoints."""
        return start(key, latents.reshape(-1, self.width), self.size)._asdict()

    def codes(self, codebook: dict[str, jax.Array], latents: jax.Array) -> jax.Array:
        """See `Quantizer`."""
        return nearest(latents, codebook["vectors"])

    def vectors(self, codebook: dict[str, jax.Array], codes: jax.Array) -> jax.Array:
        """See `Quantizer`."""
        return codebook["vectors"][codes]

    def through(
        self, codebook: dict[str, jax.Array], latents: jax.Array, key: jax.Array
    ) -> Quantised:
        """See `Quantizer`."""
        codes = self.codes(codebook, latents)
        chosen = codebook["vectors"][codes]
        commitment = commitment_loss(latents, chosen)
        after = update(
            Codebook(**codebook),
            latents.reshape(-1, self.width),
            codes.reshape(-1),
            key,
            decay=self.decay,
            revive_below=self.revive_below,
        )
        passed = straight_through(latents, chosen)
        return Quantised(codes, passed, commitment, self.beta * commitment, after._asdict())


@dataclasses.dataclass(frozen=True)
class ByGradient:
    """A codebook that is a parameter like others; a `Quantizer`.

    Attributes:
      size: number of codes.
      width: dimensions of a latent.
      beta: weight of the commitment term.
      pull: weight of the codebook term.
      spread: half the range of uniform numbers to start with; 0 starts on latents.
    """

    size: int
    width: int
    beta: float
    pull: float = 1.0
    spread: float = 0.0
    home = "params"

    def start(self, key: jax.Array, latents: jax.Array) -> jax.Array:
        """See `Quantizer`; [k, d]."""
        if self.spread:
            shape = (self.size, self.width)
            return jax.random.uniform(key, shape, latents.dtype, -self.spread, self.spread)
        return _draw(key, latents.reshape(-1, self.width), self.size)

    def codes(self, codebook: jax.Array, latents: jax.Array) -> jax.Array:
        """See `Quantizer`."""
        return nearest(latents, codebook)

    def vectors(self, codebook: jax.Array, codes: jax.Array) -> jax.Array:
        """See `Quantizer`."""
        return codebook[codes]

    def through(self, codebook: jax.Array, latents: jax.Array, key: jax.Array) -> Quantised:
        """See `Quantizer`; the key is not needed."""
        codes = self.codes(codebook, latents)
        chosen = codebook[codes]
        commitment = commitment_loss(latents, chosen)
        penalty = self.beta * commitment + self.pull * codebook_loss(latents, chosen)
        return Quantised(codes, straight_through(latents, chosen), commitment, penalty, codebook)


@dataclasses.dataclass(frozen=True)
class Finite:
    """Every dimension of a latent is rounded to one of few levels; a `Quantizer`.

    Attributes:
      levels: of each dimension; a code for each of their combinations.
    """

    levels: tuple[int, ...]
    home = None

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def width(self) -> int:
        """Dimensions of a latent."""
        return len(self.levels)

    def start(self, key: jax.Array, latents: jax.Array) -> None:
        """Nothing is learnt."""

    def codes(self, codebook: None, latents: jax.Array) -> jax.Array:
        """See `Quantizer`."""
        steps = jnp.round(self._bounded(latents)) + np.array(self.levels) // 2
        return (steps @ self._places.astype(np.float32)).astype(jnp.int32)

    def vectors(self, codebook: None, codes: jax.Array) -> jax.Array:
        """See `Quantizer`; components lie in [-1, 1]."""
        levels = np.array(self.levels)
        steps = codes[..., None] // self._places % levels
        return (steps - levels // 2) / (levels // 2).astype(np.float32)

    def through(self, codebook: None, latents: jax.Array, key: jax.Array) -> Quantised:
        """See `Quantizer`; the key is not needed, and there is nothing to commit to."""
        bounded = self._bounded(latents)
        passed = straight_through(bounded, jnp.round(bounded)) / (np.array(self.levels) // 2)
        zero = jnp.zeros((), latents.dtype)
        return Quantised(self.codes(codebook, latents), passed, zero, zero, codebook)

    @property
    def _places(self) -> np.ndarray:
        """What a step of each dimension adds to the code."""
        return np.cumprod((1, *self.levels[:-1]))

    def _bounded(self, latents: jax.Array) -> jax.Array:
        """Latents squeezed so that rounding gives each level (arXiv:2309.15505, appendix A.1)."""
        levels = np.array(self.levels)
        # An even number of levels has none in the middle; the small excess keeps the outermost
        # levels in reach of the hyperbolic tangent.
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.arctanh(offset / half)
        return jnp.tanh(latents + shift.astype(np.float32)) * half.astype(
            np.float32
        ) - offset.astype(np.float32)


class Codebook(NamedTuple):
    """A codebook that follows the encoder by moving averages.

    Attributes:
      vectors: the codes [k, d].
      count: moving average of how many latents a batch gave each code [k].
      total: moving average of the sum of those latents [k, d].
    """

    vectors: jax.Array
    count: jax.Array
    total: jax.Array


def nearest(latents: jax.Array, vectors: jax.Array) -> jax.Array:
    """Index of the code nearest to each latent: [..., d], [k, d] -> [...] int32."""
    # |z - e|^2 without |z|^2, which is the same for all codes.
    distance = (vectors**2).sum(-1) - 2.0 * latents @ vectors.T
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def straight_through(latents: jax.Array, codes: jax.Array) -> jax.Array:
    """The value of ``codes`` with the gradient of ``latents``; both [..., d]."""
    return latents + jax.lax.stop_gradient(codes - latents)


def codebook_loss(latents: jax.Array, codes: jax.Array) -> jax.Array:
    """||sg[z] - e||^2: draws the codes to the latents; mean over all elements."""
    return jnp.mean((jax.lax.stop_gradient(latents) - codes) ** 2)


def commitment_loss(latents: jax.Array, codes: jax.Array) -> jax.Array:
    """||z - sg[e]||^2: keeps the encoder near its codes; mean over all elements."""
    return jnp.mean((latents - jax.lax.stop_gradient(codes)) ** 2)


def start(key: jax.Array, latents: jax.Array, size: int) -> Codebook:
    """A codebook of ``size`` latents drawn from latents [n, d]; the key is consumed.

    Codes that start on data are all in reach of the encoder from the first step.
    """
    vectors = _draw(key, latents, size)
    count = jnp.full((size,), len(latents) / size, latents.dtype)
    return Codebook(vectors, count, vectors * count[:, None])


def update(
    codebook: Codebook,
    latents: jax.Array,
    codes: jax.Array,
    key: jax.Array,
    *,
    decay: float,
    revive_below: float,
) -> Codebook:
    """Moves the codes towards the means of their latents and revives those that died.

    Args:
      codebook: before the step.
      latents: encoder outputs of the batch [n, d], on all devices together.
      codes: their nearest codes [n].
      key: consumed, for the choice of latents that revive dead codes.
      decay: of the moving averages, a step.
      revive_below: a code whose moving count is below this fraction of an even share
        (n latents / k codes) is put on a random latent of the batch.
    """
    size = len(codebook.vectors)
    latents = jax.lax.stop_gradient(latents)
    batch_count = jax.ops.segment_sum(jnp.ones(len(codes), latents.dtype), codes, size)
    batch_total = jax.ops.segment_sum(latents, codes, size)
    count = decay * codebook.count + (1 - decay) * batch_count
    total = decay * codebook.total + (1 - decay) * batch_total

    share = len(latents) / size
    dead = count < revive_below * share
    # A revived code starts with an even share, so it has as long to live as any other.
    reborn = _draw(key, latents, size)
    count = jnp.where(dead, share, count)
    total = jnp.where(dead[:, None], reborn * share, total)
    return Codebook(total / count[:, None], count, total)


def perplexity(frequency: jax.Array) -> jax.Array:
    """exp of the entropy of code frequencies [k] that sum to one: the effective number of codes."""
    safe = jnp.where(frequency > 0, frequency, 1.0)
    return jnp.exp(-jnp.sum(frequency * jnp.log(safe)))


def frequency(codes: jax.Array, size: int) -> jax.Array:
    """The share that each of ``size`` codes has in codes [...] -> [k]."""
    return jnp.zeros(size).at[codes.reshape(-1)].add(1.0 / codes.size)


def summarise(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Scalars as they are; ``code_frequency`` [k] as perplexity and share of live codes."""
    metrics = dict(metrics)
    shares = metrics.pop("code_frequency", None)
    summary = {name: float(value) for name, value in metrics.items()}
    if shares is not None:
        summary["perplexity"] = float(perplexity(jnp.asarray(shares)))
        summary["live_codes"] = float(np.mean(np.asarray(shares) > 0))
    return summary


def _draw(key: jax.Array, latents: jax.Array, size: int) -> jax.Array:
    """``size`` of latents [n, d], no two alike while there are enough."""
    index = jax.random.choice(key, len(latents), (size,), replace=size > len(latents))
    return latents[index]
