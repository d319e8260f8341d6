"""Invertible maps between showers in MeV and the numbers that networks like.

A shower is taken apart into the energies of its layers and, for each layer, the fractions that its
voxels hold of it; the two are modelled separately (Calo-VQ talk, CaloChallenge workshop 2022).
Everything is a pure function on batches; what is fitted to data is a dict of arrays that travels
in the checkpoint.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from calojax.geometry import Detector
from calojax.models.voxels import layer_max, layer_sums, over_voxels

Statistics = dict[str, jax.Array]


# --- layers ---------------------------------------------------------------------------------------


def split_layers(showers: jax.Array, detector: Detector) -> tuple[jax.Array, jax.Array]:
    """Takes showers apart: [b, v] MeV -> (fractions of their layer [b, v], layer energies [b, l]).

    The fractions of an empty layer are all zero.
    """
    layer_energy = layer_sums(showers, detector)
    scale = jnp.where(layer_energy > 0, layer_energy, 1.0)
    return showers / over_voxels(scale, detector), layer_energy


def join_layers(fractions: jax.Array, layer_energy: jax.Array, detector: Detector) -> jax.Array:
    """Puts showers together, with the readout threshold applied and every layer's energy kept.

    Voxels below the threshold are dropped and the rest of the layer is scaled up to the layer's
    energy, so no energy is lost and, since the rest only grows, no voxel ends below the threshold.
    A layer in which no voxel passes keeps its largest voxel alone; a layer whose whole energy is
    below the threshold becomes empty, as the readout would have it.

    Args:
      fractions: [b, v], not negative; need not be normalised.
      layer_energy: [b, l] in MeV.
      detector: its readout threshold is applied.

    Returns:
      showers [b, v] in MeV.
    """
    threshold = detector.readout_threshold
    total = layer_sums(fractions, detector)
    scale = jnp.where(total > 0, layer_energy / jnp.where(total > 0, total, 1.0), 0.0)
    voxels = fractions * over_voxels(scale, detector)
    largest = over_voxels(layer_max(fractions, detector), detector)
    # One of them alone, should several be equally large.
    number = jnp.arange(detector.n_voxels, dtype=fractions.dtype)
    candidate = jnp.where((fractions == largest) & (largest > 0), number, jnp.inf)
    first = over_voxels(-layer_max(-candidate, detector), detector)
    kept = (voxels > threshold) | (candidate == first) & (candidate < jnp.inf)
    kept_sum = layer_sums(jnp.where(kept, voxels, 0.0), detector)
    rescale = jnp.where(
        (kept_sum > 0) & (layer_energy > threshold),
        layer_energy / jnp.where(kept_sum > 0, kept_sum, 1.0),
        0.0,
    )
    return jnp.where(kept, voxels * over_voxels(rescale, detector), 0.0)


# --- the talk's output activation -----------------------------------------------------------------
#
# f(x) = A artanh(K x + B) + C and its inverse g(y) = (tanh((y - C) / A) - B) / K map [0, 1] to
# [0, 1]: small fractions are spread out as by a logarithm, and zero is an attractor, since every
# output below 0 means an empty voxel. With d = T S = 1 + B = 2e-5, the formulas as written lose all
# digits in float32 at both ends (1 + K x + B near x = 0, 1 - K x - B near x = 1). By
# artanh(u) = log((1 + u) / (1 - u)) / 2 and C = -A artanh(B) they become
#
#   f(x) = A/2 [log1p(K x / d) - log((K (1 - x) + S - d) / (2 - d))]
#   g(y) = (2 - d) d m / (K (2 + d m)),  m = expm1(2 y / A)
#
# in which nothing cancels: 1 - x is exact for x in [1/2, 1] (Sterbenz), where the second logarithm
# matters; below, it is log1p(-K x / (2 - d)). All constants are formed in float64.

_S = 1e-4
_T = 0.2
_K = 2.0 - _S
_D = _T * _S
_A = 2.0 / math.log((_K + _D) * (2.0 - _D) / ((_S - _D) * _D))


def arctanh_compress(x: jax.Array) -> jax.Array:
    """The talk's f: energy fraction in [0, 1] -> network output in [0, 1], elementwise."""
    x = jnp.clip(x, 0.0, 1.0)
    near_zero = jnp.log1p(-_K / (2.0 - _D) * jnp.minimum(x, 0.5))
    near_one = jnp.log((_K * (1.0 - jnp.maximum(x, 0.5)) + (_S - _D)) / (2.0 - _D))
    return _A / 2 * (jnp.log1p(_K / _D * x) - jnp.where(x < 0.5, near_zero, near_one))


