"""Random numbers by name: every stream is ``fold_in`` of a root key, never a chain of splits.

So a stream does not change when other code draws more or fewer numbers. Each shower has a key,
folded from its global index, so it does not depend on batch size, number of devices or restarts (by
JAX's threefry generator, whose numbers do not depend on the batch that they are vmapped in).
"""

import zlib

import jax
import jax.numpy as jnp

from calojax.errors import CalojaxError

# Seeds and shower indices are 32-bit words of a threefry key.
MAX_SEED = 2**32 - 1


def checked_seed(seed: int, name: str = "seed") -> int:
    """The seed itself, if it is a whole number from 0 to 2^32 - 1. Messages call it ``name``.

    JAX would map some other numbers to the same key.
    """
    if not (0 <= seed <= MAX_SEED and seed == int(seed)):
        raise CalojaxError(f"{name} must be a whole number from 0 to {MAX_SEED}, got {seed}.")
    return int(seed)


def root(seed: int) -> jax.Array:
    """The typed root key of a seed, which `checked_seed` checks."""
    return jax.random.key(checked_seed(seed), impl="threefry2x32")


def stream(key: jax.Array, name: str, step: int | jax.Array = 0) -> jax.Array:
    """The key of the stream ``name`` at ``step``; ``key`` may be used for other names too."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


@jax.jit  # Under its own name, so that `calojax.export` finds it.
def normal_quantile(p: jax.Array) -> jax.Array:
    """The numbers below which a standard normal number lies with probabilities p."""
    return jax.scipy.special.ndtri(p)


@jax.jit  # As above.
def normal_share(x: jax.Array) -> jax.Array:
    """The probabilities with which a standard normal number lies below x."""
    return jax.scipy.special.ndtr(x)


def per_item(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key for each global index: index [n] -> keys [n]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(index, jnp.uint32))


def uniform(keys: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Uniform numbers in [0, 1), of a shape for each of keys [n]: float32 [n, *shape]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def normal(keys: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Standard normal numbers, of a shape for each of keys [n]: float32 [n, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def streams(keys: jax.Array, name: str) -> jax.Array:
    """The stream ``name`` of each of keys [n] -> keys [n]."""
    return jax.vmap(lambda key: stream(key, name))(keys)
