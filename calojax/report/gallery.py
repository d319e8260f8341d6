"""The pictures of a report: which are drawn, under which names, with which captions."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from calojax import plot
from calojax.evaluation import quantity, resolution, scoreboard
from calojax.evaluation.averages import Averages, Pair
from calojax.evaluation.correlations import SHOWER_QUANTITIES, Correlations
from calojax.evaluation.features import Features
from calojax.evaluation.histograms import Histogram
from calojax.geometry import Detector


class Drawing(NamedTuple):
    """A picture that is not drawn yet.

    Attributes:
      name: short name, of the file too.
      draw: draws it.
      caption: what is seen, in a sentence or two.
      narrow: whether two fit side by side.
    """

    name: str
    draw: Callable[[], plot.Figure]
    caption: str
    narrow: bool = False


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

# The qualities drawn against time.
_QUALITIES = ("auc_low", "auc_high", "auc_cnn", "fpd")


def histograms(items: Sequence[Histogram], *, name: str = "Generated") -> Iterator[Drawing]:
    """Histograms without siblings alone, the others in a sheet a family."""
    families: dict[str, list[Histogram]] = {}
    for item in items:
        families.setdefault(item.family, []).append(item)
    note = (
        "Grey: Geant4; line: generated; bands: statistical errors; S: separation power with its "
        "statistical error, and below it the chance level, the mean of equal distributions. "
        "'Outside': shares of generated and of Geant4's entries outside of the bins, where they "
        "count."
    )
    singles = [(family, items[0]) for family, items in families.items() if len(items) == 1]
    for family, item in singles:
        yield Drawing(
            f"histogram_{family}",
            functools.partial(plot.histogram, item, name=name),
            note,
            narrow=True,
        )
    for family, items in families.items():
        if len(items) == 1:
            continue
        title = _FAMILIES.get(family, family.replace("_", " "))
        mean, chance = (
            quantity.rounded(float(np.mean(values)))
            for values in zip(*((item.separation, item.floor) for item in items), strict=True)
        )
        yield Drawing(
            f"histogram_{family}",
            functools.partial(plot.histogram_sheet, items, title=title, name=name),
            f"{title}. {note} Mean separation power: {mean}; by chance: {chance}.",
        )  # fmt: skip


def response(
    detector: Detector,
    reference: Features,
    generated: Features,
    *,
    name: str = "Generated",
) -> Iterator[Drawing]:
    """Linearity and resolution against incident energy, if any bin has enough showers."""
    edges = resolution.bins(reference.energy, detector.energies)
    measured = [resolution.measure(s.energy, s.total, edges) for s in (reference, generated)]
    if all(len(item.energy) for item in measured):
        yield Drawing(
            "response", functools.partial(plot.response, *measured, name=name),
            "Linearity and resolution of the visible energy against incident energy, with "
            "statistical errors. Curves: stochastic and constant term added in quadrature, "
            "fitted to the points.",
        )  # fmt: skip


def profiles(
    detector: Detector,
    reference: Averages,
    generated: Averages,
    *,
    name: str = "Generated",
) -> Iterator[Drawing]:
    """Mean energy over depth and over radius."""
    for kind, draw, what in (
        ("longitudinal", plot.longitudinal, "Energy of each layer over depth"),
        ("radial", plot.radial, "Energy per transverse area over radius"),
    ):
        yield Drawing(
            f"profile_{kind}", functools.partial(draw, detector, reference, generated, name=name),
            f"{what}, mean over showers as a fraction of the incident energy, in slices of "
            "incident energy. Hatched: standard deviation between Geant4's showers. Below: ratios "
            "of means and of standard deviations, generated over Geant4, with statistical errors.",
        )  # fmt: skip


def mean_showers(
    detector: Detector,
    reference: Averages,
    generated: Averages,
    *,
    name: str = "Generated",
) -> Iterator[Drawing]:
    """Mean showers as maps of depth and radius, and layer by layer."""
    yield Drawing(
        "mean_depth", functools.partial(plot.depth_maps, detector, reference, generated, name=name),
        "Mean energy density over depth and radius in slices of incident energy, and the ratio; "
        "white: below a millionth of the maximum. Grey: no voxels.",
    )  # fmt: skip
    for index in np.flatnonzero((reference.counts > 0) & (generated.counts > 0)).tolist():
        low, high = reference.edges[index : index + 2]
        yield Drawing(
            f"mean_layers_{low:.0f}_{high:.0f}_MeV",
            functools.partial(
                plot.layer_maps,
                detector, reference.voxels[index], generated.voxels[index], name=name,
                title=f"Mean shower, {quantity.energies(low, high)}",
            ),
            f"Mean energy of every voxel, layer by layer: {reference.counts[index]:,} showers of "
            f"Geant4 and {generated.counts[index]:,} generated. White: below 0.01 MeV."
            + _rings(detector),
        )  # fmt: skip


def single_showers(
    detector: Detector,
    pairs: Sequence[Pair],
    *,
    name: str = "Generated",
) -> Iterator[Drawing]:
    """Single showers in space, and each pair layer by layer."""
    yield Drawing(
        "single_space", functools.partial(plot.space, detector, pairs, name=name),
        "Generated showers at three quantiles of incident energy beside Geant4's showers of the "
        "closest incident energy, chosen by energy alone. Points: voxels within the radius that "
        "holds 98 % of the energy; the dashed line is the particle's direction.",
    )  # fmt: skip
    for number, pair in enumerate(pairs, 1):
        before, after = map(quantity.energy, pair.energies)
        yield Drawing(
            f"single_layers_{number}",
            functools.partial(
                plot.layer_maps,
                detector, pair.reference, pair.generated, name=name,
                title=f"Single showers of {before} and {after}",
            ),
            f"Pair {number} of {len(pairs)} layer by layer, chosen by energy alone."
            + _rings(detector),
        )  # fmt: skip


def correlations(
    detector: Detector,
    layers: Correlations | None,
    showers: Correlations | None,
    *,
    name: str = "Generated",
) -> Iterator[Drawing]:
    """Correlation matrices of the layer energies and of quantities of the whole shower."""
    if layers is not None and len(layers.reference) > 1:
        labels = [str(layer.id) for layer in detector.layers]
        yield Drawing(
            "correlation_layers",
            functools.partial(
                plot.correlations, layers.reference, layers.generated, labels, name=name
            ),
            "Pearson correlation of the layer energies over all showers, and its difference, "
            "generated less Geant4. The common incident energy makes up much of it.",
        )  # fmt: skip
    if showers is not None:
        yield Drawing(
            "correlation_showers",
            functools.partial(
                plot.correlations,
                showers.reference, showers.generated, SHOWER_QUANTITIES, axis="", name=name
            ),
            "Pearson correlation of quantities of the whole shower: centre and width along each "
            "axis, number of voxels hit, and energy.",
        )  # fmt: skip


def pareto(rows: Sequence[scoreboard.Row]) -> Iterator[Drawing]:
    """Each quality that our row has, against time."""
    ours = next(row for row in rows if not row.published)
    for quality in _QUALITIES:
        if getattr(ours, quality) is None:
            continue
        yield Drawing(
            f"pareto_{quality}", functools.partial(plot.pareto, rows, quality),
            f"{scoreboard.COLUMNS[quality]} against generation time, published models grey, the "
            "line through those that none beats in both. A model without a published time, or a "
            "run without a measured one, is missing. Scores of different data sets are not "
            "comparable: see the note above the table.",
        )  # fmt: skip


def _rings(detector: Detector) -> str:
    if detector.grid is not None:
        return ""
    return " Rings of different widths are drawn equally wide."
