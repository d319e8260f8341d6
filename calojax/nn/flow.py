"""Normalising flows of rational-quadratic coupling layers, for vectors and for points of sets.

A coupling layer (Dinh et al. 2017, arXiv:1605.08803) keeps some features and moves the others by
splines; a network computes their parameters from the kept features and the context. All layers
start as the identity. They have the same shapes, so they are one scan over stacked parameters,
reversed for the inverse.

A flow of points is conditioned on the set that a point belongs to. The context enters the first
layer of every network by a linear map, applied once per set and copied to the tiles of the set. A
DeepSetFlow (talk on CaloPointFlow II, November 2023) adds features of the set of kept features to
the context of every layer. The points of a set then depend on each other, and the layer is still
invertible, since it does not change the kept features.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from calojax.nn import spline, tiles
from calojax.nn.deepset import DeepSet
from calojax.nn.tiles import Tiling

# Splines are the identity outside [-5, 5].
_BOUND = 5.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """The set features of a DeepSetFlow.

    Attributes:
      point: widths of the network for points.
      shower: widths of the network for sets.
      features: number of features added to the context.
    """

    point: tuple[int, ...] = (64, 128)
    shower: tuple[int, ...] = (512, 256)
    features: int = 128


class Owned(NamedTuple):
    """The context of points: that of their sets, and known features of each point."""

    context: jax.Array  # context of the sets, [g, c]
    tiling: Tiling  # tiles of the points, with p places
    given: jax.Array  # known features of the points, [p, k]; k may be 0

    def known(self, kept: jax.Array) -> jax.Array:
        """Inputs of a layer for each point: [p, kept features + k]."""
        return jnp.concatenate([kept, self.given], -1)


class Coupling(nn.Module):
    """The network of one coupling layer."""

    moved: int  # number of features that the layer moves
    bins: int  # bins of their splines
    hidden: tuple[int, ...]  # widths of the network
    summary: Summary | None = None  # set features; None for none

    def setup(self):
        if self.summary is not None:
            self.set = DeepSet(self.summary.point, self.summary.shower, self.summary.features)
        self.of_kept = nn.Dense(self.hidden[0], use_bias=False)
        self.of_context = nn.Dense(self.hidden[0])
        self.layers = [nn.Dense(width) for width in self.hidden[1:]]
        # Parameters of zero are the identity.
        self.out = nn.Dense(
            self.moved * spline.num_parameters(self.bins), kernel_init=nn.initializers.zeros
        )

    def of_point(self, known: jax.Array) -> jax.Array:
        """Features of points that are averaged over a set: [p, k] -> [p, m]."""
        return self.set.of_points(known)

    def first(self, context: jax.Array, mean: jax.Array | None = None) -> jax.Array:
        """First layer's input from context [g, c] and means of `of_point` [g, m]: [g, h]."""
        if mean is not None:
            context = jnp.concatenate([context, self.set.of_showers(mean)], -1)
        return self.of_context(context)

    def parameters(self, kept: jax.Array, first: jax.Array) -> jax.Array:
        """Parameters of the splines [3 bins - 1, moved, p].

        From kept (and known) features [p, k], and the contribution of the context to the first
        layer, [p, 1, h] or for tiles [t, 1, h].
        """
        x = self.of_kept(kept)
        x = nn.relu(x.reshape(len(first), -1, x.shape[-1]) + first).reshape(x.shape)
        for layer in self.layers:
            x = nn.relu(layer(x))
        rows = self.out(x).T
        if jax.default_backend() == "cpu":
            # Points lie along the last axis in memory, so that vector instructions work on many of
            # them; by itself XLA keeps the other layout and reads parameters one by one. Devices
            # that share a batch would each gather the whole of it for this.
            rows = with_layout_constraint(rows, Layout((0, 1)))
        return rows.reshape(self.moved, -1, len(x)).swapaxes(0, 1)

    def __call__(self, kept: jax.Array, context: jax.Array) -> jax.Array:
        """Uses every parameter, for ``init``: kept [1, k], context [1, c]."""
        mean = None if self.summary is None else self.of_point(kept)
        return self.parameters(kept, self.first(context, mean)[:, None])


