"""The content and the faults of a shower file: the work of ``calojax check``."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from calojax.errors import CalojaxError, printable
from calojax.geometry import Detector
from calojax.io.findings import Finding, energy_text, physics_findings, voxel_findings
from calojax.io.hdf5 import InputFile, opened
from calojax.io.layouts import LAYOUTS, Layout, LayoutName, layout_of
from calojax.io.reader import ShowerFile
from calojax.io.scan import Scan, scan_showers
from calojax.io.stored_geometry import guess_detector


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a file holds, and everything that is wrong with it, errors first.

    ``scan`` is None if no showers could be read.
    """

    path: pathlib.Path
    layout: LayoutName
    scan: Scan | None
    attributes: dict[str, str | int | float]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return all(finding.severity != "error" for finding in self.findings)

    def text(self) -> str:
        """A report of a few lines for the screen."""
        lines = [printable(self.path), *(_rows(self.scan, self.layout) if self.scan else [])]
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
    for repeated showers; averages are taken over at most 2,000 showers spread over the file. By
    default the geometry is the file's own, or a guess.
    """
    path = pathlib.Path(path)
    attributes: dict[str, str | int | float] = {}
    layout, scan = "dense", None
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
            attributes, layout = file.attributes, layout_of(file)
            showers = LAYOUTS[layout].showers(file, detector)
            if len(showers.shape) >= 2 and math.prod(showers.shape):
                voxels = math.prod(showers.shape[1:])
                if detector is None or detector.n_voxels != voxels:
                    detector = guess_detector(voxels)
                energies = _energies(file, LAYOUTS[layout], len(showers))
                scan = scan_showers(showers, energies, detector, f"checking {path.name}")
                findings += [*voxel_findings(scan), *physics_findings(scan)]
    except CalojaxError as error:
        # If the file cannot be opened at all, this is the same sentence again.
        findings.append(refused(error))
    findings = sorted(dict.fromkeys(findings), key=lambda finding: finding.severity != "error")
    return Inspection(path, layout, scan, attributes, tuple(findings))


def _energies(file: InputFile, layout: Layout, count: int) -> np.ndarray | None:
    """Incident energies in MeV, float64 [n], NaN where unusable; None if there are none."""
    try:
        item = layout.energies(file)
    except CalojaxError:
        return None
    if item.size != count:
        return None
    energies = layout.unit * item[...].reshape(-1).astype(np.float64)
    return np.where(np.isfinite(energies) & (energies > 0), energies, np.nan)


def _rows(scan: Scan, layout: LayoutName) -> Iterator[str]:
    count, voxels, detector = len(scan.sums), scan.sample.shape[1], scan.detector
    kind = f"geometry {detector.name}, {detector.particle}s" if detector else "unknown geometry"
    yield _row("showers", f"{count:,} of {voxels:,} voxels ({kind}, layout {layout})")
    if scan.energies is not None and not np.isnan(scan.energies).all():
        low, high = np.nanmin(scan.energies), np.nanmax(scan.energies)
        yield _row("incident energy", f"{energy_text(low)} to {energy_text(high)}")
        yield _row("E_sum/E_inc", f"{scan.response:.4g} +- {scan.spread:.2g}")
    hits = scan.occupied / count
    yield _row("hits", f"{hits:,.0f} a shower ({hits / voxels:.1%} of the voxels)")
    if scan.smallest < math.inf:
        yield _row("smallest hit", energy_text(scan.smallest))
    if len(scan.index) < count:
        yield _row("averages over", f"{len(scan.index):,} showers spread over the file")


def _row(name: str, value: str) -> str:
    return f"  {name:<19}{value}"
