"""Parts that the commands which make showers have in common: writing, a warning."""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from calojax.errors import warn
from calojax.geometry import Detector
from calojax.io.layouts import LayoutName
from calojax.io.writer import ShowerWriter
from calojax.progress import progress_bar


class Output(NamedTuple):
    """A file to write: its path, its number of showers, and attributes on their origin."""

    path: pathlib.Path
    count: int
    provenance: Mapping[str, str | int | float]


def write(
    outputs: Iterable[Output],
    detector: Detector,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    *,
    label: str,
    layout: LayoutName = "dense",
) -> None:
    """Writes batches of showers to files in turn; no batch reaches over the end of a file."""
    outputs = list(outputs)
    with progress_bar(label, sum(output.count for output in outputs)) as bar:
        for path, count, provenance in outputs:
            with ShowerWriter(path, detector, count, provenance, layout=layout) as writer:
                while writer.written < count:
                    energies, showers = next(batches)
                    writer.append(energies, showers)
                    bar.update(len(showers))


def warn_outside(energies: np.ndarray, trained: tuple[float, float]) -> None:
    """Warns if energies [n] are outside the range of the training, all in MeV."""
    low, high = trained
    # A finite sample does not reach the ends of its spectrum.
    outside = ((energies < 0.98 * low) | (energies > 1.02 * high)).mean()
    if outside > 0:
        warn(
            f"{outside:.1%} of the first {len(energies):,} incident energies are outside the range "
            f"of the training, {low:g} to {high:g} MeV; their showers are extrapolated."
        )
