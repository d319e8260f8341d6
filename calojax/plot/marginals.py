"""What a flow sees of each coordinate of the hits, beside the normal it starts from."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from calojax.plot.style import ACCENT, GENERATED, PALETTE, REFERENCE, figure, plain, styled


@styled
def marginals(
    coordinates: Mapping[str, Mapping[str, np.ndarray]], *, reach: float = 4.5, bins: int = 90
) -> Figure:
    """A panel a coordinate: densities of its transformed hits over the standard normal.

    Each is named with its largest distance D to the normal's distribution function.

    Args:
      coordinates: transformed hits [n] of each coordinate by the name of the transform, such as
        ``{"z": {"cdf": x, "uniform": y}}``.
      reach: standard deviations that are shown.
      bins: of the histograms.
    """
    picture = figure(4.2 * max(len(coordinates), 1), 3.4)
    panels = picture.subplots(1, max(len(coordinates), 1), squeeze=False, sharey=True)[0]
    line = np.linspace(-reach, reach, 300)
    normal = np.exp(-(line**2) / 2) / math.sqrt(2 * math.pi)
    edges = np.linspace(-reach, reach, bins + 1)
    for axes, (coordinate, samples) in zip(panels, coordinates.items(), strict=False):
        axes.fill_between(line, normal, color=REFERENCE, alpha=0.25, lw=0, label="normal")
        colours = itertools.cycle((GENERATED, ACCENT, *PALETTE[2:]))
        for (name, x), colour in zip(samples.items(), colours, strict=False):
            counts, _ = np.histogram(x, edges)
            density = counts / max(len(x), 1) / np.diff(edges)
            distance = f", $D$ = {stats.kstest(x, 'norm').statistic:.1g}" if len(x) else ""
            label = plain(name) + distance
            axes.stairs(density, edges, color=colour, lw=1.3, label=label)
        axes.set_xlabel(f"{coordinate}, transformed")
        axes.set_xlim(-reach, reach)
        # Room for the legend.
        axes.set_ylim(0, 0.75)
        axes.legend(loc="upper right")
    panels[0].set_ylabel("Density")
    return picture
