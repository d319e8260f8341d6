"""Memory of host and devices, and tables of showers that may not fit into it."""

import os
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from calojax.io import ShowerSource

_READ = 1000  # showers read at once


def host_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_memory(mesh: Mesh) -> int:
    """Bytes of memory of one device; on CPU its share of half of the machine's memory.

    The other half is for the host's arrays.
    """
    statistics = mesh.devices.flat[0].memory_stats() or {}
    return statistics.get("bytes_limit", host_memory() // 2 // mesh.size)


def tabulate(
    sources: Sequence[ShowerSource],
    width: int,
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Rows [n, width] float32 of all showers of the sources, in order.

    ``function`` makes rows of incident energies [b] and showers [b, v] in MeV. A table larger than
    half of the machine's memory is mapped to a temporary file, which vanishes with it.
    """
    shape = sum(map(len, sources)), width
    if 4 * shape[0] * width <= host_memory() / 2:
        rows = np.empty(shape, np.float32)
    else:
        with tempfile.TemporaryFile() as file:
            rows = np.memmap(file, np.float32, mode="w+", shape=shape)
    start = 0
    for source in sources:
        for energies, showers in source.batches(_READ):
            rows[start : start + len(energies)] = function(energies, showers)
            start += len(energies)
    return rows
