"""Normalising flows from rational-quadratic coupling layers, for showers and for their points.

A coupling layer (Dinh et al. 2017, arXiv:1605.08803) keeps some features and moves the others by
splines whose parameters a network computes from the kept ones and the context. All layers start as
the identity; being alike, they are scanned over their stacked parameters, backwards for the
inverse.

A flow of points is conditioned on the shower that owns a point. The context enters the first layer
of every network by a linear map, which is done once a shower and then copied to its tiles. A
DeepSetFlow (talk on CaloPointFlow II, November 2023) adds to the context, in every layer, features
of the set of what the shower's points keep: moved points then know of each other through a mean,
and the layer is still invertible, since what is kept is kept.
"""

import dataclasses
from typing import Any, NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from calojax.nn import spline, tiles
from calojax.nn.deepset import DeepSet
from calojax.nn.tiles import Tiling


@dataclasses.dataclass(frozen=True)
class Summary:
    """The set features of a DeepSetFlow.

    Attributes:
      point: widths of the network of a point.
      shower: widths of the network of a shower.
      features: numbers that join the context.
    """

    point: tuple[int, ...] = (64, 128)
    shower: tuple[int, ...] = (512, 256)
    features: int = 128


class Owned(NamedTuple):
    """The context of points: that of their showers, and what is known of each of them.

    Attributes:
      context: of the showers, [g, c].
      tiling: of the points, with p places.
      given: known features of the points, [p, k]; k may be 0.
    """

    context: jax.Array
    tiling: Tiling
    given: jax.Array

    def known(self, kept: jax.Array) -> jax.Array:
        """What a layer knows of each point: [p, features that it keeps + k]."""
        return jnp.concatenate([kept, self.given], -1)


class Coupling(nn.Module):
    """The network of one coupling layer.

    Attributes:
      moved: number of features that it moves.
      bins: of their splines.
      hidden: widths of the network.
      summary: of the set of points, if there is to be one.
    """

    moved: int
    bins: int
    hidden: tuple[int, ...]
    summary: Summary | None = None

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
        """What the set features average over a shower: [p, k] -> [p, m]."""
        return self.set.of_points(known)

    def first(self, context: jax.Array, mean: jax.Array | None = None) -> jax.Array:
        """The context's part of the first layer: [g, c], averages of the set [g, m] -> [g, h]."""
        if mean is not None:
            context = jnp.concatenate([context, self.set.of_showers(mean)], -1)
        return self.of_context(context)

    def parameters(self, kept: jax.Array, first: jax.Array) -> jax.Array:
        """Parameters of the splines [3 bins - 1, moved, p].

        Args:
          kept: what is kept, [p, k].
          first: the context's part of the first layer, for every point [p, 1, h] or for every tile
            [t, 1, h].
        """
        x = self.of_kept(kept)
        x = nn.relu(x.reshape(len(first), -1, x.shape[-1]) + first).reshape(x.shape)
        for layer in self.layers:
            x = nn.relu(layer(x))
        # Rows of the many points, and not of the few numbers of each: XLA works on neighbours at a
        # time. Unless told, it would leave the numbers where they are and read them one by one.
        rows = with_layout_constraint(self.out(x).T, Layout((0, 1)))
        return rows.reshape(self.moved, -1, len(x)).swapaxes(0, 1)

    def __call__(self, kept: jax.Array, context: jax.Array) -> jax.Array:
        """Touches all parameters, for ``init``: kept [1, k], context [1, c]."""
        mean = None if self.summary is None else self.of_point(kept)
        return self.parameters(kept, self.first(context, mean)[:, None])


