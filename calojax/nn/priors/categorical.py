"""Categorical distributions over codes: log-probabilities, and draws by quantiles."""

import jax
import jax.numpy as jnp


def log_prob(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Log-probability of codes [...] under softmax(logits [..., k])."""
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def uniforms(keys: jax.Array, length: int) -> jax.Array:
    """Numbers in [0, 1) for `choose`: keys [b] -> [b, length]."""
    return jax.vmap(lambda key: jax.random.uniform(key, (length,), jnp.float32))(keys)


def choose(u: jax.Array, logits: jax.Array) -> jax.Array:
    """The code at quantile u [...] of softmax(logits [..., k]) -> int32 [...].

    One random number a code instead of Gumbel noise for each of k. Of many codes first a group is
    found and then one of the group, so that few numbers are summed up one after the other. Codes
    whose p is zero are never chosen.
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
    mine = group[..., None] == jnp.arange(groups.shape[-1])
    inside = jnp.where(mine[..., None], p, 0).sum(-2)
    return group * _GROUP + _at(u * groups.sum(-1) - before, inside)[0]


# Codes of a group.
_GROUP = 16


def _at(value: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the sum of p [..., k] passes a value [...], and what it is before: int32 [...], [...].

    Compared with the sum itself, a rounded value could lie at its end, behind all p; it is held
    below it. Where p is zero the sum does not rise, and so nothing is found there.
    """
    cumulative = jnp.cumsum(p, axis=-1)
    end = cumulative[..., -1]
    value = jnp.clip(value, 0, end * (1 - 2**-23))
    passed = cumulative <= value[..., None]
    return jnp.sum(passed, -1, dtype=jnp.int32), jnp.max(jnp.where(passed, cumulative, 0), -1)