def arctanh_expand(y: jax.Array) -> jax.Array:
    """The talk's g, inverse of `arctanh_compress`; negative for y < 0, elementwise.

    Beyond y = 1.5, where g exceeds its value at 1 by less than 1e-4, y is held, so that the
    exponential cannot overflow in float32.
    """
    m = _D * jnp.expm1(2.0 / _A * jnp.minimum(y, 1.5))
    return (2.0 - _D) / _K * m / (2.0 + m)


# --- layer energies ----------------------------------------------------------------------------


def fit(showers: Iterable[tuple[np.ndarray, np.ndarray]], detector: Detector) -> Statistics:
    """All statistics of this module from one pass over (energies [b], showers [b, v]) in MeV."""
    starts = [where.start for where in detector.layer_slices]
    edges = _spectrum_edges(detector)
    parts, counts = [], np.zeros(len(edges) - 1)
    for energies, voxels in showers:
        parts.append((energies, np.add.reduceat(voxels, starts, axis=1)))
        hits = np.log(voxels[voxels > 0])
        counts += np.histogram(np.clip(hits, edges[0], edges[-1]), edges)[0]
    energies, layer_energy = (np.concatenate(part) for part in zip(*parts, strict=True))
    return fit_layer_shares(layer_energy, energies) | fit_spectrum(counts, edges)


def fit_layer_shares(layer_energy: np.ndarray, energies: np.ndarray) -> Statistics:
    """Fits the standardisation of `layer_shares` to layer energies [n, l] and energies [n], MeV."""
    total = layer_energy.sum(-1)
    present = layer_energy > 0
    log_share = np.log(np.where(present, layer_energy, 1.0)) - np.log(
        np.where(total > 0, total, 1.0)
    ).reshape(-1, 1)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, log_share, 0.0).sum(0) / count
    variance = np.where(present, (log_share - mean) ** 2, 0.0).sum(0) / count
    visible = total / energies
    # A layer with one shower in it has no spread to divide by.
    std = np.maximum(np.sqrt(variance), 1e-2)
    standard = (log_share - mean) / std
    return {
        "share_mean": jnp.asarray(mean, jnp.float32),
        "share_std": jnp.asarray(std, jnp.float32),
        "share_low": jnp.asarray(np.where(present, standard, 0.0).min(0), jnp.float32),
        "share_high": jnp.asarray(np.where(present, standard, 0.0).max(0), jnp.float32),
        "visible_mean": jnp.asarray(visible.mean(), jnp.float32),
        "visible_std": jnp.asarray(max(visible.std(), 1e-3), jnp.float32),
    }


