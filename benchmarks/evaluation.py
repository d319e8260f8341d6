"""Does the evaluation agree with the official one?

    python benchmarks/evaluation.py parity --reference FOLDER
    python benchmarks/evaluation.py classifiers --reference FOLDER

``parity`` reads ``FOLDER/official.json``, which holds for pairs of files beside it what the code of
the CaloChallenge, JetNet and prdc say of them, and prints our numbers beside those; the exit status
is 1 if one is out of tolerance. ``classifiers`` does the same for AUCs, of networks as wide as the
official numbers had.
"""

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import rows
import tyro

from calojax.evaluation import classifiers, correlations, distances, features, histograms, manifold
from calojax.evaluation.samples import Selection
from calojax.geometry import detector
from calojax.io import open_showers

# AUC after calibration by the official code on ds2_c against ds2_a: width 512, 50 epochs, split
# 60/20/20, seeds 0-2.
_OFFICIAL_AUC = {"high": (0.545, 0.566, 0.567), "low": (0.653, 0.645, 0.644)}


class Row(NamedTuple):
    """A line of the parity table."""

    pair: str
    quantity: str
    ours: float
    official: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return abs(self.ours - self.official) <= self.tolerance

    def __str__(self) -> str:
        difference = self.ours - self.official
        verdict = "pass" if self.passes else "FAIL"
        return (
            f"{self.pair:30} {self.quantity:42} {self.ours:< 16.9g} {self.official:< 16.9g} "
            f"{difference:< 11.2e} {self.tolerance:< 9.1e} {verdict}"
        )


def parity(reference: pathlib.Path, *, fpd: bool = True) -> int:
    """Prints our numbers beside the official ones; returns the exit status.

    Args:
      reference: folder with official.json and the files that it names.
      fpd: also FPD, which takes a minute for dataset 2.
    """
    official = json.loads((reference / "official.json").read_text())
    print(f"{'pair':30} {'quantity':42} {'ours':16} {'official':16} {'difference':11} tolerance\n")
    failed = 0
    for pair, numbers in official.items():
        for row in _rows(pair, numbers, reference, fpd=fpd):
            print(row, flush=True)
            failed += not row.passes
    print(f"\n{failed} out of tolerance" if failed else "\nall within tolerance")
    return 1 if failed else 0


def auc(
    reference: pathlib.Path,
    *,
    kinds: tuple[classifiers.Kind, ...] = ("high", "low"),
    seeds: int = 6,
    seed: int = 0,
) -> int:
    """Prints AUCs of the classifiers beside the official ones; returns the exit status.

    Args:
      reference: folder with ds2_a.hdf5 and ds2_c.hdf5.
      kinds: which classifiers.
      seeds: trainings of each.
      seed: seed of all of them together.
    """
    samples = [open_showers(reference / f"ds2_{name}.hdf5") for name in "ca"]
    settings = classifiers.ClassifierSettings(width=512)
    status = 0
    for kind in kinds:
        start = time.perf_counter()
        predictions = classifiers.predict(kind, *samples, settings, seeds=seeds, seed=seed)
        (found, _), (spread, _) = classifiers.score(predictions)
        official = statistics.mean(_OFFICIAL_AUC[kind])
        row = {"benchmark": "classifier parity", "kind": kind, "auc": float(found)}
        row |= {"spread": float(spread), "seeds": seeds, "official_auc": official}
        row |= {"difference": float(found) - official, "seconds": time.perf_counter() - start}
        rows.write(row)
        status |= bool(abs(found - official) > 0.01)
    return status


