"""Normalising flows from rational-quadratic coupling layers, for showers and for their points.

A coupling layer (Dinh et al. 2017, arXiv:1605.08803) keeps some features and moves the others by
splines whose parameters a network computes from the kept ones and the context. All layers start as
the identity; being alike, they are scanned over their stacked parameters, backwards for the
inverse.

A flow of points is conditioned on the shower that owns a point. The context enters the first layer
of every network by a linear map, which is done once a shower and then copied to its points. A
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

from calojax.nn import segments, spline
from calojax.nn.deepset import DeepSet


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
      owner: the shower of each point, int32 [p], sorted; g or more for padding.
      given: known features of the points, [p, k]; k may be 0.
    """

    context: jax.Array
    owner: jax.Array
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
        """Parameters of the splines [p, moved, 3 bins - 1] from kept [p, k] and first [p, h]."""
        x = nn.relu(self.of_kept(kept) + first)
        for layer in self.layers:
            x = nn.relu(layer(x))
        return self.out(x).reshape(len(x), self.moved, -1)

    def __call__(self, kept: jax.Array, context: jax.Array) -> jax.Array:
        """Touches all parameters, for ``init``: kept [1, k], context [1, c]."""
        mean = None if self.summary is None else self.of_point(kept)
        return self.parameters(kept, self.first(context, mean))


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
            moved, log_slope = spline.forward(moved, self._splines(network, kept, context))
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

        def layer(x, coupling):
            network, order, back = self._bind(coupling)
            kept, moved = self._halves(x[:, order])
            moved, _ = spline.inverse(moved, self._splines(network, kept, context))
            return jnp.concatenate([kept, moved], -1)[:, back], None

        return jax.lax.scan(layer, u, self._couplings(context), reverse=True)[0]

    def inverse_of_first(
        self, u: jax.Array, context: Owned, count: jax.Array, *, piece: int
    ) -> jax.Array:
        """`inverse` for the first ``count`` points, with work in proportion to them.

        Every layer goes through the buffer piece by piece and ends with the last that holds points:
        the shapes are static, the number of pieces is not. (Such loops have no gradient.)

        Args:
          u: base variables [p, d].
          context: of the points.
          count: points in front of the padding, int32 [].
          piece: points at a time, a divisor of p.

        Returns:
          [p, d]; without meaning from the padding on.
        """
        if len(u) % piece:
            raise ValueError(f"{len(u)} points do not divide into pieces of {piece}")
        pieces = (count + piece - 1) // piece
        num = len(context.context)
        sizes = jnp.maximum(segments.sizes(context.owner, num), 1)[:, None]

        def layer(x, coupling):
            network, order, back = self._bind(coupling)

            def part(number, x):
                def cut(array):
                    return jax.lax.dynamic_slice_in_dim(array, number * piece, piece)

                kept, moved = self._halves(cut(x)[:, order])
                own = context._replace(owner=cut(context.owner), given=cut(context.given))
                return kept, moved, own

            def add(number, sums):
                kept, _, own = part(number, x)
                return sums + segments.total(network.of_point(own.known(kept)), own.owner, num)

            def move(number, x):
                kept, moved, own = part(number, x)
                parameters = network.parameters(own.known(kept), segments.spread(first, own.owner))
                moved, _ = spline.inverse(moved, spline.knots(parameters, bound=self.bound))
                new = jnp.concatenate([kept, moved], -1)[:, back]
                return jax.lax.dynamic_update_slice_in_dim(x, new, number * piece, 0)

            mean = None
            if self.summary is not None:
                zero = jnp.zeros((num, self.summary.point[-1]), x.dtype)
                mean = jax.lax.fori_loop(0, pieces, add, zero) / sizes
            first = network.first(context.context, mean)
            return jax.lax.fori_loop(0, pieces, move, x), None

        return jax.lax.scan(layer, u, self._couplings(context), reverse=True)[0]

    @property
    def base(self) -> distrax.Distribution:
        """The standard normal."""
        return distrax.MultivariateNormalDiag(jnp.zeros(self.features), jnp.ones(self.features))

    # --- layers -----------------------------------------------------------------------------------

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

    def _splines(
        self, network: Coupling, kept: jax.Array, context: jax.Array | Owned
    ) -> spline.Spline:
        """Splines for the moved features of kept [p, k]."""
        if isinstance(context, Owned):
            kept, mean, num = context.known(kept), None, len(context.context)
            if self.summary is not None:
                mean = segments.mean(network.of_point(kept), context.owner, num)
            first = segments.spread(network.first(context.context, mean), context.owner)
        else:
            first = network.first(context)
        return spline.knots(network.parameters(kept, first), bound=self.bound)