class Flow(nn.Module):
    """A density of d features given a context; its base is the standard normal.

    Attributes:
      features: their number d, at least two.
      depth: number of coupling layers.
      bins: of the splines.
      hidden: widths of the networks.
      bound: beyond it all splines are the identity.
      summary: makes a flow of points a DeepSetFlow.
      seed: of the random halves that the layers keep; these are not trained.
    """

    features: int
    depth: int = 8
    bins: int = 8
    hidden: tuple[int, ...] = (128, 128, 128)
    bound: float = 5.0
    summary: Summary | None = None
    seed: int = 0

    def __call__(self, x: jax.Array, context: jax.Array | Owned) -> tuple[jax.Array, jax.Array]:
        """Features [p, d] -> (base variables u [p, d], log |det du/dx| [p]).

        Args:
          x: features.
          context: [p, c], or that of points. Padding gets numbers without meaning.
        """

        def layer(carry, coupling):
            x, log_det = carry
            network, order, back = self._bind(coupling)
            kept, moved = self._halves(x[:, order])
            moved, log_slope = spline.forward(
                moved.T, self._parameters(network, kept, context), bound=self.bound
            )
            moved, log_slope = moved.T, log_slope.T
            x = jnp.concatenate([kept, moved], -1)[:, back]
            return (x, log_det + log_slope.sum(-1)), None

        # A layer's insides are not kept for the gradient but computed again: for 12 layers in a
        # seventh of the memory, and in no more time on a CPU, where memory is slower than numbers.
        layer = jax.checkpoint(layer, prevent_cse=False)
        start = x, jnp.zeros(len(x), x.dtype)
        return jax.lax.scan(layer, start, self._couplings(context))[0]

    def log_prob(self, x: jax.Array, context: jax.Array | Owned) -> jax.Array:
        """Log-density of features [p, d] in nats, [p]."""
        u, log_det = self(x, context)
        return self.base.log_prob(u) + log_det

    def inverse(self, u: jax.Array, context: jax.Array | Owned) -> jax.Array:
        """Base variables [p, d] -> features [p, d]."""
        return self._inverse(self._couplings(context), u, context)

    def inverse_of_first(
        self, u: jax.Array, context: Owned, count: jax.Array, *, sizes: tuple[int, ...]
    ) -> jax.Array:
        """`inverse` for the first ``count`` places, with work more or less in proportion to them.

        There is a program for each of some sizes, of which the smallest that holds them runs.

        Args:
          u: base variables [p, d].
          context: of the points.
          count: places in front of the tiles without points, int32 [].
          sizes: rising to p, in whole tiles.

        Returns:
          [p, d]; without meaning at places without points.
        """
        couplings, tile = self._couplings(context), context.tiling.size
        if sizes[-1] != len(u) or any(size % tile for size in sizes):
            raise ValueError(f"{sizes} are no sizes of {len(u)} places in tiles of {tile}")

        def of(size):
            def inverse(u, context):
                tiling = Tiling(*(array[: size // tile] for array in context.tiling))
                first = Owned(context.context, tiling, context.given[:size])
                return u.at[:size].set(self._inverse(couplings, u[:size], first))

            return inverse

        enough = jnp.searchsorted(jnp.asarray(sizes, jnp.int32), count)
        return jax.lax.switch(enough, [of(size) for size in sizes], u, context)

    @property
    def base(self) -> distrax.Distribution:
        """The standard normal."""
        return distrax.MultivariateNormalDiag(jnp.zeros(self.features), jnp.ones(self.features))

    # --- layers -----------------------------------------------------------------------------------

    def _inverse(self, couplings, u: jax.Array, context: jax.Array | Owned) -> jax.Array:
        def layer(x, coupling):
            network, order, back = self._bind(coupling)
            kept, moved = self._halves(x[:, order])
            parameters = self._parameters(network, kept, context)
            moved = spline.inverse(moved.T, parameters, bound=self.bound)[0].T
            return jnp.concatenate([kept, moved], -1)[:, back], None

        return jax.lax.scan(layer, u, couplings, reverse=True)[0]

    @property
    def _network(self) -> Coupling:
        moved = self.features - self.features // 2
        return Coupling(moved, self.bins, self.hidden, self.summary, parent=None)

    @nn.compact
    def _couplings(self, context: jax.Array | Owned) -> tuple[Any, np.ndarray, np.ndarray]:
        """Of all layers: parameters, the order that puts the kept features first, and the way back.

        Of two layers in succession the second has the order of the first reversed, so that the pair
        moves every feature.
        """
        known, shared = self.features // 2, context
        if isinstance(context, Owned):
            known, shared = known + context.given.shape[-1], context.context
        inputs = jnp.zeros((1, known)), jnp.zeros((1, shared.shape[-1]))

        def stacked(key):
            keys = jax.random.split(key, self.depth)
            return jax.vmap(lambda key: self._network.init(key, *inputs)["params"])(keys)

        generator = np.random.default_rng(self.seed)
        pairs = [generator.permutation(self.features) for _ in range((self.depth + 1) // 2)]
        orders = np.stack([order for first in pairs for order in (first, first[::-1])])
        orders = orders[: self.depth]
        return self.param("couplings", stacked), orders, np.argsort(orders, 1)

    def _bind(self, coupling: tuple) -> tuple[Coupling, jax.Array, jax.Array]:
        """The network of one layer with its parameters, and its order and the way back."""
        parameters, order, back = coupling
        return self._network.bind({"params": parameters}), order, back

    def _halves(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features [p, d] in a layer's order -> those it keeps and those it moves."""
        return x[:, : self.features // 2], x[:, self.features // 2 :]

    def _parameters(
        self, network: Coupling, kept: jax.Array, context: jax.Array | Owned
    ) -> jax.Array:
        """Parameters of the splines of the moved features, for kept [p, k]."""
        if isinstance(context, Owned):
            kept, mean, num = context.known(kept), None, len(context.context)
            if self.summary is not None:
                mean = tiles.mean(network.of_point(kept), context.tiling, num)
            first = tiles.spread(network.first(context.context, mean), context.tiling)
        else:
            first = network.first(context)[:, None]
        return network.parameters(kept, first)
