"""Learnt angles of hits: angular bins without replacement, layer after layer.

CaloPointFlow II puts the hits of a (layer, r) ring on random angular bins, so that its showers have
neither clusters nor a core off the axis that continues through the layers. Here a network gives
scores s to the bins of a layer's rings, from the preceding layers and from the number and energies
of the hits of each ring. The hits of a ring, in the order of falling energy, take bins one after
the other without replacement,

    p(a_1, ..., a_k) = prod_i exp(s_{a_i}) / (sum of exp(s_a) over the bins a still free)

(Plackett 1975, Luce 1959), so no voxel is hit twice and the likelihood is exact. Sampling needs no
loop: the order of s + Gumbel noise has this distribution (Yellott 1977).

The convolutions are circular in alpha, so the likelihood is invariant under rotations of the whole
shower. All arrays are on a grid, [b, z, alpha, r].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from calojax.nn.cylinder import Conv
from calojax.nn.recurrence import scan

# Scale of log(1 + E / unit) of hits, to bring it to order one.
_LOG_SCALE = 5.0


class Placement(nn.Module):
    """The density of the angles of hits, given their rings."""

    n_r: int
    unit: float  # energy of a soft hit in MeV, such as the readout threshold
    hidden: int = 128  # channels of the two hidden layers
    window: int = 3  # number of preceding layers in the input; earlier layers enter as a sum

    def setup(self):
        self.of_rings = nn.Dense(self.hidden)
        self.of_layers = Conv(self.hidden, (self.window, 3), z_padding="valid")
        self.between = Conv(self.hidden, (1, 3))
        # Zeros, so that at first all bins have the same probability.
        self.out = nn.Dense(self.n_r, kernel_init=nn.initializers.zeros)

    def __call__(self, showers: jax.Array) -> jax.Array:
        """Log-probability [b] in nats of the angles of showers [b, z, alpha, r] in MeV."""
        seen = self._seen(showers, jnp.cumsum(showers, 1))
        before = jnp.pad(seen[:, :-1], ((0, 0), (self.window, 0), (0, 0), (0, 0)))
        scores = self._scores(before, self._rings(showers))
        return log_prob(scores, showers).sum((1, 2))

    def draw(self, gumbel: jax.Array, showers: jax.Array) -> jax.Array:
        """Showers in MeV with new angles for the hits of every ring, whatever the old ones are.

        From standard Gumbel noise and showers, both [b, z, alpha, r].
        """
        b, _, n_alpha, n_r = showers.shape
        rings = self._rings(showers)
        by_energy = ranks(showers, 2)
        start = (
            jnp.zeros((b, self.window, n_alpha, 4 * n_r), showers.dtype),
            jnp.zeros((b, n_alpha, n_r), showers.dtype),
        )

        def layer(carry, inputs):
            before, total = carry
            ring, energy, rank, noise = inputs
            scores = self._scores(before, ring[:, None])[:, 0] + noise
            # The bin with the k-th largest score gets the k-th largest energy.
            placed = moved(energy, rank, ranks(scores, 1))
            total = total + placed
            seen = self._seen(placed[:, None], total[:, None])
            return (jnp.concatenate([before[:, 1:], seen], 1), total), placed

        by_layer = [jnp.moveaxis(array, 1, 0) for array in (rings, showers, by_energy, gumbel)]
        _, placed = scan(layer, start, tuple(by_layer))
        return jnp.moveaxis(placed, 0, 1)

    def _scores(self, before: jax.Array, rings: jax.Array) -> jax.Array:
        """Scores [b, z, alpha, r] from preceding layers [b, z + window - 1, alpha, c]."""
        x = nn.relu(self.of_layers(before) + self.of_rings(rings)[:, :, None])
        x = nn.relu(self.between(x))
        return self.out(x)

    def _seen(self, layers: jax.Array, total: jax.Array) -> jax.Array:
        """Input for later layers: layers [b, z, alpha, r] and the sum up to each of them.

        Both also rotated by half a turn, since bins near the axis have neighbours across it.
        """
        share = jnp.sqrt(total / jnp.maximum(total.sum((2, 3), keepdims=True), self.unit))
        x = jnp.concatenate([self._log(layers), share], -1)
        return jnp.concatenate([x, jnp.roll(x, x.shape[2] // 2, 2)], -1)

    def _rings(self, showers: jax.Array) -> jax.Array:
        """Hit counts and energies of the rings, and the depth: [b, z, 3 r + 1]."""
        hits = (showers > 0).sum(2) / showers.shape[2]
        depth = jnp.linspace(-1.0, 1.0, showers.shape[1])[:, None]
        return jnp.concatenate(
            [
                hits.astype(showers.dtype),
                self._log(showers.sum(2)),
                self._log(showers.max(2)),
                jnp.broadcast_to(depth, (*showers.shape[:2], 1)).astype(showers.dtype),
            ],
            -1,
        )

    def _log(self, energy: jax.Array) -> jax.Array:
        return jnp.log1p(energy / self.unit) / _LOG_SCALE


# Sorting a few bins at a time is slow. Comparing all pairs of n bins takes n times the operations,
# but on whole arrays (docs/speed.md has timings).


def ranks(values: jax.Array, axis: int) -> jax.Array:
    """Rank of each value along an axis: how many are larger, or equal and earlier, int32 [...]."""
    place = jax.lax.broadcasted_iota(jnp.int32, values.shape, axis)
    rank = jnp.zeros(values.shape, jnp.int32)
    for k in range(values.shape[axis]):
        other = jax.lax.slice_in_dim(values, k, k + 1, axis=axis)
        rank += (other > values) | ((other == values) & (place > k))
    return rank


def moved(values: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Values [b, n, ...] moved from their rank in ``old`` to the same rank in ``new``."""
    out = jnp.zeros_like(values)
    for k in range(values.shape[1]):
        out += jnp.where(new == old[:, k : k + 1], values[:, k : k + 1], 0)
    return out


def log_prob(scores: jax.Array, energy: jax.Array) -> jax.Array:
    """Log-probability in nats [..., r] of the angles of the hits of rings.

    From scores and energies (0 without a hit) of the bins, both [..., alpha, r].
    """
    order = jnp.argsort(-energy, -2)
    taken = jnp.take_along_axis(scores, order, -2)
    hit = jnp.take_along_axis(energy, order, -2) > 0
    # The i-th hit can take its own bin and all later ones.
    free = jax.lax.cumlogsumexp(taken, axis=taken.ndim - 2, reverse=True)
    return jnp.where(hit, taken - free, 0.0).sum(-2)
