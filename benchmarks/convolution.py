"""Which layout of the convolution on the cylinder is the fastest? ms/shower of a DS2 decoder.

    python benchmarks/convolution.py --batch 16 --dtype float32

Two decoders for dataset 2 (45 x 16 x 9 voxels), one with r as an axis as in the Calo-VQ talk and
one with r among the channels as in the paper, and the talk's encoder, each with the same weights in
several layouts; forward, and forward and backward. Before a layout is timed its showers are
compared with those of `calojax.nn.cylinder`, which is the layout "package". One JSON line a figure,
on standard output.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import stopwatch
import tyro
from environment import show

from calojax import rng
from calojax.nn import cylinder


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      batch: showers at once.
      dtype: to compute in.
      repeats: timed repetitions of each figure.
      seconds: a figure stops repeating after this long.
      smoke: one shower and one repetition, to see that everything runs.
    """

    batch: int = 16
    dtype: str = "float32"
    repeats: int = 10
    seconds: float = 5.0
    smoke: bool = False


class Layer(NamedTuple):
    """A convolution, by its larger side: where `conv` begins and `conv_transpose` ends.

    Attributes:
      shape: bins there.
      channels: channels there.
      features: channels on the other side.
      kernel: its bins.
      options: strides and paddings.
      resample: bins of alpha to interpolate to before the transpose.
    """

    shape: tuple[int, ...]
    channels: int
    features: int
    kernel: tuple[int, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    resample: int | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        return self.options.get("strides", (1,) * len(self.kernel))


Map = Callable[[jax.Array, jax.Array, Layer], jax.Array]

# 13 x 8 x 4 = 416 codes; 45 x 16 x 9 voxels.
TALK = (
    Layer((15, 8, 4), 40, 40, (3, 3, 3), {"z_padding": "valid"}),
    Layer((45, 16, 9), 32, 40, (3, 4, 3), {"strides": (3, 2, 2), "r_padding": "valid"}),
    Layer((45, 16, 9), 28, 32, (3, 3, 3)),
)
# 17 x 4 = 68 codes; 57 x 16 bins, 9 of r and the incident energy as channels.
PAPER = (
    Layer((19, 4), 256, 129, (3, 3), {"z_padding": "valid"}),
    Layer((19, 8), 128, 256, (3, 3), resample=8),
    Layer((19, 8), 64, 128, (3, 3)),
    Layer((57, 16), 32, 64, (5, 3), {"strides": (3, 1)}, resample=16),
    Layer((57, 16), 16, 32, (3, 3)),
    Layer((57, 16), 9, 16, (1, 1)),
)


# --- transposes -----------------------------------------------------------------------------------


def package(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """What the package does."""
    return cylinder.conv_transpose(y, kernel, shape=layer.shape, **layer.options)


def transposed(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """JAX's own transpose of the convolution with strides."""
    x = jax.ShapeDtypeStruct((len(y), *layer.shape, kernel.shape[-2]), y.dtype)
    return jax.linear_transpose(lambda x: strided(x, kernel, layer), x)(y)[0]


def stuffed(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """One convolution whose input is stuffed with zeros ("dilated"), and alpha folded after it."""
    turned = jnp.flip(kernel, range(len(layer.shape))).swapaxes(-1, -2)
    edges = [(k - 1, k - 1) for k in layer.kernel]
    x = jax.lax.conv_general_dilated(
        y,
        turned,
        (1,) * len(edges),
        edges,
        lhs_dilation=layer.strides,
        dimension_numbers=_numbers(len(edges)),
    )
    return _unpad(x, layer, first=1)


def shifted(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """A matrix product for every bin of the kernel, rolled to its place and added up."""
    spaces = [(0, 0, 0), *((0, s - 1, s - 1) for s in layer.strides), (0, 0, 0)]
    x = 0.0
    for offsets in itertools.product(*map(range, layer.kernel)):
        part = jax.lax.pad(y @ kernel[offsets].T, jnp.zeros((), y.dtype), spaces)
        room = [(o, k - 1 - o) for o, k in zip(offsets, layer.kernel, strict=True)]
        x = x + jnp.pad(part, [(0, 0), *room, (0, 0)])
    return _unpad(x, layer, first=1)


def r_in_batch(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """Blocks over (z, alpha) for every bin of r, with the windows that see it as channels."""
    overlap = _overlap(y.shape[3], layer).astype(y.dtype)
    seen = jnp.einsum("bzasf,rjs->brzajf", y, overlap)
    seen = seen.reshape(-1, *seen.shape[2:4], math.prod(seen.shape[4:]))
    kernel = jnp.moveaxis(kernel, 2, 3)
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    x = cylinder.conv_transpose(seen, kernel, shape=layer.shape[:2], **_without_r(layer))
    return jnp.moveaxis(x.reshape(len(y), layer.shape[2], *x.shape[1:]), 1, 3)


def channels_first(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """Blocks on [b, c, z, alpha, ...]."""
    return _by_blocks(y, kernel, layer, first=2)


def channels_last(y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """Blocks on [b, z, alpha, ..., c] by a convolution over as many axes as there are."""
    return _by_blocks(y, kernel, layer, first=1)


def _by_blocks(y: jax.Array, kernel: jax.Array, layer: Layer, *, first: int) -> jax.Array:
    """All blocks that windows reach, by one convolution; ``first`` is the place of z."""
    n, strides = len(layer.shape), layer.strides
    counts = [-(-k // s) for k, s in zip(layer.kernel, strides, strict=True)]
    fill = [(0, q * s - k) for q, s, k in zip(counts, strides, layer.kernel, strict=True)]
    kernel = jnp.pad(kernel, [*fill, (0, 0), (0, 0)])
    split = [part for pair in zip(counts, strides, strict=True) for part in pair]
    kernel = jnp.flip(kernel.reshape(*split, *kernel.shape[-2:]), range(0, 2 * n, 2))
    # The channels of a block, [c, s ...], are the outputs.
    kernel = kernel.transpose(*range(0, 2 * n, 2), 2 * n + 1, 2 * n, *range(1, 2 * n, 2))
    kernel = kernel.reshape(*counts, y.shape[1 if first == 2 else -1], -1)
    axes = "ZAR"[:n]
    array = f"NC{axes}" if first == 2 else f"N{axes}C"
    edges = [(q - 1, q - 1) for q in counts]
    x = jax.lax.conv_general_dilated(
        y, kernel, (1,) * n, edges, dimension_numbers=(array, f"{axes}IO", array)
    )
    bins = x.shape[first : first + n]
    if first == 2:
        x = x.reshape(len(x), -1, *strides, *bins)
        x = x.transpose(0, 1, *(place for i in range(n) for place in (2 + n + i, 2 + i)))
    else:
        x = x.reshape(len(x), *bins, -1, *strides)
        x = x.transpose(0, *(place for i in range(n) for place in (1 + i, 2 + n + i)), 1 + n)
    whole = [m * s for m, s in zip(bins, strides, strict=True)]
    x = x.reshape(*x.shape[:first], *whole, *x.shape[first + 2 * n :])
    return _unpad(x, layer, first=first)


# --- convolutions ---------------------------------------------------------------------------------


def package_conv(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """What the package does."""
    return cylinder.conv(x, kernel, **layer.options)


def strided(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """The same sums by the strides of XLA's convolution."""
    n = len(layer.shape)
    ends = [(low, max(high, 0)) for low, high in _edges(layer)]
    x = cylinder.pad(x, ends)
    return jax.lax.conv_general_dilated(
        x, kernel, layer.strides, "VALID", dimension_numbers=_numbers(n)
    )


# --- what they share ------------------------------------------------------------------------------


def _numbers(n: int) -> tuple[str, str, str]:
    spatial = "ZAR"[:n]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def _edges(layer: Layer) -> list[tuple[int, int]]:
    """Bins that the windows stick out by, in front and behind."""
    paddings = (layer.options.get("z_padding"), "same", layer.options.get("r_padding"))
    edges = []
    for n, k, s, padding in zip(layer.shape, layer.kernel, layer.strides, paddings, strict=False):
        low = 0 if padding == "valid" else max((k - s) // 2, 0)
        windows = (n - k) // s + 1 if padding == "valid" else -(-n // s)
        edges.append((low, (windows - 1) * s + k - low - n))
    return edges


def _unpad(x: jax.Array, layer: Layer, *, first: int) -> jax.Array:
    """The adjoint of padding, for sums over all that the windows cover; ``first`` is z's place."""
    for place, (size, (low, _)) in enumerate(zip(layer.shape, _edges(layer), strict=True), first):
        short = low + size - x.shape[place]
        inner = jax.lax.slice_in_dim(x, low, min(low + size, x.shape[place]), axis=place)
        inner = jnp.pad(inner, [(0, max(short, 0) if i == place else 0) for i in range(x.ndim)])
        if place == first + 1:
            front = jax.lax.slice_in_dim(x, 0, low, axis=place)
            back = jax.lax.slice_in_dim(x, min(low + size, x.shape[place]), None, axis=place)
            around = [(0, 0)] * x.ndim
            around[place] = (size - low, 0)
            inner = inner + jnp.pad(front, around)
            around[place] = (0, size - back.shape[place])
            inner = inner + jnp.pad(back, around)
        x = inner
    return x


def _overlap(windows: int, layer: Layer) -> jax.Array:
    """Whether bin r is place j of window s: [r, j, s]."""
    r, j = jnp.arange(layer.shape[2])[:, None, None], jnp.arange(layer.kernel[2])[:, None]
    return r == layer.strides[2] * jnp.arange(windows) - _edges(layer)[2][0] + j


def _without_r(layer: Layer) -> dict[str, Any]:
    options = {k: v for k, v in layer.options.items() if k != "r_padding"}
    return options | {"strides": layer.strides[:2]}


# --- networks -------------------------------------------------------------------------------------


def decoder(
    kernels: list[jax.Array], y: jax.Array, *, layers: tuple[Layer, ...], layout: Map
) -> jax.Array:
    """From codes to bins, [b, z, alpha, ..., c] both, or both with the channels first."""
    for kernel, layer in zip(kernels, layers, strict=True):
        if layer.resample and layout is channels_first:
            y = cylinder.resample_alpha(y.swapaxes(2, 3), layer.resample).swapaxes(2, 3)
        elif layer.resample:
            y = cylinder.resample_alpha(y, layer.resample)
        y = jax.nn.silu(layout(y, kernel, layer))
    return y


def encoder(
    kernels: list[jax.Array], x: jax.Array, *, layers: tuple[Layer, ...], layout: Map
) -> jax.Array:
    """From bins to codes, by the convolutions whose adjoints make the decoder."""
    for kernel, layer in zip(reversed(kernels), reversed(layers), strict=True):
        x = jax.nn.silu(layout(x, kernel, layer))
    return x


BOTH = (package, channels_last, channels_first, transposed, stuffed, shifted)
# The network, the bins and channels that it begins with, its layers and layouts.
NETWORKS = {
    "talk decoder": (decoder, (13, 8, 4, 40), TALK, (*BOTH, r_in_batch)),
    "paper decoder": (decoder, (17, 4, 129), PAPER, BOTH),
    "talk encoder": (encoder, (45, 16, 9, 28), TALK, (package_conv, strided)),
}


def gradients(network: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The gradient of a sum of squares with respect to kernels and input."""
    return jax.grad(lambda kernels, x: jnp.sum(network(kernels, x) ** 2), argnums=(0, 1))


def main() -> None:
    """Prints a JSON line for every network, layout and direction."""
    benchmark = tyro.cli(Benchmark, description=__doc__)
    if benchmark.smoke:
        benchmark = dataclasses.replace(benchmark, batch=1, repeats=1)
    dtype = jnp.dtype(benchmark.dtype)
    for name, (network, shape, layers, layouts) in NETWORKS.items():
        keys = jax.random.split(rng.root(0), len(layers) + 1)
        initial = jax.nn.initializers.lecun_normal(dtype=dtype)
        kernels = [
            initial(key, (*layer.kernel, layer.channels, layer.features))
            for key, layer in zip(keys[1:], layers, strict=True)
        ]
        x = jax.random.normal(keys[0], (benchmark.batch, *shape), dtype)
        expected = jax.jit(functools.partial(network, layers=layers, layout=layouts[0]))(kernels, x)
        for layout in layouts:
            run = functools.partial(network, layers=layers, layout=layout)
            first = layout is channels_first
            inputs = (kernels, jnp.moveaxis(x, -1, 1) if first else x)
            given = jax.jit(lambda *inputs, run=run: run(*inputs))(*inputs)
            error = jnp.abs((jnp.moveaxis(given, 1, -1) if first else given) - expected).max()
            if error > 32 * jnp.finfo(dtype).eps * jnp.abs(expected).max():
                raise AssertionError(f"{name}: {layout.__name__} computes something else")
            parts = {"forward": run, "forward and backward": gradients(run)}
            for part, function in parts.items():
                row = {
                    "benchmark": "convolution",
                    "network": name,
                    "layout": layout.__name__,
                    "part": part,
                    "dtype": benchmark.dtype,
                    "batch": benchmark.batch,
                }
                program, compilation = stopwatch.compiled(function, *inputs)
                times = stopwatch.repeat(
                    functools.partial(program, *inputs),
                    repeats=benchmark.repeats,
                    seconds=benchmark.seconds,
                )
                show(row | times.per_shower(benchmark.batch) | {"compile_seconds": compilation})


if __name__ == "__main__":
    main()
