"""The content and the faults of a shower file: the work of ``calojax check``."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

import h5py
import numpy as np

from calojax.errors import CalojaxError, printable
from calojax.geometry import Detector
from calojax.io.dense import ENERGIES, PAR04_ENERGIES
from calojax.io.findings import Finding, energy_text, physics_findings, voxel_findings
from calojax.io.hdf5 import InputFile, opened
from calojax.io.layouts import layout_of
from calojax.io.reader import ShowerFile
from calojax.io.scan import Scan, scan_showers
from calojax.io.stored_geometry import guess_detector


@dataclasses.dataclass(frozen=True)
class Summary:
    """Numbers that describe the showers of a file. All energies are in MeV.

    Attributes:
      showers: number of showers.
      voxels: number of voxels of each.
      detector: the geometry, if it is known.
      energy_range: lowest and highest incident energy, if there are any.
      response: mean of E_sum/E_inc over the sampled showers, NaN without incident energies.
      spread: standard deviation of the same.
      occupied: mean number of non-zero voxels of the sampled showers.
      smallest: smallest voxel above zero in the whole file (infinite if there is none).
      sampled: number of showers over which averages were taken.
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
      summary: numbers that describe its showers; None if no showers could be read.
      attributes: texts and numbers among its attributes.
      findings: everything that is wrong with it, errors first.
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
    """Examines a shower file, whatever state it is in.

    All showers are searched for voxels that are not finite, negative or below the threshold, and
    for repeated showers; averages are taken over at most 2,000 showers spread over the file.

    Args:
      path: the file.
      detector: the geometry that it should have; by default the file's own, or a guess.
    """
    path = pathlib.Path(path)
    attributes: dict[str, str | int | float] = {}
    summary = None
    findings: list[Finding] = []

    def refused(error: CalojaxError) -> Finding:
        return Finding("error", str(error).removeprefix(f"{path}: "))

    try:
        detector = ShowerFile(path, detector).detector
    except CalojaxError as error:
        findings.append(refused(error))
    # Once more and leniently, to find out about files that `ShowerFile` refuses.
    try:
        with opened(path) as file:
            attributes = file.attributes()
            showers = layout_of(file).showers(file)
            if len(showers.shape) >= 2 and math.prod(showers.shape):
                voxels = math.prod(showers.shape[1:])
                if detector is None or detector.n_voxels != voxels:
                    detector = guess_detector(voxels)
                energies = _energies(file, len(showers))
                scan = scan_showers(showers, detector, f"checking {path.name}")
                summary = _summary(scan, energies, detector)
                findings += voxel_findings(scan)
                findings += physics_findings(scan, energies, detector, summary.response)
    except CalojaxError as error:
        # If the file cannot be opened at all, this is the same sentence again.
        findings.append(refused(error))
    findings = sorted(dict.fromkeys(findings), key=lambda finding: finding.severity != "error")
    return Inspection(path, summary, attributes, tuple(findings))


def _energies(file: InputFile, count: int) -> np.ndarray | None:
    """Incident energies in MeV, float64 [n], NaN where unusable; None if there are none."""
    for key in (ENERGIES, PAR04_ENERGIES):
        item = file.find(key)
        if isinstance(item, h5py.Dataset) and item.shape and item.dtype.kind in "fiu":
            if item.size != count:
                return None
            energies = item[...].reshape(-1).astype(np.float64)
            return np.where(np.isfinite(energies) & (energies > 0), energies, np.nan)
    return None


def _summary(scan: Scan, energies: np.ndarray | None, detector: Detector | None) -> Summary:
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


def _rows(summary: Summary) -> Iterator[str]:
    detector = summary.detector
    kind = f"geometry {detector.name}, {detector.particle}s" if detector else "unknown geometry"
    yield _row("showers", f"{summary.showers:,} of {summary.voxels:,} voxels ({kind})")
    if summary.energy_range:
        low, high = summary.energy_range
        yield _row("incident energy", f"{energy_text(low)} to {energy_text(high)}")
        yield _row("E_sum/E_inc", f"{summary.response:.4g} +- {summary.spread:.2g}")
    share = summary.occupied / summary.voxels
    yield _row("non-zero voxels", f"{summary.occupied:,.0f} a shower ({share:.1%})")
    if summary.smallest < math.inf:
        yield _row("smallest non-zero", energy_text(summary.smallest))
    if summary.sampled < summary.showers:
        yield _row("averages over", f"{summary.sampled:,} showers spread over the file")


def _row(name: str, value: str) -> str:
    return f"  {name:<19}{value}"
