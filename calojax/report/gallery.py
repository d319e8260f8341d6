"""The pictures of a report: which are drawn, under which names, with which captions."""

from collections.abc import Iterator, Sequence

import numpy as np

from calojax import plot
from calojax.evaluate import quantity, scoreboard
from calojax.evaluate import response as responses
from calojax.evaluate.averages import Averages, Pair
from calojax.evaluate.correlations import SHOWER_QUANTITIES, Correlations
from calojax.evaluate.features import Features
from calojax.evaluate.histograms import Histogram
from calojax.geometry import Detector
from calojax.report.page import Picture

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


def histograms(
    items: Sequence[Histogram], *, name: str = "Generated", dpi: int = 110
) -> Iterator[Picture]:
    """Histograms without siblings alone, the others in a sheet a family."""
    families: dict[str, list[Histogram]] = {}
    for item in items:
        families.setdefault(item.family, []).append(item)
    note = (
        "Grey: Geant4; line: generated; bands: statistical errors; S: separation power with its "
        "statistical error."
    )
    singles = [(family, items[0]) for family, items in families.items() if len(items) == 1]
    for family, item in singles:
        yield _picture(
            f"histogram_{family}", plot.histogram(item, name=name), dpi, note, narrow=True
        )
    for family, items in families.items():
        if len(items) == 1:
            continue
        title = _FAMILIES.get(family, family.replace("_", " "))
        mean = float(np.mean([item.separation for item in items]))
        yield _picture(
            f"histogram_{family}",
            plot.histogram_sheet(items, title=title, name=name), dpi,
            f"{title}. {note} Mean separation power: {mean:.4g}.",
        )  # fmt: skip


def response(
    detector: Detector,
    reference: Features,
    generated: Features,
    *,
    name: str = "Generated",
    dpi: int = 110,
) -> Iterator[Picture]:
    """Linearity and resolution against incident energy, if any bin has enough showers."""
    edges = responses.bins(reference.energy, detector.energies)
    measured = [responses.response(s.energy, s.total, edges) for s in (reference, generated)]
    if all(len(item.energy) for item in measured):
        yield _picture(
            "response", plot.response(*measured, name=name), dpi,
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
    dpi: int = 110,
) -> Iterator[Picture]:
    """Mean energy over depth and over radius."""
    for kind, draw, what in (
        ("longitudinal", plot.longitudinal, "Energy of each layer over depth"),
        ("radial", plot.radial, "Energy per transverse area over radius"),
    ):
        yield _picture(
            f"profile_{kind}", draw(detector, reference, generated, name=name), dpi,
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
    dpi: int = 110,
) -> Iterator[Picture]:
    """Mean showers as maps of depth and radius, and layer by layer."""
    yield _picture(
        "mean_depth", plot.depth_maps(detector, reference, generated, name=name), dpi,
        "Mean energy density over depth and radius in slices of incident energy, and the ratio; "
        "white: below a millionth of the maximum. Grey: no voxels.",
    )  # fmt: skip
    for index in np.flatnonzero((reference.counts > 0) & (generated.counts > 0)).tolist():
        low, high = reference.edges[index : index + 2]
        yield _picture(
            f"mean_layers_{low:.0f}_{high:.0f}_MeV",
            plot.layer_maps(
                detector, reference.voxels[index], generated.voxels[index], name=name,
                title=f"Mean shower, {quantity.energies(low, high)}",
            ), dpi,
            f"Mean energy of every voxel, layer by layer: {reference.counts[index]:,} showers of "
            f"Geant4 and {generated.counts[index]:,} generated. White: below 0.01 MeV."
            + _rings(detector),
        )  # fmt: skip


def single_showers(
    detector: Detector,
    pairs: Sequence[Pair],
    *,
    name: str = "Generated",
    dpi: int = 110,
) -> Iterator[Picture]:
    """Single showers in space, and each pair layer by layer."""
    yield _picture(
        "single_space", plot.space(detector, pairs, name=name), dpi,
        "Generated showers at three quantiles of incident energy beside Geant4's showers of the "
        "closest incident energy, chosen by energy alone. Points: voxels within the radius that "
        "holds 98 % of the energy; the dashed line is the particle's direction.",
    )  # fmt: skip
    for number, pair in enumerate(pairs, 1):
        before, after = map(quantity.energy, pair.energies)
        yield _picture(
            f"single_layers_{number}",
            plot.layer_maps(
                detector, pair.reference, pair.generated, name=name,
                title=f"Single showers of {before} and {after}",
            ), dpi,
            f"Pair {number} of {len(pairs)} layer by layer, chosen by energy alone."
            + _rings(detector),
        )  # fmt: skip


def correlations(
    detector: Detector,
    layers: Correlations | None,
    showers: Correlations | None,
    *,
    name: str = "Generated",
    dpi: int = 110,
) -> Iterator[Picture]:
    """Correlation matrices of the layer energies and of quantities of the whole shower."""
    if layers is not None and len(layers.reference) > 1:
        labels = [str(layer.id) for layer in detector.layers]
        yield _picture(
            "correlation_layers",
            plot.correlations(layers.reference, layers.generated, labels, name=name), dpi,
            "Pearson correlation of the layer energies over all showers, and its difference, "
            "generated less Geant4. The common incident energy makes up much of it.",
        )  # fmt: skip
    if showers is not None:
        yield _picture(
            "correlation_showers",
            plot.correlations(
                showers.reference, showers.generated, SHOWER_QUANTITIES, axis="", name=name
            ), dpi,
            "Pearson correlation of quantities of the whole shower: centre and width along each "
            "axis, number of voxels hit, and energy.",
        )  # fmt: skip


def pareto(rows: Sequence[scoreboard.Row], *, dpi: int = 110) -> Iterator[Picture]:
    """Each quality that our row has, against time."""
    ours = next(row for row in rows if not row.published)
    for quality in _QUALITIES:
        if getattr(ours, quality) is None:
            continue
        yield _picture(
            f"pareto_{quality}", plot.pareto(rows, quality), dpi,
            f"{scoreboard.COLUMNS[quality]} against generation time, published models grey, the "
            "line through those that none beats in both. A model without a published time, or a "
            "run without a measured one, is missing. Scores of different data sets are not "
            "comparable: see the note above the table.",
        )  # fmt: skip


def _rings(detector: Detector) -> str:
    if detector.grid is not None:
        return ""
    return " Rings of different widths are drawn equally wide."


def _picture(
    name: str, figure: plot.Figure, dpi: int, caption: str, *, narrow: bool = False
) -> Picture:
    return Picture(name, plot.png(figure, dpi=dpi), caption, narrow)
