"""Convolution on a cylinder: alpha closes on itself, z ends, r begins at an axis.

Arrays are [b, z, alpha, r, c], with kernels over (z, alpha, r) as in the Calo-VQ talk
(CaloChallenge workshop, November 2022), or [b, z, alpha, c], with kernels over (z, alpha) and the
bins of r among the channels as in the Calo-VQ paper (arXiv:2405.06605). The kernel's length says
which: everything here works on both.

A convolution on the cylinder is one without borders on an array that was padded first: circularly
in alpha, with zeros in z and beyond the outer r, and at the axis with zeros or with the neighbours
across it, that is the innermost bins of r turned by half a turn. Two things are not what they seem,
since they are several times as fast (`benchmarks/convolution.py` times them and other layouts):

- A kernel over r becomes one over (z, alpha) between all bins of r as channels, most of whose
  weights are zero; those for zeros beyond the edges of r are left out. Many products with zero in
  one large matrix cost less than few in small ones.
- Strides are taken by blocks ("space to depth"): the s bins that a step of s passes are put side by
  side as channels, and a kernel filled up with zeros to whole blocks moves over them by one. The
  transposes and gradients of strided convolutions would stuff their input with zeros instead.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Padding = Literal["same", "valid"]
Strides = int | tuple[int, ...]

_ALPHA = 2  # the place of the axis in an array
_R = 3


class _Axis(NamedTuple):
    """How windows lie on one axis: number i covers bins i s - low ... i s - low + k - 1.

    Attributes:
      size: bins n of the input.
      kernel: bins k of a window.
      stride: bins s from a window to the next.
      low: bins by which the first window sticks out in front.
      windows: number of windows, the bins of the output.
    """

    size: int
    kernel: int
    stride: int
    low: int
    windows: int

    @property
    def blocks(self) -> int:
        """Blocks of s bins that a window needs."""
        return -(-self.kernel // self.stride)

    @property
    def high(self) -> int:
        """Bins to add behind (or to leave out, if negative), for whole blocks."""
        return (self.windows + self.blocks - 1) * self.stride - self.low - self.size


# --- pure functions -------------------------------------------------------------------------------


def pad(x: jax.Array, widths: Sequence[tuple[int, int]], *, across_axis: bool = False) -> jax.Array:
    """Continues an array beyond its borders.

    Args:
      x: [b, z, alpha, r, c] or [b, z, alpha, c].
      widths: bins (in front, behind) for z, alpha and, if it is an axis, r. Negative ones take bins
        away, in z and r only.
      across_axis: in front of r = 0 stand the bins across the axis, r = 0, 1, ... at alpha + pi;
        otherwise zeros.

    Raises:
      ValueError: if there are bins to take from across the axis and n_alpha is odd.
    """
    z, alpha, *r = widths
    if across_axis and r and r[0][0] > 0:
        low, high = r[0]
        seen = min(low, x.shape[_R])
        x = jnp.concatenate([_half_turn(x[:, :, :, :seen]), x], axis=_R)
        r = [(low - seen, high)]
    return _zeros(_wrap(x, *alpha), [z, (0, 0), *r])


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Strides = 1,
    z_padding: Padding = "same",
    r_padding: Padding = "same",
    across_axis: bool = False,
) -> jax.Array:
    """Correlates an array on the cylinder with a kernel.

    A "same" axis, as alpha always is, has ceil(n / s) windows, centred on the blocks of s bins that
    they step over (half a bin behind where the centre falls between two; from its first bin on if
    shorter than a block). A "valid" one has as many as fit, the first at bin 0. Turning the input
    by s bins in alpha turns the output by one if s divides n_alpha.

    Args:
      x: [b, z, alpha, r, c] or [b, z, alpha, c].
      kernel: [k_z, k_alpha, k_r, c, features] or [k_z, k_alpha, c, features].
      strides: one for all axes, or one an axis.
      z_padding: "same" with zeros around, or "valid".
      r_padding: likewise for r.
      across_axis: the neighbours of the innermost bins are those across the axis, see `pad`; a
        valid r needs none.

    Returns:
      [b, z', alpha', r', features] or [b, z', alpha', features].

    Raises:
      ValueError: if shapes and options do not fit together.
    """
    axes = _axes(x, x.shape[1:-1], kernel, strides, z_padding, r_padding, across_axis)
    z, alpha, *r = axes
    seen = _seen(axes, across_axis)
    widths = [(z.low, z.high), (alpha.low, alpha.high), (seen, 0)]
    x = pad(x, widths[: len(axes)], across_axis=across_axis)
    if not r:
        return _slide(_to_blocks(x, z, alpha), _block_kernel(kernel, z, alpha))
    x, kernel = x.reshape(*x.shape[:_R], -1), _among_channels(kernel, *r, seen)
    y = _slide(_to_blocks(x, z, alpha), _block_kernel(kernel, z, alpha))
    return y.reshape(*y.shape[:_R], r[0].windows, -1)


def conv_transpose(
    y: jax.Array,
    kernel: jax.Array,
    *,
    shape: tuple[int, ...],
    strides: Strides = 1,
    z_padding: Padding = "same",
    r_padding: Padding = "same",
    across_axis: bool = False,
) -> jax.Array:
    """The adjoint of `conv`: <conv x, y> = <x, conv_transpose y>, with the same kernel and options.

    Args:
      y: what `conv` returns, [b, z', alpha', r', features] or [b, z', alpha', features].
      kernel: [k_z, k_alpha, k_r, c, features] or [k_z, k_alpha, c, features].
      shape: the (z, alpha, r) or (z, alpha) of the result; `conv` gives several the same shape.
      strides: as of `conv`, like the options that follow.
      z_padding: "same" or "valid".
      r_padding: "same" or "valid".
      across_axis: whether the innermost bins had neighbours across the axis.

    Returns:
      [b, z, alpha, r, c] or [b, z, alpha, c].

    Raises:
      ValueError: if shapes and options do not fit together.
    """
    axes = _axes(y, shape, kernel, strides, z_padding, r_padding, across_axis)
    expected = tuple(axis.windows for axis in axes)
    if y.shape[1:-1] != expected:
        raise ValueError(f"bins {y.shape[1:-1]} do not fold out to {shape}: give {expected}")

    z, alpha, *r = axes
    if not r:
        return _conv_transpose(y, kernel, z, alpha)
    seen = _seen(axes, across_axis)
    y, kernel = y.reshape(*y.shape[:_R], -1), _among_channels(kernel, *r, seen)
    x = _conv_transpose(y, kernel, z, alpha)
    x = x.reshape(*x.shape[:_R], seen + r[0].size, -1)
    if not seen:
        return x
    back = _half_turn(x[:, :, :, :seen])
    return x[:, :, :, seen:] + _zeros(back, [(0, 0), (0, 0), (0, r[0].size - seen)])


def resample_alpha(x: jax.Array, n_alpha: int) -> jax.Array:
    """Interpolates on the circle by Fourier series: [b, z, alpha, ...] -> [b, z, n_alpha, ...].

    Frequencies that both grids hold keep their amplitudes, and so the mean is kept; a finer grid's
    others are left out or zero. The highest frequency m / 2 of an even number m of bins has a
    cosine only, with half its amplitude in each direction on a finer grid.
    """
    # As a matrix a few times as fast as the FFT for the few bins that there are, and for bfloat16
    # too; exact beyond ten bits of mantissa, since the mean is to be kept.
    matrix = jnp.asarray(_resampling(x.shape[_ALPHA], n_alpha), x.dtype)
    return jnp.einsum("bza...,an->bzn...", x, matrix, precision=jax.lax.Precision.HIGHEST)


# --- modules --------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """What `Conv` and `ConvTranspose` share: the options of the convolution and the parameters.

    Attributes:
      features: channels of the output.
      kernel: bins of the kernel in (z, alpha, r), or (z, alpha) for r among the channels.
      strides: one for all axes, or one an axis.
      z_padding: "same" with zeros around, or "valid".
      r_padding: likewise for r.
      across_axis: the neighbours of the innermost bins are those across the axis.
      dtype: to compute in; by default that of input and parameters.
    """

    features: int
    kernel: tuple[int, ...]
    strides: Strides = 1
    z_padding: Padding = "same"
    r_padding: Padding = "same"
    across_axis: bool = False
    dtype: Any = None

    def _options(self) -> dict[str, Any]:
        return {
            "strides": self.strides,
            "z_padding": self.z_padding,
            "r_padding": self.r_padding,
            "across_axis": self.across_axis,
        }

    def _promoted(self, x: jax.Array, channels: tuple[int, int]) -> list[jax.Array]:
        """Input, weights [*kernel, *channels] and bias [features], in one dtype."""
        xavier = nn.initializers.xavier_uniform()
        weights = self.param("weights", xavier, (*self.kernel, *channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return nn.dtypes.promote_dtype(x, weights, bias, dtype=self.dtype)


class Conv(_Layer):
    """A convolution on the cylinder, with bias; see `conv` for the options."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, z, alpha, r, c] -> [b, z', alpha', r', features]; or both without r."""
        x, weights, bias = self._promoted(x, (x.shape[-1], self.features))
        return conv(x, weights, **self._options()) + bias


class ConvTranspose(_Layer):
    """The adjoint of a convolution on the cylinder, with bias; see `conv_transpose`.

    Attributes:
      shape: bins of the output; by default whole strides, or what valid windows cover.
    """

    shape: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, z', alpha', r', c] -> [b, z, alpha, r, features]; or both without r."""
        x, weights, bias = self._promoted(x, (self.features, x.shape[-1]))
        shape = self.shape or self._natural_shape(x.shape[1:-1])
        return conv_transpose(x, weights, shape=shape, **self._options()) + bias

    def _natural_shape(self, windows: tuple[int, ...]) -> tuple[int, ...]:
        paddings = (self.z_padding, "same", self.r_padding)
        strides = _per_axis(self.strides, len(windows))
        return tuple(
            n * s if padding == "same" else (n - 1) * s + k
            for n, s, k, padding in zip(windows, strides, self.kernel, paddings, strict=False)
        )


# --- resampling -----------------------------------------------------------------------------------


def _resampling(size: int, new_size: int) -> np.ndarray:
    """The matrix that takes values on ``size`` bins of a circle to ``new_size``: [size, new_size].

    Its rows are unit impulses that went through the fast Fourier transform and back.
    """
    coarse = min(size, new_size)
    spectrum = np.fft.rfft(np.eye(size))[:, : coarse // 2 + 1]
    if coarse % 2 == 0 and size != new_size:
        # rfft counts m / 2 once where it is the last frequency, otherwise for both directions.
        spectrum[:, -1] *= 2.0 if new_size < size else 0.5
    return np.fft.irfft(spectrum, n=new_size) * (new_size / size)


# --- windows and blocks ---------------------------------------------------------------------------


def _axes(
    x: jax.Array,
    shape: tuple[int, ...],
    kernel: jax.Array,
    strides: Strides,
    z_padding: Padding,
    r_padding: Padding,
    across_axis: bool,
) -> list[_Axis]:
    """The windows of a kernel on bins of the given shape.

    Raises:
      ValueError: if kernel, array, shape, strides and options differ in axes, or a valid axis is
        too short.
    """
    n = kernel.ndim - 2
    if n not in (2, 3) or x.ndim != n + 2 or len(shape) != n:
        raise ValueError(
            f"a kernel {kernel.shape} does not fit an array {x.shape} and bins {tuple(shape)}: "
            "kernels [z, alpha, r, c, f] are for [b, z, alpha, r, c], [z, alpha, c, f] for "
            "[b, z, alpha, c]"
        )
    if n == 2 and (across_axis or r_padding != "same"):
        raise ValueError("kernels over (z, alpha) have no axis r to continue: leave its options")
    paddings = (z_padding, "same", r_padding)[:n]
    sizes = zip(shape, kernel.shape[:n], _per_axis(strides, n), paddings, strict=True)
    return [_axis(*size) for size in sizes]


def _axis(size: int, kernel: int, stride: int, padding: Padding) -> _Axis:
    if padding == "same":
        # A kernel shorter than a block starts with it: it must not lie beyond a last, partial one.
        return _Axis(size, kernel, stride, max((kernel - stride) // 2, 0), -(-size // stride))
    if padding != "valid":
        raise ValueError(f'padding {padding!r} is neither "same" nor "valid"')
    if size < kernel:
        raise ValueError(f"{size} bins are too few for a valid kernel of {kernel}: pad them")
    return _Axis(size, kernel, stride, 0, (size - kernel) // stride + 1)


def _per_axis(strides: Strides, n: int) -> tuple[int, ...]:
    strides = (strides,) * n if isinstance(strides, int) else tuple(strides)
    if len(strides) != n:
        raise ValueError(f"strides {strides} are not one for each of {n} axes")
    return strides


def _to_blocks(x: jax.Array, z: _Axis, alpha: _Axis) -> jax.Array:
    """Puts the bins of a block side by side: [b, m s, n t, c] -> [b, m, n, s t c]."""
    s, t = z.stride, alpha.stride
    b, size_z, size_alpha, c = x.shape
    x = x.reshape(b, size_z // s, s, size_alpha // t, t, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*x.shape[:3], s * t * c)


def _from_blocks(x: jax.Array, z: _Axis, alpha: _Axis) -> jax.Array:
    """Inverse of `_to_blocks`: [b, m, n, s t c] -> [b, m s, n t, c]."""
    s, t = z.stride, alpha.stride
    b, m, n, _ = x.shape
    x = x.reshape(b, m, n, s, t, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, m * s, n * t, -1)


def _block_kernel(kernel: jax.Array, z: _Axis, alpha: _Axis) -> jax.Array:
    """Fills a kernel up to whole blocks: [k_z, k_alpha, c, f] -> [p, q, s t c, f]."""
    *_, c, features = kernel.shape
    fill = [(0, axis.blocks * axis.stride - axis.kernel) for axis in (z, alpha)]
    kernel = jnp.pad(kernel, [*fill, (0, 0), (0, 0)])
    blocks = _to_blocks(kernel.reshape(1, *kernel.shape[:2], c * features), z, alpha)
    return blocks.reshape(*blocks.shape[1:3], -1, features)


def _slide(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Correlation by steps of one, without borders."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def _conv_transpose(y: jax.Array, kernel: jax.Array, z: _Axis, alpha: _Axis) -> jax.Array:
    """The adjoint over (z, alpha): [b, z', alpha', f], [k_z, k_alpha, c, f] -> [b, z, alpha, c]."""
    # Block m of the padded result sums over windows m, m - 1, ...: a convolution with the kernel
    # turned round. Blocks that would only be cut off are not computed: on both axes those from
    # `first` to `last` are.
    first = [axis.low // axis.stride for axis in (z, alpha)]
    last = [(axis.low + axis.size - 1) // axis.stride for axis in (z, alpha)]
    whole = alpha.size % alpha.stride == 0
    if whole:
        # The windows close to a circle as the bins do: any full turn of blocks will do.
        last[1] = first[1] + alpha.windows - 1
    else:
        first[1], last[1] = 0, alpha.windows + alpha.blocks - 2
    widths = [
        (axis.blocks - 1 - a, b - axis.windows + 1)
        for axis, a, b in zip((z, alpha), first, last, strict=True)
    ]
    if whole:
        y, widths[1] = _wrap(y, *widths[1]), (0, 0)
    turned = jnp.flip(_block_kernel(kernel, z, alpha), axis=(0, 1)).swapaxes(-1, -2)
    x = _from_blocks(_slide(_zeros(y, widths), turned), z, alpha)

    start = first[0] * z.stride - z.low
    x = _zeros(x, [(start, z.size - start - x.shape[1]), (0, 0)])
    return _fold(x, first[1] * alpha.stride - alpha.low, alpha.size)


# --- r among the channels -------------------------------------------------------------------------


def _seen(axes: Sequence[_Axis], across_axis: bool) -> int:
    """Bins of r that windows see across the axis."""
    return min(axes[_R - 1].low, axes[_R - 1].size) if across_axis else 0


def _among_channels(kernel: jax.Array, r: _Axis, seen: int) -> jax.Array:
    """A kernel over r as one between bins and windows: [.., k, c, f] -> [.., bins c, windows f].

    The bins are ``seen`` across the axis and then those of the array.
    """
    bins = np.arange(-seen, r.size)[:, None, None]
    places, windows = np.arange(r.kernel)[:, None], np.arange(r.windows)
    sees = jnp.asarray(bins == windows * r.stride - r.low + places, kernel.dtype)
    # Highest precision, because weights are to be copied, not rounded.
    kernel = jnp.einsum("zajcf,ijw->zaicwf", kernel, sees, precision=jax.lax.Precision.HIGHEST)
    return kernel.reshape(*kernel.shape[:2], len(bins) * kernel.shape[3], -1)


# --- borders --------------------------------------------------------------------------------------


def _wrap(x: jax.Array, low: int, high: int) -> jax.Array:
    """Continues alpha by bins from the other end, round and round if need be."""
    widths = [(0, 0)] * x.ndim
    widths[_ALPHA] = (low, high)
    return jnp.pad(x, widths, mode="wrap")


def _zeros(x: jax.Array, widths: Sequence[tuple[int, int]]) -> jax.Array:
    """Puts zeros around the bins; takes bins away where a width is negative."""
    config = [(0, 0, 0), *((low, high, 0) for low, high in widths), (0, 0, 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _half_turn(x: jax.Array) -> jax.Array:
    """Bins j at alpha -> bins -1 - j at alpha + pi."""
    n_alpha = x.shape[_ALPHA]
    if n_alpha % 2:
        raise ValueError(
            f"{n_alpha} bins of alpha have none across the axis: take an even number of bins, or "
            "across_axis=False"
        )
    return jnp.flip(jnp.roll(x, n_alpha // 2, axis=_ALPHA), axis=_R)


def _fold(x: jax.Array, start: int, n_alpha: int) -> jax.Array:
    """The adjoint of `_wrap`: brings bins of alpha from ``start`` on home to 0 ... n_alpha - 1."""
    before = start % n_alpha
    turns = -(-(before + x.shape[_ALPHA]) // n_alpha)
    behind = turns * n_alpha - before - x.shape[_ALPHA]
    x = _zeros(x, [(0, 0), (before, behind)])
    return x.reshape(*x.shape[:_ALPHA], turns, n_alpha, x.shape[-1]).sum(_ALPHA)
