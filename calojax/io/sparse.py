"""The sparse layout of showers: which voxels are hit, and with what energy.

Beside ``incident_energies`` [n, 1] a file holds, for all hits of all showers one after the other,
``hit_voxels`` [h] (the voxel's index in a shower of the CaloChallenge's layout, ascending) and
``hit_energies`` [h] in MeV. The hits of shower i are ``hit_offsets[i]`` to ``hit_offsets[i + 1]``,
with ``hit_offsets`` [n + 1]. Its attributes are ``layout = "sparse"`` and ``n_voxels``.
"""

import dataclasses
from collections.abc import Sequence

import h5py
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import Detector
from calojax.io.chunks import Column, Queue
from calojax.io.dense import ENERGIES
from calojax.io.hdf5 import InputFile, Rows

LAYOUT = "layout"
SPARSE = "sparse"
N_VOXELS = "n_voxels"
OFFSETS = "hit_offsets"
VOXELS = "hit_voxels"
HIT_ENERGIES = "hit_energies"


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """The hits of b showers, sliced like an array [b, v].

    Attributes:
      counts: number of hits of each shower, [b].
      voxels: voxels of the hits, ascending in each shower, [h].
      energies: energies of the hits in MeV, float32 [h].
    """

    counts: np.ndarray
    voxels: np.ndarray
    energies: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: slice) -> "Hits":
        counts = self.counts[rows]
        first = self.counts[: rows.start].sum() if rows.start else 0
        own = slice(first, first + counts.sum())
        return Hits(counts, self.voxels[own], self.energies[own])


def voxel_type(n_voxels: int) -> np.dtype:
    """The smallest unsigned type that can number so many voxels."""
    return np.min_scalar_type(n_voxels - 1)


def hits_of(showers: np.ndarray) -> Hits:
    """The voxels above zero of showers [b, v]."""
    hit = showers != 0
    # Over all showers at once; a search with two indices takes five times as long.
    where = np.flatnonzero(hit)
    n_voxels = showers.shape[1]
    voxels = (where % n_voxels).astype(voxel_type(n_voxels))
    return Hits(np.count_nonzero(hit, axis=1), voxels, showers.reshape(-1)[where])


def showers_of(hits: Hits, n_voxels: int) -> np.ndarray:
    """The showers [b, v] that have those hits."""
    showers = np.zeros((len(hits), n_voxels), hits.energies.dtype)
    # With one index instead of two; it takes half the time.
    where = np.repeat(np.arange(0, showers.size, n_voxels), hits.counts) + hits.voxels
    showers.reshape(-1)[where] = hits.energies
    return showers


def joined(blocks: Sequence[Hits]) -> Hits:
    """The hits of all blocks of showers."""
    fields = ("counts", "voxels", "energies")
    return Hits(*(np.concatenate([getattr(block, name) for block in blocks]) for name in fields))


def is_sparse(file: InputFile) -> bool:
    """Whether an open file is of the sparse layout, by its attribute."""
    return file.attributes.get(LAYOUT) == SPARSE


class SparseShowers(Rows):
    """Showers of a file in the sparse layout."""

    def __init__(self, file: InputFile):
        """Checks all but the hits of a file, which must stay open."""
        path = self._path = file.path
        self._offsets = _numbers(file, OFFSETS, "ui", "whole numbers")
        self._voxels = _numbers(file, VOXELS, "ui", "whole numbers")
        self._energies = _numbers(file, HIT_ENERGIES, "f", "real numbers in MeV")
        n_voxels = file.attributes.get(N_VOXELS)
        if not isinstance(n_voxels, int) or n_voxels < 1:
            raise CalojaxError(
                f"{path}: is of the sparse layout, but its attribute {N_VOXELS!r} is {n_voxels!r}; "
                "it must be the number of voxels of a shower."
            )
        hits = {len(self._voxels), len(self._energies)}
        if not len(self._offsets) or self._offsets[0] != 0 or {int(self._offsets[-1])} != hits:
            raise self._damaged(
                f"{OFFSETS!r} must go from 0 to the number of {VOXELS!r} and {HIT_ENERGIES!r}"
            )
        self.shape = (len(self._offsets) - 1, n_voxels)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        n_voxels = self.shape[1]
        offsets = self._offsets[start : max(start, stop) + 1].astype(np.int64)
        counts = np.diff(offsets)
        if offsets[0] < 0 or offsets[-1] > len(self._voxels) or (counts < 0).any():
            raise self._damaged(
                f"{OFFSETS!r} of showers {start} to {stop} are not in ascending order"
            )
        voxels = self._voxels[offsets[0] : offsets[-1]].astype(np.int64)
        owner = start + np.repeat(np.arange(len(counts)), counts)
        bad = (voxels < 0) | (voxels >= n_voxels)
        bad[1:] |= (np.diff(voxels) <= 0) & (np.diff(owner) == 0)
        if bad.any():
            raise self._damaged(
                f"the voxels of shower {owner[np.argmax(bad)]} are not in ascending order from 0 "
                f"to {n_voxels - 1:,}"
            )
        return showers_of(Hits(counts, voxels, self._energies[offsets[0] : offsets[-1]]), n_voxels)

    def _damaged(self, what: str) -> CalojaxError:
        return CalojaxError(f"{self._path}: {what}; write the file again.")


def _numbers(file: InputFile, key: str, kinds: str, what: str) -> h5py.Dataset:
    item = file.find(key)
    if not isinstance(item, h5py.Dataset) or len(item.shape or ()) != 1:
        raise CalojaxError(
            f"{file.path}: is of the sparse layout, but has no list {key!r}; write it again."
        )
    if item.dtype.kind not in kinds:
        raise CalojaxError(f"{file.path}: {key!r} holds {item.dtype}; it must hold {what}.")
    return item


class Writer:
    """Writes the four datasets and two attributes."""

    def __init__(self, file: h5py.File, queue: Queue, detector: Detector, count: int):
        file.attrs[LAYOUT] = np.bytes_(SPARSE)
        file.attrs[N_VOXELS] = detector.n_voxels
        hits = count * detector.n_voxels
        number = voxel_type(detector.n_voxels)
        self._energies = Column(queue, file, ENERGIES, np.float32, count, tail=(1,))
        self._offsets = Column(queue, file, OFFSETS, np.uint64, count + 1)
        self._voxels = Column(queue, file, VOXELS, number, hits, grows=True)
        self._hits = Column(queue, file, HIT_ENERGIES, np.float32, hits, grows=True)
        self._last = np.uint64(0)
        self._offsets.extend(np.zeros(1, np.uint64))

    def extend(self, energies: np.ndarray, hits: Hits) -> None:
        offsets = self._last + np.cumsum(hits.counts, dtype=np.uint64)
        self._last = offsets[-1]
        self._energies.extend(energies[:, None])
        self._offsets.extend(offsets)
        self._voxels.extend(hits.voxels)
        self._hits.extend(hits.energies)
