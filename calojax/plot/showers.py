"""Pictures of showers: mean energy maps, and single showers in space and layer by layer."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from calojax.evaluation import quantity
from calojax.evaluation.averages import Averages, Pair
from calojax.geometry import Detector
from calojax.plot.style import (
    DIFFERENCE_MAP,
    ENERGY_MAP,
    REFERENCE_NAME,
    columns_for,
    empty,
    energy_norm,
    figure,
    styled,
)

# Chords per full circle when an arc is drawn as a polygon.
_CHORDS = 64


@styled
def depth_maps(
    detector: Detector, reference: Averages, generated: Averages, *, name: str = "Generated"
) -> Figure:
    """Mean energy density over depth and radius: a row a slice; Geant4, generated and ratio.

    Args:
      detector: the geometry of both.
      reference: means of the reference.
      generated: means of the generated showers in the same slices.
      name: the legend of the generated showers.
    """
    rows = _common_slices(reference, generated)
    picture = figure(11.6, 0.6 + 2.3 * max(len(rows), 1))
    if not rows:
        return empty(picture, "no slice of incident energy has showers in both files")
    picture.get_layout_engine().set(wspace=0.08)
    grid = picture.subplots(len(rows), 3, squeeze=False, sharex=True, sharey=True)
    for axes, row in zip(grid, rows, strict=True):
        densities = [_ring_density(detector, a.voxels[row]) for a in (reference, generated)]
        high = max(float(d.max()) for d in densities) or 1.0
        norm = LogNorm(high * 1e-6, high)
        for panel, density, title in zip(axes, densities, (REFERENCE_NAME, name), strict=False):
            _depth_map(panel, detector, density, norm, ENERGY_MAP)
            if row == rows[0]:
                panel.set_title(title)
        picture.colorbar(
            ScalarMappable(norm, ENERGY_MAP), ax=list(axes[:2]), pad=0.01, aspect=16,
            label=r"$\langle E\rangle$ / volume [MeV/mm$^3$]",
        )  # fmt: skip
        both = (densities[0] > norm.vmin) & (densities[1] > norm.vmin)
        ratio = np.full_like(high * densities[0], np.nan)
        np.divide(densities[1], densities[0], out=ratio, where=both)
        change = Normalize(0.5, 1.5)
        _depth_map(axes[2], detector, ratio, change, DIFFERENCE_MAP)
        picture.colorbar(
            ScalarMappable(change, DIFFERENCE_MAP), ax=axes[2], pad=0.02, aspect=16,
            label=f"Ratio to {REFERENCE_NAME}", extend="both",
        )  # fmt: skip
        if row == rows[0]:
            axes[2].set_title("Ratio")
        axes[0].set_ylabel("$r$ [mm]")
        axes[0].text(
            0.97, 0.93, quantity.energies(*reference.edges[row : row + 2]), ha="right", va="top",
            transform=axes[0].transAxes, fontsize="small",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
        )  # fmt: skip
    for panel in grid[-1]:
        panel.set_xlabel("$z$ [mm]")
    return picture


@styled
def layer_maps(
    detector: Detector,
    reference: np.ndarray,
    generated: np.ndarray,
    *,
    title: str = "",
    name: str = "Generated",
) -> Figure:
    """Energy of every voxel of two showers (or two mean showers), a pair of discs a layer.

    Args:
      detector: the geometry of both.
      reference: voxel energies in MeV, [v].
      generated: voxel energies in MeV, [v].
      title: what is shown, above the discs.
      name: the legend of the generated shower.
    """
    columns = columns_for(detector.n_layers)
    rows = math.ceil(detector.n_layers / columns)
    # In units of a disc's radius: from pair to pair, and from row to row with its label.
    step_x, step_y = 4.9, 2.75
    x_limits = (-1.2, (columns - 1) * step_x + 3.35)
    y_limits = (-(rows - 1) * step_y - 1.15, 1.7)
    # In inches; discs of a few layers need not fill the page.
    width = 11.6
    unit = min(width / (x_limits[1] - x_limits[0]), 0.75)
    discs, above, below = unit * (y_limits[1] - y_limits[0]), 0.4, 0.75
    height = above + discs + below
    picture = figure(width, height, layout="none")
    used = unit * (x_limits[1] - x_limits[0]) / width
    axes = picture.add_axes(((1 - used) / 2, below / height, used, discs / height))
    axes.set(xlim=x_limits, ylim=y_limits)
    axes.axis("off")
    norm = energy_norm(reference, generated)
    polygons, values, edges = [], [], []
    for position, where in enumerate(detector.layer_slices):
        x = (position % columns) * step_x
        y = -(position // columns) * step_y
        shapes = _disc(detector, position)
        for shift, shower in ((0.0, reference), (2.15, generated)):
            polygons.extend(np.add(shapes, (x + shift, y)))
            values.append(shower[where])
            edges.append(np.add(_circle(), (x + shift, y)))
        label = f"Layer {detector.layers[position].id}"
        if detector.grid is None:
            label += f", $r$ < {detector.layers[position].r_edges[-1]:g} mm"
        axes.text(x + 1.075, y + 1.08, label, ha="center", va="bottom", fontsize=8)
    colours = matplotlib.colormaps[ENERGY_MAP].with_extremes(under="white", bad="white")
    axes.add_collection(
        PolyCollection(
            polygons, array=np.concatenate(values), cmap=colours, norm=norm, antialiased=False
        )
    )
    axes.add_collection(PolyCollection(edges, facecolors="none", edgecolors="0.35", linewidths=0.6))
    sides = f"{REFERENCE_NAME} left, {name} right"
    picture.text(
        0.5, 1 - 0.12 / height, f"{title}: {sides}" if title else sides, ha="center", va="top"
    )
    bar = picture.add_axes((0.25, 0.55 / height, 0.5, 0.13 / height))
    picture.colorbar(
        ScalarMappable(norm, ENERGY_MAP), cax=bar, orientation="horizontal",
        label="Voxel energy [MeV]",
    )  # fmt: skip
    return picture


@styled
def space(detector: Detector, pairs: Sequence[Pair], *, name: str = "Generated") -> Figure:
    """Single showers as points in space, a row a pair: Geant4 left, generated right.

    Args:
      detector: the geometry of all.
      pairs: the showers.
      name: the legend of the generated showers.
    """
    picture = figure(11.6, 0.7 + 3.4 * max(len(pairs), 1), layout="none")
    if not pairs:
        return empty(picture, "no showers")
    radius = _core_radius(detector, pairs)
    showers = [shower for pair in pairs for shower in (pair.reference, pair.generated)]
    highest = max(float(shower.max()) for shower in showers)
    # Three decades of colour: soft voxels of hard showers may share the darkest.
    norm = energy_norm(*showers, low=max(1e-2, 1e-3 * highest))
    bottom, top = 0.75 / picture.get_figheight(), 1 - 0.05 / picture.get_figheight()
    step = (top - bottom) / len(pairs)
    for row, pair in enumerate(pairs):
        for column, (shower, energy, who) in enumerate((
            (pair.reference, pair.energies[0], REFERENCE_NAME),
            (pair.generated, pair.energies[1], name),
        )):  # fmt: skip
            box = (0.5 * column - 0.01, top - (row + 1) * step, 0.485, step)
            axes = picture.add_axes(box, projection="3d")
            _points(axes, detector, shower, radius, norm)
            hits = int(np.count_nonzero(shower))
            picture.text(
                box[0] + box[2] / 2, box[1] + box[3] - 0.02 / picture.get_figheight(),
                rf"{who}:  $E_{{\mathrm{{inc}}}}$ = {quantity.energy(energy)},  "
                rf"$E_{{\mathrm{{tot}}}}$ = {quantity.energy(float(shower.sum()))},  {hits} voxels",
                ha="center", va="top",
            )  # fmt: skip
    bar = picture.add_axes((0.3, 0.42 / picture.get_figheight(), 0.4, 0.012))
    picture.colorbar(
        ScalarMappable(norm, ENERGY_MAP), cax=bar, orientation="horizontal",
        label="Voxel energy [MeV]",
    )  # fmt: skip
    return picture


def _common_slices(reference: Averages, generated: Averages) -> list[int]:
    """The slices that hold showers of both."""
    return np.flatnonzero((reference.counts > 0) & (generated.counts > 0)).tolist()


def _ring_density(detector: Detector, voxels: np.ndarray) -> np.ndarray:
    """Energy per volume of each ring in MeV/mm^3 at each of its voxels, [v] -> [v]."""
    density = np.empty_like(voxels, float)
    for layer, where in zip(detector.layers, detector.layer_slices, strict=True):
        rings = voxels[where].reshape(layer.n_alpha, layer.n_r).sum(axis=0)
        volume = np.pi * np.diff(np.square(layer.r_edges)) * layer.thickness
        density[where] = np.tile(rings / volume, layer.n_alpha)
    return density


def _depth_map(axes, detector: Detector, density: np.ndarray, norm: Normalize, colours: str):
    """Fills ``axes`` with z against r; ``density`` [v] is constant along alpha."""
    innermost = min(layer.r_edges[1] for layer in detector.layers)
    outermost = max(layer.r_edges[-1] for layer in detector.layers)
    # Dataset 1 reaches from 2 to 2000 mm: only a logarithmic radius shows the core.
    logarithmic = outermost > 100 * innermost
    low = innermost / 2 if logarithmic else 0.0
    palette = matplotlib.colormaps[colours].with_extremes(under="white", bad="white")
    for position, (layer, where) in enumerate(
        zip(detector.layers, detector.layer_slices, strict=True)
    ):
        axes.pcolormesh(
            detector.z_edges[position : position + 2],
            np.maximum(layer.r_edges, low),
            density[where][: layer.n_r, None],
            norm=norm,
            cmap=palette,
            rasterized=True,
        )
    axes.set_xlim(0, detector.z_edges[-1])
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(low, outermost)
    axes.set_facecolor("0.94")
    axes.set_axisbelow(False)


def _circle() -> np.ndarray:
    angle = np.linspace(-math.pi, math.pi, _CHORDS + 1)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _disc(detector: Detector, position: int) -> np.ndarray:
    """Polygons of a layer's voxels on the unit disc in file order, [v_layer, points, 2].

    Rings of one width are drawn to scale; rings of different widths (dataset 1: 2 to 1000 mm)
    are drawn equally wide, since to scale the core would be a dot.
    """
    layer = detector.layers[position]
    edges = np.asarray(layer.r_edges, float)
    widths = np.diff(edges)
    if not np.allclose(widths, widths[0], rtol=1e-3):
        edges = np.arange(layer.n_r + 1, dtype=float)
    edges = edges / edges[-1]
    chords = max(1, _CHORDS // layer.n_alpha)
    angle = np.linspace(0, 2 * math.pi / layer.n_alpha, chords + 1)
    start = -math.pi + 2 * math.pi / layer.n_alpha * np.arange(layer.n_alpha)
    angle = start[:, None, None] + np.concatenate([angle, angle[::-1]])
    low = np.repeat(edges[:-1, None], chords + 1, axis=1)
    high = np.repeat(edges[1:, None], chords + 1, axis=1)
    radius = np.concatenate([low, high], axis=1)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return points.reshape(layer.n_voxels, 2 * (chords + 1), 2)


def _core_radius(detector: Detector, pairs: Sequence[Pair], *, share: float = 0.98) -> float:
    """The radius in mm that holds ``share`` of the energy of the reference's showers."""
    energy = sum(pair.reference for pair in pairs)
    outer = detector.voxels.r_high
    order = np.argsort(outer, kind="stable")
    inside = np.cumsum(energy[order])
    if not inside[-1] > 0:
        return float(outer.max())
    return float(outer[order][np.searchsorted(inside, share * inside[-1])])


