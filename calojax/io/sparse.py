"""The sparse layout of showers: which voxels are hit, and with what energy.

Beside ``incident_energies`` [n, 1] a file holds, for all hits of all showers one after the other,
``hit_voxels`` [h] (the voxel's place in a shower of the CaloChallenge's layout, ascending) and
``hit_energies`` [h] in MeV. The hits of shower i are ``hit_offsets[i]`` to ``hit_offsets[i + 1]``,
with ``hit_offsets`` [n + 1]. The attributes ``layout = "sparse"`` and ``n_voxels`` tell what it is.
"""

import pathlib
from typing import NamedTuple

import h5py
import numpy as np

from calojax.errors import CalojaxError
from calojax.io.storage import find, provenance_of

LAYOUT = "layout"
SPARSE = "sparse"
N_VOXELS = "n_voxels"
OFFSETS = "hit_offsets"
VOXELS = "hit_voxels"
HIT_ENERGIES = "hit_energies"

# About as many showers as a chunk of the usual layout has.
_ROWS = 64


class Hits(NamedTuple):
    """The hits of b showers.

    Attributes:
      counts: hits of each shower, [b].
      voxels: their voxels, ascending in each shower, [h].
      energies: their energies in MeV, float32 [h].
    """

    counts: np.ndarray
    voxels: np.ndarray
    energies: np.ndarray


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
    showers = np.zeros((len(hits.counts), n_voxels), hits.energies.dtype)
    showers[np.repeat(np.arange(len(hits.counts)), hits.counts), hits.voxels] = hits.energies
    return showers


def is_sparse(file: h5py.File) -> bool:
    """Whether the file says that its showers are in the sparse layout."""
    return provenance_of(file).get(LAYOUT) == SPARSE


class SparseShowers:
    """Showers of a file in the sparse layout, to be sliced like a dataset [n, v].

    Attributes:
      shape: (n, v).
      dtype: of the energies.
      chunks: in how many showers at a time they are read with little waste, and v.
    """

    def __init__(self, path: pathlib.Path, file: h5py.File, read: set[pathlib.Path] | None = None):
        """Checks all but the hits.

        Args:
          path: the file.
          file: the same, open for as long as this is used.
          read: see `storage.find`.

        Raises:
          CalojaxError: if a dataset or attribute is missing, or their sizes or types do not fit, or
            `storage.find` refuses a dataset.
        """
        self._path = path
        self._read = read
        self._offsets = self._numbers(file, OFFSETS, "ui", "whole numbers")
        self._voxels = self._numbers(file, VOXELS, "ui", "whole numbers")
        self._energies = self._numbers(file, HIT_ENERGIES, "f", "real numbers in MeV")
        n_voxels = provenance_of(file).get(N_VOXELS)
        if not isinstance(n_voxels, int) or n_voxels < 1:
            raise CalojaxError(
                f"{path}: is of the sparse layout, but its attribute {N_VOXELS!r} is {n_voxels!r}; "
                "it must be the number of voxels of a shower."
            )
        if len(self._voxels) != len(self._energies):
            raise CalojaxError(
                f"{path}: has {len(self._voxels):,} {VOXELS!r}, but {len(self._energies):,} "
                f"{HIT_ENERGIES!r}; they must be as many."
            )
        if not len(self._offsets):
            raise CalojaxError(
                f"{path}: {OFFSETS!r} is empty; it must have one more entry than there are showers."
            )
        first, last = int(self._offsets[0]), int(self._offsets[-1])
        if (first, last) != (0, len(self._voxels)):
            raise CalojaxError(
                f"{path}: {OFFSETS!r} goes from {first:,} to {last:,}, but must go from 0 to the "
                f"number of hits, {len(self._voxels):,}; write the file again."
            )
        self.shape = (len(self._offsets) - 1, n_voxels)
        self.dtype = self._energies.dtype
        self.chunks = (_ROWS, n_voxels)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Showers and voxels: 2."""
        return 2

    @property
    def size(self) -> int:
        """Number of voxels of all showers."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Showers [b, v] of a slice without a step.

        Raises:
          CalojaxError: if the offsets or voxels are none that showers can have.
        """
        start, stop, _ = rows.indices(len(self))
        n_voxels = self.shape[1]
        offsets = self._offsets[start : max(start, stop) + 1].astype(np.int64)
        counts = np.diff(offsets)
        if offsets[0] < 0 or offsets[-1] > len(self._voxels) or (counts < 0).any():
            raise CalojaxError(
                f"{self._path}: {OFFSETS!r} of showers {start} to {stop} are not in ascending "
                "order; write the file again."
            )
        if (counts > n_voxels).any():
            where = int(np.argmax(counts > n_voxels))
            raise CalojaxError(
                f"{self._path}: shower {start + where} has {counts[where]:,} hits, more than its "
                f"{n_voxels:,} voxels; write the file again."
            )
        voxels = self._voxels[offsets[0] : offsets[-1]].astype(np.int64)
        owner = start + np.repeat(np.arange(len(counts)), counts)
        outside = (voxels < 0) | (voxels >= n_voxels)
        if outside.any():
            where = int(np.argmax(outside))
            raise CalojaxError(
                f"{self._path}: shower {owner[where]} has a hit in voxel {voxels[where]:,}, but "
                f"voxels go from 0 to {n_voxels - 1:,}; write the file again."
            )
        twice = (np.diff(voxels) <= 0) & (np.diff(owner) == 0)
        if twice.any():
            where = int(np.argmax(twice))
            raise CalojaxError(
                f"{self._path}: the voxels of shower {owner[where]} are not in ascending order; "
                "write the file again."
            )
        energies = self._energies[offsets[0] : offsets[-1]]
        return showers_of(Hits(counts, voxels, energies), n_voxels)

    def _numbers(self, file: h5py.File, key: str, kinds: str, what: str) -> h5py.Dataset:
        item = find(self._path, file, key, self._read)
        if not isinstance(item, h5py.Dataset) or len(item.shape or ()) != 1:
            raise CalojaxError(
                f"{self._path}: is of the sparse layout, but has no list {key!r}; write it again."
            )
        if item.dtype.kind not in kinds:
            raise CalojaxError(f"{self._path}: {key!r} holds {item.dtype}; it must hold {what}.")
        return item
