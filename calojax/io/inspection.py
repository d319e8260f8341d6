"""What a shower file is, and what is wrong with it: the work behind ``calojax check``."""

import dataclasses
import itertools
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Literal

import h5py
import numpy as np

from calojax.errors import CalojaxError, printable
from calojax.geometry import DETECTORS, Detector
from calojax.geometry.builtin import SAMPLING_FRACTION
from calojax.io import reader
from calojax.io.marks import marks
from calojax.io.reader import ShowerSource
from calojax.io.sparse import SparseShowers, is_sparse
from calojax.io.storage import find, opened, provenance_of
from calojax.progress import progress_bar

Severity = Literal["error", "warning"]

# How many showers, spread evenly over the file, the averages are taken over.
SAMPLE = 2000
# The same for units alone: neighbours are read together, since compressed showers are.
_RUNS, _RUN = 16, 32

# Measured over expected mean E_sum/E_inc, and what that says of the voxels. A ratio within a factor
# of 1.6 counts as recognised; the two closest ratios are a factor of 6.6 apart.
_VOXEL_UNITS = {
    1e3: "look like keV beside incident energies in MeV: divide them by 1,000",
    1e-3: "look like GeV: multiply them by 1,000",
    1e-6: "look like TeV: multiply them by 1,000,000",
    1e-3 / 200: "look like GeV/200 (as CaloDiffusion writes by default): multiply them by 200,000",
}
_SILICON_UNITS = {
    SAMPLING_FRACTION: "look like energy deposited in silicon: divide them by the sampling "
    "fraction 0.033",
    SAMPLING_FRACTION * 1e-3: "look like energy deposited in silicon in GeV: divide them by the "
    "sampling fraction 0.033 and multiply by 1,000",
    1 / SAMPLING_FRACTION: "look divided by the sampling fraction 0.033 twice: multiply them by "
    "0.033",
}
# What brings incident energies into the detector's range, and what that says of them.
_ENERGY_UNITS = {
    1e3: "look like GeV: multiply them by 1,000",
    1e6: "look like TeV: multiply them by 1,000,000",
    2e5: "look like GeV/200 (as CaloDiffusion writes by default): multiply them by 200,000",
    1e-3: "look like keV: divide them by 1,000",
}
_UNIT_TOLERANCE = 1.6

