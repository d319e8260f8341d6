"""Pictures of showers and of evaluations: the only part of calojax that imports matplotlib.

Every function returns a `matplotlib.figure.Figure` that pyplot does not know; `save` and `png`
write it. Import this package where a picture is drawn, not at the top of a module: it comes with
the extra ``plots``.
"""

from calojax.plot.backend import Figure
from calojax.plot.comparison import Panel, compared, matrices
from calojax.plot.curves import loss_curves, pareto
from calojax.plot.histograms import histogram, histogram_sheet
from calojax.plot.marginals import marginals
from calojax.plot.profiles import correlations, longitudinal, radial, response
from calojax.plot.showers import depth_maps, layer_maps, space
from calojax.plot.style import png, save

__all__ = [
    "Figure",
    "Panel",
    "compared",
    "correlations",
    "depth_maps",
    "histogram",
    "histogram_sheet",
    "layer_maps",
    "longitudinal",
    "loss_curves",
    "marginals",
    "matrices",
    "pareto",
    "png",
    "radial",
    "response",
    "save",
    "space",
]
