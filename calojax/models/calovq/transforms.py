"""Invertible maps between showers in MeV and numbers of order one.

A shower is split into the energies of its layers and the fractions that its voxels have of them;
the two are modelled separately (Calo-VQ talk, CaloChallenge workshop 2022). All functions are pure
and work on batches. Fitted statistics are a dict of arrays that is stored in the checkpoint.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Bool, Float

from calojax.geometry import Detector
from calojax.models.voxels import layer_max, layer_sums, over_voxels

Statistics = dict[str, jax.Array]


# --- layers ---------------------------------------------------------------------------------------


def split_layers(
    showers: Float[Array, "b v"], detector: Detector
) -> tuple[Float[Array, "b v"], Float[Array, "b l"]]:
    """Splits showers in MeV into the voxels' fractions of their layer and layer energies.

    The fractions of an empty layer are all zero.
    """
    layer_energy = layer_sums(showers, detector)
    scale = jnp.where(layer_energy > 0, layer_energy, 1.0)
    return showers / over_voxels(scale, detector), layer_energy


def join_layers(
    fractions: Float[Array, "b v"], layer_energy: Float[Array, "b l"], detector: Detector
) -> Float[Array, "b v"]:
    """Showers in MeV from fractions and layer energies, with the readout threshold applied.

    Voxels below the threshold are dropped and the others scaled up to the layer's energy, so that
    no energy is lost and no voxel is below the threshold. A layer without a voxel above the
    threshold keeps its largest voxel. A layer whose energy is below the threshold becomes empty, as
    in the readout. Fractions must not be negative; they need not be normalised.
    """
    threshold = detector.readout_threshold
    total = layer_sums(fractions, detector)
    scale = jnp.where(total > 0, layer_energy / jnp.where(total > 0, total, 1.0), 0.0)
    voxels = fractions * over_voxels(scale, detector)
    largest = over_voxels(layer_max(fractions, detector), detector)
    # Only the first of several equally large voxels.
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
# [0, 1]. They spread out small fractions like a logarithm, and outputs below 0 are empty voxels.
# With d = T S = 1 + B = 2e-5, the formulas as written lose all digits in float32 at both
# ends (1 + K x + B near x = 0, 1 - K x - B near x = 1). With
# artanh(u) = log((1 + u) / (1 - u)) / 2 and C = -A artanh(B) they become
#
#   f(x) = A/2 [log1p(K x / d) - log((K (1 - x) + S - d) / (2 - d))]
#   g(y) = (2 - d) d m / (K (2 + d m)),  m = expm1(2 y / A)
#
# without cancellation: 1 - x is exact for x in [1/2, 1] (Sterbenz), where the second logarithm
# matters; below 1/2 it is log1p(-K x / (2 - d)). All constants are computed in float64.

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

    It is constant above y = 1.5, where g exceeds g(1) by less than 1e-4, so that the exponential
    cannot overflow in float32.
    """
    m = _D * jnp.expm1(2.0 / _A * jnp.minimum(y, 1.5))
    return (2.0 - _D) / _K * m / (2.0 + m)


# --- layer energies ----------------------------------------------------------------------------


def fit(showers: Iterable[tuple[np.ndarray, np.ndarray]], detector: Detector) -> Statistics:
    """Fits all statistics in one pass over (incident energies [b], showers [b, v]) in MeV."""
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
    """Fits the standardisation of `layer_shares` to layer energies [n, l] and incident ones [n]."""
    total = layer_energy.sum(-1)
    present = layer_energy > 0
    share = np.where(present, layer_energy, 1.0) / np.where(total > 0, total, 1.0)[:, None]
    log_share = np.ma.masked_array(np.log(share), ~present)
    mean = log_share.mean(0).filled(0.0)
    # Layers with a single shower have no standard deviation.
    std = np.maximum(log_share.std(0).filled(0.0), 1e-2)
    standard = ((log_share - mean) / std).filled(0.0)
    visible = total / energies
    statistics = {
        "share_mean": mean,
        "share_std": std,
        "share_low": standard.min(0),
        "share_high": standard.max(0),
        "visible_mean": visible.mean(),
        "visible_std": max(visible.std(), 1e-3),
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in statistics.items()}