# The order of the axes, slowest first, and which of them run backwards.
_Order = tuple[tuple[str, ...], frozenset[str]]
_OURS: _Order = (("z", "alpha", "r"), frozenset())
# Overlaps of mean shower and expectation: right orders reach 0.9 and more, wrong ones 0.1 to 0.7.
_ORDER_MARGIN = 0.05
_ORDER_MINIMUM = 0.75
# Fewer showers leave so many voxels empty that even the right order overlaps by less than that.
_ORDER_SHOWERS = 100


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong (error) or odd (warning), in a sentence."""

    severity: Severity
    sentence: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the showers of a readable file look like. All energies in MeV.

    Attributes:
      showers: their number.
      voxels: voxels of each.
      detector: the geometry, if it is known.
      energy_range: lowest and highest incident energy, if there are any.
      response: mean of E_sum/E_inc over the sampled showers, NaN without incident energies.
      spread: standard deviation of the same.
      occupied: mean number of non-zero voxels of the sampled showers.
      smallest: smallest voxel above zero in the whole file (infinite if there is none).
      sampled: over how many showers averages were taken.
    """

    showers: int
    voxels: int
    detector: Detector | None
    energy_range: tuple[float, float] | None
    response: float
    spread: float
    occupied: float
    smallest: float
    sampled: int


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The result of `inspect`.

    Attributes:
      path: the file.
      summary: what its showers look like; None if no showers could be read.
      attributes: what its attributes say about its origin.
      findings: what is wrong with it, gravest first.
    """

    path: pathlib.Path
    summary: Summary | None
    attributes: dict[str, str | int | float]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return all(finding.severity != "error" for finding in self.findings)

    def text(self) -> str:
        """A report of a few lines for the screen."""
        lines = [printable(self.path), *(_rows(self.summary) if self.summary else [])]
        for name, value in self.attributes.items():
            text = printable(value)
            lines.append(_row(printable(name), text if len(text) <= 200 else f"{text[:200]}..."))
        lines += [f"  {item.severity}: {item.sentence}" for item in self.findings]
        if not self.findings:
            lines.append("  nothing wrong was found")
        return "\n".join(lines)


def inspect(path: str | os.PathLike, detector: Detector | None = None) -> Inspection:
    """Looks into a shower file, whatever state it is in.

    Non-finite, negative and sub-threshold voxels and repeated showers are looked for in the whole
    file; averages are taken over at most 2,000 showers spread over it.

    Args:
      path: the file.
      detector: the geometry it should have; without it, it is guessed.
    """
    path = pathlib.Path(path)
    attributes: dict[str, str | int | float] = {}
    summary = None
    findings: list[Finding] = []

    def refused(error: CalojaxError) -> Finding:
        return Finding("error", str(error).removeprefix(f"{path}: "))

    try:
        detector = reader.ShowerFile(path, detector).detector
    except CalojaxError as error:
        findings.append(refused(error))
    try:
        with opened(path) as file:
            attributes = provenance_of(file)
            showers = _showers(path, file)
            if showers is not None and showers.ndim >= 2 and showers.size:
                voxels = math.prod(showers.shape[1:])
                if detector is None or detector.n_voxels != voxels:
                    detector = reader.guess_detector(voxels)
                energies = _energies(path, file, len(showers))
                scan = _scan(showers, detector, f"checking {path.name}")
                summary = _summary(scan, energies, detector)
                findings += _voxel_findings(scan)
                findings += _physics_findings(scan, energies, detector, summary)
    except CalojaxError as error:
        # If the file cannot be opened at all, this is the sentence of above once more.
        findings.append(refused(error))
    findings = sorted(dict.fromkeys(findings), key=lambda finding: finding.severity != "error")
    return Inspection(path, summary, attributes, tuple(findings))


# Reading: lenient, so that there is something to say about files that `ShowerFile` refuses.


@dataclasses.dataclass(frozen=True)
class _Scan:
    """What one pass over all showers collects.

    Attributes:
      index: which showers are in the sample, [m].
      sample: those showers in MeV, float32 [m, v].
      sums: E_sum of every shower in MeV, float64 [n].
      smallest: smallest voxel above zero in MeV.
      occupied: number of voxels above zero.
      below: how many of them are below the readout threshold.
      bad: for "NaN", "infinite" and "negative": number of voxels, and the first shower with one.
      repeated: for each shower seen before: its index and that of the first such shower.
    """

    index: np.ndarray
    sample: np.ndarray
    sums: np.ndarray
    smallest: float
    occupied: int
    below: int
    bad: dict[str, tuple[int, int]]
    repeated: list[tuple[int, int]]


def _numbers(path: pathlib.Path, file: h5py.File, *keys: str) -> h5py.Dataset | None:
    """The first of those datasets that is there and holds real numbers in rows."""
    for key in keys:
        item = find(path, file, key)
        if isinstance(item, h5py.Dataset) and item.shape and item.dtype.kind in "fiu":
            return item
    return None


def _showers(path: pathlib.Path, file: h5py.File) -> h5py.Dataset | SparseShowers | None:
    """Showers in either layout; None if there are none to be read."""
    return SparseShowers(path, file) if is_sparse(file) else _numbers(path, file, reader.SHOWERS)


def _energies(path: pathlib.Path, file: h5py.File, count: int) -> np.ndarray | None:
    """Incident energies in MeV, float64 [n] and NaN where unusable; None if there are none."""
    dataset = _numbers(path, file, reader.ENERGIES, reader.PAR04_ENERGIES)
    if dataset is None or dataset.size != count:
        return None
    energies = dataset[...].reshape(-1).astype(np.float64)
    return np.where(np.isfinite(energies) & (energies > 0), energies, np.nan)


def _scan(showers: h5py.Dataset | SparseShowers, detector: Detector | None, title: str) -> _Scan:
    count = len(showers)
    index = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int))
    # Thresholds are applied in float64 or float32, before or after rounding.
    threshold = detector.readout_threshold * (1 - 1e-4) if detector else 0.0
    sample, sums = [], []
    smallest, occupied, below = np.inf, 0, 0
    bad: dict[str, tuple[int, int]] = {}
    seen: dict[int, int] = {}
    repeated = []
    with progress_bar(title, count, delay=2, leave=False) as bar:
        for first, block in reader.blocks_of(showers):
            sample.append(block[index[(index >= first) & (index < first + len(block))] - first])
            with np.errstate(invalid="ignore"):
                sums.append(block.sum(axis=1, dtype=np.float64))
            positive = block[block > 0]
            if positive.size:
                smallest = min(smallest, float(positive.min()))
                occupied += positive.size
                below += int(np.count_nonzero(positive < threshold))
            if not (block.min() >= 0 and block.max() < np.inf):
                for kind, where in (
                    ("NaN", np.isnan(block)),
                    ("infinite", np.isinf(block)),
                    ("negative", block < 0),
                ):
                    if where.any():
                        total, shower = bad.get(kind, (0, first + int(where.any(1).argmax())))
                        bad[kind] = (total + int(where.sum()), shower)
            for shower, mark in enumerate(marks(block).tolist(), first):
                earlier = seen.setdefault(mark, shower) if sums[-1][shower - first] else shower
                if earlier != shower:
                    repeated.append((shower, earlier))
            bar.update(len(block))
    return _Scan(
        index=index,
        sample=np.concatenate(sample),
        sums=np.concatenate(sums),
        smallest=smallest,
        occupied=occupied,
        below=below,
        bad=bad,
        repeated=repeated,
    )


def _summary(scan: _Scan, energies: np.ndarray | None, detector: Detector | None) -> Summary:
    response = np.full(0, np.nan)
    span = None
    if energies is not None and not np.isnan(energies).all():
        span = float(np.nanmin(energies)), float(np.nanmax(energies))
        response = scan.sums[scan.index] / energies[scan.index]
        response = response[np.isfinite(response)]
    return Summary(
        showers=len(scan.sums),
        voxels=scan.sample.shape[1],
        detector=detector,
        energy_range=span,
        response=float(response.mean()) if response.size else math.nan,
        spread=float(response.std()) if response.size else math.nan,
        occupied=float(np.count_nonzero(scan.sample, axis=1).mean()),
        smallest=scan.smallest,
        sampled=len(scan.index),
    )


# Judging.


def _voxel_findings(scan: _Scan) -> Iterator[Finding]:
    for kind, (total, shower) in scan.bad.items():
        verb = "voxel is" if total == 1 else "voxels are"
        yield Finding("error", f"{total:,} {verb} {kind} (first in shower {shower}).")
    if scan.repeated:
        later, earlier = scan.repeated[0]
        yield Finding(
            "warning",
            f"{len(scan.repeated):,} of {len(scan.sums):,} showers repeat earlier ones (shower "
            f"{later} equals {earlier}).",
        )
    empty = int(np.count_nonzero(scan.sums == 0))
    if empty:
        yield Finding("warning", f"{empty:,} of {len(scan.sums):,} showers have no energy at all.")


def _physics_findings(
    scan: _Scan, energies: np.ndarray | None, detector: Detector | None, summary: Summary
) -> Iterator[Finding]:
    if detector is None or scan.smallest == np.inf:
        return
    units = []
    if energies is not None:
        sums = scan.sums[scan.index]
        units = list(_units(energies, sums, summary.response, scan.smallest, detector))
    yield from units
    # In other units every voxel would be below the threshold: no news.
    if scan.below and not units:
        yield Finding(
            "warning",
            f"{scan.below:,} voxels ({scan.below / scan.occupied:.2%} of the non-zero ones) are "
            f"below the readout threshold of {_energy(detector.readout_threshold)}; the smallest "
            f"is {_energy(scan.smallest)}.",
        )
    yield from _order(scan, energies, detector)


def unit_findings(source: ShowerSource) -> tuple[Finding, ...]:
    """What `inspect` says of units and incident energies, from a few hundred showers.

    Args:
      source: the showers; some that are spread over all of them are read.

    Raises:
      CalojaxError: if they cannot be read.
    """
    starts = np.linspace(0, max(len(source) - _RUN, 0), _RUNS).astype(int)
    runs = [slice(start, start + _RUN) for start in np.unique(starts)]
    energies = source.energies.astype(np.float64)
    response, sums, smallest = [], [], math.inf
    for run in runs:
        showers = source.read(run.start, run.stop)
        sums.append(showers.sum(axis=1, dtype=np.float64))
        response.append(sums[-1] / energies[run])
        smallest = min(smallest, float(np.min(showers, where=showers > 0, initial=np.inf)))
    mean = float(np.concatenate(response).mean())
    return tuple(_units(energies, np.concatenate(sums), mean, smallest, source.detector))


def unit_warnings(source: ShowerSource) -> tuple[str, ...]:
    """Sentences on units that are surely wrong; see `unit_findings`."""
    return tuple(item.sentence for item in unit_findings(source) if item.severity == "error")


def _units(
    energies: np.ndarray, sums: np.ndarray, response: float, smallest: float, detector: Detector
) -> Iterator[Finding]:
    """Units of incident energies by the detector's range, of voxels by the mean E_sum/E_inc.

    Args:
      energies: all incident energies in what may be MeV, [n]; NaN where unusable.
      sums: E_sum of some showers, [m].
      response: mean E_sum/E_inc of these.
      smallest: smallest voxel above zero.
      detector: the geometry.
    """
    if not response > 0:
        return
    energies = energies[np.isfinite(energies)]
    expected = detector.medium.response
    low, high = detector.energy_range or (0.0, math.inf)

    def inside(factor: float) -> np.ndarray:
        return (energies * factor > low * (1 - 1e-4)) & (energies * factor < high * (1 + 1e-4))

    unit = 1.0
    units = [factor for factor in _ENERGY_UNITS if inside(factor).mean() > 0.99]
    if units and inside(1.0).mean() < 0.5:
        unit = units[0]
        if detector.readout_threshold:
            # Several units may fit, or the energies are just out of range; but with the right one
            # the smallest voxel is about as large as the threshold. It may be above if there are
            # few showers, and hardly below.
            smallest = smallest * expected / response / detector.readout_threshold
            excess = {factor: math.log(smallest * factor) for factor in (1.0, *units)}
            unit = min(excess, key=lambda factor: max(excess[factor], -3 * excess[factor]))
        if unit != 1:
            yield Finding("error", f"incident energies {_ENERGY_UNITS[unit]}.")
    outside = int(np.count_nonzero(~inside(1.0)))
    if unit == 1 and outside:
        yield Finding(
            "warning",
            f"{outside:,} of {len(energies):,} incident energies are outside the range of geometry "
            f"{detector.name}, {_energy(low)} to {_energy(high)}.",
        )
    elif unit == 1 and detector.energies:
        known = np.asarray(detector.energies)
        nearest = known[np.abs(np.log(energies[:, None] / known)).argmin(axis=1)]
        odd = int(np.count_nonzero(np.abs(energies / nearest - 1) > 1e-4))
        if odd:
            yield Finding(
                "warning",
                f"{odd:,} of {len(energies):,} incident energies are none of the "
                f"{len(known)} of geometry {detector.name}.",
            )

    yield from _voxel_units(response / unit, sums, energies, detector)


def _voxel_units(
    response: float, sums: np.ndarray, energies: np.ndarray, detector: Detector
) -> Iterator[Finding]:
    """The unit of voxels by the mean E_sum/E_inc, once incident energies are in MeV."""
    ratio = response / detector.medium.response
    if detector.shower == "none":
        return
    if 1 / 2 < ratio < _UNIT_TOLERANCE:  # Below 1 more is allowed: leakage, older simulations.
        return
    own = DETECTORS.get(detector.name) != detector
    units = _VOXEL_UNITS | (_SILICON_UNITS if detector.readout_threshold and not own else {})
    unit = min(units, key=lambda unit: abs(math.log(ratio / unit)))
    low, high = np.quantile(sums[np.isfinite(sums)], (0.05, 0.95))
    spread = np.quantile(energies, 0.95) / np.quantile(energies, 0.05)
    # A calorimeter may see a small part of the energy, but not more than there is.
    severity: Severity = "error"
    if low > 0.2 and high < 3 and spread > 10:
        advice = (
            "voxels look like fractions of the incident or visible energy: multiply each shower "
            "by its energy in MeV"
        )
    elif abs(math.log(ratio / unit)) < math.log(_UNIT_TOLERANCE):
        advice = f"voxels {units[unit]}"
    else:
        severity = "warning" if response <= 1 else "error"
        expected = detector.medium.response
        advice = f"voxels are in no unit that is known here ({expected:.3g} is expected)"
    if own:
        advice += f'; if they are in MeV, set response="{response:.3g}" in the geometry\'s XML file'
    yield Finding(severity, f"mean E_sum/E_inc is {response:.3g}: {advice}.")


def _order(scan: _Scan, energies: np.ndarray | None, detector: Detector) -> Iterator[Finding]:
    """The order of the voxels, judged by how much the mean shower looks like one."""
    with np.errstate(invalid="ignore"):
        sums = scan.sample.sum(axis=1, dtype=np.float64)
    usable = np.isfinite(sums) & (sums > 0) & (scan.sample.min(axis=1) >= 0)
    if not usable.any() or detector.shower == "none":
        return
    rows = scan.sample if usable.all() else scan.sample[usable]
    mean = (1 / sums[usable]).astype(np.float32) @ rows
    low, high = detector.energy_range or (1.0, 1e12)
    energy = math.sqrt(low * high)
    if energies is not None and np.isfinite(energies).any():
        energy = float(np.clip(np.nanmedian(energies), low, high))
    overlaps = order_overlaps(mean, detector, energy)
    best = max(overlaps, key=overlaps.__getitem__)
    ours = overlaps[_OURS]
    if overlaps[best] > ours + _ORDER_MARGIN:
        yield Finding(
            "error",
            f"voxels look ordered as {_order_name(best)} and not as {_order_name(_OURS)}: the mean "
            f"shower overlaps with the expected one by {overlaps[best]:.0%} in that order and by "
            f"{ours:.0%} in this; reorder them.",
        )
    elif ours < _ORDER_MINIMUM and usable.sum() >= _ORDER_SHOWERS:
        yield Finding(
            "warning",
            f"the mean shower overlaps with the expected one by only {ours:.0%}, and no other "
            "order of the axes is better; are these showers of this geometry?",
        )


def order_overlaps(mean: np.ndarray, detector: Detector, energy: float) -> dict[_Order, float]:
    """How much the mean shower looks like a shower for each order that its voxels may be in.

    The measure is the Bhattacharyya coefficient sum_v sqrt(p_v q_v) of the mean shower p, taken in
    that order, and `expected_shower` q: 1 if they are equal, 0 if they have no voxel in common.

    Args:
      mean: mean voxel energies in file order in any unit, [v].
      detector: the geometry.
      energy: a typical incident energy in MeV.
    """
    p = np.sqrt(mean.astype(np.float64) / mean.sum(dtype=np.float64))
    q = expected_shower(detector, energy)
    if detector.grid is None:
        # Layers that differ cannot be mixed up as axes, and their energies say nothing of order.
        share = np.concatenate(
            [np.full(part.stop - part.start, p[part] @ p[part]) for part in detector.layer_slices]
        )
        q = np.sqrt(q * share)
        swapped = np.empty_like(p)
        for part, layer in zip(detector.layer_slices, detector.layers, strict=True):
            swapped[part] = p[part].reshape(layer.n_r, layer.n_alpha).T.reshape(-1)
        return {_OURS: float(p @ q), (("z", "r", "alpha"), frozenset()): float(swapped @ q)}
    size = dict(zip(_OURS[0], detector.grid, strict=True))
    q = np.sqrt(q).reshape(detector.grid)
    found = {}
    for axes in itertools.permutations(size):
        ours = p.reshape([size[axis] for axis in axes]).transpose(
            [axes.index(axis) for axis in _OURS[0]]
        )
        for backwards in ((), ("z",), ("r",), ("z", "r")):
            turned = np.flip(ours, [_OURS[0].index(axis) for axis in backwards])
            found[axes, frozenset(backwards)] = float((turned * q).sum())
    return found


def expected_shower(detector: Detector, energy: float) -> np.ndarray:
    """Rough share of each voxel in the energy of a mean shower, [v].

    Along z a gamma distribution, for electrons and photons with the maximum and shape of
    Grindhammer and Peters (hep-ex/0001020, section 3.1.1, homogeneous media, Z = 74), for hadrons
    with the maximum of the PDG's review (0.2 ln E/GeV + 0.7 interaction lengths); across it
    r^2 / (r^2 + R^2) within r, with 90 % inside a Moliere radius (hadrons: 95 % in an interaction
    length); uniform in alpha. Normalised to 1; for detectors of unlike layers, to 1 in each layer.

    Args:
      detector: the geometry.
      energy: incident energy in MeV.
    """
    medium = detector.medium
    if detector.shower == "hadron":
        length = medium.interaction_length
        peak, shape = 0.2 * math.log(energy / 1e3) + 0.7, 2.0
        radius = length / math.sqrt(0.95 / 0.05)
    else:
        length = medium.radiation_length
        ln_y = max(math.log(energy / medium.critical_energy), 2.0)
        peak, shape = ln_y - 0.858, 0.21 + (0.492 + 2.38 / 74) * ln_y
        radius = medium.moliere_radius / math.sqrt(0.90 / 0.10)
    t = np.linspace(0, detector.z_edges[-1] / length, 4001)
    density = t ** (shape - 1) * np.exp(-(shape - 1) * t / peak)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    depth = np.diff(np.interp(detector.z_edges / length, t, cumulative))
    share = np.empty(detector.n_voxels)
    for part, layer, energy_share in zip(
        detector.layer_slices, detector.layers, depth / depth.sum(), strict=True
    ):
        edges = np.asarray(layer.r_edges, np.float64)
        ring = np.diff(edges**2 / (edges**2 + radius**2))
        ring /= ring.sum() * layer.n_alpha
        share[part] = np.tile(ring, layer.n_alpha) * (energy_share if detector.grid else 1.0)
    return share


# Printing.


def _rows(summary: Summary) -> Iterator[str]:
    detector = summary.detector
    kind = f"geometry {detector.name}, {detector.particle}s" if detector else "unknown geometry"
    yield _row("showers", f"{summary.showers:,} of {summary.voxels:,} voxels ({kind})")
    if summary.energy_range:
        low, high = summary.energy_range
        yield _row("incident energy", f"{_energy(low)} to {_energy(high)}")
        yield _row("E_sum/E_inc", f"{summary.response:.4g} +- {summary.spread:.2g}")
    share = summary.occupied / summary.voxels
    yield _row("non-zero voxels", f"{summary.occupied:,.0f} a shower ({share:.1%})")
    if summary.smallest < math.inf:
        yield _row("smallest non-zero", _energy(summary.smallest))
    if summary.sampled < summary.showers:
        yield _row("averages over", f"{summary.sampled:,} showers spread over the file")


def _row(name: str, value: str) -> str:
    return f"  {name:<19}{value}"


def _energy(mev: float) -> str:
    """An energy in MeV with the unit that suits it."""
    for unit, size in (("TeV", 1e6), ("GeV", 1e3), ("MeV", 1.0), ("keV", 1e-3), ("eV", 1e-6)):
        if mev >= size * (1 - 1e-9):
            return f"{mev / size:.4g} {unit}"
    return f"{mev:.4g} MeV"


def _order_name(order: _Order) -> str:
    axes, backwards = order
    return f"({', '.join(axis + ' backwards' * (axis in backwards) for axis in axes)})"
