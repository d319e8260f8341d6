"""Transformed coordinates of the hits beside the normal distribution that a flow starts from."""

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from calojax.plot.style import REFERENCE, Figure, figure, series, styled


@styled
def marginals(
    coordinates: Mapping[str, Mapping[str, np.ndarray]], *, reach: float = 4.5, bins: int = 90
) -> Figure:
    """A panel for each coordinate: densities of its transformed hits over the standard normal.

    The legend has the Kolmogorov-Smirnov distance D of each to the normal.

    Args:
      coordinates: transformed hits [n] of each coordinate by the name of the transform, such as
        ``{"z": {"cdf": x, "uniform": y}}``.
      reach: range in standard deviations.
      bins: number of bins.
    """
    picture = figure(4.2 * max(len(coordinates), 1), 3.4)
    panels = picture.subplots(1, max(len(coordinates), 1), squeeze=False, sharey=True)[0]
    line = np.linspace(-reach, reach, 300)
    normal = np.exp(-(line**2) / 2) / math.sqrt(2 * math.pi)
    edges = np.linspace(-reach, reach, bins + 1)
    for axes, (coordinate, samples) in zip(panels, coordinates.items(), strict=False):
        axes.fill_between(line, normal, color=REFERENCE, alpha=0.25, lw=0, label="normal")
        for name, x, colour in series(samples):
            counts, _ = np.histogram(x, edges)
            density = counts / max(len(x), 1) / np.diff(edges)
            distance = f", $D$ = {stats.kstest(x, 'norm').statistic:.1g}" if len(x) else ""
            axes.stairs(density, edges, color=colour, lw=1.3, label=name + distance)
        axes.set_xlabel(f"{coordinate}, transformed")
        axes.set_xlim(-reach, reach)
        # Room for the legend.
        axes.set_ylim(0, 0.75)
        axes.legend(loc="upper right")
    panels[0].set_ylabel("Density")
    return picture
