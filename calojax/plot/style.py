"""One look for every picture: mplhep's ATLAS style without TeX, sized for a report."""

import functools
import io
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import matplotlib
import mplhep
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from calojax import files
from calojax.errors import printable

# Okabe and Ito's palette tells apart for every kind of colour vision (jfly.uni-koeln.de/color);
# Geant4 is always grey and never one of these.
GENERATED = "#0072B2"
ACCENT = "#D55E00"
PALETTE = (GENERATED, ACCENT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REFERENCE = "#4D4D4D"
ENERGY_MAP = "viridis"
DIFFERENCE_MAP = "RdBu_r"
REFERENCE_NAME = "Geant4"

_RC = {
    **mplhep.style.ATLAS,
    "font.size": 11,
    # The first font comes with mplhep; the second, matplotlib's own, has all Greek letters.
    "font.sans-serif": ["TeX Gyre Heros", "DejaVu Sans"],
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "axes.labelpad": 4,
    "axes.linewidth": 0.8,
    "axes.autolimit_mode": "data",
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5),
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "xtick.major.size": 5,
    "xtick.minor.size": 2.5,
    "ytick.major.size": 5,
    "ytick.minor.size": 2.5,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.fontsize": "small",
    "legend.borderpad": 0.2,
    "legend.handlelength": 1.6,
    "figure.dpi": 100,
    "text.usetex": False,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}

# Letters of a name in a legend.
_LONGEST = 40

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def styled(draw: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`draw` under calojax's style, whatever style the caller's session has.

    An argument ``name``, the legend of the generated showers, is taken as plain text.
    """

    @functools.wraps(draw)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if "name" in kwargs:
            kwargs["name"] = plain(kwargs["name"])
        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapped


def plain(text: str) -> str:
    """Text that is no formula and takes one short line: a dollar sign stays one."""
    line = printable(text)
    return (line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…").replace("$", r"\$")


def figure(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """An empty figure in inches, not known to pyplot: nothing to close, no display needed."""
    picture = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(picture)
    return picture


def empty(picture: Figure, why: str) -> Figure:
    """A picture of nothing, which says why."""
    picture.text(0.5, 0.5, why, ha="center", va="center", color="0.4")
    return picture


def columns_for(count: int) -> int:
    """Columns of a sheet of ``count`` cells of a good size, with few empty places at the end."""
    most = 6 if count > 12 else 5
    return min(range(min(most, count), 2, -1), key=lambda c: -count % c, default=count)


def energy_norm(*energies: np.ndarray, low: float = 1e-2) -> LogNorm:
    """A logarithmic colour scale from ``low`` to the largest of the energies, in their unit."""
    high = max((float(np.max(e, initial=0.0)) for e in energies), default=0.0)
    return LogNorm(low, max(high, 10 * low))


def energy_axis(axes) -> None:
    """Makes x a logarithmic axis of incident energy in GeV with plain numbers, 1, 2, 5, 10."""
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    if not 0 < low <= high < np.inf:
        low, high = 1.0, 10.0
    low, high = low / 1.15, high * 1.15
    axes.set_xlim(low, high)
    subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(r"$E_{\mathrm{inc}}$ [GeV]")


def png(picture: Figure, *, dpi: int = 110) -> bytes:
    """The picture as a PNG file in memory."""
    buffer = io.BytesIO()
    _write(picture, buffer, "png", dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def save(picture: Figure, path: str | os.PathLike, *, dpi: int = 110) -> pathlib.Path:
    """Writes the picture in the format of the name's ending; never leaves half a file."""
    path = pathlib.Path(path)
    files.make_folder(path.parent)
    with files.replacing(path) as partial:
        _write(picture, partial, path.suffix.lstrip(".") or "png", dpi)
    return path


@styled
def _write(picture: Figure, file, kind: str, dpi: int, **options) -> None:
    with warnings.catch_warnings():
        # A name may have letters that no font has; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        picture.savefig(file, format=kind, dpi=dpi, **options)
