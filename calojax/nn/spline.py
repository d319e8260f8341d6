"""Monotone rational-quadratic splines on [-bound, bound], the identity beyond, both ways.

After Durkan et al. 2019 (arXiv:1906.04032), equations 4 to 8, elementwise and in float32. Their
formulas are rewritten so that nothing cancels. In a bin of width w and height h, with slope
s = h / w and derivatives d and d' at its two knots, let p = (x - x_k) / w and q = (x_{k+1} - x) / w
be the way from the left and to the right, so p + q = 1, and likewise P, Q in y. Then

    P     = (s p^2 + d p q) / D,   Q = (s q^2 + d' p q) / D,   D = s (p^2 + q^2) + (d + d') p q,
    dy/dx = s^2 (d' p^2 + 2 s p q + d q^2) / D^2,

which are sums of numbers that are not negative (the paper's D = s + (d + d' - 2 s) p q is not).

The inverse solves a quadratic equation for p, in the paper by p = 2 c / (-b - sqrt(b^2 - 4 a c)).
That is the stable form where b > 0 only; bins much flatter than their knots have b < 0, and digits
are lost. For the ratio t = p / q it reads s Q t^2 + u t - s P = 0 with u = d Q - d' P, and with
v = sqrt(u^2 + 4 s^2 P Q)

    t = 2 s P / (v + u) if u >= 0,   t = (v - u) / (2 s Q) if u < 0,

again sums of numbers that are not negative. Only u is a difference, and its error is that of P and
Q in their last bits: what is found belongs to a y that is one or two bits away.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Narrowest bin as a fraction of the whole, and flattest knot: bounds on how steep a density can be.
MIN_BIN = 1e-3
MIN_SLOPE = 1e-3
# softplus(0 + _SLOPE_OFFSET) + MIN_SLOPE = 1, so that parameters of zero are the identity.
_SLOPE_OFFSET = float(np.log(np.expm1(1.0 - MIN_SLOPE)))


class Spline(NamedTuple):
    """Knots of splines with K bins, from `knots`.

    Attributes:
      x: of the knots, [..., K + 1], increasing from -bound to bound.
      y: likewise.
      slope: derivatives at the knots, [..., K + 1]; 1 at both ends.
    """

    x: jax.Array
    y: jax.Array
    slope: jax.Array


def num_parameters(bins: int) -> int:
    """Numbers that describe a spline: K widths, K heights, K - 1 slopes."""
    return 3 * bins - 1


def knots(parameters: jax.Array, *, bound: float) -> Spline:
    """Splines from free numbers [..., 3K - 1]; zeros give the identity."""
    bins = (parameters.shape[-1] + 1) // 3
    width, height, slope = jnp.split(parameters, [bins, 2 * bins], -1)
    slope = jax.nn.softplus(slope + _SLOPE_OFFSET) + MIN_SLOPE
    ends = [(0, 0)] * (slope.ndim - 1) + [(1, 1)]
    return Spline(
        _edges(width, bound), _edges(height, bound), jnp.pad(slope, ends, constant_values=1.0)
    )


def forward(x: jax.Array, spline: Spline) -> tuple[jax.Array, jax.Array]:
    """Maps x [...] -> (y [...], log |dy/dx| [...])."""
    inside = jnp.clip(x, spline.x[..., 0], spline.x[..., -1])
    x_low, x_high, y_low, y_high, d_low, d_high = _bin_of(inside, spline.x, spline)
    width = x_high - x_low
    p, q = (inside - x_low) / width, (x_high - inside) / width
    s = (y_high - y_low) / width
    denominator = s * (p * p + q * q) + (d_low + d_high) * p * q
    y = y_low + (y_high - y_low) * (s * p * p + d_low * p * q) / denominator
    log_slope = _log_slope(p, q, s, d_low, d_high, denominator)
    outside = x != inside
    return jnp.where(outside, x, y), jnp.where(outside, 0.0, log_slope)


def inverse(y: jax.Array, spline: Spline) -> tuple[jax.Array, jax.Array]:
    """Maps y [...] -> (x [...], log |dx/dy| [...]); undoes `forward`."""
    inside = jnp.clip(y, spline.y[..., 0], spline.y[..., -1])
    x_low, x_high, y_low, y_high, d_low, d_high = _bin_of(inside, spline.y, spline)
    height = y_high - y_low
    up, down = (inside - y_low) / height, (y_high - inside) / height
    s = height / (x_high - x_low)
    u = d_low * down - d_high * up
    v = jnp.abs(u) + jnp.sqrt(u * u + 4.0 * s * s * up * down)
    # t = left / right; both are positive, and not both 0.
    left, right = jnp.where(u >= 0, 2.0 * s * up, v), jnp.where(u >= 0, v, 2.0 * s * down)
    p, q = left / (left + right), right / (left + right)
    denominator = s * (p * p + q * q) + (d_low + d_high) * p * q
    x = x_low + (x_high - x_low) * p
    log_slope = _log_slope(p, q, s, d_low, d_high, denominator)
    outside = y != inside
    return jnp.where(outside, y, x), jnp.where(outside, 0.0, -log_slope)


def _log_slope(p, q, s, d_low, d_high, denominator):
    """Logarithm of dy/dx; see the module's docstring."""
    numerator = d_high * p * p + 2.0 * s * p * q + d_low * q * q
    return 2.0 * jnp.log(s) + jnp.log(numerator) - 2.0 * jnp.log(denominator)


def _edges(sizes: jax.Array, bound: float) -> jax.Array:
    """Free numbers [..., K] -> edges [..., K + 1] of bins that are not narrower than `MIN_BIN`."""
    bins = sizes.shape[-1]
    fraction = MIN_BIN + (1.0 - MIN_BIN * bins) * jax.nn.softmax(sizes, -1)
    inner = bound * (2.0 * jnp.cumsum(fraction[..., :-1], -1) - 1.0)
    ends = jnp.full((*sizes.shape[:-1], 1), bound, sizes.dtype)
    return jnp.concatenate([-ends, inner, ends], -1)


def _bin_of(value: jax.Array, edges: jax.Array, spline: Spline) -> list[jax.Array]:
    """x, y and slope of the knots on both sides of values [...] that lie between the edges.

    Sums over masked bins: for a few bins much faster than gathers, whose gradients are scatters.
    """
    index = (value[..., None] >= edges[..., 1:-1]).sum(-1, keepdims=True)
    here = index == jnp.arange(edges.shape[-1] - 1)

    def pick(values):
        return jnp.where(here, values, 0.0).sum(-1)

    return [pick(side) for values in spline for side in (values[..., :-1], values[..., 1:])]
