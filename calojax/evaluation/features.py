"""High-level features of showers: the numbers that every histogram and most scores are made of.

Definitions are those of the CaloChallenge's evaluation (arXiv:2410.21611, section 4; its
``HighLevelFeatures`` class), for any geometry. With ``jax_enable_x64`` off they agree with the
official float64 numbers to 1e-5, with it on to rounding.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from calojax.geometry import Detector, Layer
from calojax.io import ShowerSource

Array = TypeVar("Array", jax.Array, np.ndarray)

# What the official code adds for empty layers: in ratios (MeV) and in logarithms (MeV).
_EMPTY = 1e-16
_LOG_OFFSET = 1e-8
# Lengths enter the feature vector in units of 100 mm, which makes all columns of order one.
_LENGTH = 100.0

# Voxels in a block that a CPU core works on, so that float64 copies fit its second-level cache; and
# the fewest showers in a block, without which loops lose what the cache gains (measured).
_CACHED_VOXELS = 2**15
_CACHED_SHOWERS = 4
# Voxels in a batch, 8 MiB of float32: enough to hide a dispatch, and within CPUs' last cache.
_BATCH_VOXELS = 2**21


class Features(NamedTuple, Generic[Array]):
    """High-level features of n showers in a detector of l layers.

    Only a of the l layers are divided in alpha; only they have an eta and a phi.

    Attributes:
      energy: incident energy in MeV, [n].
      layer_energy: energy in each layer in MeV, [n, l].
      center_eta: centre of energy in eta in mm, [n, a].
      center_phi: centre of energy in phi in mm, [n, a].
      width_eta: standard deviation of the energy in eta in mm, [n, a].
      width_phi: standard deviation of the energy in phi in mm, [n, a].
      center_r: mean radius in mm, [n, l].
      width_r: standard deviation of the radius in mm, [n, l].
      sparsity: fraction of voxels without energy, [n, l].
      total: energy in all layers in MeV, [n].
    """

    energy: Array
    layer_energy: Array
    center_eta: Array
    center_phi: Array
    width_eta: Array
    width_phi: Array
    center_r: Array
    width_r: Array
    sparsity: Array
    total: Array

    def take(self, events: Any) -> "Features[Array]":
        """The features of some events: an index array, mask or slice."""
        return Features(*(array[events] for array in self))

    def __repr__(self) -> str:
        return "<Features of {} showers, {} layers>".format(*self.layer_energy.shape)


def alpha_layers(detector: Detector) -> tuple[Layer, ...]:
    """The layers divided in alpha, which have features in eta and phi."""
    return tuple(layer for layer in detector.layers if layer.n_alpha > 1)


def apply_threshold(showers: Array, detector: Detector) -> Array:
    """Zeroes the voxels below the evaluation threshold; showers [b, v] in MeV, NumPy or JAX.

    The threshold is rounded up to the showers' precision, so that float32 energies are kept
    exactly where their float64 values would be.
    """
    xp = showers.__array_namespace__()
    threshold = np.asarray(detector.evaluation_threshold, showers.dtype)
    if threshold < detector.evaluation_threshold:
        threshold = np.nextafter(threshold, np.asarray(np.inf, showers.dtype))
    return xp.where(showers < threshold, xp.zeros_like(showers), showers)


@functools.partial(jax.jit, static_argnames="detector")
def compute(showers: jax.Array, energies: jax.Array, detector: Detector) -> Features[jax.Array]:
    """The features of showers [b, v] of incident energies [b] in MeV, after the threshold.

    In float32, or in float64 where ``jax_enable_x64`` is on.
    """
    dtype = jnp.result_type(float)
    moments = functools.partial(_shower_moments, detector=detector, dtype=dtype)
    if jax.default_backend() == "cpu":
        # Blocks that stay in a core's cache between operations are ten times as fast as float64
        # arrays of the whole batch.
        block = max(_CACHED_SHOWERS, _CACHED_VOXELS // detector.n_voxels)
        found = jax.lax.map(moments, showers, batch_size=block)
    else:
        found = jax.vmap(moments)(showers)
    divided = np.flatnonzero([layer.n_alpha > 1 for layer in detector.layers])
    columns = {
        name: values[:, divided] if name.endswith(("eta", "phi")) else values
        for name, values in found.items()
    }
    return Features(
        energy=energies.astype(dtype), total=found["layer_energy"].sum(axis=1), **columns
    )


def stream(
    source: ShowerSource,
    *,
    batch: int | None = None,
    hook: Callable[[int, np.ndarray], None] | None = None,
) -> Features[np.ndarray]:
    """Features of a whole source in float64 on the host, with one batch of voxels in memory.

    In float32, rounding would move about one value in 10^5 over a bin edge, which changes a
    separation power by more than the 1e-6 within which ours are the official ones.

    ``hook`` is called with (index of the first shower, showers [b, v] in MeV) for every batch,
    while the device computes: for sums over voxels in the same pass.
    """
    detector = source.detector
    size = min(batch or batch_size(detector), len(source))
    parts: list[Features] = []
    pending: collections.deque[tuple[int, Features]] = collections.deque()

    def collect():
        count, features = pending.popleft()
        parts.append(Features(*(np.asarray(array)[:count] for array in features)))

    start = 0
    for energies, showers in source.batches(size):
        count = len(showers)
        with jax.enable_x64(True):
            padded = jnp.asarray(_pad(np.asarray(showers, np.float32), size))
            pending.append((count, compute(padded, jnp.asarray(_pad(energies, size)), detector)))
        if hook is not None:
            hook(start, showers)
        if len(pending) > 1:
            collect()
        start += count
    while pending:
        collect()
    return Features(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def batch_size(detector: Detector) -> int:
    """Showers that fill 8 MiB of float32."""
    return max(1, _BATCH_VOXELS // detector.n_voxels)


# Columns of the feature vector, in order: title, attribute of `Features`, and offset of the
# logarithm, or None for lengths and fractions.
_VECTOR = (
    ("log10 Einc", "energy", 0.0),
    ("log10 E", "layer_energy", _LOG_OFFSET),
    ("EC Eta / 100", "center_eta", None),
    ("EC Phi / 100", "center_phi", None),
    ("Width Eta / 100", "width_eta", None),
    ("Width Phi / 100", "width_phi", None),
    ("log10 Etot", "total", _LOG_OFFSET),
    ("Sparsity", "sparsity", None),
    ("EC r / 100", "center_r", None),
    ("Width r / 100", "width_r", None),
)


def vector(features: Features[Array]) -> Array:
    """The feature vector of classifiers, FPD and KPD, [n, f], with the columns of `names`.

    f is 362 for datasets 2 and 3, 30 and 46 for photons and pions of dataset 1. NumPy in, NumPy
    out; JAX in, JAX out.
    """
    xp = features.total.__array_namespace__()
    columns = []
    for title, attribute, offset in _VECTOR:
        values = getattr(features, attribute)
        values = values if values.ndim == 2 else values[:, None]
        if offset is not None:
            values = xp.log10(values + offset)
        columns.append(values / _LENGTH if title.endswith("/ 100") else values)
    return xp.concat(columns, axis=1)


def names(detector: Detector) -> list[str]:
    """Columns of `vector`, such as ``log10 E layer 12``, with the experiment's layer numbers."""
    found = []
    for title, attribute, _ in _VECTOR:
        alpha = attribute.endswith(("eta", "phi"))
        layers = alpha_layers(detector) if alpha else detector.layers
        of_layers = attribute not in ("energy", "total")
        found += [f"{title} layer {layer.id}" for layer in layers] if of_layers else [title]
    return found


