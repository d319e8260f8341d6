"""Does the evaluation agree with the official one, and how fast is it?

    python benchmarks/evaluation.py parity --reference FOLDER
    python benchmarks/evaluation.py classifiers --reference FOLDER
    python benchmarks/evaluation.py speed --geometry ds2 --showers 3000 [--official FOLDER/code]

``parity`` reads ``FOLDER/official.json``, which holds for pairs of files beside it what the code of
the CaloChallenge, JetNet and prdc say of them, and prints our numbers beside those; the exit status
is 1 if one is out of tolerance. ``classifiers`` does the same for AUCs, of networks as wide as the
official numbers had. ``speed`` prints JSON lines of showers per second for features and
histograms; with a checkout of github.com/CaloChallenge/homepage the official code is timed in the
same process, on the same arrays, without saving pictures.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from rows import environment

from calojax.evaluation import classifiers, correlations, distances, features, histograms, manifold
from calojax.evaluation.samples import Selection
from calojax.geometry import Detector, detector
from calojax.io import ShowerArrays, open_showers

# Beginnings of file names in a folder of reference numbers.
_GEOMETRIES = {
    "ds1_photons": "ds1-photons",
    "ds1_pions": "ds1-pions",
    "ds2": "ds2",
    "ds3": "ds3",
}


@dataclasses.dataclass(frozen=True)
class Parity:
    """Our numbers beside the official ones.

    Attributes:
      reference: folder with official.json and the files that it names.
      fpd: also FPD, which takes a minute for dataset 2.
    """

    reference: pathlib.Path
    fpd: bool = True


# AUC after calibration by the official code on ds2_c against ds2_a: width 512, 50 epochs, split
# 60/20/20, seeds 0-2.
_OFFICIAL_AUC = {"high": (0.545, 0.566, 0.567), "low": (0.653, 0.645, 0.644)}


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """AUCs of the classifiers beside the official ones, on ds2_c against ds2_a.

    Attributes:
      reference: folder with ds2_a.hdf5 and ds2_c.hdf5.
      kinds: which classifiers.
      seeds: trainings of each.
      seed: of all of them together.
    """

    reference: pathlib.Path
    kinds: tuple[str, ...] = ("high", "low")
    seeds: int = 6
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Speed:
    """Showers per second of features and histograms.

    Attributes:
      geometry: a built-in geometry.
      showers: showers of each of the two samples.
      file: showers to take instead of random ones.
      batch: showers at a time; 0 for the default.
      repeats: of each figure, after a warm-up.
      official: the folder ``code`` of a checkout of the official repository, to time that too.
    """

    geometry: str = "ds2"
    showers: int = 3000
    file: pathlib.Path | None = None
    batch: int = 0
    repeats: int = 5
    official: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Row:
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


def parity(options: Parity) -> int:
    """Prints the table; returns the exit status."""
    official = json.loads((options.reference / "official.json").read_text())
    print(f"{'pair':30} {'quantity':42} {'ours':16} {'official':16} {'difference':11} tolerance\n")
    failed = 0
    for pair, numbers in official.items():
        for row in _rows(pair, numbers, options):
            print(row, flush=True)
            failed += not row.passes
    print(f"\n{failed} out of tolerance" if failed else "\nall within tolerance")
    return 1 if failed else 0


def classifier_parity(options: Classifiers) -> int:
    """Prints a JSON line for each classifier; returns the exit status."""
    samples = [open_showers(options.reference / f"ds2_{name}.hdf5") for name in "ca"]
    status = 0
    for kind in options.kinds:
        start = time.perf_counter()
        settings = classifiers.ClassifierSettings(width=512)
        predictions = classifiers.predict(
            kind, *samples, settings, seeds=options.seeds, seed=options.seed
        )
        (auc, _), (spread, _) = classifiers.score(predictions)
        official = statistics.mean(_OFFICIAL_AUC[kind])
        row = {
            "benchmark": "classifier parity",
            "kind": kind,
            "auc": round(float(auc), 4),
            "spread": round(float(spread), 4),
            "seeds": options.seeds,
            "official_auc": round(official, 4),
            "difference": round(float(auc) - official, 4),
            "seconds": round(time.perf_counter() - start),
        }
        print(json.dumps(row | environment()), flush=True)
        status |= bool(abs(auc - official) > 0.01)
    return status


def _rows(pair: str, numbers: dict[str, Any], options: Parity) -> Iterator[Row]:
    """Rows of a pair of files; where there are many numbers, of the one that differs most."""
    names = pair.split(" vs ")
    geometry = detector(_GEOMETRIES[names[0].rpartition("_")[0]])
    sources = [open_showers(options.reference / f"{name}.hdf5", geometry) for name in names]
    samples = [features.stream(source) for source in sources]
    vectors = [features.vector(sample) for sample in samples]
    columns = features.names(geometry)

    first = np.array(numbers["features_generated_first_3_events"])
    yield _worst_feature(pair, "float64", vectors[0][: len(first)], first, columns, 1e-9)
    single = features.compute(
        jnp.asarray(sources[0].read(0, len(first))),
        jnp.asarray(sources[0].energies[: len(first)]),
        geometry,
    )
    yield _worst_feature(
        pair, "float32", np.asarray(features.vector(single), np.float64), first, columns, 1e-5
    )
    for side, vector in zip(("generated", "reference"), vectors, strict=True):
        for statistic in ("mean", "std"):
            expected = np.array(numbers[f"feature_{statistic}_{side}"])
            found = getattr(vector, statistic)(axis=0)
            yield _worst_feature(
                pair, f"{statistic} {side}", found[None], expected[None], columns, 1e-9
            )

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
    if "fpd_kpd" in numbers and options.fpd:
        settings = numbers["fpd_kpd"]
        for metric, function in (("fpd", distances.fpd), ("kpd", distances.kpd)):
            (value, error), *_ = settings[metric]
            found = function(
                reference, generated, seed=settings["seed"], **settings[f"{metric}_settings"]
            )
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


def speed(options: Speed) -> int:
    """Prints the figures; returns the exit status."""
    geometry = detector(options.geometry)
    samples = [_sample(geometry, options, seed) for seed in (0, 1)]
    batch = options.batch or features.batch_size(geometry)
    common = {
        "geometry": options.geometry,
        "showers": sum(map(len, samples)),
        "batch": batch,
        **environment(),
    }

    def report(what: str, run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        line = {
            "figure": what,
            "showers_per_second": common["showers"] / median,
            "seconds": median,
            "fastest": min(seconds),
            "slowest": max(seconds),
            "first_with_compilation": first,
        }
        print(json.dumps(line | common), flush=True)
        return median

    def only_features() -> list[features.Features]:
        return [features.stream(sample, batch=batch) for sample in samples]

    def both() -> list[histograms.Histogram]:
        found = only_features()
        edges = histograms.voxel_edges(geometry, float(samples[1].showers.max()))
        entries = [histograms.voxel_entries(s, [edges], batch=batch)[0] for s in samples]
        return [*histograms.compare(*found, geometry), histograms.compare_voxels(edges, *entries)]

    report("features", only_features)
    ours = report("features and histograms", both)
    if options.official is not None:
        module = _official(options.official)
        thresholded = [
            (features.apply_threshold(s.showers.astype(np.float64), geometry), s.energies[:, None])
            for s in samples
        ]
        report("official features", lambda: _official_features(module, geometry, thresholded))
        theirs = report(
            "official features and histograms",
            lambda: _official_histograms(module, geometry, thresholded),
        )
        print(json.dumps({"figure": "official time over ours", "ratio": theirs / ours} | common))
    return 0


def _sample(geometry: Detector, options: Speed, seed: int) -> ShowerArrays:
    """Showers of a file, or random ones of which a tenth of the voxels is hit."""
    if options.file is not None:
        source = open_showers(options.file, geometry)
        count = min(options.showers, len(source) // 2)
        rows = slice(seed * count, (seed + 1) * count)
        return ShowerArrays(geometry, source.energies[rows], source.read(rows.start, rows.stop))
    rng = np.random.default_rng(seed)
    shape = options.showers, geometry.n_voxels
    energies = np.exp(rng.uniform(*np.log(geometry.energy_range), options.showers))
    showers = rng.standard_exponential(shape, np.float32) * (rng.random(shape, np.float32) < 0.1)
    showers *= (energies / np.maximum(showers.sum(axis=1), 1e-9))[:, None]
    return ShowerArrays(geometry, energies, showers)


def _official(folder: pathlib.Path) -> types.SimpleNamespace:
    """The official modules of a checkout."""
    import matplotlib

    matplotlib.use("Agg")
    sys.path.insert(0, str(folder))
    import evaluate_plotting_helper
    import HighLevelFeatures

    return types.SimpleNamespace(
        plots=evaluate_plotting_helper, features=HighLevelFeatures, folder=folder
    )


def _official_features(module: types.SimpleNamespace, geometry: Detector, samples) -> list:
    name = {"ds1-photons": "1_photons", "ds1-pions": "1_pions", "ds2": "2", "ds3": "3"}
    binning = module.folder / f"binning_dataset_{name[geometry.name]}.xml"
    found = []
    for showers, energies in samples:
        one = module.features.HighLevelFeatures(geometry.particle, filename=str(binning))
        one.CalculateFeatures(showers)
        one.Einc = energies
        found.append(one)
    return found


def _official_histograms(module: types.SimpleNamespace, geometry: Detector, samples) -> None:
    """All that the official code has, in its mode that saves no pictures."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = types.SimpleNamespace(
            dataset=geometry.name.removeprefix("ds"),
            mode="hist-chi",
            output_dir=folder,
            min_energy=geometry.evaluation_threshold,
            x_scale="log",
        )
        found = _official_features(module, geometry, samples)
        plots = module.plots
        for draw in (
            *(plots.plot_Etot_Einc, plots.plot_E_layers, plots.plot_ECEtas, plots.plot_ECPhis),
            *(plots.plot_ECWidthEtas, plots.plot_ECWidthPhis, plots.plot_sparsity),
            *(plots.plot_ECR, plots.plot_ECWidthR),
        ):
            draw(*found, settings)
        plots.plot_cell_dist(samples[0][0], samples[1][0], settings)


if __name__ == "__main__":
    chosen = tyro.extras.subcommand_cli_from_dict(
        {"parity": Parity, "classifiers": Classifiers, "speed": Speed}
    )
    runners = {Parity: parity, Classifiers: classifier_parity, Speed: speed}
    sys.exit(runners[type(chosen)](chosen))
