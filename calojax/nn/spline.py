"""Monotone rational-quadratic splines on [-bound, bound], the identity beyond, both ways.

After Durkan et al. 2019 (arXiv:1906.04032), equations 4 to 8, elementwise and in float32. The
formulas are rewritten so that nothing cancels. In a bin of width w and height h, with slope
s = h / w and derivatives d and d' at its two knots, let p = (x - x_k) / w and q = (x_{k+1} - x) / w
be the way from the left and to the right, so p + q = 1, and likewise P, Q in y. Then

    P     = (s p^2 + d p q) / D,   Q = (s q^2 + d' p q) / D,   D = s (p^2 + q^2) + (d + d') p q,
    dy/dx = s^2 (d' p^2 + 2 s p q + d q^2) / D^2,

which are sums of numbers that are not negative (the paper's D = s + (d + d' - 2 s) p q is not).

The inverse solves a quadratic equation for p, in the paper by p = 2 c / (-b - sqrt(b^2 - 4 a c)).
That form is stable only for b > 0; bins much flatter than their knots have b < 0 and lose digits.
For the ratio t = p / q the equation reads s Q t^2 + u t - s P = 0 with u = d Q - d' P, and with
v = sqrt(u^2 + 4 s^2 P Q)

    t = 2 s P / (v + u) if u >= 0,   t = (v - u) / (2 s Q) if u < 0,

again sums of numbers that are not negative. Only u is a difference, with the error of the last bits
of P and Q: the x found belongs to a y that is one or two bits away.

A value needs the parameters of one bin only. The bin is found by comparing the value with one edge
after the other, so that no array of edges is stored (docs/speed.md has timings). Autodiff would add
up an array for every edge, so the gradient is written by hand.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Smallest bin as a fraction of the interval, and smallest slope: they bound the density.
MIN_BIN = 1e-3
MIN_SLOPE = 1e-3
# softplus(0 + _SLOPE_OFFSET) + MIN_SLOPE = 1: parameters of zero give the identity.
_SLOPE_OFFSET = float(np.log(np.expm1(1.0 - MIN_SLOPE)))


class _Bin(NamedTuple):
    """Position (x, y) and slope d of the knots on both sides of a value, each [...]."""

    x_low: jax.Array
    x_high: jax.Array
    y_low: jax.Array
    y_high: jax.Array
    d_low: jax.Array
    d_high: jax.Array


def num_parameters(bins: int) -> int:
    """Number of parameters of a spline: K widths, K heights, K - 1 slopes."""
    return 3 * bins - 1


def forward(
    x: Float[Array, "*shape"], parameters: Float[Array, "n *shape"], *, bound: float
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Maps x to y.

    Args:
      x: values.
      parameters: n = 3K - 1 unconstrained numbers for every value; zeros give the identity.
      bound: the spline is the identity outside [-bound, bound].

    Returns:
      y and log |dy/dx|.
    """
    inside = jnp.clip(x, -bound, bound)
    b = _bin_of(inside, parameters, bound, "x")
    width = b.x_high - b.x_low
    p, q = (inside - b.x_low) / width, (b.x_high - inside) / width
    s = (b.y_high - b.y_low) / width
    denominator = s * (p * p + q * q) + (b.d_low + b.d_high) * p * q
    y = b.y_low + (b.y_high - b.y_low) * (s * p * p + b.d_low * p * q) / denominator
    outside = x != inside
    log_slope = _log_slope(p, q, s, b, denominator)
    return jnp.where(outside, x, y), jnp.where(outside, 0.0, log_slope)