def _points(axes, detector: Detector, shower: np.ndarray, radius: float, norm: LogNorm) -> None:
    """One shower in space: z along the particle, eta across, phi up."""
    where = np.flatnonzero((shower > 0) & (detector.voxels.r_center <= radius))
    # Brightest last, so that the core is not hidden by the halo.
    where = where[np.argsort(shower[where], kind="stable")]
    energy = shower[where]
    brightness = np.clip(norm(np.maximum(energy, norm.vmin)), 0, 1)
    axes.scatter(
        detector.voxels.z_center[where], detector.voxels.eta[where], detector.voxels.phi[where],
        c=energy, norm=norm, cmap=ENERGY_MAP, s=2 + 60 * np.asarray(brightness) ** 2, alpha=0.75,
        linewidths=0, depthshade=False,
    )  # fmt: skip
    axes.plot([0, detector.z_edges[-1]], [0, 0], [0, 0], color="0.3", lw=0.6, ls=(0, (4, 3)))
    axes.set(
        xlim=(0, detector.z_edges[-1]), ylim=(-radius, radius), zlim=(-radius, radius),
        xlabel="$z$ [mm]", ylabel=r"$\eta$ [mm]", zlabel=r"$\phi$ [mm]",
    )  # fmt: skip
    axes.set_box_aspect((2.1, 1, 1), zoom=1.14)
    axes.view_init(elev=18, azim=-62)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_pane_color((0.97, 0.97, 0.97, 1.0))
        axis._axinfo["grid"].update(color="0.88", linewidth=0.5)
    axes.tick_params(pad=-1, labelsize=8)