def layer_shares(
    layer_energy: jax.Array, energies: jax.Array, statistics: Statistics
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Standardises layer energies.

    Args:
      layer_energy: [b, l] in MeV.
      energies: incident energies [b] in MeV.
      statistics: from `fit_layer_shares`.

    Returns:
      Standardised log(E_layer / E_sum) [b, l] (0 where the layer is empty), whether the layer holds
      energy [b, l], and the standardised visible fraction E_sum / E_inc [b].
    """
    total = layer_energy.sum(-1)
    present = layer_energy > 0
    safe_total = jnp.where(total > 0, total, 1.0)
    log_share = jnp.log(jnp.where(present, layer_energy, 1.0)) - jnp.log(safe_total)[:, None]
    share = (log_share - statistics["share_mean"]) / statistics["share_std"]
    visible = (total / energies - statistics["visible_mean"]) / statistics["visible_std"]
    return jnp.where(present, share, 0.0), present, visible


def layer_energies(
    share: jax.Array,
    present: jax.Array,
    visible: jax.Array,
    energies: jax.Array,
    statistics: Statistics,
) -> jax.Array:
    """Inverse of `layer_shares` -> layer energies [b, l] in MeV.

    Shares that do not sum to one are normalised: the visible fraction rules. Those beyond the range
    of the training are brought back into it: one draw from a tail that no shower has would take the
    energy of all other layers. Where no layer is present all are empty.
    """
    share = jnp.clip(share, statistics["share_low"], statistics["share_high"])
    total = energies * jnp.maximum(
        visible * statistics["visible_std"] + statistics["visible_mean"], 0.0
    )
    log_share = share * statistics["share_std"] + statistics["share_mean"]
    weight = jnp.where(present, jax.nn.softmax(log_share, where=present, axis=-1), 0.0)
    return jnp.where(present.any(-1), total, 0.0)[:, None] * weight


# --- the spectrum of hits -------------------------------------------------------------------------
#
# The energies of hits have edges, that of a single track among them, which no smooth density per
# voxel can have: it smears them. By the quantile map 4 y = Phi^-1(F(log E)), F the distribution of
# all hits of the training, y is smooth and a smooth density of y has the edges of F back in E.

_KNOTS = np.linspace(-1.0, 1.0, 257)
_SPREAD = 4.0


def fit_spectrum(counts: np.ndarray, edges: np.ndarray) -> Statistics:
    """Fits `hit_quantile` to counts [n] of hits between edges [n + 1] of log(E / MeV)."""
    share = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1)
    low, high = (math.erf(sign * _SPREAD / math.sqrt(2)) for sign in (-1, 1))
    normal = np.array([math.erf(y * _SPREAD / math.sqrt(2)) for y in _KNOTS])
    # Where F is flat any energy will do: the first one, so that no hit lands where there is none.
    rises = np.concatenate([[True], np.diff(share) > 0])
    knots = np.interp((normal - low) / (high - low), share[rises], edges[rises])
    # Strictly rising in float32 too, for the inverse.
    return {"spectrum": jnp.asarray(knots + 2e-5 * np.arange(len(knots)), jnp.float32)}


def hit_quantile(energy: jax.Array, statistics: Statistics) -> jax.Array:
    """Energies [...] in MeV -> y [...] in [-1, 1]; -1 for zero."""
    log_energy = jnp.log(jnp.maximum(energy, 1e-30))
    return jnp.interp(log_energy, statistics["spectrum"], jnp.asarray(_KNOTS, jnp.float32))


def hit_energy(y: jax.Array, statistics: Statistics) -> tuple[jax.Array, jax.Array]:
    """Inverse of `hit_quantile`: y [...] -> energies in MeV, and d log E / d y, both [...].

    Outside [-1, 1] energies are those at its ends.
    """
    step = 2.0 / (len(_KNOTS) - 1)
    place = (jnp.clip(y, -1.0, 1.0) + 1.0) / step
    below = jnp.minimum(place.astype(jnp.int32), len(_KNOTS) - 2)
    at, rise = statistics["spectrum"][:-1][below], jnp.diff(statistics["spectrum"])[below]
    return jnp.exp(at + rise * (place - below)), rise / step


def _spectrum_edges(detector: Detector) -> np.ndarray:
    """Fine bins of log(E / MeV) from the readout threshold to beyond any voxel."""
    low = max(detector.readout_threshold, 1e-3)
    return np.linspace(math.log(low), math.log(2.0 * detector.energy_range[1]), 4001)
