"""Showers on disk and in memory. NumPy and h5py only, so that importing it is quick."""

from calojax.io.reader import (
    ShowerArrays,
    ShowerFile,
    ShowerFiles,
    ShowerSource,
    open_showers,
)
from calojax.io.writer import ShowerWriter, write_showers

__all__ = [
    "ShowerArrays",
    "ShowerFile",
    "ShowerFiles",
    "ShowerSource",
    "ShowerWriter",
    "open_showers",
    "write_showers",
]
