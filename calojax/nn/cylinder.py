"""Convolution on a cylinder: alpha is periodic, z is not, r begins at an axis.

Arrays are [b, z, alpha, r, c], with kernels over (z, alpha, r) as in the Calo-VQ talk
(CaloChallenge workshop, November 2022), or [b, z, alpha, c], with kernels over (z, alpha) and the
bins of r among the channels as in the Calo-VQ paper (arXiv:2405.06605). The length of the kernel
decides; all functions accept both.

A convolution on the cylinder is a convolution without borders on a padded array. The padding is
circular in alpha, zero in z and beyond the outer r, and at the axis zero or the neighbours across
it: the innermost bins of r, rotated by half a turn. Two details make it several times as fast
(benchmarks/results/convolution_cpu.jsonl):

- A kernel over r becomes a kernel over (z, alpha) with all bins of r as channels. Most of its
  weights are zero, but one large matrix product costs less than many small ones.
- Strides are computed by blocks ("space to depth"): the s bins of a stride become channels, and the
  kernel, padded by zeros to whole blocks, moves by one block. Transposes and gradients of strided
  convolutions would insert zeros into their input instead.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Padding = Literal["same", "valid"]
Strides = int | tuple[int, ...]

_ALPHA = 2  # index of the axis in an array
_R = 3


class _Axis(NamedTuple):
    """The windows of one axis; window i covers bins i s - low ... i s - low + k - 1."""

    size: int  # bins n of the input
    kernel: int  # bins k of a window
    stride: int  # bins s between windows
    low: int  # bins of the first window in front of the input
    windows: int  # the bins of the output

    @property
    def blocks(self) -> int:
        """Blocks of s bins that a window covers."""
        return -(-self.kernel // self.stride)

    @property
    def high(self) -> int:
        """Bins to add behind the input for whole blocks (to cut off, if negative)."""
        return (self.windows + self.blocks - 1) * self.stride - self.low - self.size


# --- pure functions -------------------------------------------------------------------------------


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

    An axis with "same" padding (alpha always) has ceil(n / s) windows, centred on blocks of s bins
    (half a bin further if the centre falls between two bins; from the first bin of the block if
    shorter than a block). An axis with "valid" padding has all windows that fit, the first at
    bin 0. A rotation of the input by s bins in alpha rotates the output by one bin if s divides
    n_alpha.

    Args:
      x: input [b, z, alpha, r, c] or [b, z, alpha, c].
      kernel: kernel [k_z, k_alpha, k_r, c, features] or [k_z, k_alpha, c, features].
      strides: stride of all axes, or one per axis.
      z_padding: "same" (zeros) or "valid".
      r_padding: "same" (zeros) or "valid".
      across_axis: whether windows continue across the axis, with r = 0, 1, ... at alpha + pi, for
        which the number of bins of alpha must be even; no effect on a valid r.

    Returns:
      [b, z', alpha', r', features] or [b, z', alpha', features].

    Raises:
      ValueError: if shapes and options do not fit together.
    """
    axes = _axes(x, x.shape[1:-1], kernel, strides, z_padding, r_padding)
    z, alpha, *rest = axes
    seen = _seen(axes, across_axis)
    if seen:
        x = jnp.concatenate([_half_turn(x[:, :, :, :seen]), x], axis=_R)
    x = _wrap(x, alpha.low, alpha.high)
    x = _zeros(x, [(z.low, z.high), (0, 0), (0, 0)][: len(axes)])
    if not rest:
        return _slide(_to_blocks(x, z, alpha), _block_kernel(kernel, z, alpha))
    x, kernel = x.reshape(*x.shape[:_R], -1), _among_channels(kernel, rest[0], seen)
    y = _slide(_to_blocks(x, z, alpha), _block_kernel(kernel, z, alpha))
    return y.reshape(*y.shape[:_R], rest[0].windows, -1)


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

    It maps y [b, z', alpha', r', features] to [b, z, alpha, r, c], or both without r. ``shape`` is
    (z, alpha, r) or (z, alpha), since `conv` has the same number of windows for several shapes.

    Raises:
      ValueError: if shapes and options do not fit together.
    """
    axes = _axes(y, shape, kernel, strides, z_padding, r_padding)
    expected = tuple(axis.windows for axis in axes)
    if y.shape[1:-1] != expected:
        raise ValueError(f"a result of {shape} bins needs {expected} bins, got {y.shape[1:-1]}")

    z, alpha, *rest = axes
    if not rest:
        return _conv_transpose(y, kernel, z, alpha)
    (r,), seen = rest, _seen(axes, across_axis)
    y, kernel = y.reshape(*y.shape[:_R], -1), _among_channels(kernel, r, seen)
    x = _conv_transpose(y, kernel, z, alpha)
    x = x.reshape(*x.shape[:_R], seen + r.size, -1)
    if not seen:
        return x
    back = _half_turn(x[:, :, :, :seen])
    return x[:, :, :, seen:] + _zeros(back, [(0, 0), (0, 0), (0, r.size - seen)])


def resample_alpha(x: jax.Array, n_alpha: int) -> jax.Array:
    """Interpolates on the circle by Fourier series: [b, z, alpha, ...] -> [b, z, n_alpha, ...].

    The mean and all frequencies of both grids keep their amplitudes; other frequencies of the finer
    grid are dropped or zero.
    """
    # For few bins a matrix is a few times as fast as the FFT. Full precision keeps the mean.
    matrix = jnp.asarray(_resampling(x.shape[_ALPHA], n_alpha), x.dtype)
    return jnp.einsum("bza...,an->bzn...", x, matrix, precision=jax.lax.Precision.HIGHEST)


# --- modules --------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """Options (see `conv`) and parameters of `Conv` and `ConvTranspose`."""

    features: int  # channels of the output
    # Bins of the kernel in (z, alpha, r), or (z, alpha) for r among the channels.
    kernel: tuple[int, ...]
    strides: Strides = 1
    z_padding: Padding = "same"
    r_padding: Padding = "same"
    across_axis: bool = False

    def _options(self) -> dict[str, Any]:
        names = ("strides", "z_padding", "r_padding", "across_axis")
        return {name: getattr(self, name) for name in names}

    def _parameters(self, *channels: int) -> tuple[jax.Array, jax.Array]:
        """Weights [*kernel, *channels] and bias, with one axis for each axis of the result."""
        xavier = nn.initializers.xavier_uniform()
        weights = self.param("weights", xavier, (*self.kernel, *channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return weights, jnp.expand_dims(bias, range(len(self.kernel) + 1))


class Conv(_Layer):
    """A convolution on the cylinder with bias, see `conv`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, z, alpha, r, c] -> [b, z', alpha', r', features]; or both without r."""
        weights, bias = self._parameters(x.shape[-1], self.features)
        return conv(x, weights, **self._options()) + bias


class ConvTranspose(_Layer):
    """A transposed convolution on the cylinder with bias, see `conv_transpose`.

    Attributes:
      shape: bins of the output; by default whole strides, or the bins that valid windows cover.
    """

    shape: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, z', alpha', r', c] -> [b, z, alpha, r, features]; or both without r."""
        weights, bias = self._parameters(self.features, x.shape[-1])
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
    """Matrix [size, new_size] whose rows are the Fourier interpolations of unit impulses."""
    coarse = min(size, new_size)
    spectrum = np.fft.rfft(np.eye(size))[:, : coarse // 2 + 1]
    if coarse % 2 == 0 and size != new_size:
        # rfft counts frequency m / 2 once if it is the last one, otherwise for both directions.
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
) -> list[_Axis]:
    """The windows of a kernel on bins of the given shape."""
    n = kernel.ndim - 2
    if n not in (2, 3) or x.ndim != n + 2 or len(shape) != n:
        raise ValueError(
            f"a kernel {kernel.shape} does not fit an array {x.shape} and bins {tuple(shape)}; "
            "use [z, alpha, r, c, f] with [b, z, alpha, r, c], or [z, alpha, c, f] with "
            "[b, z, alpha, c]"
        )
    paddings = (z_padding, "same", r_padding)[:n]
    sizes = zip(shape, kernel.shape[:n], _per_axis(strides, n), paddings, strict=True)
    return [_axis(*size) for size in sizes]


def _axis(size: int, kernel: int, stride: int, padding: Padding) -> _Axis:
    if padding == "same":
        # A kernel shorter than a block starts with it, and so covers also a partial last block.
        return _Axis(size, kernel, stride, max((kernel - stride) // 2, 0), -(-size // stride))
    if size < kernel:
        raise ValueError(f"{size} bins are too few for a valid kernel of {kernel}; pad them")
    return _Axis(size, kernel, stride, 0, (size - kernel) // stride + 1)


def _per_axis(strides: Strides, n: int) -> tuple[int, ...]:
    return (strides,) * n if isinstance(strides, int) else tuple(strides)


def _to_blocks(x: jax.Array, z: _Axis, alpha: _Axis) -> jax.Array:
    """Puts the bins of a block into channels: [b, m s, n t, c] -> [b, m, n, s t c]."""
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
    """Pads a kernel to whole blocks: [k_z, k_alpha, c, f] -> [p, q, s t c, f]."""
    *_, c, features = kernel.shape
    fill = [(0, axis.blocks * axis.stride - axis.kernel) for axis in (z, alpha)]
    kernel = jnp.pad(kernel, [*fill, (0, 0), (0, 0)])
    blocks = _to_blocks(kernel.reshape(1, *kernel.shape[:2], c * features), z, alpha)
    return blocks.reshape(*blocks.shape[1:3], -1, features)


def _slide(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Correlation of stride one, without borders."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def _conv_transpose(y: jax.Array, kernel: jax.Array, z: _Axis, alpha: _Axis) -> jax.Array:
    """The adjoint over (z, alpha): [b, z', alpha', f], [k_z, k_alpha, c, f] -> [b, z, alpha, c]."""
    # Block m of the padded result sums over windows m, m - 1, ...: a convolution with the reversed
    # kernel. Only the blocks from `first` to `last` of both axes are computed; others are cut off.
    first = [axis.low // axis.stride for axis in (z, alpha)]
    last = [(axis.low + axis.size - 1) // axis.stride for axis in (z, alpha)]
    whole = alpha.size % alpha.stride == 0
    if whole:
        # The windows are periodic like the bins, so any full turn of blocks suffices.
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
    """Number of bins of r that windows cover across the axis."""
    return min(axes[2].low, axes[2].size) if across_axis and len(axes) == 3 else 0


def _among_channels(kernel: jax.Array, r: _Axis, seen: int) -> jax.Array:
    """A kernel over r as a matrix of bins and windows: [.., k, c, f] -> [.., bins c, windows f].

    The first ``seen`` bins are those across the axis.
    """
    bins = np.arange(-seen, r.size)[:, None, None]
    places, windows = np.arange(r.kernel)[:, None], np.arange(r.windows)
    sees = jnp.asarray(bins == windows * r.stride - r.low + places, kernel.dtype)
    # In full precision, so that weights are copied, not rounded.
    kernel = jnp.einsum("zajcf,ijw->zaicwf", kernel, sees, precision=jax.lax.Precision.HIGHEST)
    return kernel.reshape(*kernel.shape[:2], len(bins) * kernel.shape[3], -1)


# --- borders --------------------------------------------------------------------------------------


def _wrap(x: jax.Array, low: int, high: int) -> jax.Array:
    """Pads alpha circularly, by several turns if necessary."""
    widths = [(0, 0)] * x.ndim
    widths[_ALPHA] = (low, high)
    return jnp.pad(x, widths, mode="wrap")


def _zeros(x: jax.Array, widths: Sequence[tuple[int, int]]) -> jax.Array:
    """Pads the bins by zeros; cuts bins off where a width is negative."""
    config = [(0, 0, 0), *((low, high, 0) for low, high in widths), (0, 0, 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _half_turn(x: jax.Array) -> jax.Array:
    """Bins j at alpha -> bins -1 - j at alpha + pi."""
    n_alpha = x.shape[_ALPHA]
    if n_alpha % 2:
        raise ValueError(
            f"{n_alpha} bins of alpha have no bins across the axis; use an even number of bins, or "
            "across_axis=False"
        )
    return jnp.flip(jnp.roll(x, n_alpha // 2, axis=_ALPHA), axis=_R)


def _fold(x: jax.Array, start: int, n_alpha: int) -> jax.Array:
    """Adjoint of `_wrap`: adds bins of alpha, the first at ``start``, to bins 0 ... n_alpha - 1."""
    before = start % n_alpha
    turns = -(-(before + x.shape[_ALPHA]) // n_alpha)
    behind = turns * n_alpha - before - x.shape[_ALPHA]
    x = _zeros(x, [(0, 0), (before, behind)])
    return x.reshape(*x.shape[:_ALPHA], turns, n_alpha, x.shape[-1]).sum(_ALPHA)
