"""Maps between the totals of a shower, hit counts and energies, and real numbers for a flow.

Points are drawn to match given totals. CaloPointFlow has one pair for the whole shower
(`WholeShower`). A pair for every layer (`EveryLayer`, as in ShowerFlow of CaloClouds II,
arXiv:2309.05704) gives layer energies their correlations, which independent points do not have.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from calojax.geometry import Detector
from calojax.models.pointflow import points
from calojax.models.pointflow.dequantisation import DEQUANTISATIONS
from calojax.models.voxels import energy_condition

Statistics = dict[str, jax.Array]

_BINS = DEQUANTISATIONS["cdf"]
# Smallest standard deviation, for data with a single value.
_MIN_STD = 1e-3
# Energy in MeV that replaces zero in logarithms.
_EMPTY = 1e-3


class Totals(NamedTuple):
    """Hit counts and energies of s parts of each shower."""

    hits: Int[Array, "b s"]  # number of hits
    # Energy of these hits in MeV; at least hits x `least_energy`, 0 without hits.
    energy: Float[Array, "b s"]


def least_energy(detector: Detector) -> float:
    """The smallest energy of a generated hit in MeV: the threshold plus more than rounding."""
    return detector.readout_threshold * (1 + 1e-5)


@dataclasses.dataclass(frozen=True)
class WholeShower:
    """One pair of totals for the shower, as in CaloPointFlow.

    Its numbers are log(n + u) - log(E_inc) / 2 with u uniform in [0, 1), and log(E_sum / E_inc),
    each standardised.
    """

    detector: Detector
    features = 2  # number of real numbers d
    context = 3  # size c of a shower's description
    layer_features = 0  # size k of a layer's description

    def totals(self, hits: Int[Array, "b l"], energy: Float[Array, "b l"]) -> Totals:
        """Totals of showers from hit counts and energies (MeV) of their layers."""
        return Totals(hits.sum(-1, keepdims=True), energy.sum(-1, keepdims=True))

    def fit(self, hits: np.ndarray, energy: np.ndarray, incident: np.ndarray) -> Statistics:
        """Fits to hit counts and energies [n, l] of layers and incident energies [n], in MeV."""
        hits, energy = hits.sum(-1), np.maximum(energy.sum(-1), _EMPTY)
        x = np.stack(
            [np.log(hits + 0.5) - np.log(incident) / 2, np.log(energy) - np.log(incident)], -1
        )
        return _moments("total", x)

    def forward(
        self, key: PRNGKeyArray, totals: Totals, incident: jax.Array, statistics: Statistics
    ) -> Float[Array, "b d"]:
        """Totals as real numbers, with noise within bins; incident energies [b] in MeV."""
        noise = jax.random.uniform(key, totals.hits[:, 0].shape, totals.energy.dtype)
        # Without the ends: log(0 + 0) is infinite, and float32 could round up to n + 1.
        return self._numbers(totals, 0.02 + 0.96 * noise, incident, statistics)

    def inverse(
        self, x: Float[Array, "b d"], incident: jax.Array, statistics: Statistics
    ) -> Totals:
        """Totals of real numbers; inverse of `forward` for any of its noise."""
        log_hits, log_energy = (x * statistics["total_std"] + statistics["total_mean"]).T
        # Bounded before the exponential, which could overflow.
        most = jnp.log(float(self.detector.n_voxels) + 0.5)
        log_hits = jnp.minimum(log_hits + jnp.log(incident) / 2, most)
        hits = jnp.floor(jnp.exp(log_hits)).astype(jnp.int32)
        # No shower has an E_sum of e times E_inc.
        energy = jnp.exp(jnp.minimum(log_energy, 1.0)) * incident
        return _possible(hits[:, None], energy[:, None], self.detector)

    def describe(
        self, totals: Totals, incident: jax.Array, statistics: Statistics
    ) -> Float[Array, "b c"]:
        """Totals and incident energies as numbers of order one."""
        half = jnp.full(incident.shape, 0.5, incident.dtype)
        numbers = self._numbers(totals, half, incident, statistics)
        return jnp.concatenate([energy_condition(incident, self.detector), numbers], -1)

    def of_layers(self, totals: Totals, statistics: Statistics) -> Float[Array, "b l k"]:
        """Totals of layers as numbers of order one."""
        return jnp.zeros((len(totals.hits), self.detector.n_layers, 0))

    def _numbers(self, totals, noise, incident, statistics):
        log_incident = jnp.log(incident)
        log_hits = jnp.log(totals.hits[:, 0] + noise) - log_incident / 2
        log_energy = jnp.log(jnp.maximum(totals.energy[:, 0], _EMPTY)) - log_incident
        x = jnp.stack([log_hits, log_energy], -1)
        return (x - statistics["total_mean"]) / statistics["total_std"]


@dataclasses.dataclass(frozen=True)
class EveryLayer:
    """A pair of totals for every layer.

    Its numbers are, for l layers: hit counts through CDF dequantisation [l]; log(E_sum / E_inc);
    and, for all layers but the last, log(E_z / E_deeper), the ratio of the layer's energy to that
    of all deeper layers [l - 1]. This stick breaking from the front fixes all energies without a
    constraint on the numbers. Where the ratio is undefined, in layers without hits and in the
    deepest layer with hits, the number is standard normal noise.
    """

    detector: Detector
    layer_features = 2

    @property
    def features(self) -> int:
        return 2 * self.detector.n_layers

    @property
    def context(self) -> int:
        return 2 + self.layer_features * self.detector.n_layers

    def totals(self, hits: jax.Array, energy: jax.Array) -> Totals:
        return Totals(hits, energy)

    def fit(self, hits: np.ndarray, energy: np.ndarray, incident: np.ndarray) -> Statistics:
        largest = max(layer.n_voxels for layer in self.detector.layers)
        tables = [_BINS.fit(np.bincount(layer, minlength=largest + 1)) for layer in hits.T]
        total = np.maximum(energy.sum(-1, keepdims=True), _EMPTY)
        deeper = np.cumsum(energy[:, ::-1], 1)[:, ::-1][:, 1:]
        known = (energy[:, :-1] > 0) & (deeper > 0)
        ratio = np.log(np.where(known, energy[:, :-1], 1)) - np.log(np.where(known, deeper, 1))
        mean_energy = np.log(np.where(hits > 0, energy, 1) / np.maximum(hits, 1))
        return {
            **{f"hits_{name}": jnp.stack([table[name] for table in tables]) for name in tables[0]},
            **_moments("visible", np.log(total / incident[:, None])),
            **_moments("ratio", ratio, known),
            **_moments("count", np.log1p(hits)),
            **_moments("mean_energy", mean_energy, hits > 0),
        }

    def forward(self, key, totals: Totals, incident: jax.Array, statistics: Statistics):
        within, fill = jax.random.split(key)
        noise = jax.random.uniform(within, totals.hits.shape, totals.energy.dtype)
        dequantise = jax.vmap(_BINS.forward, (1, 1, 0), 1)
        hits = dequantise(totals.hits, noise, self._tables(statistics))
        deeper = jnp.cumsum(totals.energy[:, ::-1], 1)[:, ::-1][:, 1:]
        known = (totals.energy[:, :-1] > 0) & (deeper > 0)
        ratio = _log(totals.energy[:, :-1], known) - _log(deeper, known)
        ratio = (ratio - statistics["ratio_mean"]) / statistics["ratio_std"]
        meaningless = jax.random.normal(fill, ratio.shape, ratio.dtype)
        visible = self._visible(totals, incident, statistics)
        return jnp.concatenate([hits, visible, jnp.where(known, ratio, meaningless)], -1)

    def inverse(self, x: jax.Array, incident: jax.Array, statistics: Statistics) -> Totals:
        l = self.detector.n_layers
        quantise = jax.vmap(_BINS.inverse, (1, 0), 1)
        hits = quantise(x[:, :l], self._tables(statistics))
        visible = x[:, l] * statistics["visible_std"][0] + statistics["visible_mean"][0]
        ratio = x[:, l + 1 :] * statistics["ratio_std"] + statistics["ratio_mean"]
        present = hits > 0
        more = jnp.cumsum(present[:, ::-1], 1)[:, ::-1][:, 1:] > 0
        # Of the rest of E_sum, a layer takes sigmoid(ratio) and leaves sigmoid(-ratio).
        breaks = present[:, :-1] & more
        taken = jnp.where(breaks, jax.nn.log_sigmoid(ratio), 0.0)
        left = jnp.where(breaks, jax.nn.log_sigmoid(-ratio), 0.0)
        log_share = jnp.pad(jnp.cumsum(left, 1), ((0, 0), (1, 0)))
        log_share += jnp.pad(taken, ((0, 0), (0, 1)))
        total = jnp.exp(jnp.minimum(visible, 1.0)) * incident
        return _possible(hits, total[:, None] * jnp.exp(log_share), self.detector)

    def describe(self, totals: Totals, incident: jax.Array, statistics: Statistics) -> jax.Array:
        return jnp.concatenate(
            [
                energy_condition(incident, self.detector),
                self._visible(totals, incident, statistics),
                self.of_layers(totals, statistics).reshape(len(incident), -1),
            ],
            -1,
        )

    def of_layers(self, totals: Totals, statistics: Statistics) -> jax.Array:
        """Standardised log(1 + hits) and log mean energy of a hit (0 without hits)."""
        present = totals.hits > 0
        count = jnp.log1p(totals.hits.astype(totals.energy.dtype))
        mean_energy = _log(totals.energy / jnp.maximum(totals.hits, 1), present)
        mean_energy = (mean_energy - statistics["mean_energy_mean"]) / statistics["mean_energy_std"]
        return jnp.stack(
            [
                (count - statistics["count_mean"]) / statistics["count_std"],
                jnp.where(present, mean_energy, 0.0),
            ],
            -1,
        )

    def _visible(self, totals, incident, statistics):
        total = jnp.maximum(totals.energy.sum(-1), _EMPTY)
        visible = (jnp.log(total) - jnp.log(incident))[:, None]
        return (visible - statistics["visible_mean"]) / statistics["visible_std"]

    @staticmethod
    def _tables(statistics: Statistics) -> Statistics:
        """The dequantisation of every layer's hit count."""
        prefix = "hits_"
        return {k.removeprefix(prefix): v for k, v in statistics.items() if k.startswith(prefix)}


