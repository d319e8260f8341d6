"""How fast are showers written? Showers/s by number of threads, beside h5py's own gzip.

    python benchmarks/writing.py --geometry ds3
    python benchmarks/writing.py --showers FILE.hdf5

The same showers are written by h5py (gzip level 1, shuffle, the same chunks) and by calojax, from
the first shower to the file safe on the disk, in the folder that TMPDIR names.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import h5py
import numpy as np
import rows
import stopwatch
import subjects
from rows import Row

from calojax.geometry import Detector, find_detector
from calojax.io import open_showers
from calojax.io.layouts import LayoutName
from calojax.io.writer import ShowerWriter, cores, rows_of_a_chunk


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      showers: file of showers to write; by default showers of the parametric generator.
      geometry: geometry of the generator's showers: built-in, or a binning file ending in .xml.
      num: number of showers.
      batch: showers that the writer gets at a time.
      threads: numbers of threads; by default 1 and the number of cores.
    """

    showers: pathlib.Path | None = None
    geometry: str = "ds3"
    num: int = 5000
    batch: int = 1000
    threads: tuple[int, ...] = ()
    repeats: int = 5


def write_h5py(path: pathlib.Path, detector: Detector, showers: np.ndarray, batch: int) -> None:
    """Writes showers as h5py does by itself."""
    n, v = showers.shape
    with path.open("w+b", buffering=0) as raw:
        with h5py.File(raw, "w") as file:
            # A cache of a few chunks, so that batches that end in one do not compress it twice.
            filters = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            chunks = min(n, rows_of_a_chunk(detector)), v
            dataset = file.create_dataset(
                "showers", (n, v), np.float32, chunks=chunks, rdcc_nbytes=2**24, **filters
            )
            for first in range(0, n, batch):
                dataset[first : first + batch] = showers[first : first + batch]
        os.fsync(raw.fileno())


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each writer, layout and number of threads."""
    b = b.small(showers=None, geometry="tiny", num=200, batch=30, threads=(1, 2))
    if b.showers is None:
        detector = find_detector(b.geometry)
        energies, showers = subjects.simulated(detector, b.num)
    else:
        source = open_showers(b.showers)
        detector = source.detector
        energies, showers = source.energies[: b.num], source.read(0, b.num)
    n = len(showers)

    def write_calojax(path: pathlib.Path, layout: LayoutName, threads: int) -> None:
        with ShowerWriter(path, detector, n, layout=layout, threads=threads) as writer:
            for first in range(0, n, b.batch):
                some = slice(first, first + b.batch)
                writer.append(energies[some], showers[some])

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "showers.hdf5"
        writers: dict[tuple[str, LayoutName, int], Callable[[], None]] = {
            ("h5py", "dense", 1): lambda: write_h5py(path, detector, showers, b.batch)
        }
        for layout in ("dense", "sparse"):
            for count in b.threads or sorted({1, cores()}):
                writers["calojax", layout, count] = lambda layout=layout, count=count: (
                    write_calojax(path, layout, count)
                )
        slowest = 0.0
        for (writer, layout, count), write in writers.items():
            times = stopwatch.repeat(write, repeats=b.repeats, seconds=b.seconds)
            slowest = slowest or times.median
            yield {
                "benchmark": "writing",
                "geometry": detector.name,
                "num": n,
                "hits_per_shower": np.count_nonzero(showers) / n,
                "writer": writer,
                "layout": layout,
                "threads": count,
                "showers_per_second": n / times.median,
                "mb_per_second": showers.nbytes / 1e6 / times.median,
                "times_h5py": slowest / times.median,
                "bytes_per_shower": path.stat().st_size / n,
            }


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