def inverse(
    y: Float[Array, "*shape"], parameters: Float[Array, "n *shape"], *, bound: float
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Inverse of `forward` (same arguments): maps y to x and log |dx/dy|."""
    inside = jnp.clip(y, -bound, bound)
    b = _bin_of(inside, parameters, bound, "y")
    height = b.y_high - b.y_low
    up, down = (inside - b.y_low) / height, (b.y_high - inside) / height
    s = height / (b.x_high - b.x_low)
    u = b.d_low * down - b.d_high * up
    v = jnp.abs(u) + jnp.sqrt(u * u + 4.0 * s * s * up * down)
    # t = left / right; both are positive, and not both 0.
    left, right = jnp.where(u >= 0, 2.0 * s * up, v), jnp.where(u >= 0, v, 2.0 * s * down)
    p, q = left / (left + right), right / (left + right)
    denominator = s * (p * p + q * q) + (b.d_low + b.d_high) * p * q
    x = b.x_low + (b.x_high - b.x_low) * p
    outside = y != inside
    log_slope = _log_slope(p, q, s, b, denominator)
    return jnp.where(outside, y, x), jnp.where(outside, 0.0, -log_slope)


def _log_slope(p, q, s, b: _Bin, denominator):
    """Logarithm of dy/dx; see the module's docstring."""
    numerator = b.d_high * p * p + 2.0 * s * p * q + b.d_low * q * q
    return 2.0 * jnp.log(s) + jnp.log(numerator) - 2.0 * jnp.log(denominator)


def _bin(value: jax.Array, parameters: jax.Array, bound: float, axis: str) -> _Bin:
    """The bin that contains values [...] within the bound, by their x or their y."""
    return _search(value, parameters, bound, axis)[0]


_bin_of = jax.custom_vjp(_bin, nondiff_argnums=(2, 3))


def _search(value, parameters, bound, axis) -> tuple[_Bin, jax.Array]:
    """The bin that contains values, and its number, int32 [...]."""
    bins = (len(parameters) + 1) // 3
    free = list(parameters)
    x, y = _edges(free[:bins], bound), _edges(free[bins : 2 * bins], bound)
    # A parameter of zero means slope 1, as at both ends.
    end = jnp.zeros_like(value)
    slope = [end, *free[2 * bins :], end]
    knots = [x, y, slope]
    inner = {"x": x, "y": y}[axis][1:-1]
    number = jnp.zeros(value.shape, jnp.int32)
    found = [side for knot in knots for side in knot[:2]]
    for k, edge in enumerate(inner, 1):
        beyond = value >= edge
        number += beyond
        following = [side for knot in knots for side in knot[k : k + 2]]
        found = [jnp.where(beyond, new, old) for new, old in zip(following, found, strict=True)]
    x_low, x_high, y_low, y_high, d_low, d_high = found
    return _Bin(x_low, x_high, y_low, y_high, _slope(d_low), _slope(d_high)), number


def _bin_of_forward(value, parameters, bound, axis):
    found, number = _search(value, parameters, bound, axis)
    return found, (parameters, number)


def _bin_of_backward(bound, axis, kept, gradient: _Bin):
    """Gradients of value and parameters; that of the value is zero, since bins are constants."""
    parameters, number = kept
    gradient = jax.tree.map(lambda x: x[None], gradient)
    number = number[None]
    bins = (len(parameters) + 1) // 3
    width, height, slope = jnp.split(parameters, [bins, 2 * bins])
    each = jax.lax.broadcasted_iota(jnp.int32, (bins, *number.shape[1:]), 0)

    def sizes(free, low, high):
        # An edge is the sum of the bins before it, and the sizes of bins are a softmax.
        share = jax.nn.softmax(free, 0)
        of_share = jnp.where(each < number, low, 0.0) + jnp.where(each <= number, high, 0.0)
        mean = (share * of_share).sum(0, keepdims=True)
        return 2.0 * bound * (1.0 - MIN_BIN * bins) * share * (of_share - mean)

    # Only slopes of inner knots have parameters; knot k is the lower one of bin k.
    inner = each[1:]
    of_slope = jnp.where(inner == number, gradient.d_low, 0.0)
    of_slope += jnp.where(inner == number + 1, gradient.d_high, 0.0)
    of_slope *= jax.nn.sigmoid(slope + _SLOPE_OFFSET)
    gradients = (
        sizes(width, gradient.x_low, gradient.x_high),
        sizes(height, gradient.y_low, gradient.y_high),
        of_slope,
    )
    return jnp.zeros(number.shape[1:], parameters.dtype), jnp.concatenate(gradients)


_bin_of.defvjp(_bin_of_forward, _bin_of_backward)


def _edges(free: list[jax.Array], bound: float) -> list[jax.Array]:
    """Edges of K bins, none smaller than `MIN_BIN`: K parameters [...] -> K + 1 edges [...]."""
    most = functools.reduce(jnp.maximum, free)
    terms = [jnp.exp(number - most) for number in free]
    scale = (1.0 - MIN_BIN * len(free)) / sum(terms[1:], terms[0])
    edges = [jnp.full_like(most, -bound)]
    for term in terms[:-1]:
        edges.append(edges[-1] + 2.0 * bound * (MIN_BIN + scale * term))
    return [*edges, jnp.full_like(most, bound)]


def _slope(free: jax.Array) -> jax.Array:
    """Slope at a knot from its parameter."""
    return jax.nn.softplus(free + _SLOPE_OFFSET) + MIN_SLOPE
