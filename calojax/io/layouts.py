"""The layouts of shower files.

To add one, write a module with its reader and writer, as `calojax.io.sparse` is, and enter it in
`LAYOUTS`; and in `LayoutName` if commands should offer to write it.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import h5py
import numpy as np

from calojax.geometry import Detector
from calojax.io import dense, sparse
from calojax.io.chunks import Column, Queue
from calojax.io.hdf5 import InputFile

LayoutName = Literal["dense", "sparse"]
"""``dense``: the CaloChallenge's; ``sparse``: hits only (`calojax.io.sparse`)."""


class ShowerRows(Protocol):
    """Showers of an open file, sliced like an HDF5 dataset [n, v]; voxel energies are in MeV."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def chunks(self) -> tuple[int, ...] | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class LayoutWriter(Protocol):
    """The columns of a file that grow with the showers. Threads call `prepare` only."""

    columns: tuple[Column, ...]

    def __init__(self, file: h5py.File, queue: Queue, detector: Detector, count: int): ...

    @staticmethod
    def prepare(showers: np.ndarray) -> Any:
        """The form in which `extend` takes checked showers [b, v]."""
        ...

    def extend(self, energies: np.ndarray, prepared: Any) -> None:
        """Adds incident energies [b] and their prepared showers."""
        ...


class Layout(NamedTuple):
    """A layout of shower files.

    Attributes:
      recognises: whether an open file is of this layout.
      energies: the dataset of incident energies, [n] or [n, 1] in MeV, of an open file.
      showers: the showers of an open file.
      writer: the writer of such files.
    """

    recognises: Callable[[InputFile], bool]
    energies: Callable[[InputFile], h5py.Dataset]
    showers: Callable[[InputFile], ShowerRows]
    writer: type[LayoutWriter]


# The first that recognises a file reads it; `dense` takes all that is left.
LAYOUTS: dict[LayoutName, Layout] = {
    "sparse": Layout(sparse.is_sparse, dense.energies, sparse.SparseShowers, sparse.Writer),
    "dense": Layout(lambda file: True, dense.energies, dense.showers, dense.Writer),
}


def layout_of(file: InputFile) -> Layout:
    """The layout of an open file."""
    return next(layout for layout in LAYOUTS.values() if layout.recognises(file))
