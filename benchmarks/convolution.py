"""Which layout of the convolution on the cylinder is the fastest? ms/shower of dataset-2 networks.

    python benchmarks/convolution.py --batch 16 --dtype float32

Decoder and encoder of the Calo-VQ talk (r is an axis) with the same weights in several layouts,
forward and with gradients:

- ``package``: `calojax.nn.cylinder`, blocks over (z, alpha) with all bins of r as channels;
- ``strided``: one convolution over all axes with its strides;
- ``blocks``: the bins of a stride as channels, then a convolution of stride one over all axes;
- ``r_in_batch``: a convolution over (z, alpha) for each window of r.

The showers of each layout are compared with those of the package before it is timed.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import rows
import stopwatch
from rows import Row

from calojax import rng
from calojax.nn import cylinder


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      batch: showers at a time.
      dtype: type of the computation.
    """

    batch: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    seconds: float = 5.0


class Layer(NamedTuple):
    """A convolution of the encoder; the decoder runs its transpose.

    Attributes:
      shape: bins (z, alpha, r) of the input.
      channels: channels of the input.
      features: channels of the output.
      kernel: bins of the kernel.
      padding: bins to add in front and behind on each axis.
      options: the same padding, and strides, as arguments of `cylinder.conv`.
    """

    shape: tuple[int, int, int]
    channels: int
    features: int
    kernel: tuple[int, int, int]
    padding: tuple[tuple[int, int], ...]
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def strides(self) -> tuple[int, int, int]:
        return self.options.get("strides", (1, 1, 1))


Layout = Callable[[jax.Array, jax.Array, Layer], jax.Array]

# The encoder: 45 x 16 x 9 voxels to 13 x 8 x 4 = 416 codes.
LAYERS = (
    Layer((45, 16, 9), 28, 32, (3, 3, 3), ((1, 1), (1, 1), (1, 1))),
    Layer(
        *((45, 16, 9), 32, 40, (3, 4, 3), ((0, 0), (1, 1), (0, 0))),
        {"strides": (3, 2, 2), "r_padding": "valid"},
    ),
    Layer((15, 8, 4), 40, 40, (3, 3, 3), ((0, 0), (1, 1), (1, 1)), {"z_padding": "valid"}),
)


def package(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """The layout of the package."""
    return cylinder.conv(x, kernel, **layer.options)


def strided(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """One convolution with strides; its transpose inserts zeros into the input."""
    return convolve(cylinder.pad(x, layer.padding), kernel, layer.strides)


def blocks(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """The bins of each stride as channels, for input and kernel."""
    # Zeros behind both, up to whole blocks.
    fill = [(0, 0, 0), *((0, -k % s, 0) for k, s in zip(layer.kernel, layer.strides, strict=True))]
    zero = jnp.zeros((), x.dtype)
    x = jax.lax.pad(cylinder.pad(x, layer.padding), zero, [*fill, (0, 0, 0)])
    kernel = jax.lax.pad(kernel, zero, [*fill[1:], (0, 0, 0), (0, 0, 0)])
    # Features first, in the place of the batch.
    kernel = to_blocks(jnp.moveaxis(kernel, -1, 0), layer.strides)
    return convolve(to_blocks(x, layer.strides), jnp.moveaxis(kernel, 0, -1), (1, 1, 1))


def to_blocks(x: jax.Array, strides: tuple[int, int, int]) -> jax.Array:
    """[b, z s, alpha t, r u, c] -> [b, z, alpha, r, s t u c]."""
    s, t, u = strides
    b, z, alpha, r, c = x.shape
    x = x.reshape(b, z // s, s, alpha // t, t, r // u, u, c)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, z // s, alpha // t, r // u, s * t * u * c)


def r_in_batch(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """The bins that a window of r covers as channels, and the windows in the batch."""
    n, k, s, (low, high) = layer.shape[2], layer.kernel[2], layer.strides[2], layer.padding[2]
    first = s * jnp.arange((n + low + high - k) // s + 1) - low
    seen = jnp.arange(n)[:, None, None] == first + jnp.arange(k)[:, None]
    x = jnp.einsum("bzarc,rjs->bszajc", x, seen.astype(x.dtype))
    kernel = kernel.reshape(*kernel.shape[:2], -1, layer.features)
    options = {name: value for name, value in layer.options.items() if name != "r_padding"}
    options["strides"] = layer.strides[:2]
    y = cylinder.conv(x.reshape(-1, *x.shape[2:4], kernel.shape[2]), kernel, **options)
    return jnp.moveaxis(y.reshape(-1, len(first), *y.shape[1:]), 1, 3)


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int, int]) -> jax.Array:
    """Correlation without borders."""
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=numbers)


def transposed(layout: Layout, y: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    """The transpose of a layer in a layout."""
    if layout is package:
        return cylinder.conv_transpose(y, kernel, shape=layer.shape, **layer.options)
    x = jax.ShapeDtypeStruct((len(y), *layer.shape, layer.channels), y.dtype)
    return jax.linear_transpose(lambda x: layout(x, kernel, layer), x)(y)[0]


def encode(kernels: list[jax.Array], x: jax.Array, layout: Layout) -> jax.Array:
    """Voxels to codes."""
    for kernel, layer in zip(kernels, LAYERS, strict=True):
        x = jax.nn.silu(layout(x, kernel, layer))
    return x


def decode(kernels: list[jax.Array], y: jax.Array, layout: Layout) -> jax.Array:
    """Codes to voxels."""
    for kernel, layer in zip(reversed(kernels), reversed(LAYERS), strict=True):
        y = jax.nn.silu(transposed(layout, y, kernel, layer))
    return y


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each network, layout and direction."""
    b = b.small(batch=1)
    dtype = jnp.dtype(b.dtype)
    initial = jax.nn.initializers.lecun_normal(dtype=dtype)
    root = rng.root(0)
    kernels = [
        initial(root, (*layer.kernel, layer.channels, layer.features), dtype) for layer in LAYERS
    ]
    for network, shape in ((decode, (13, 8, 4, 40)), (encode, (45, 16, 9, 28))):
        inputs = kernels, jax.random.normal(root, (b.batch, *shape), dtype)
        expected = jax.jit(functools.partial(network, layout=package))(*inputs)
        for layout in (package, strided, blocks, r_in_batch):
            forward = functools.partial(network, layout=layout)
            error = jnp.abs(jax.jit(forward)(*inputs) - expected).max()
            if error > 32 * jnp.finfo(dtype).eps * jnp.abs(expected).max():
                raise AssertionError(f"{layout.__name__} computes something else")

            def loss(kernels: list[jax.Array], x: jax.Array, forward=forward) -> jax.Array:
                return jnp.sum(forward(kernels, x) ** 2)

            for part, function in (
                ("forward", forward),
                ("forward and backward", jax.grad(loss, argnums=(0, 1))),
            ):
                program, columns = stopwatch.compiled(function, *inputs)
                times = stopwatch.repeat(
                    functools.partial(program, *inputs), repeats=b.repeats, seconds=b.seconds
                )
                row = {"benchmark": "convolution", "network": f"talk {network.__name__}r"}
                row |= {"layout": layout.__name__, "part": part, "dtype": b.dtype, "batch": b.batch}
                yield row | times.per_shower(b.batch) | columns


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