def layer_shares(
    layer_energy: Float[Array, "b l"], energies: Float[Array, " b"], statistics: Statistics
) -> tuple[Float[Array, "b l"], Bool[Array, "b l"], Float[Array, " b"]]:
    """Standardises layer energies in MeV of showers of incident energies in MeV.

    Returns:
      Standardised log(E_layer / E_sum) (0 for an empty layer), whether the layer has energy, and
      the standardised visible fraction E_sum / E_inc.
    """
    total = layer_energy.sum(-1)
    present = layer_energy > 0
    safe_total = jnp.where(total > 0, total, 1.0)
    log_share = jnp.log(jnp.where(present, layer_energy, 1.0)) - jnp.log(safe_total)[:, None]
    share = (log_share - statistics["share_mean"]) / statistics["share_std"]
    visible = (total / energies - statistics["visible_mean"]) / statistics["visible_std"]
    return jnp.where(present, share, 0.0), present, visible


def layer_energies(
    share: Float[Array, "b l"],
    present: Bool[Array, "b l"],
    visible: Float[Array, " b"],
    energies: Float[Array, " b"],
    statistics: Statistics,
) -> Float[Array, "b l"]:
    """Layer energies in MeV; inverse of `layer_shares`.

    Shares are normalised to sum to one, after they are clipped to the range of the training data: a
    draw from an unphysical tail would take the energy of all other layers. If no layer is present,
    all are empty.
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
# The spectrum of hit energies has edges, such as that of a single track, which a smooth density per
# voxel smears. The quantile map is 4 y = Phi^-1(F(log E)), with F the distribution of all training
# hits. The spectrum of y is smooth, and a smooth density of y has the edges of F in E.

_KNOTS = np.linspace(-1.0, 1.0, 257)
_SPREAD = 4.0


def fit_spectrum(counts: np.ndarray, edges: np.ndarray) -> Statistics:
    """Fits `hit_quantile` to counts [n] of hits between edges [n + 1] of log(E / MeV)."""
    share = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1)
    normal = scipy.special.erf(_KNOTS * _SPREAD / math.sqrt(2))
    # Where F is flat, the first energy is taken, so that no hit is drawn where the data have none.
    rises = np.concatenate([[True], np.diff(share) > 0])
    quantiles = (normal - normal[0]) / (normal[-1] - normal[0])
    knots = np.interp(quantiles, share[rises], edges[rises])
    # Strictly increasing in float32 too, for the inverse.
    return {"spectrum": jnp.asarray(knots + 2e-5 * np.arange(len(knots)), jnp.float32)}


def hit_quantile(energy: jax.Array, statistics: Statistics) -> jax.Array:
    """y [...] in [-1, 1] of hit energies [...] in MeV; -1 for zero."""
    log_energy = jnp.log(jnp.maximum(energy, 1e-30))
    return jnp.interp(log_energy, statistics["spectrum"], jnp.asarray(_KNOTS, jnp.float32))


def hit_energy(y: jax.Array, statistics: Statistics) -> tuple[jax.Array, jax.Array]:
    """Energies in MeV of y, clipped to [-1, 1], and d log E / dy; inverse of `hit_quantile`."""
    step = 2.0 / (len(_KNOTS) - 1)
    position = (jnp.clip(y, -1.0, 1.0) + 1.0) / step
    below = jnp.minimum(position.astype(jnp.int32), len(_KNOTS) - 2)
    at, rise = statistics["spectrum"][:-1][below], jnp.diff(statistics["spectrum"])[below]
    return jnp.exp(at + rise * (position - below)), rise / step


def _spectrum_edges(detector: Detector) -> np.ndarray:
    """Fine bins of log(E / MeV) from the readout threshold to beyond any voxel."""
    low = max(detector.readout_threshold, 1e-3)
    assert detector.energy_range is not None  # `models.build` checks it.
    return np.linspace(math.log(low), math.log(2.0 * detector.energy_range[1]), 4001)
