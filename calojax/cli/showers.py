"""Parts that the commands which make showers have in common: writing, provenance, a warning."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from tqdm import tqdm

from calojax.errors import warn
from calojax.geometry import Detector
from calojax.io import shards
from calojax.io.writer import LayoutName, ShowerWriter
from calojax.models.base import Variables
from calojax.progress import progress_bar
from calojax.sampling.generation import Batches

Provenance = Mapping[str, str | int | float]
"""Attributes of a file that say where its showers come from."""


def write(
    out: pathlib.Path,
    detector: Detector,
    num: int,
    provenance: Provenance,
    batches: Batches,
    *,
    label: str,
    layout: LayoutName = "dense",
) -> None:
    """Writes batches of showers to a file under a progress bar."""
    with (
        ShowerWriter(out, detector, num, provenance, layout=layout) as writer,
        progress_bar(label, num) as bar,
    ):
        _fill(writer, batches, bar)


def write_parts(
    folder: pathlib.Path,
    detector: Detector,
    parts: Sequence[shards.Part],
    provenance: Provenance,
    batches: Batches,
    *,
    layout: LayoutName,
) -> None:
    """Writes batches of showers to the files of parts; no batch reaches over the end of a part."""
    with progress_bar("sample", sum(len(part.showers) for part in parts)) as bar:
        for part in parts:
            path, first = folder / part.name, part.showers.start
            own = {**provenance, "part": part.number, "first_shower": first}
            with ShowerWriter(path, detector, len(part.showers), own, layout=layout) as writer:
                _fill(writer, batches, bar)


def _fill(writer: ShowerWriter, batches: Batches, bar: tqdm) -> None:
    """Appends batches until the file is complete; later batches stay in the iterator."""
    while writer.written < writer.count:
        energies, showers = next(batches)
        writer.append(energies, showers)
        bar.update(len(showers))


def digest_of(variables: Variables) -> str:
    """Digest of all arrays of a model, which tells one training from another."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


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
