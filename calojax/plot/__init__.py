"""Pictures of showers and of evaluations: the only part of calojax that imports matplotlib.

Every function returns a figure that pyplot does not know; notebooks show it, `save` and `png` write
it. Functions that compare take what belongs to each model by its name, and overlay the models.
Import this package where a picture is drawn, not at the top of a module: it comes with the extra
``plots``.
"""

from calojax.plot import backend  # noqa: F401 (first: it imports matplotlib safely)
from calojax.plot.curves import loss_curves, pareto
from calojax.plot.histograms import histogram_sheet
from calojax.plot.profiles import correlations, longitudinal, radial, response
from calojax.plot.showers import layer_maps, space
from calojax.plot.style import Figure, png, save

__all__ = [
    "Figure",
    "correlations",
    "histogram_sheet",
    "layer_maps",
    "longitudinal",
    "loss_curves",
    "pareto",
    "png",
    "radial",
    "response",
    "save",
    "space",
]
