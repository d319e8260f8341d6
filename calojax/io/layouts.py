"""The layouts of shower files, by name: how each is recognised, read and written."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import h5py

from calojax.geometry import Detector
from calojax.io import ddml, dense, par04, showerdata, sparse
from calojax.io.chunks import Queue
from calojax.io.hdf5 import InputFile, Rows

LayoutName = Literal["dense", "sparse", "par04", "lemurs", "showerdata", "ddml"]
"""``dense``: the CaloChallenge's layout; ``sparse``: hits only (`calojax.io.sparse`); ``par04`` and
``lemurs``: grids of Geant4's Par04 example and of LEMURS (`calojax.io.par04`); ``showerdata``:
points (`calojax.io.showerdata`); ``ddml``: square cells for DD4hep (`calojax.io.ddml`)."""

ShowerRows = h5py.Dataset | Rows
"""Showers of an open file, sliced like an HDF5 dataset [n, v]; voxel energies are in MeV."""


class Layout(NamedTuple):
    """How an open file is recognised and read, and the class that writes files.

    Points need the detector that the user chose. Writers take `calojax.io.sparse.Hits` if ``hits``,
    else showers [b, v]. ``unit`` is that of the incident energies, [n] or [n, 1], in MeV.
    """

    matches: Callable[[InputFile], bool]
    energies: Callable[[InputFile], h5py.Dataset]
    showers: Callable[[InputFile, Detector | None], ShowerRows]
    writer: Callable[[h5py.File, Queue, Detector, int], Any]
    hits: bool = False
    unit: float = 1.0


_energies = functools.partial(dense.values, key=dense.ENERGIES)
_par04_energies = functools.partial(dense.values, key=dense.PAR04_ENERGIES)

# The first one that matches; dense comes last, since its messages suit files of no layout.
LAYOUTS: dict[LayoutName, Layout] = {
    "sparse": Layout(
        sparse.is_sparse,
        _energies,
        lambda file, _: sparse.SparseShowers(file),
        sparse.Writer,
        hits=True,
    ),
    "lemurs": Layout(
        par04.is_lemurs,
        _par04_energies,
        lambda file, _: par04.GridShowers(file),
        par04.LemursWriter,
    ),
    "par04": Layout(
        par04.is_par04, _par04_energies, lambda file, _: par04.GridShowers(file), par04.Writer
    ),
    "showerdata": Layout(
        showerdata.is_showerdata,
        functools.partial(dense.values, key=showerdata.ENERGIES),
        showerdata.PointShowers,
        showerdata.Writer,
        hits=True,
        unit=showerdata.GEV,
    ),
    "ddml": Layout(ddml.is_ddml, ddml.refuse, ddml.refuse, ddml.Writer, hits=True),
    "dense": Layout(
        lambda _: True,
        _energies,
        lambda file, _: dense.values(file, dense.SHOWERS),
        dense.Writer,
    ),
}


def layout_of(file: InputFile) -> LayoutName:
    """The layout of an open file; ``dense`` if it is of no other."""
    return next(name for name, layout in LAYOUTS.items() if layout.matches(file))
