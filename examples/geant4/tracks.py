"""Showers along tracks: the frame of a track, hits in the frame of the detector, and their file."""

import pathlib
from typing import NamedTuple

import h5py
import numpy as np

from calojax import Detector, Generator, files


class Electrons(NamedTuple):
    """Electrons that reached the calorimeter."""

    event: np.ndarray  # number of the event, [n]
    energy: np.ndarray  # kinetic energy in MeV, [n]
    position: np.ndarray  # point of entry in mm, [n, 3]
    direction: np.ndarray  # unit vector along the momentum, [n, 3]


class Hits(NamedTuple):
    """Hits of the showers of electrons."""

    electron: np.ndarray  # row of the electron, [h]
    layer: np.ndarray  # number of the layer, [h]
    position: np.ndarray  # position in mm, [h, 3]
    energy: np.ndarray  # energy in MeV: the deposit divided by the sampling fraction, [h]


def frames(directions: np.ndarray) -> np.ndarray:
    """The axes of showers along unit vectors [n, 3], as the rows of rotation matrices [n, 3, 3].

    z is along the track, x along growing polar angle, and y along growing azimuth, as in Par04.
    """
    across = np.hypot(directions[:, 0], directions[:, 1])
    phi = np.arctan2(directions[:, 1], directions[:, 0])
    cos, sin, along = np.cos(phi), np.sin(phi), directions[:, 2]
    x = np.stack([along * cos, along * sin, -across], axis=1)
    y = np.stack([-sin, cos, np.zeros_like(phi)], axis=1)
    return np.stack([x, y, directions], axis=1)


def shower(generator: Generator, electrons: Electrons) -> Hits:
    """The hits of all electrons of one event, from one call of the generator."""
    hits = generator.hits(electrons.energy, event=int(electrons.event[0]))
    local = np.stack([hits.x, hits.y, hits.z], axis=1)
    turned = np.einsum("hi,hij->hj", local, frames(electrons.direction)[hits.shower])
    position = electrons.position[hits.shower] + turned
    return Hits(hits.shower, hits.layer, position, hits.energy)


def voxels(detector: Detector, electrons: Electrons, hits: Hits) -> np.ndarray:
    """Showers [n, v] in MeV of hits in the detector's frame, seen along the tracks."""
    away = hits.position - electrons.position[hits.electron]
    x, y, z = np.einsum("hij,hj->ih", frames(electrons.direction)[hits.electron], away)
    return detector.voxelise(hits.electron, x, y, z, hits.energy, len(electrons.energy))


def join(events: list[tuple[Electrons, Hits]]) -> tuple[Electrons, Hits]:
    """The electrons and the hits of all events."""
    electrons, hits = zip(*events, strict=True)
    first = np.cumsum([0, *(len(one.energy) for one in electrons)])
    hits = [one._replace(electron=one.electron + n) for one, n in zip(hits, first, strict=False)]
    return (
        Electrons(*map(np.concatenate, zip(*electrons, strict=True))),
        Hits(*map(np.concatenate, zip(*hits, strict=True))),
    )


def write(path: pathlib.Path, electrons: Electrons, hits: Hits) -> None:
    """Writes an HDF5 file with the groups ``electrons`` and ``hits``; lengths in mm, MeV."""
    with files.replacing(path) as partial, h5py.File(partial, "w", locking=False) as file:
        file.attrs["units"] = "mm, MeV (hits: deposit divided by the sampling fraction)"
        for name, table in (("electrons", electrons), ("hits", hits)):
            for column, values in table._asdict().items():
                file.create_dataset(f"{name}/{column}", data=values, compression="gzip")


def summary(electrons: Electrons, hits: Hits) -> str:
    """One line on all showers."""
    n = len(electrons.energy)
    share = np.bincount(hits.electron, hits.energy, n) / electrons.energy
    return (
        f"{n} showers in {len(np.unique(electrons.event))} events, {len(hits.energy):,} hits, "
        f"E_tot/E_inc {share.mean():.4f} +- {share.std() / np.sqrt(n):.4f}"
    )
