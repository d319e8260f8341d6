"""Pictures of tiny, irregular and empty inputs: drawn without a warning, with the numbers."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from calojax import plot
from calojax.evaluation import averages, resolution
from calojax.evaluation.histograms import Histogram
from calojax.evaluation.scoreboard import Row
from calojax.geometry import Layer, detector
from calojax.io import ShowerArrays
from calojax.plot.curves import _front, _series
from calojax.plot.histograms import _readable

# Few layers, since every cell of a sheet takes time.
TINY = dataclasses.replace(detector("tiny"), layers=detector("tiny").layers[:3])
# Rings from 1 to 1000 mm, one layer without alpha bins, a single ring.
ODD = dataclasses.replace(
    TINY,
    name="odd",
    layers=(
        Layer(0, (0.0, 1.0, 30.0, 400.0), 1, 11.0),
        Layer(2, (0.0, 5.0, 1000.0), 7, 300.0),
        Layer(12, (0.0, 1000.0), 2, 40.0),
    ),
)
SMALL = 40  # dpi


def showers(geometry, seed: int, n: int = 60) -> ShowerArrays:
    """Exponential voxels, a third of them hit; the first three showers and layer 1 are empty."""
    rng = np.random.default_rng(seed)
    energies = np.geomspace(1e3, 5e4, n)
    voxels = rng.exponential(size=(n, geometry.n_voxels)) * (rng.random((n, 1)) < 0.9)
    voxels *= rng.random(voxels.shape) < 0.3
    voxels *= energies[:, None] / np.maximum(voxels.sum(axis=1, keepdims=True), 1)
    voxels[:3] = 0
    voxels[:, geometry.layer_slices[1]] = 0
    return ShowerArrays(geometry, energies, voxels)


def histogram(name: str, counts, other, *, log_x: bool = False, low: float = 0.0) -> Histogram:
    counts, other = np.asarray(counts), np.asarray(other)
    edges = np.geomspace(1, 1e4, len(counts) + 1) if log_x else np.linspace(low, 1, len(counts) + 1)
    return Histogram(
        name=name, family="e_layer", label="layer energy [MeV]", part=name, edges=edges,
        generated_counts=counts,
        reference_counts=other, generated_outside=0.25, reference_outside=0.0,
        outside_counts=log_x, separation=0.0123, error=0.004, floor=0.001, log_x=log_x,
    )  # fmt: skip


def texts(picture) -> list[str]:
    return [text.get_text() for text in picture.findobj(lambda a: hasattr(a, "get_text"))]


def drawn(picture) -> bytes:
    png = plot.png(picture, dpi=SMALL)
    assert png.startswith(b"\x89PNG")
    return png


@pytest.mark.parametrize("geometry", [TINY, ODD], ids=["tiny", "odd"])
def test_pictures_of_showers(geometry):
    samples = {name: showers(geometry, seed) for seed, name in enumerate(("R", "a", "b"))}
    edges = averages.decades(samples["R"].energies)
    means = {name: averages.average(source, edges) for name, source in samples.items()}
    picture = plot.layer_maps(geometry, {n: m.voxels[0] for n, m in means.items()}, title="Mean")
    assert sum("Layer" in text for text in texts(picture)) == geometry.n_layers
    assert "Mean; from left to right: R, a, b" in texts(picture)
    drawn(picture)
    picture = plot.space(geometry, averages.alike(samples, count=2))
    assert sum("hits" in text for text in texts(picture)) == 6
    drawn(picture)
    reference = means.pop("R")
    for draw in (functools.partial(plot.longitudinal, geometry), plot.radial):
        picture = draw(reference, means, reference_name="R")
        assert {"R", "a", "b"} <= set(" ".join(texts(picture)).replace(":", " ").split())
        drawn(picture)


def test_pictures_of_nothing():
    empty = ShowerArrays(TINY, np.full(2, 2e3), np.zeros((2, TINY.n_voxels)))
    edges = np.array([1e3, 1e4, 1e5])
    mean = averages.average(empty, edges)
    drawn(plot.layer_maps(TINY, {"a": mean.voxels[0], "b": mean.voxels[0]}))
    drawn(plot.space(TINY, averages.alike({"a": empty, "b": empty})))
    drawn(plot.longitudinal(TINY, mean, {"a": mean}))
    other = averages.average(empty, np.array([1e4, 1e5, 1e6]))  # no shower in any slice
    drawn(plot.longitudinal(TINY, mean._replace(counts=other.counts), {"a": mean}))


def test_discs_show_every_voxel_at_its_angle_and_radius():
    from calojax.plot.showers import _disc

    shapes = _disc(TINY, 2)
    layer = TINY.layers[2]
    assert len(shapes) == layer.n_voxels
    centres = shapes.mean(axis=1)
    where = TINY.layer_slices[2]
    angle = np.arctan2(centres[:, 1], centres[:, 0])
    np.testing.assert_allclose(angle, TINY.voxels.alpha_center[where], atol=1e-6)
    radius = np.hypot(centres[:, 0], centres[:, 1]).reshape(layer.n_alpha, layer.n_r)
    assert (np.diff(radius, axis=1) > 0).all()


def test_histograms_print_their_separation_powers():
    one = histogram("layer 3", [1, 5, 200, 900], [0, 7, 210, 880], log_x=True)
    shown = texts(plot.histogram_sheet([{"a": one}]))
    assert {"S = 0.0123 ± 0.0040", "outside 25.0%, 0.0%", "by chance 0.0010"} <= set(shown)
    assert {"Layer energy [MeV]", "Layer 3", "Geant4", "a"} <= set(shown)
    other = dataclasses.replace(one, separation=0.5, outside_counts=False)
    picture = plot.histogram_sheet([{"a": one, "b": other}], reference_name="Full")
    assert {"S = 0.0123 ± 0.0040", "S = 0.5000 ± 0.0040", "a", "b", "Full"} <= set(texts(picture))
    drawn(picture)


@pytest.mark.parametrize(("models", "log_x"), [("a", False), ("abc", True)])
def test_histograms_stay_below_the_texts(models, log_x):
    one = histogram("layer 3", np.full(10, 4), np.full(10, 4), log_x=log_x)
    picture = plot.histogram_sheet([dict.fromkeys(models, one)] * 5)
    drawn(picture)
    axes = picture.axes[0]
    _, highest = axes.transData.transform((1, 0.1 + np.sqrt(4) / 40))
    assert highest < min(text.get_window_extent().y0 for text in axes.texts)
    assert texts(picture).count("Ratio") == 1


def test_sheet_of_histograms_some_of_them_empty():
    items = [
        histogram(f"layer {i}", np.arange(5) * i, np.arange(5)[::-1] * i, low=-0.1 * i)
        for i in range(3)
    ]
    picture = plot.histogram_sheet([{"a": item} for item in items])
    shown = texts(picture)
    assert [f"Layer {i}" in shown for i in range(3)] == [True] * 3
    assert "Layer energy [MeV]" in shown
    drawn(picture)
    drawn(plot.histogram_sheet([{"a": histogram("layer 0", np.zeros(4, int), np.zeros(4, int))}]))


def test_a_spike_of_empty_layers_leaves_the_frame():
    counts = np.array([0, 900, 40, 50, 60, 40, 30, 20, 10, 5, 0])
    item = histogram("layer 7", counts, counts, low=-0.1)
    assert plot.histogram_sheet([{"a": item}]).axes[0].get_ylim()[1] < 0.1


def test_ratios_beyond_the_frame_are_marked():
    from calojax.plot.style import figure, ratio

    axes = figure(2, 2).subplots()
    ones = np.ones(4)
    models = {"a": (np.array([1.0, 9.0, 0.1, 0.0]), ones)}
    ratio(axes, np.arange(5.0), (np.array([1, 1, 1, 0]), ones), models)
    marks = {line.get_marker(): list(line.get_xdata()) for line in axes.lines}
    assert (marks["^"], marks["v"]) == ([1.5], [2.5])


def test_response_and_correlations():
    rng = np.random.default_rng(0)
    energies = np.geomspace(1e3, 1e5, 900)
    edges = resolution.bins(energies)
    measured = [
        resolution.measure(
            energies, energies * (1 + rng.normal(size=900) / np.sqrt(energies)), edges
        )
        for _ in range(2)
    ]
    # One sample has fewer bins.
    fewer = resolution.Resolution(*(v[:3] for v in measured[1]))
    drawn(plot.response(measured[0], {"a": measured[1], "b": fewer}))
    matrix = np.corrcoef(rng.normal(size=(3, 50)))
    drawn(plot.correlations(matrix, {"a": matrix * 0.9}, ["0", "1", "12"]))
    picture = plot.correlations(matrix, {"of $2": matrix, "lower": matrix - 0.5})
    assert any("0.5" in text and "lower" in text for text in texts(picture))
    drawn(picture)


def test_terms_of_a_resolution_that_are_zero_are_not_shown():
    from calojax.plot.profiles import _terms

    assert _terms(0.1, 0.0) == r": 10.0% (GeV/$E)^{\mathrm{1/2}}$"
    assert _terms(0.0, 0.02) == ": 2.00%"
    assert _terms(0.0, 0.0) == ""


def test_pareto_front_keeps_what_no_other_beats():
    points = [(1.0, 5.0, "a"), (2.0, 6.0, "b"), (3.0, 2.0, "c"), (3.0, 1.0, "d"), (9.0, 1.0, "e")]
    assert [name for *_, name in _front(points, higher=False)] == ["a", "d"]
    assert [name for *_, name in _front(points, higher=True)] == ["a", "b"]


def test_pareto_names_the_front_and_ours():
    rows = [
        Row("GEANT4", {"fpd": 0.01}, published=True),
        Row("fast", {"fpd": 0.9, "cpu_ms_1": 1.0}, published=True),
        Row("good", {"fpd": 0.02, "cpu_ms_1": 1e4}, published=True),
        Row("beaten", {"fpd": 0.95, "cpu_ms_1": 2.0}, published=True),
        Row("untimed", {"fpd": 0.02}, published=True),
        Row("good", {"fpd": 0.03, "cpu_ms_1": 5.0}),
        Row("ours, untimed", {"fpd": 0.04}),
    ]
    picture = plot.pareto(rows, "fpd", times=("cpu_ms_1",))
    shown = texts(picture)
    assert {"fast", "good", "ours, untimed (no time measured)"} <= set(shown)
    assert shown.count("good") == 2
    assert not {"untimed", "beaten"} & set(shown)
    drawn(picture)
    drawn(plot.pareto(rows, "auc_cnn", times=("gpu_ms_100",)))  # no one has either


def test_loss_curves_group_training_with_validation():
    records = [
        {"stage": "autoencoder", "step": 0, "loss": 9.0, "validation/loss": 10.0, "seconds": 1.0},
        {"stage": "autoencoder", "step": 10, "loss": 1.0, "perplexity": float("nan")},
        {"stage": "prior", "step": 0, "loss": 2.0, "note": "text", "flag": True},
        {"stage": "prior"},
    ]
    series = _series(records)
    assert list(series) == [("autoencoder", "loss"), ("prior", "loss")]
    assert sorted(series["autoencoder", "loss"]) == ["training", "validation"]
    assert series["autoencoder", "loss"]["training"] == [(0, 9), (10, 1)]
    picture = plot.loss_curves(records)
    assert {"autoencoder: loss", "validation"} <= set(texts(picture))
    assert "prior: loss" not in texts(picture)  # It has a single value.
    drawn(picture)
    drawn(plot.loss_curves(records[2:]))


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "figures" / "codes.png"
    picture = plot.loss_curves([])
    assert plot.save(picture, path, dpi=SMALL) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match="not supported"):
        plot.save(picture, path.with_suffix(".nonsense"), dpi=SMALL)
    assert [p.name for p in path.parent.iterdir()] == ["codes.png"]
    assert path.read_bytes() == b"older"


def test_the_callers_style_and_pyplot_are_left_alone():
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    assert plot.loss_curves([])._repr_png_().startswith(b"\x89PNG")  # as notebooks show it
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("showers", "bins", "drawn"), [(380, 100, 25), (10**6, 100, 100), (0, 100, 100), (5, 101, 17)]
)
def test_few_showers_are_drawn_in_few_bins(showers, bins, drawn):
    counts = np.full(bins, showers // bins)
    counts[: showers % bins] += 1
    edges, (found, _) = _readable({"a": histogram("all", counts, counts)})
    assert len(found) == len(edges) - 1 <= drawn
    np.testing.assert_allclose(np.diff(edges), np.diff(edges)[0])
    assert found.sum() >= 0.98 * showers - 4


def test_bins_without_entries_are_not_drawn():
    counts = np.zeros(100, int)
    counts[40:60] = 1000
    counts[3] = 1
    edges, (found, _) = _readable({"a": histogram("all", counts, counts, log_x=True)})
    assert found.sum() == 20_000
    assert edges[[0, -1]] == pytest.approx([10**1.6, 10**2.4])


@pytest.mark.parametrize(
    ("backend", "known"), [("module://matplotlib.backends.backend_svg", True), ("unheard", False)]
)
def test_a_backend_that_only_notebooks_know_will_do(backend, known):
    # The file alone, since the package, which imports it first, takes seconds.
    code = (
        "import os, runpy, sys; runpy.run_path(sys.argv[1]); import matplotlib; "
        "print(os.environ['MPLBACKEND'], matplotlib.rcParams['backend'])"
    )
    package = pathlib.Path(plot.__file__)
    imports = (line for line in package.read_text().splitlines() if line.startswith("from"))
    assert next(imports).startswith("from calojax.plot import backend")
    done = subprocess.check_output(
        [sys.executable, "-c", code, package.with_name("backend.py")],
        env={**os.environ, "MPLBACKEND": backend},
        text=True,
    )
    assert done.split() == [backend, backend if known else "agg"]
