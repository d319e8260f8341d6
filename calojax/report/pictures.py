"""Pictures of a report: which are drawn, under which names, with which captions."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from calojax import plot
from calojax.evaluation import averages, quantity, resolution
from calojax.evaluation.averages import Averages
from calojax.evaluation.correlations import SHOWER_QUANTITIES
from calojax.evaluation.histograms import Histogram
from calojax.evaluation.suite import SCORES
from calojax.report.results import Report
from calojax.report.tables import PUBLISHED, board

# Qualities drawn against time.
_QUALITIES = ("auc_low", "auc_high", "auc_cnn", "fpd")


class Drawing(NamedTuple):
    """A picture that is not drawn yet; ``name`` is that of its file. Two narrow ones fit a row."""

    section: str
    name: str
    draw: Callable[[], plot.Figure]
    caption: str
    narrow: bool = False


def drawings(report: Report) -> Iterator[Drawing]:
    """All pictures in the order of the page; those of a section follow each other."""
    yield from _pareto(report)
    yield from _response(report)
    if report.reference is not None and all(m.showers is not None for m in report.models):
        yield from _showers(report)
    yield from _correlations(report)
    yield from _histograms(report)


def _later(report: Report, draw: Callable[..., plot.Figure], *arguments: Any, **options: Any):
    return functools.partial(draw, *arguments, reference_name=report.reference_name, **options)


def _pareto(report: Report) -> Iterator[Drawing]:
    """Each quality that our rows have, against time."""
    rows = board(report) if report.published else []
    for key in _QUALITIES:
        if any(key in row.values for row in rows if not row.published):
            yield Drawing(
                PUBLISHED, f"pareto_{key}", _later(report, plot.pareto, rows, key),
                f"{SCORES[key].name} against generation time: published models grey, with a line "
                "and names for those that none beats in both; ours as stars, or as dashed lines "
                "where no time was measured (--timing). Scores of different data sets are not "
                "comparable: see the note above the table.",
            )  # fmt: skip


def _response(report: Report) -> Iterator[Drawing]:
    """Linearity and resolution against incident energy, if any bin has enough showers."""
    reference = report.models[0].evaluation.reference
    edges = resolution.bins(reference.energy, report.models[0].evaluation.detector.energies)
    known = resolution.measure(reference.energy, reference.total, edges)
    samples = {model.name: model.evaluation.generated for model in report.models}
    found = {name: resolution.measure(s.energy, s.total, edges) for name, s in samples.items()}
    if all(len(item.energy) for item in (known, *found.values())):
        yield Drawing(
            "Response", "response", _later(report, plot.response, known, found),
            "Linearity and resolution of the visible energy against incident energy, with "
            "statistical errors. Curves: stochastic and constant term added in quadrature, "
            "fitted to the points; terms that the fit finds to be 0 are left out.",
        )  # fmt: skip


def _showers(report: Report) -> Iterator[Drawing]:
    """Profiles and mean showers in slices of incident energy, and single showers."""
    detector, reference = report.models[0].evaluation.detector, report.reference_name
    samples: dict = {reference: report.reference, **{m.name: m.showers for m in report.models}}
    edges = averages.decades(np.concatenate([sample.energies for sample in samples.values()]))

    @functools.cache
    def means() -> dict[str, Averages]:
        return {name: averages.average(sample, edges) for name, sample in samples.items()}

    def profile(draw: Callable[..., plot.Figure]) -> plot.Figure:
        models = means().copy()
        return draw(models.pop(reference), models, reference_name=reference)

    along = functools.partial(plot.longitudinal, detector)
    for kind, draw, what in (
        ("longitudinal", along, "Energy of each layer over depth"),
        ("radial", plot.radial, "Energy per transverse area over radius"),
    ):
        yield Drawing(
            "Profiles", f"profile_{kind}", functools.partial(profile, draw),
            f"{what}, mean over showers as a fraction of the incident energy, in slices of "
            f"incident energy. Below: ratios to {reference}, with statistical errors; triangles "
            "are beyond the frame.",
        )  # fmt: skip

    def layers(index: int, title: str) -> plot.Figure:
        voxels = {name: one.voxels[index] for name, one in means().items()}
        return plot.layer_maps(detector, voxels, title=title)

    counts = np.array([np.histogram(sample.energies, edges)[0] for sample in samples.values()])
    for index in np.flatnonzero((counts > 0).all(axis=0)).tolist():
        low, high = edges[index : index + 2]
        title = f"Mean shower, {quantity.energies(low, high)}"
        numbers = ", ".join(
            f"{count:,} of {name}" for count, name in zip(counts[:, index], samples, strict=True)
        )
        rings = "" if detector.grid is not None else " Rings are drawn equally wide."
        yield Drawing(
            "Mean showers", f"mean_layers_{low:.0f}_{high:.0f}_MeV",
            functools.partial(layers, index, title),
            f"Mean energy of every voxel, layer by layer, of showers: {numbers}. White: below "
            f"0.01 MeV.{rings}",
        )  # fmt: skip

    def space() -> plot.Figure:
        return plot.space(detector, averages.alike(samples))

    yield Drawing(
        "Single showers", "single_space", space,
        f"Showers of {reference} at three quantiles of incident energy beside the showers of the "
        "closest incident energy, chosen by energy alone. Points: voxels within the radius that "
        "holds 98 % of the energy; grey dots on its edge stand for hits beyond. The dashed line "
        "is the particle's direction.",
    )  # fmt: skip


def _correlations(report: Report) -> Iterator[Drawing]:
    """Correlation matrices of the layer energies and of quantities of the whole shower."""
    ids = [str(layer.id) for layer in report.models[0].evaluation.detector.layers]
    for kind, labels, axis, caption in (
        ("layer", ids, "Layer", "the layer energies over all showers. The common incident energy "
         "makes up much of it"),
        ("shower", list(SHOWER_QUANTITIES), "", "quantities of the whole shower: centre and width "
         "along each axis, number of voxels hit, and energy"),
    ):  # fmt: skip
        found = {m.name: getattr(m.evaluation, f"{kind}_correlations") for m in report.models}
        if all(found.values()) and len(labels) > 1:
            generated = {name: one.generated for name, one in found.items()}
            reference = next(iter(found.values())).reference
            yield Drawing(
                "Correlations", f"correlation_{kind}s",
                _later(report, plot.correlations, reference, generated, labels, axis=axis),
                f"Pearson correlations of {caption}; and differences to {report.reference_name}.",
            )  # fmt: skip


def _histograms(report: Report) -> Iterator[Drawing]:
    """Histograms without siblings, then those of each family in a sheet."""
    families: dict[str, dict[str, dict[str, Histogram]]] = {}
    for model in report.models:
        for item in model.evaluation.histograms:
            families.setdefault(item.family, {}).setdefault(item.name, {})[model.name] = item
    for family, items in sorted(families.items(), key=lambda pair: len(pair[1]) > 1):
        common = [one for one in items.values() if len(one) == len(report.models)]
        if common:
            yield Drawing(
                "Histograms", f"histogram_{family}",
                _later(report, plot.histogram_sheet, common),
                f"Grey: {report.reference_name}; lines: models; bands: statistical errors. Below: "
                f"ratios to {report.reference_name}; triangles are beyond the frame. S: separation "
                "power with its error; by chance: its mean for equal distributions; outside: "
                f"shares of the model's and of {report.reference_name}'s entries outside of the "
                "bins, where they count. Bins are merged where showers are few, and a thousandth "
                "of the entries at either end is not shown. Showers without energy in a layer "
                "have centre and width 0; their bin may rise beyond the frame.",
                narrow=len(common) == 1,
            )  # fmt: skip