class Flow(nn.Module):
    """A density of d features given a context; its base is the standard normal."""

    features: int  # number of features d, at least two
    depth: int = 8  # number of coupling layers
    bins: int = 8  # bins of the splines
    hidden: tuple[int, ...] = (128, 128, 128)  # widths of the networks
    # Set features, which make a flow of points a DeepSetFlow; None for none.
    summary: Summary | None = None

    def __call__(self, x: jax.Array, context: jax.Array | Owned) -> tuple[jax.Array, jax.Array]:
        """Features [p, d] -> (base variables u [p, d], log |det du/dx| [p]).

        The context is [p, c], or that of points; results at empty places have no meaning.
        """

        def layer(carry, coupling):
            x, log_det = carry
            network, order, back = self._bind(coupling)
            kept, moved = self._halves(x[:, order])
            parameters = self._parameters(network, kept, context)
            moved, log_slope = spline.forward(moved.T, parameters, bound=_BOUND)
            moved, log_slope = moved.T, log_slope.T
            x = jnp.concatenate([kept, moved], -1)[:, back]
            return (x, log_det + log_slope.sum(-1)), None

        # The gradient recomputes a layer's activations instead of storing them: a seventh of the
        # memory for 12 layers, and no slower on a CPU.
        layer = jax.checkpoint(layer, prevent_cse=False)
        start = x, jnp.zeros(len(x), x.dtype)
        return jax.lax.scan(layer, start, self._couplings(context))[0]

    def log_prob(self, x: jax.Array, context: jax.Array | Owned) -> jax.Array:
        """Log-density of features [p, d] in nats, [p]."""
        u, log_det = self(x, context)
        return jax.scipy.stats.norm.logpdf(u).sum(-1) + log_det

    def inverse(self, u: jax.Array, context: jax.Array | Owned) -> jax.Array:
        """Base variables [p, d] -> features [p, d]."""
        return self._inverse(self._couplings(context), u, context)

    def inverse_of_first(
        self, u: jax.Array, context: Owned, count: jax.Array, *, sizes: tuple[int, ...]
    ) -> jax.Array:
        """`inverse` of the first ``count`` places, with work about proportional to their number.

        One program is compiled for each of ``sizes``, increasing multiples of the tile size up to
        p; the smallest one that holds ``count`` runs. Results at other places have no meaning.
        """
        couplings, tile = self._couplings(context), context.tiling.size
        if sizes[-1] != len(u) or any(size % tile for size in sizes):
            raise ValueError(
                f"sizes must be multiples of the tile size {tile} up to {len(u)}, got {sizes}"
            )

        def of(size):
            def inverse(u, context):
                tiling = Tiling(*(array[: size // tile] for array in context.tiling))
                first = Owned(context.context, tiling, context.given[:size])
                return u.at[:size].set(self._inverse(couplings, u[:size], first))

            return inverse

        enough = jnp.searchsorted(jnp.asarray(sizes, jnp.int32), count)
        return jax.lax.switch(enough, [of(size) for size in sizes], u, context)

    # --- layers -----------------------------------------------------------------------------------

    def _inverse(self, couplings, u: jax.Array, context: jax.Array | Owned) -> jax.Array:
        def layer(x, coupling):
            network, order, back = self._bind(coupling)
            kept, moved = self._halves(x[:, order])
            parameters = self._parameters(network, kept, context)
            moved = spline.inverse(moved.T, parameters, bound=_BOUND)[0].T
            return jnp.concatenate([kept, moved], -1)[:, back], None

        return jax.lax.scan(layer, u, couplings, reverse=True)[0]

    @property
    def _network(self) -> Coupling:
        moved = self.features - self.features // 2
        return Coupling(moved, self.bins, self.hidden, self.summary, parent=None)

    @nn.compact
    def _couplings(self, context: jax.Array | Owned) -> tuple[Any, np.ndarray, np.ndarray]:
        """Parameters of all layers, random orders with kept features first, and their inverses.

        The second layer of a pair has the reversed order, so that the pair moves every feature.
        """
        known = self.features // 2
        if isinstance(context, Owned):
            known, shared = known + context.given.shape[-1], context.context
        else:
            shared = context
        inputs = jnp.zeros((1, known)), jnp.zeros((1, shared.shape[-1]))

        def stacked(key):
            keys = jax.random.split(key, self.depth)
            return jax.vmap(lambda key: self._network.init(key, *inputs)["params"])(keys)

        generator = np.random.default_rng(0)
        pairs = [generator.permutation(self.features) for _ in range((self.depth + 1) // 2)]
        orders = np.stack([order for first in pairs for order in (first, first[::-1])])
        orders = orders[: self.depth]
        return self.param("couplings", stacked), orders, np.argsort(orders, 1)

    def _bind(self, coupling: tuple) -> tuple[Coupling, jax.Array, jax.Array]:
        """The network of one layer with its parameters, the order and its inverse."""
        parameters, order, back = coupling
        return self._network.bind({"params": parameters}), order, back

    def _halves(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features [p, d] in a layer's order -> kept ones and moved ones."""
        return x[:, : self.features // 2], x[:, self.features // 2 :]

    def _parameters(
        self, network: Coupling, kept: jax.Array, context: jax.Array | Owned
    ) -> jax.Array:
        """Parameters of the splines of the moved features, from kept features [p, k]."""
        if isinstance(context, Owned):
            kept, mean, num = context.known(kept), None, len(context.context)
            if self.summary is not None:
                mean = tiles.mean(network.of_point(kept), context.tiling, num)
            first = tiles.spread(network.first(context.context, mean), context.tiling)
        else:
            first = network.first(context)[:, None]
        return network.parameters(kept, first)
