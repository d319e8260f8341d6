"""One pass over all showers of a file, which collects what an inspection needs."""

import dataclasses

import numpy as np

from calojax.geometry import Detector
from calojax.io.marks import marks
from calojax.io.reader import ShowerRows, blocks_of
from calojax.progress import progress_bar

# Number of showers, spread evenly over the file, over which averages are taken.
SAMPLE = 2000


@dataclasses.dataclass(frozen=True)
class Scan:
    """Numbers of all n showers of a file, and a sample of m of them. All energies are in MeV.

    Attributes:
      energies: incident energies, float64 [n], NaN where unusable; None if there are none.
      index: numbers of the showers in the sample, [m].
      sample: showers of the sample, float32 [m, v].
      sums: E_sum of every shower, float64 [n].
      response: mean of E_sum/E_inc over the sample, NaN without incident energies.
      spread: standard deviation of the same.
      smallest: smallest voxel above zero (infinite if there is none).
      occupied: number of voxels above zero; ``below`` of them are below the readout threshold.
      bad: for "NaN", "infinite" and "negative", number of voxels, and the first shower with one.
      repeated: for each shower that repeats another, its number and that of the first such shower.
    """

    detector: Detector | None
    energies: np.ndarray | None
    index: np.ndarray
    sample: np.ndarray
    sums: np.ndarray
    response: float
    spread: float
    smallest: float
    occupied: int
    below: int
    bad: dict[str, tuple[int, int]]
    repeated: list[tuple[int, int]]


def scan_showers(
    showers: ShowerRows, energies: np.ndarray | None, detector: Detector | None, title: str
) -> Scan:
    """Reads all showers of an open file; ``energies`` and ``detector`` are as in `Scan`."""
    count = len(showers)
    index = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int))
    # Thresholds are applied in float64 or float32, before or after rounding.
    threshold = detector.readout_threshold * (1 - 1e-4) if detector else 0.0
    sample, sums = [], []
    smallest, occupied, below = np.inf, 0, 0
    bad: dict[str, tuple[int, int]] = {}
    seen: dict[int, int] = {}
    repeated = []
    with progress_bar(title, count, delay=2, leave=False) as bar:
        for first, block in blocks_of(showers):
            sample.append(block[index[(index >= first) & (index < first + len(block))] - first])
            with np.errstate(invalid="ignore"):
                sums.append(block.sum(axis=1, dtype=np.float64))
            positive = block[block > 0]
            smallest = min(smallest, float(positive.min(initial=np.inf)))
            occupied += positive.size
            below += int(np.count_nonzero(positive < threshold))
            if not (block.min() >= 0 and block.max() < np.inf):
                kinds = {"NaN": np.isnan(block), "infinite": np.isinf(block), "negative": block < 0}
                for kind, where in kinds.items():
                    if where.any():
                        total, shower = bad.get(kind, (0, first + int(where.any(1).argmax())))
                        bad[kind] = (total + int(where.sum()), shower)
            for shower, mark in enumerate(marks(block).tolist(), first):
                earlier = seen.setdefault(mark, shower) if sums[-1][shower - first] else shower
                if earlier != shower:
                    repeated.append((shower, earlier))
            bar.update(len(block))
    sums = np.concatenate(sums)
    response = np.full(0, np.nan) if energies is None else sums[index] / energies[index]
    response = response[np.isfinite(response)]
    return Scan(
        detector=detector,
        energies=energies,
        index=index,
        sample=np.concatenate(sample),
        sums=sums,
        response=float(response.mean()) if response.size else np.nan,
        spread=float(response.std()) if response.size else np.nan,
        smallest=smallest,
        occupied=occupied,
        below=below,
        bad=bad,
        repeated=repeated,
    )
