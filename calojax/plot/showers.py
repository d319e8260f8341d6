"""Pictures of showers: voxels layer by layer, and single showers in space."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullLocator

from calojax.evaluation.averages import Shower
from calojax.geometry import Detector
from calojax.io.findings import energy_text
from calojax.plot.style import (
    ENERGY_MAP,
    WIDTH,
    Figure,
    columns_for,
    empty,
    figure,
    plain,
    styled,
)

# Chords per full circle when an arc is drawn as a polygon.
_CHORDS = 64


@styled
def layer_maps(detector: Detector, showers: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """Showers layer by layer, for each layer a disc of every shower side by side.

    Showers are voxel energies [v] in MeV by name, from left to right.
    """
    # In units of a disc's radius: from group to group, and from row to row with its label.
    pitch = 2.15
    step_x, step_y = pitch * len(showers) + 0.6, 2.75
    columns = columns_for(detector.n_layers)
    columns = max(1, min(columns, int(columns * 4.9 / step_x + 0.5)))
    rows = math.ceil(detector.n_layers / columns)
    x_limits = (-1.2, columns * step_x - pitch + 0.6)
    y_limits = (-(rows - 1) * step_y - 1.15, 1.7)
    # In inches; discs of a few layers need not fill the page.
    unit = min(WIDTH / (x_limits[1] - x_limits[0]), 0.75)
    discs, above, below = unit * (y_limits[1] - y_limits[0]), 0.4, 0.75
    height = above + discs + below
    picture = figure(WIDTH, height, layout=None)
    used = unit * (x_limits[1] - x_limits[0]) / WIDTH
    axes = picture.add_axes(((1 - used) / 2, below / height, used, discs / height))
    axes.set(xlim=x_limits, ylim=y_limits)
    axes.axis("off")
    norm = _energy_norm(*showers.values())
    angle = np.linspace(-math.pi, math.pi, _CHORDS + 1)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    polygons, values, edges = [], [], []
    for position, where in enumerate(detector.layer_slices):
        x = (position % columns) * step_x
        y = -(position // columns) * step_y
        shapes = _disc(detector, position)
        for number, shower in enumerate(showers.values()):
            polygons.extend(np.add(shapes, (x + pitch * number, y)))
            values.append(shower[where])
            edges.append(np.add(circle, (x + pitch * number, y)))
        label = f"Layer {detector.layers[position].id}"
        if detector.grid is None:
            label += f", $r$ < {detector.layers[position].r_edges[-1]:g} mm"
        middle = x + pitch * (len(showers) - 1) / 2
        axes.text(middle, y + 1.08, label, ha="center", va="bottom", fontsize=8)
    colours = matplotlib.colormaps[ENERGY_MAP].with_extremes(under="white", bad="white")
    axes.add_collection(
        PolyCollection(
            polygons, array=np.concatenate(values), cmap=colours, norm=norm, antialiased=False
        )
    )
    axes.add_collection(PolyCollection(edges, facecolors="none", edgecolors="0.35", linewidths=0.6))
    order = "from left to right: " + ", ".join(map(plain, showers))
    picture.text(
        0.5, 1 - 0.12 / height, f"{title}; {order}" if title else order, ha="center", va="top"
    )
    _energy_bar(picture, norm)
    return picture


@styled
def space(detector: Detector, rows: Sequence[Mapping[str, Shower]]) -> Figure:
    """Single showers as points in space, a row for each incident energy.

    A row has showers of nearly that energy by the names of their samples. Hits beyond the radius
    that holds 98 % of the energy are drawn grey on its edge.
    """
    showers = [shower.voxels for row in rows for shower in row.values()]
    if not showers:
        return empty("no showers")
    columns = len(rows[0])
    picture = figure(max(WIDTH, 4.8 * columns), 0.7 + 3.4 * len(rows), layout=None)
    radius = _core_radius(
        detector, np.sum([next(iter(row.values())).voxels for row in rows], axis=0)
    )
    # Three decades of colour: soft voxels of hard showers may share the darkest.
    norm = _energy_norm(*showers, low=max(1e-2, 1e-3 * max(float(s.max()) for s in showers)))
    height = picture.get_figheight()
    bottom, top = 0.75 / height, 1 - 0.05 / height
    step = (top - bottom) / len(rows)
    for number, row in enumerate(rows):
        for column, (name, shower) in enumerate(row.items()):
            box = (column / columns - 0.01, top - (number + 1) * step, 0.95 / columns, step)
            axes = picture.add_axes(box, projection="3d")
            beyond = _points(axes, detector, shower.voxels, radius, norm)
            hits = int(np.count_nonzero(shower.voxels))
            picture.text(
                box[0] + box[2] / 2, box[1] + box[3] - 0.02 / height,
                rf"{plain(name)}:  $E_{{\mathrm{{inc}}}}$ = {energy_text(shower.energy)},  "
                rf"$E_{{\mathrm{{tot}}}}$ = {energy_text(float(shower.voxels.sum()))},  "
                f"{hits} hits, {beyond} at $r$ > {radius:.3g} mm",
                ha="center", va="top", fontsize="small",
            )  # fmt: skip
    _energy_bar(picture, norm)
    return picture


def _energy_bar(picture: Figure, norm: LogNorm) -> None:
    """A colour bar of voxel energies at the bottom."""
    height = picture.get_figheight()
    bar = picture.add_axes((0.25, 0.5 / height, 0.5, 0.13 / height))
    picture.colorbar(
        ScalarMappable(norm, ENERGY_MAP), cax=bar, orientation="horizontal",
        label="Voxel energy [MeV]",
    )  # fmt: skip


def _energy_norm(*energies: np.ndarray, low: float = 1e-2) -> LogNorm:
    """A logarithmic colour scale from ``low`` to the largest of the energies, in their unit."""
    high = max((float(np.max(e, initial=0.0)) for e in energies), default=0.0)
    return LogNorm(low, max(high, 10 * low))


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
    radius = np.repeat(np.stack([edges[:-1], edges[1:]], axis=1), chords + 1, axis=1)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return points.reshape(layer.n_voxels, 2 * (chords + 1), 2)


def _core_radius(detector: Detector, energy: np.ndarray) -> float:
    """The radius in mm that holds 98 % of the energy of voxels [v]."""
    outer = detector.voxels.r_high
    order = np.argsort(outer, kind="stable")
    inside = np.cumsum(energy[order])
    if not inside[-1] > 0:
        return float(outer.max())
    return float(outer[order][np.searchsorted(inside, 0.98 * inside[-1])])


def _points(axes, detector: Detector, shower: np.ndarray, radius: float, norm: LogNorm) -> int:
    """Draws a shower, z along the particle, phi up; returns the number of hits beyond a radius."""
    voxels, hit = detector.voxels, shower > 0
    core = np.flatnonzero(hit & (voxels.r_center <= radius))
    halo = np.flatnonzero(hit & (voxels.r_center > radius))
    scale = radius / voxels.r_center[halo]
    axes.scatter(
        voxels.z_center[halo], voxels.eta[halo] * scale, voxels.phi[halo] * scale,
        c="0.55", s=4, linewidths=0, depthshade=False,
    )  # fmt: skip
    # Brightest last, so that the core is not hidden by the halo.
    core = core[np.argsort(shower[core], kind="stable")]
    energy = shower[core]
    brightness = np.clip(norm(np.maximum(energy, norm.vmin or 0.0)), 0, 1)
    axes.scatter(
        voxels.z_center[core], voxels.eta[core], voxels.phi[core],
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
    return len(halo)
