"""How fast are showers written? Showers/s and MB/s, by number of threads, beside h5py's own gzip.

    python benchmarks/writing.py --geometry ds3
    python benchmarks/writing.py --showers FILE.hdf5

The same showers are written by h5py with ``compression="gzip"`` (level 1, shuffle, the same chunks)
and by calojax, in turns; every figure is the median of repeats, from the first shower to the file
safe on the disk. MB are of float32 voxels. One JSON line a figure, on standard output.
"""

import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

import h5py
import numpy as np
import tyro
from environment import show

from calojax.geometry import Detector, find_detector
from calojax.io import open_showers
from calojax.io.chunks import FILTERS, rows_of_a_chunk
from calojax.io.writer import LayoutName, ShowerWriter, cores
from calojax.sampling import generation
from calojax.sampling.incident_energies import incident_energies


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      showers: a file whose showers are written; default: showers of the parametric generator.
      geometry: of the generator's showers: built-in, or a binning file ending in .xml.
      num: showers to generate, or to take from the file.
      batch: showers handed to the writer at a time.
      threads: how many; default: 1, 2, 4, ... up to the number of cores.
      repeats: timed repetitions of each figure.
      folder: where to write; default: the system's folder for temporary files.
      smoke: once, few showers of the tiny detector.
    """

    showers: pathlib.Path | None = None
    geometry: str = "ds3"
    num: int = 5000
    batch: int = 1000
    threads: tuple[int, ...] = ()
    repeats: int = 5
    folder: pathlib.Path | None = None
    smoke: bool = False


def showers_of(benchmark: Benchmark) -> tuple[Detector, np.ndarray, np.ndarray]:
    """The detector, incident energies [n] and showers [n, v] to write, in MeV."""
    if benchmark.showers is not None:
        source = open_showers(benchmark.showers)
        return source.detector, source.energies[: benchmark.num], source.read(0, benchmark.num)
    detector = find_detector(benchmark.geometry)
    energies = incident_energies(None, detector, num=benchmark.num, seed=0)
    parts = [showers for _, showers in generation.simulate(detector, energies, batch_size=500)]
    return detector, energies, np.concatenate(parts)


def write_h5py(
    path: pathlib.Path, detector: Detector, batches: Iterator[tuple[np.ndarray, np.ndarray]], n: int
) -> None:
    """Writes a file as h5py does by itself."""
    rows = min(n, rows_of_a_chunk(detector))
    with path.open("w+b", buffering=0) as raw:
        with h5py.File(raw, "w") as file:
            energies = file.create_dataset("incident_energies", (n, 1), np.float32)
            # Room for a few chunks: batches that end inside a chunk do not compress it twice.
            showers = file.create_dataset(
                "showers",
                (n, detector.n_voxels),
                np.float32,
                chunks=(rows, detector.n_voxels),
                rdcc_nbytes=2**24,
                **FILTERS,
            )
            first = 0
            for some, batch in batches:
                energies[first : first + len(batch), 0] = some
                showers[first : first + len(batch)] = batch
                first += len(batch)
        os.fsync(raw.fileno())


def write_calojax(
    path: pathlib.Path,
    detector: Detector,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    n: int,
    *,
    layout: LayoutName,
    threads: int,
) -> None:
    """Writes a file with `ShowerWriter`."""
    with ShowerWriter(path, detector, n, layout=layout, threads=threads) as writer:
        for energies, showers in batches:
            writer.append(energies, showers)


def seconds(write: Callable[[], None]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    write()
    return time.perf_counter() - start


def main() -> None:
    """Prints a JSON line for every writer and number of threads."""
    benchmark = tyro.cli(Benchmark, description=__doc__)
    if benchmark.smoke:
        benchmark = dataclasses.replace(
            benchmark, showers=None, geometry="tiny", num=200, batch=30, threads=(1, 2), repeats=1
        )
    detector, energies, showers = showers_of(benchmark)
    n = len(showers)
    powers = [2**k for k in range(cores().bit_length()) if 2**k < cores()]
    threads = benchmark.threads or (*powers, cores())

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, n, benchmark.batch):
            rows = slice(first, first + benchmark.batch)
            yield energies[rows], showers[rows]

    with tempfile.TemporaryDirectory(dir=benchmark.folder) as folder:
        path = pathlib.Path(folder) / "showers.hdf5"
        writers = {("h5py", "dense", 1): lambda: write_h5py(path, detector, batches(), n)}
        for layout in ("dense", "sparse"):
            for count in threads:
                writers["calojax", layout, count] = lambda layout=layout, count=count: (
                    write_calojax(path, detector, batches(), n, layout=layout, threads=count)
                )
        times = {key: [] for key in writers}
        sizes = {}
        for _ in range(1 + benchmark.repeats):  # The first is the warm-up.
            for key, write in writers.items():
                times[key].append(seconds(write))
                sizes[key] = path.stat().st_size
        medians = {key: float(np.median(found[1:])) for key, found in times.items()}
        slowest = medians["h5py", "dense", 1]
        for (writer, layout, count), median in medians.items():
            show(
                {
                    "benchmark": "writing",
                    "geometry": detector.name,
                    "showers": benchmark.showers.name if benchmark.showers else "simulated",
                    "num": n,
                    "hits_per_shower": np.count_nonzero(showers) / n,
                    "writer": writer,
                    "layout": layout,
                    "threads": count,
                    "repeats": benchmark.repeats,
                    "showers_per_second": n / median,
                    "mb_per_second": showers.nbytes / 1e6 / median,
                    "times_h5py": slowest / median,
                    "bytes_per_shower": sizes[writer, layout, count] / n,
                    "size_of_h5py": sizes[writer, layout, count] / sizes["h5py", "dense", 1],
                }
            )


if __name__ == "__main__":
    main()