Encoding = WholeShower | EveryLayer


def _log(values: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.log(jnp.where(where, values, 1.0))


def _possible(hits: jax.Array, energy: jax.Array, detector: Detector) -> Totals:
    """Totals, with energies raised to the least energy of their hits."""
    least = hits * least_energy(detector)
    return Totals(hits, jnp.where(hits > 0, jnp.maximum(energy, least), 0.0))


def _moments(name: str, values: np.ndarray, where: np.ndarray | bool = True) -> Statistics:
    """Means and standard deviations of the columns of values [n, k], over selected entries."""
    masked = np.ma.masked_array(values, ~np.broadcast_to(where, values.shape))
    return {
        f"{name}_mean": jnp.asarray(masked.mean(0).filled(0.0), jnp.float32),
        f"{name}_std": jnp.asarray(np.maximum(masked.std(0).filled(0.0), _MIN_STD), jnp.float32),
    }


def rescaled(
    energy: Float[Array, " p"], part: Int[Array, " p"], totals: Totals, detector: Detector
) -> Float[Array, " p"]:
    """Hit energies in MeV, rescaled so that the hits of every part have its total energy.

    The excess over the least energy is multiplied, so that no hit falls below the threshold. The
    part of each hit, sorted, is shower x s + part of the shower; it is larger for padding, whose
    energy becomes 0.
    """
    least = least_energy(detector)
    excess = jnp.maximum(energy - least, 1e-6 * energy)
    # Hits of real showers may lie on the threshold.
    target = jnp.maximum(totals.energy - totals.hits * least, 0.0).reshape(-1)
    found = points.sums(excess, part, target.size)
    factor = target / jnp.where(found > 0, found, 1.0)
    inside = part < target.size
    return jnp.where(inside, least + excess * points.at(factor, part), 0.0)