def _alike(layers: tuple[Layer, ...]) -> Iterator[tuple[Layer, int]]:
    """Runs of layers with the same bins: (first layer, number)."""
    for _, run in itertools.groupby(layers, key=lambda layer: (layer.n_alpha, layer.r_edges)):
        members = list(run)
        yield members[0], len(members)


def _shower_moments(shower: jax.Array, detector: Detector, dtype) -> dict[str, jax.Array]:
    """Moments of every layer of one shower [v] in MeV, by their names in `Features`."""
    shower = apply_threshold(shower, detector)
    parts, start = [], 0
    for layer, count in _alike(detector.layers):
        stop = start + count * layer.n_voxels
        parts.append(_moments(shower[start:stop].reshape(count, layer.n_voxels), layer, dtype))
        start = stop
    return jax.tree.map(lambda *columns: jnp.concatenate(columns), *parts)


def _moments(cells: jax.Array, layer: Layer, dtype) -> dict[str, jax.Array]:
    """Moments of layers that are alike; cells [layers, voxels of a layer] in MeV.

    Such layers share one small matrix of moments: a product with the block-diagonal matrix of all
    layers, [v, 4 l], would be l times the work.
    """
    coordinates = _coordinates(layer)
    # From counts by table: the values lie on bin edges and must be rounded correctly, which a
    # compiled division by a constant does not guarantee.
    table = 1.0 - np.arange(layer.n_voxels + 1) / layer.n_voxels
    sparsity = jnp.asarray(table, dtype)[(cells > 0).sum(axis=1, dtype=jnp.int32)]

    cells = cells.astype(dtype)
    first = np.stack([np.ones(layer.n_voxels), *coordinates], axis=1)
    # Accelerators would otherwise multiply float32 in 10 or 16 bits of mantissa.
    sums = jnp.matmul(cells, jnp.asarray(first, dtype), precision=jax.lax.Precision.HIGHEST)
    energy = sums[:, 0]
    # One by one: XLA turns the division by a broadcast array into products with its reciprocal.
    # The centre of a layer with one hit would be an ulp off, over a bin edge.
    centers = [sums[:, axis] / (energy + _EMPTY) for axis in (1, 2, 3)]
    # Second moments about the centre in a second pass: the textbook <x^2> - <x>^2 loses half of
    # the digits where most of a layer's energy is in few voxels.
    widths = [
        jnp.sqrt(
            (cells * jnp.square(jnp.asarray(x, dtype) - center[:, None])).sum(axis=1)
            / (energy + _EMPTY)
        )
        for x, center in zip(coordinates, centers, strict=True)
    ]
    return {
        "layer_energy": energy,
        "sparsity": sparsity,
        **dict(zip(("center_eta", "center_phi", "center_r"), centers, strict=True)),
        **dict(zip(("width_eta", "width_phi", "width_r"), widths, strict=True)),
    }


def _coordinates(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(eta, phi, r) in mm of a layer's voxels, each [n_voxels], in float64.

    Rounded as in the official code to the last bit, unlike `VoxelMap`: in dataset 1 cos(alpha) of
    some bins is zero up to rounding, and the sign of that decides a histogram's bin.
    """
    edges = np.linspace(-math.pi, math.pi, layer.n_alpha + 1)
    alpha = np.repeat(edges[:-1] + np.diff(edges) / 2, layer.n_r)
    r_edges = np.asarray(layer.r_edges, np.float64)
    r = np.tile((r_edges[:-1] + r_edges[1:]) * 0.5, layer.n_alpha)
    return r * np.cos(alpha), r * np.sin(alpha), r


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    """Zeros appended to make the first axis ``size`` long: the last batch compiles nothing new."""
    missing = size - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array
