"""One look for every picture: mplhep's ATLAS style without TeX, sized for a report."""

import functools
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
import matplotlib.figure
import mplhep
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg

from calojax import files
from calojax.errors import printable

# The palette of Okabe and Ito, for every kind of colour vision (jfly.uni-koeln.de/color). The
# reference is always grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GENERATED = PALETTE[0]
REFERENCE = "#4D4D4D"
ENERGY_MAP = "viridis"
DIFFERENCE_MAP = "RdBu_r"
REFERENCE_NAME = "Geant4"
WIDTH = 11.6
"""Width of a full picture in inches."""

_RC: dict[Any, Any] = {
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
    "axes.prop_cycle": cycler(color=PALETTE),
    **{f"{axis}tick.labelsize": "small" for axis in "xy"},
    **{f"{axis}tick.major.size": 5 for axis in "xy"},
    **{f"{axis}tick.minor.size": 2.5 for axis in "xy"},
    **{f"{axis}tick.major.width": 0.8 for axis in "xy"},
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
# Longest name in a legend, in letters.
_LONGEST = 40

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Figure(matplotlib.figure.Figure):
    """A figure that pyplot does not know: nothing to close, no display; notebooks show it."""

    def _repr_png_(self) -> bytes:
        return png(self)


def styled(draw: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`draw` under calojax's style, whatever style the caller's session has."""

    @functools.wraps(draw)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapped


def plain(text: str) -> str:
    """Text on one short line that matplotlib neither reads as a formula nor hides from legends."""
    line = printable(text).lstrip("_") or "Generated"
    return (line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…").replace("$", r"\$")


def series(models: Mapping[str, _Item]) -> Iterator[tuple[str, _Item, str]]:
    """(legend, item, colour) of every model, by its name."""
    for index, (name, item) in enumerate(models.items()):
        yield plain(name), item, PALETTE[index % len(PALETTE)]


def figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure of a size in inches."""
    picture = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(picture)
    return picture


def empty(why: str) -> Figure:
    """A picture that only says why there is none."""
    picture = figure(6.5, 2.5)
    picture.text(0.5, 0.5, why, ha="center", va="center", color="0.4")
    return picture


def columns_for(count: int) -> int:
    """Columns of a sheet of ``count`` cells of a good size, with few empty places at the end."""
    most = 6 if count > 12 else 5
    return min(range(min(most, count), 2, -1), key=lambda c: -count % c, default=count)


def ratio(
    axes,
    edges: np.ndarray,
    reference: tuple[np.ndarray, np.ndarray],
    models: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    width: float = 1.2,
) -> None:
    """Ratios to the reference from 0.4 to 1.6, in one panel; triangles mark those beyond.

    Reference and models, by name, are values [k] and errors [k] in bins with ``edges`` [k + 1].
    Bins where the reference is not positive are left out.
    """
    limits = (0.4, 1.6)
    seen = reference[0] > 0
    safe = np.where(seen, reference[0], 1.0)
    band = np.where(seen, reference[1] / safe, 0)
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=REFERENCE, alpha=0.25, lw=0)
    axes.axhline(1, color=REFERENCE, lw=0.6)
    for _, (values, errors), colour in series(models):
        value, error = (np.where(seen, array / safe, np.nan) for array in (values, errors))
        axes.stairs(value, edges, color=colour, baseline=None, lw=width)
        axes.stairs(
            value + error, edges, baseline=value - error, fill=True, color=colour, alpha=0.25, lw=0
        )
        # A bin without entries, of ratio 0, is seen without a mark.
        for mark, limit, beyond in (
            ("^", limits[1], value > limits[1]),
            ("v", limits[0], (value < limits[0]) & (value > 0)),
        ):
            if beyond.any():
                at = ((edges[1:] + edges[:-1]) / 2)[beyond]
                y = np.full_like(at, limit)
                axes.plot(at, y, mark, color=colour, ms=2.5 * width, clip_on=False)
    axes.set_ylim(*limits)


def png(picture: matplotlib.figure.Figure, *, dpi: int = 110) -> bytes:
    """The picture as a PNG file in memory, in 256 colours."""
    from PIL import Image  # It comes with matplotlib.

    buffer, small = io.BytesIO(), io.BytesIO()
    _write(picture, buffer, "png", dpi)
    image = Image.open(buffer).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        small, "png", optimize=True
    )
    return small.getvalue()


def save(picture: matplotlib.figure.Figure, path: str | os.PathLike, *, dpi: int = 110):
    """Writes the picture in the format of the name's ending; never leaves half a file."""
    path = pathlib.Path(path)
    files.make_folder(path.parent)
    with files.replacing(path) as partial:
        kind = path.suffix.lstrip(".") or "png"
        if kind == "png":
            partial.write_bytes(png(picture, dpi=dpi))
        else:
            _write(picture, partial, kind, dpi)
    return path


@styled
def _write(picture: matplotlib.figure.Figure, file, kind: str, dpi: int) -> None:
    with warnings.catch_warnings():
        # A name may have letters that no font has; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        picture.savefig(file, format=kind, dpi=dpi)
