"""Pictures of a report: which are drawn, under which names, with which captions."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from calojax import plot
from calojax.evaluation import averages, quantity, resolution
from calojax.evaluation.averages import Averages
from calojax.evaluation.correlations import SHOWER_QUANTITIES
from calojax.evaluation.histograms import Histogram
from calojax.evaluation.suite import SCORES
from calojax.report.results import Report
from calojax.report.tables import PUBLISHED, board

_FAMILIES = {
    "e_layer": "Layer energy",
    "e_total_at_energy": "Visible over incident energy at each incident energy",
    "ec_eta": "Centre of energy in eta",
    "ec_phi": "Centre of energy in phi",
    "ec_r": "Centre of energy in r",
    "width_eta": "Width in eta",
    "width_phi": "Width in phi",
    "width_r": "Width in r",
    "sparsity": "Sparsity",
}
# Qualities drawn against time.
_QUALITIES = ("auc_low", "auc_high", "auc_cnn", "fpd")


class Drawing(NamedTuple):
    """A picture that is not drawn yet.

    Attributes:
      name: short name, also of the file.
      draw: function that draws it.
      caption: what is seen, in a sentence or two.
      narrow: whether two fit side by side.
    """

    name: str
    draw: Callable[[], plot.Figure]
    caption: str
    narrow: bool = False


def sections(report: Report) -> Iterator[tuple[str, Callable[[], Iterator[Drawing]]]]:
    """Titles of sections in order, and what gives their pictures."""
    gallery = _Gallery(report)
    if report.published:
        yield PUBLISHED, gallery.pareto
    yield "Response", gallery.response
    if report.reference is not None and all(m.showers is not None for m in report.models):
        yield "Profiles", gallery.profiles
        yield "Mean showers", gallery.mean_showers
        yield "Single showers", gallery.single_showers
    yield "Histograms", functools.partial(gallery.histograms, sheets=False)
    yield "Correlations", gallery.correlations
    yield "Histograms, layer by layer", functools.partial(gallery.histograms, sheets=True)


class _Gallery:
    """The pictures of each section."""

    def __init__(self, report: Report):
        self._report = report
        self._reference = report.reference_name
        self._name = {"reference_name": report.reference_name}
        self._models = {model.name: model.evaluation for model in report.models}
        self._detector = report.models[0].evaluation.detector
        rings = "" if self._detector.grid is not None else " Rings are drawn equally wide."
        self._white = f" White: below 0.01 MeV.{rings}"

    @functools.cached_property
    def _means(self) -> tuple[Averages, dict[str, Averages]]:
        samples = self._samples()
        edges = averages.decades(np.concatenate([s.energies for s in samples.values()]))
        means = {name: averages.average(sample, edges) for name, sample in samples.items()}
        return means.pop(""), means

    def _samples(self) -> dict:
        """Showers of the reference, under the name "", and of the models."""
        return {"": self._report.reference, **{m.name: m.showers for m in self._report.models}}

    def pareto(self) -> Iterator[Drawing]:
        """Each quality that our rows have, against time."""
        rows = board(self._report)
        for quality in _QUALITIES:
            if any(quality in row.values for row in rows if not row.published):
                yield Drawing(
                    f"pareto_{quality}",
                    functools.partial(plot.pareto, rows, quality, **self._name),
                    f"{SCORES[quality].name} against generation time: published models "
                    "grey, with a line and names for those that none beats in both; ours as stars, "
                    "or as dashed lines where no time was measured (--timing). Scores of different "
                    "data sets are not comparable: see the note above the table.",
                )  # fmt: skip

    def response(self) -> Iterator[Drawing]:
        """Linearity and resolution against incident energy, if any bin has enough showers."""
        reference = next(iter(self._models.values())).reference
        edges = resolution.bins(np.asarray(reference.energy), self._detector.energies)
        known, *found = (
            resolution.measure(np.asarray(sample.energy), np.asarray(sample.total), edges)
            for sample in (reference, *(e.generated for e in self._models.values()))
        )
        if all(len(item.energy) for item in (known, *found)):
            models = dict(zip(self._models, found, strict=True))
            yield Drawing(
                "response", functools.partial(plot.response, known, models, **self._name),
                "Linearity and resolution of the visible energy against incident energy, with "
                "statistical errors. Curves: stochastic and constant term added in quadrature, "
                "fitted to the points; terms that the fit finds to be 0 are left out.",
            )  # fmt: skip

    def profiles(self) -> Iterator[Drawing]:
        """Mean energy over depth and over radius."""
        along = functools.partial(plot.longitudinal, self._detector)
        for kind, draw, what in (
            ("longitudinal", along, "Energy of each layer over depth"),
            ("radial", plot.radial, "Energy per transverse area over radius"),
        ):
            yield Drawing(
                f"profile_{kind}",
                functools.partial(draw, *self._means, **self._name),
                f"{what}, mean over showers as a fraction of the incident energy, in slices of "
                f"incident energy. Below: ratios to {self._reference}, with statistical errors; "
                "triangles are beyond the frame.",
            )  # fmt: skip

    def mean_showers(self) -> Iterator[Drawing]:
        """Mean showers layer by layer."""
        reference, models = self._means
        counts = np.array([one.counts for one in (reference, *models.values())])
        for index in np.flatnonzero((counts > 0).all(axis=0)).tolist():
            low, high = reference.edges[index : index + 2]
            voxels = {self._reference: reference.voxels[index]}
            voxels |= {name: one.voxels[index] for name, one in models.items()}
            numbers = ", ".join(
                f"{count:,} of {name}" for count, name in zip(counts[:, index], voxels, strict=True)
            )
            title = f"Mean shower, {quantity.energies(low, high)}"
            yield Drawing(
                f"mean_layers_{low:.0f}_{high:.0f}_MeV",
                functools.partial(plot.layer_maps, self._detector, voxels, title=title),
                f"Mean energy of every voxel, layer by layer, of showers: {numbers}.{self._white}",
            )  # fmt: skip

    def single_showers(self) -> Iterator[Drawing]:
        """Single showers in space."""
        rows = [
            {name or self._reference: shower for name, shower in row.items()}
            for row in averages.alike(self._samples())
        ]
        yield Drawing(
            "single_space", functools.partial(plot.space, self._detector, rows),
            f"Showers of {self._reference} at three quantiles of incident energy beside the "
            "showers of the closest incident energy, chosen by energy alone. Points: voxels "
            "within the radius that holds 98 % of the energy; grey dots on its edge stand for "
            "hits beyond. The dashed line is the particle's direction.",
        )  # fmt: skip

    def histograms(self, *, sheets: bool) -> Iterator[Drawing]:
        """Histograms without siblings alone, or those of each family in a sheet."""
        families: dict[str, dict[str, dict[str, Histogram]]] = {}
        for name, evaluation in self._models.items():
            for item in evaluation.histograms:
                families.setdefault(item.family, {}).setdefault(item.name, {})[name] = item
        note = (
            f"Grey: {self._reference}; lines: models; bands: statistical errors; S: separation "
            "power with its error, and the chance level, the mean of equal distributions. Bins are "
            "merged where showers are few, and the frame leaves out a thousandth of the entries at "
            "either end; triangles: ratios beyond it. 'Outside': shares of the model's and of "
            f"{self._reference}'s entries outside of the bins, where they count."
        )
        for family, items in families.items():
            common = [one for one in items.values() if len(one) == len(self._models)]
            if (len(common) > 1) != sheets or not common:
                continue
            if not sheets:
                yield Drawing(
                    f"histogram_{family}",
                    functools.partial(plot.histogram, common[0], **self._name),
                    note,
                    narrow=True,
                )
                continue
            title = _FAMILIES.get(family, family.replace("_", " "))
            means = ", ".join(
                f"{name} {_mean([one[name].separation for one in common])}" for name in self._models
            )
            chance = _mean([item.floor for one in common for item in one.values()])
            yield Drawing(
                f"histogram_{family}",
                functools.partial(plot.histogram_sheet, common, title=title, **self._name),
                f"{title}. {note} Mean separation power: {means}; by chance {chance}.",
            )  # fmt: skip

    def correlations(self) -> Iterator[Drawing]:
        """Correlation matrices of the layer energies and of quantities of the whole shower."""
        layers = {n: e.layer_correlations for n, e in self._models.items() if e.layer_correlations}
        showers = {
            n: e.shower_correlations for n, e in self._models.items() if e.shower_correlations
        }
        for kind, found, labels, axis, caption in (
            ("layers", layers, [str(layer.id) for layer in self._detector.layers], "Layer",
             "Pearson correlation of the layer energies over all showers, and its difference to "
             f"{self._reference}. The common incident energy makes up much of it."),
            ("showers", showers, list(SHOWER_QUANTITIES), "",
             "Pearson correlation of quantities of the whole shower: centre and width along each "
             "axis, number of voxels hit, and energy."),
        ):  # fmt: skip
            if not found or len(labels) < 2:
                continue
            reference = next(iter(found.values())).reference
            generated: Mapping = {name: one.generated for name, one in found.items()}
            yield Drawing(
                f"correlation_{kind}",
                functools.partial(
                    plot.correlations, reference, generated, labels, axis=axis, **self._name
                ),
                caption,
            )  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    return quantity.rounded(float(np.mean(values)))
