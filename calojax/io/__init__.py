"""Shower files: reading, writing, checking, converting and downloading them.

- `source`: what showers are to the rest of the package, and showers in memory.
- `reader`, `writer`: files of all `layouts`: `dense`, `sparse`, `par04`, `showerdata`, `ddml`.
- `hdf5`: files of other people, opened with care; `chunks`: compression in several threads.
- `stored_geometry`: the detector of a file.
- `shards`: a folder of part files; `cache`: files as a memory map, for training.
- `inspection`: ``calojax check``, with `findings` and `voxel_order`; `marks` recognise showers.
- `download`: the CaloChallenge's data sets.

None of them imports JAX, so that commands that only look at files start quickly.
"""

from calojax.io.reader import ShowerFile, ShowerFiles, open_showers
from calojax.io.source import ShowerArrays, ShowerSource
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
