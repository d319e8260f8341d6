"""What can be wrong with showers: bad voxels, wrong units, a wrong order of the voxels."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from calojax.geometry import DETECTORS, Detector
from calojax.geometry.builtin import SAMPLING_FRACTION
from calojax.io.scan import Scan
from calojax.io.source import ShowerSource
from calojax.io.voxel_order import OURS, order_overlaps

Severity = Literal["error", "warning"]

# `unit_findings` reads so many runs of so many neighbours.
_RUNS, _RUN = 16, 32

# Ratios of measured to expected mean E_sum/E_inc, and the units of the voxels that they mean. A
# ratio within a factor of 1.6 counts as recognised; the two closest are a factor of 6.6 apart.
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
# Factors that bring incident energies into the detector's range, and the units that they mean.
_ENERGY_UNITS = {
    1e3: "look like GeV: multiply them by 1,000",
    1e6: "look like TeV: multiply them by 1,000,000",
    2e5: "look like GeV/200 (as CaloDiffusion writes by default): multiply them by 200,000",
    1e-3: "look like keV: divide them by 1,000",
}
_UNIT_TOLERANCE = 1.6

# Overlaps of mean shower and expectation: right orders reach 0.9 and more, wrong ones 0.1 to 0.7.
_ORDER_MARGIN = 0.05
_ORDER_MINIMUM = 0.75
# Fewer showers leave so many voxels empty that even the right order overlaps by less than that.
_ORDER_SHOWERS = 100


class Finding(NamedTuple):
    """A sentence on something that is wrong (error) or odd (warning)."""

    severity: Severity
    sentence: str


def voxel_findings(scan: Scan) -> Iterator[Finding]:
    """Bad voxels, repeated showers and empty ones."""
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


def physics_findings(scan: Scan) -> Iterator[Finding]:
    """Wrong units, voxels below the threshold, and a wrong order of the voxels."""
    detector = scan.detector
    if detector is None or scan.smallest == np.inf:
        return
    units = []
    if scan.energies is not None:
        sums = scan.sums[scan.index]
        units = list(_units(scan.energies, sums, scan.response, scan.smallest, detector))
    yield from units
    # In other units every voxel would be below the threshold, which is no news.
    if scan.below and not units:
        yield Finding(
            "warning",
            f"{scan.below:,} voxels ({scan.below / scan.occupied:.2%} of the non-zero ones) are "
            f"below the readout threshold of {energy_text(detector.readout_threshold)}; the "
            f"smallest is {energy_text(scan.smallest)}.",
        )
    yield from _order(scan, detector)


def unit_findings(source: ShowerSource) -> tuple[Finding, ...]:
    """The findings of an inspection on units and incident energies, from a few hundred showers."""
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


def _units(
    energies: np.ndarray, sums: np.ndarray, response: float, smallest: float, detector: Detector
) -> Iterator[Finding]:
    """Units of incident energies by the detector's range, of voxels by the mean E_sum/E_inc.

    Incident energies [n] are those of all showers, NaN where unusable. ``sums`` [m] are E_sum of
    some showers, and ``response`` and ``smallest`` their mean E_sum/E_inc and smallest hit.
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
            # Several units may fit, or the energies are just out of range. With the right one the
            # smallest voxel is about as large as the threshold, perhaps larger if there are few
            # showers, but hardly smaller.
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
            f"{detector.name}, {energy_text(low)} to {energy_text(high)}.",
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


def _order(scan: Scan, detector: Detector) -> Iterator[Finding]:
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
    if scan.energies is not None and np.isfinite(scan.energies).any():
        energy = float(np.clip(np.nanmedian(scan.energies), low, high))
    overlaps = order_overlaps(mean, detector, energy)
    best = max(overlaps, key=overlaps.__getitem__)
    ours = overlaps[OURS]
    if overlaps[best] > ours + _ORDER_MARGIN:
        yield Finding(
            "error",
            f"voxels look ordered as ({', '.join(best)}) and not as ({', '.join(OURS)}): the mean "
            f"shower overlaps with the expected one by {overlaps[best]:.0%} in that order and by "
            f"{ours:.0%} in this; reorder them.",
        )
    elif ours < _ORDER_MINIMUM and usable.sum() >= _ORDER_SHOWERS:
        yield Finding(
            "warning",
            f"the mean shower overlaps with the expected one by only {ours:.0%}, and no other "
            "order of the axes is better; are these showers of this geometry?",
        )


def energy_text(mev: float) -> str:
    """An energy in MeV with the unit that suits it."""
    for unit, size in (("TeV", 1e6), ("GeV", 1e3), ("MeV", 1.0), ("keV", 1e-3), ("eV", 1e-6)):
        if mev >= size * (1 - 1e-9):
            return f"{mev / size:.4g} {unit}"
    return f"{mev:.4g} MeV"
