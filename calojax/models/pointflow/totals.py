"""How many hits a shower has and how much energy they hold, as numbers for a flow and back.

Points are drawn to fill a quota: so many hits, so much energy. CaloPointFlow knows one quota, that
of the whole shower (`WholeShower`). One for every layer (`EveryLayer`, as ShowerFlow of CaloClouds
II has it, arXiv:2309.05704) gives the energies of layers their correlations, which points that are
drawn independently of each other do not have.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax.geometry import Detector
from calojax.models.pointflow.dequantisation import DEQUANTISATIONS
from calojax.models.voxels import energy_condition

Statistics = dict[str, jax.Array]

# Spreads that data with one value would not have.
_MIN_STD = 1e-3
# Energy in MeV for which logarithms take an empty shower's zero.
_EMPTY = 1e-3


class Quota(NamedTuple):
    """What the points of showers are to fill, in s parts of the shower.

    Attributes:
      hits: int32 [b, s].
      energy: of these hits in MeV, [b, s]; not below hits x `least_energy`, 0 without hits.
    """

    hits: jax.Array
    energy: jax.Array


def least_energy(detector: Detector) -> float:
    """The energy in MeV that a hit has at least.

    On the threshold itself the last bit would decide whether a hit is cut.
    """
    return detector.readout_threshold * (1 + 1e-5)


class Totals(Protocol):
    """A division of showers into parts, and what of their quotas a flow learns.

    Attributes:
      features: numbers that a flow learns.
      context: numbers that describe a shower.
    """

    features: int
    context: int

    def quota(self, hits: jax.Array, energy: jax.Array) -> Quota:
        """Quotas of showers from hits and energies [b, l] (MeV) of their layers."""
        ...

    def fit(self, hits: np.ndarray, energy: np.ndarray, incident: np.ndarray) -> Statistics:
        """Fits to hits and energies [n, l] of layers and incident energies [n], in MeV."""
        ...

    def forward(
        self, key: jax.Array, quota: Quota, incident: jax.Array, statistics: Statistics
    ) -> jax.Array:
        """Quotas and incident energies [b] in MeV -> features [b, d], with noise within bins."""
        ...

    def inverse(self, x: jax.Array, incident: jax.Array, statistics: Statistics) -> Quota:
        """The quotas of features [b, d]; the inverse of `forward` for any of its noise."""
        ...

    def describe(self, quota: Quota, incident: jax.Array, statistics: Statistics) -> jax.Array:
        """Numbers [b, context] of order one that tell quotas and incident energies."""
        ...


@dataclasses.dataclass(frozen=True)
class WholeShower:
    """One quota for the shower, as CaloPointFlow has it.

    Features are log(n + u) - log(E_inc) / 2 with u uniform in [0, 1), and log(E_sum / E_inc), each
    standardised.
    """

    detector: Detector

    @property
    def features(self) -> int:
        """See `Totals`."""
        return 2

    @property
    def context(self) -> int:
        """See `Totals`."""
        return 3

    def quota(self, hits: jax.Array, energy: jax.Array) -> Quota:
        """See `Totals`."""
        return Quota(hits.sum(-1, keepdims=True), energy.sum(-1, keepdims=True))

    def fit(self, hits: np.ndarray, energy: np.ndarray, incident: np.ndarray) -> Statistics:
        """See `Totals`."""
        hits, energy = hits.sum(-1), np.maximum(energy.sum(-1), _EMPTY)
        x = np.stack(
            [np.log(hits + 0.5) - np.log(incident) / 2, np.log(energy) - np.log(incident)], -1
        )
        return _moments("total", x, np.ones_like(x, bool))

    def forward(
        self, key: jax.Array, quota: Quota, incident: jax.Array, statistics: Statistics
    ) -> jax.Array:
        """See `Totals`."""
        noise = jax.random.uniform(key, quota.hits[:, 0].shape, quota.energy.dtype)
        # Not to the ends: log(0 + u) has none below, and near n + 1 float32 could round up to it.
        return self._numbers(quota, 0.02 + 0.96 * noise, incident, statistics)

    def inverse(self, x: jax.Array, incident: jax.Array, statistics: Statistics) -> Quota:
        """See `Totals`."""
        log_hits, log_energy = (x * statistics["total_std"] + statistics["total_mean"]).T
        # Bounded before the exponential, which could overflow.
        most = jnp.log(float(self.detector.n_voxels) + 0.5)
        log_hits = jnp.minimum(log_hits + jnp.log(incident) / 2, most)
        hits = jnp.floor(jnp.exp(log_hits)).astype(jnp.int32)
        # More than all of the energy by far, where a density has no business.
        energy = jnp.exp(jnp.minimum(log_energy, 1.0)) * incident
        return _possible(hits[:, None], energy[:, None], self.detector)

    def describe(self, quota: Quota, incident: jax.Array, statistics: Statistics) -> jax.Array:
        """See `Totals`."""
        half = jnp.full(incident.shape, 0.5, incident.dtype)
        numbers = self._numbers(quota, half, incident, statistics)
        return jnp.concatenate([energy_condition(incident, self.detector), numbers], -1)

    def _numbers(self, quota, noise, incident, statistics):
        log_incident = jnp.log(incident)
        log_hits = jnp.log(quota.hits[:, 0] + noise) - log_incident / 2
        log_energy = jnp.log(jnp.maximum(quota.energy[:, 0], _EMPTY)) - log_incident
        x = jnp.stack([log_hits, log_energy], -1)
        return (x - statistics["total_mean"]) / statistics["total_std"]


@dataclasses.dataclass(frozen=True)
class EveryLayer:
    """A quota for every layer.

    Features are, for the l layers, hits through CDF dequantisation [l]; log(E_sum / E_inc); and for
    all layers but the last log(E_z / E_deeper), the layer's energy by that of all deeper ones
    [l - 1]: a stick that is broken from the front, which fixes all energies without a constraint
    among the numbers. Where that ratio means nothing, in layers without hits and in the deepest one
    with hits, the feature is standard normal noise, which the flow learns at no cost.
    """

    detector: Detector

    @property
    def features(self) -> int:
        """See `Totals`."""
        return 2 * self.detector.n_layers

    @property
    def context(self) -> int:
        """See `Totals`."""
        return 2 + 2 * self.detector.n_layers

    def quota(self, hits: jax.Array, energy: jax.Array) -> Quota:
        """See `Totals`."""
        return Quota(hits, energy)

    def fit(self, hits: np.ndarray, energy: np.ndarray, incident: np.ndarray) -> Statistics:
        """See `Totals`."""
        largest = max(layer.n_voxels for layer in self.detector.layers)
        tables = [
            DEQUANTISATIONS["cdf"].fit(np.bincount(layer, minlength=largest + 1))
            for layer in hits.T
        ]
        total = np.maximum(energy.sum(-1, keepdims=True), _EMPTY)
        deeper = np.cumsum(energy[:, ::-1], 1)[:, ::-1][:, 1:]
        known = (energy[:, :-1] > 0) & (deeper > 0)
        ratio = np.log(np.where(known, energy[:, :-1], 1)) - np.log(np.where(known, deeper, 1))
        mean_energy = np.log(np.where(hits > 0, energy, 1) / np.maximum(hits, 1))
        return {
            **{f"hits_{name}": jnp.stack([table[name] for table in tables]) for name in tables[0]},
            **_moments("visible", np.log(total / incident[:, None]), np.ones_like(total, bool)),
            **_moments("ratio", ratio, known),
            **_moments("count", np.log1p(hits), np.ones_like(hits, bool)),
            **_moments("mean_energy", mean_energy, hits > 0),
        }

    def forward(
        self, key: jax.Array, quota: Quota, incident: jax.Array, statistics: Statistics
    ) -> jax.Array:
        """See `Totals`."""
        within, fill = jax.random.split(key)
        noise = jax.random.uniform(within, quota.hits.shape, quota.energy.dtype)
        dequantise = jax.vmap(DEQUANTISATIONS["cdf"].forward, (1, 1, 0), 1)
        hits = dequantise(quota.hits, noise, self._tables(statistics))
        deeper = jnp.cumsum(quota.energy[:, ::-1], 1)[:, ::-1][:, 1:]
        known = (quota.energy[:, :-1] > 0) & (deeper > 0)
        ratio = _log(quota.energy[:, :-1], known) - _log(deeper, known)
        ratio = (ratio - statistics["ratio_mean"]) / statistics["ratio_std"]
        meaningless = jax.random.normal(fill, ratio.shape, ratio.dtype)
        visible = self._visible(quota, incident, statistics)
        return jnp.concatenate([hits, visible, jnp.where(known, ratio, meaningless)], -1)

    def inverse(self, x: jax.Array, incident: jax.Array, statistics: Statistics) -> Quota:
        """See `Totals`."""
        l = self.detector.n_layers
        quantise = jax.vmap(DEQUANTISATIONS["cdf"].inverse, (1, 0), 1)
        hits = quantise(x[:, :l], self._tables(statistics))
        visible = x[:, l] * statistics["visible_std"][0] + statistics["visible_mean"][0]
        ratio = x[:, l + 1 :] * statistics["ratio_std"] + statistics["ratio_mean"]
        present = hits > 0
        more = jnp.cumsum(present[:, ::-1], 1)[:, ::-1][:, 1:] > 0
        # Of what is left of E_sum, a layer takes sigmoid(ratio) and leaves sigmoid(-ratio).
        breaks = present[:, :-1] & more
        taken = jnp.where(breaks, jax.nn.log_sigmoid(ratio), 0.0)
        left = jnp.where(breaks, jax.nn.log_sigmoid(-ratio), 0.0)
        log_share = jnp.pad(jnp.cumsum(left, 1), ((0, 0), (1, 0))) + jnp.pad(
            taken, ((0, 0), (0, 1))
        )
        total = jnp.exp(jnp.minimum(visible, 1.0)) * incident
        return _possible(hits, total[:, None] * jnp.exp(log_share), self.detector)

    def describe(self, quota: Quota, incident: jax.Array, statistics: Statistics) -> jax.Array:
        """See `Totals`; the last two numbers a layer are those of `of_layers`."""
        return jnp.concatenate(
            [
                energy_condition(incident, self.detector),
                self._visible(quota, incident, statistics),
                self.of_layers(quota, statistics).reshape(len(incident), -1),
            ],
            -1,
        )

    def of_layers(self, quota: Quota, statistics: Statistics) -> jax.Array:
        """Standardised log(1 + hits) and log mean energy of a hit (0: no hits), [b, l, 2]."""
        present = quota.hits > 0
        count = jnp.log1p(quota.hits.astype(quota.energy.dtype))
        mean_energy = _log(quota.energy / jnp.maximum(quota.hits, 1), present)
        mean_energy = (mean_energy - statistics["mean_energy_mean"]) / statistics["mean_energy_std"]
        return jnp.stack(
            [
                (count - statistics["count_mean"]) / statistics["count_std"],
                jnp.where(present, mean_energy, 0.0),
            ],
            -1,
        )

    def _visible(self, quota, incident, statistics):
        total = jnp.maximum(quota.energy.sum(-1), _EMPTY)
        visible = (jnp.log(total) - jnp.log(incident))[:, None]
        return (visible - statistics["visible_mean"]) / statistics["visible_std"]

    @staticmethod
    def _tables(statistics: Statistics) -> Statistics:
        """The dequantisation of every layer's hits."""
        prefix = "hits_"
        return {k.removeprefix(prefix): v for k, v in statistics.items() if k.startswith(prefix)}


def _log(values: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.log(jnp.where(where, values, 1.0))


def _possible(hits: jax.Array, energy: jax.Array, detector: Detector) -> Quota:
    """Quotas that hits above the readout threshold can fill."""
    least = hits * least_energy(detector)
    return Quota(hits, jnp.where(hits > 0, jnp.maximum(energy, least), 0.0))


def _moments(name: str, values: np.ndarray, where: np.ndarray) -> Statistics:
    """Mean and standard deviation of the columns of values [n, k], over the rows that count."""
    count = np.maximum(where.sum(0), 1)
    mean = np.where(where, values, 0.0).sum(0) / count
    std = np.sqrt((np.where(where, values - mean, 0.0) ** 2).sum(0) / count)
    return {
        f"{name}_mean": jnp.asarray(mean, jnp.float32),
        f"{name}_std": jnp.asarray(np.maximum(std, _MIN_STD), jnp.float32),
    }
