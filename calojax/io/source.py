"""Showers of one detector, wherever they are kept, and the checks that all of them pass."""

import abc
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from calojax.errors import CalojaxError
from calojax.geometry import Detector


class ShowerSource(abc.ABC):
    """Showers of one detector, wherever they are kept.

    Attributes:
      detector: geometry of the showers.
      energies: incident energies in MeV, float32 [n].
      attributes: origin of the showers: model, seed, versions.
    """

    detector: Detector
    energies: np.ndarray
    attributes: Mapping[str, str | int | float]

    def __len__(self) -> int:
        """Number of showers, n."""
        return len(self.energies)

    @abc.abstractmethod
    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Float32 blocks [any, v] in MeV that together are the showers start..stop.

        Raises:
          CalojaxError: if a voxel is negative or not finite, or a file is damaged.
        """

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (energies [b], showers [b, v]) in order, float32 MeV; the last may be smaller."""
        if size < 1:
            raise ValueError(f"batch size must be at least 1, got {size}")
        first = 0
        for showers in _rebatch(self.blocks(0, len(self)), size):
            yield self.energies[first : first + len(showers)], showers
            first += len(showers)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Showers start..stop (as in a slice) as a new float32 array [stop - start, v] in MeV."""
        start, stop, _ = slice(start, stop).indices(len(self))
        showers = np.empty((max(stop - start, 0), self.detector.n_voxels), np.float32)
        filled = 0
        for block in self.blocks(start, stop):
            showers[filled : filled + len(block)] = block
            filled += len(block)
        return showers


class ShowerArrays(ShowerSource):
    """Showers in memory, or in a memory map, without attributes.

    Attributes:
      showers: voxel energies in MeV, float32 [n, v], read-only; random access is cheap.
    """

    def __init__(
        self,
        detector: Detector,
        energies: np.ndarray,
        showers: np.ndarray,
        *,
        name: str | os.PathLike = "showers in memory",
        validated: bool = False,
    ):
        """Checks incident energies [n] or [n, 1] and voxel energies [n, v], both in MeV.

        Those that are ``validated`` have been checked before; ``name`` is for error messages.

        Raises:
          CalojaxError: if shapes do not fit, there are no showers, an incident energy is not a
            positive number, or a voxel is negative or not finite.
        """
        self.detector = detector
        self.attributes = {}
        energies, showers = checked_shapes(name, detector, energies, showers)
        if not len(showers):
            raise CalojaxError(f"{name}: has no showers; give at least one.")
        self.energies = checked_energies(name, energies).view()
        self.showers = (showers if validated else checked_showers(name, showers, 0)).view()
        self.energies.flags.writeable = False
        self.showers.flags.writeable = False

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        yield self.showers[start:stop]


def _rebatch(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Arrays [any, v] cut and joined to [size, v]; the last may be smaller."""
    pending: list[np.ndarray] = []
    missing = size
    for block in blocks:
        while len(block):
            head, block = block[:missing], block[missing:]
            pending.append(head)
            missing -= len(head)
            if not missing:
                yield pending[0] if len(pending) == 1 else np.concatenate(pending)
                pending, missing = [], size
    if pending:
        yield np.concatenate(pending)


def checked_shapes(
    name: str | os.PathLike, detector: Detector, energies: np.ndarray, showers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(energies [n], showers [n, v]) if they are real numbers of matching shapes."""
    energies, showers = np.asarray(energies), np.asarray(showers)
    for what, array in (("incident energies", energies), ("showers", showers)):
        if array.dtype.kind not in "fiu":
            raise CalojaxError(f"{name}: {what} are {array.dtype}; they must be real numbers.")
    if energies.ndim == 2 and energies.shape[1] == 1:
        energies = energies[:, 0]
    if energies.ndim != 1 or showers.shape != (len(energies), detector.n_voxels):
        raise CalojaxError(
            f"{name}: incident energies of shape {energies.shape} and showers of {showers.shape} "
            f"do not fit; geometry {detector.name} needs (n,) and (n, {detector.n_voxels})."
        )
    return energies, showers


def checked_energies(name: str | os.PathLike, energies: np.ndarray, first: int = 0) -> np.ndarray:
    """Incident energies [n] as float32 if all are finite and positive."""
    energies = float32(energies)
    good = np.isfinite(energies) & (energies > 0)
    if not good.all():
        where = int(np.argmin(good))
        raise CalojaxError(
            f"{name}: the incident energy of shower {first + where} is {energies[where]:g} MeV; it "
            "must be finite and positive (calojax convert --repair drops such showers)."
        )
    return energies


def flat_energies(name: str, energies: ArrayLike) -> np.ndarray:
    """Incident energies [n] or [n, 1] as float32 [n] if they are finite and positive numbers."""
    array = np.asarray(energies)
    if array.dtype.kind not in "fiu" or array.shape not in ((array.size,), (array.size, 1)):
        raise CalojaxError(
            f"incident energies must be numbers of shape (n,), got {array.dtype} of shape "
            f"{array.shape}."
        )
    return checked_energies(name, array.reshape(-1))


def checked_showers(name: str | os.PathLike, showers: np.ndarray, first: int) -> np.ndarray:
    """Showers [n, v] as float32 if all voxels are finite and not negative."""
    showers = float32(showers)
    # Two reductions and no temporary array; a NaN anywhere makes the minimum NaN.
    if not showers.size or (showers.min() >= 0 and showers.max() < np.inf):
        return showers
    where, voxel = np.argwhere(~(np.isfinite(showers) & (showers >= 0)))[0]
    raise CalojaxError(
        f"{name}: voxel {voxel} of shower {first + where} is {showers[where, voxel]:g} MeV; voxels "
        "must be finite and not negative (calojax convert --repair mends or drops such showers)."
    )


def float32(values: np.ndarray) -> np.ndarray:
    """Values as float32; those beyond its range become infinite, which the checks refuse."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32, copy=False)
