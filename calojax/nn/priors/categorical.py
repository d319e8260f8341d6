"""Categorical distributions over codes: log-probabilities, and draws by quantiles."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def log_prob(
    logits: Float[Array, "*shape k"], codes: Int[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Log-probability of codes under softmax(logits)."""
    return -optax.softmax_cross_entropy_with_integer_labels(logits, codes)


@jax.jit  # Under its own name, so that `calojax.export` finds it.
def choose(u: Float[Array, "*shape"], logits: Float[Array, "*shape k"]) -> Int[Array, "*shape"]:
    """The code at quantile u in [0, 1) of softmax(logits).

    This takes one random number per code, whereas Gumbel noise takes k. For many codes, a group is
    found first and then a code of the group, which shortens the cumulative sums. Codes of
    probability zero are never chosen.
    """
    p = jax.nn.softmax(logits)
    size = p.shape[-1]
    if size <= 2 * _GROUP:
        return _at(u * p.sum(-1), p)[0]
    missing = -size % _GROUP
    p = jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, missing)])
    p = p.reshape(*p.shape[:-1], -1, _GROUP)
    groups = p.sum(-1)
    group, before = _at(u * groups.sum(-1), groups)
    mine = group[..., None] == jax.lax.broadcasted_iota(jnp.int32, groups.shape, groups.ndim - 1)
    inside = jnp.where(mine[..., None], p, 0).sum(-2)
    return group * _GROUP + _at(u * groups.sum(-1) - before, inside)[0]


# Codes per group.
_GROUP = 16


def _at(value: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index at which the cumulative sum of p [..., k] passes a value, and the sum before it.

    The value is clipped below the total, which it could reach by rounding. Indices where p is zero
    are never found, since the cumulative sum does not rise there.
    """
    cumulative = jnp.cumsum(p, axis=-1)
    end = cumulative[..., -1]
    value = jnp.clip(value, 0, end * (1 - 2**-23))
    passed = cumulative <= value[..., None]
    return jnp.sum(passed, -1, dtype=jnp.int32), jnp.max(jnp.where(passed, cumulative, 0), -1)