def _rows(pair: str, numbers: dict[str, Any], folder: pathlib.Path, *, fpd: bool) -> Iterator[Row]:
    """Rows of a pair of files; where there are many numbers, of the one that differs most."""
    names = pair.split(" vs ")
    geometry = detector(names[0].rpartition("_")[0].replace("_", "-"))
    sources = [open_showers(folder / f"{name}.hdf5", geometry) for name in names]
    samples = [features.stream(source) for source in sources]
    vectors = [features.vector(sample) for sample in samples]
    columns = features.names(geometry)

    first = np.array(numbers["features_generated_first_3_events"])
    yield _worst_feature(pair, "float64", vectors[0][: len(first)], first, columns, 1e-9)
    showers, energies = sources[0].read(0, len(first)), sources[0].energies[: len(first)]
    single = features.compute(jnp.asarray(showers), jnp.asarray(energies), geometry)
    single = np.asarray(features.vector(single), np.float64)
    yield _worst_feature(pair, "float32", single, first, columns, 1e-5)
    for side, vector in zip(("generated", "reference"), vectors, strict=True):
        for statistic in ("mean", "std"):
            expected = np.array(numbers[f"feature_{statistic}_{side}"])
            found, what = getattr(vector, statistic)(axis=0), f"{statistic} {side}"
            yield _worst_feature(pair, what, found[None], expected[None], columns, 1e-9)

    compared = histograms.compare(*samples, geometry)
    maximum = max(float(showers.max()) for _, showers in sources[1].batches(500))
    edges = histograms.voxel_edges(geometry, maximum)
    entries = [histograms.voxel_entries(source, [edges])[0] for source in sources]
    compared.append(histograms.compare_voxels(edges, *entries))
    ours = {item.name: item.separation for item in compared}
    expected = numbers["separation_power"]
    if set(ours) != set(expected):
        raise SystemExit(f"{pair}: histograms differ: {sorted(set(ours) ^ set(expected))}")
    worst = max(expected, key=lambda name: abs(ours[name] - expected[name]))
    quantity = f"worst of {len(expected)} separations: {worst}"
    yield Row(pair, quantity, ours[worst], expected[worst], 1e-6)

    difference = correlations.layers(*samples).mean_difference()
    expected = numbers["layer_energy_pearson_mean_abs_difference"]
    yield Row(pair, "PCC mean |difference|", difference, expected, 1e-5)

    generated, reference = vectors
    if "fpd_kpd" in numbers and fpd:
        settings = numbers["fpd_kpd"]
        for metric, function in (("fpd", distances.fpd), ("kpd", distances.kpd)):
            (value, error), *_ = settings[metric]
            options = settings[f"{metric}_settings"] | {"seed": settings["seed"]}
            found = function(reference, generated, **options)
            yield Row(pair, metric.upper(), found.value, value, error / 2)
            yield Row(pair, f"{metric.upper()} error", found.error, error, error / 2)
    if "prdc" in numbers:
        # The official numbers are of the first 1,000 showers.
        points = [
            manifold.log_voxels([Selection(source, np.arange(min(1000, len(source))))])
            for source in reversed(sources)
        ]
        found = manifold.prdc(*points, k=numbers["prdc"]["k"])
        for name, value in found._asdict().items():
            yield Row(pair, name, value, numbers["prdc"][name], 1e-3)


def _worst_feature(
    pair: str,
    what: str,
    ours: np.ndarray,
    official: np.ndarray,
    columns: list[str],
    tolerance: float,
) -> Row:
    """The feature [n, f] that differs most from its tolerance.

    Relative to the larger of the value and the column's root mean square. To the tolerance come
    half a unit of the ninth digit, to which official.json is rounded; the last digit of float32
    incident energies; and, where the official width of a layer with a single hit is the root of
    rounding errors instead of zero, 1e-5 mm.
    """
    size = np.maximum(np.abs(official), np.sqrt(np.mean(official**2, axis=0)))
    rounded = 0.5 * 10.0 ** (np.floor(np.log10(np.abs(official) + 1e-300)) - 8)
    width = np.array(["Width" in column for column in columns])
    incident = np.array(["Einc" in column for column in columns])
    allowed = tolerance * size + 1.001 * rounded + 2e-8 * incident * size + 1e-7 * width
    event, column = np.unravel_index(np.argmax(np.abs(ours - official) / allowed), ours.shape)
    return Row(
        pair,
        f"features {what}: {columns[column]}",
        float(ours[event, column]),
        float(official[event, column]),
        float(allowed[event, column]),
    )


if __name__ == "__main__":
    sys.exit(tyro.extras.subcommand_cli_from_dict({"parity": parity, "classifiers": auc}))
