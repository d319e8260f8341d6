"""matplotlib, imported whatever MPLBACKEND names: calojax's figures need no backend.

Notebooks leave a name that only their own environment knows, and matplotlib raises at it.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _known_backend() -> Iterator[None]:
    """Hides MPLBACKEND from the first import of matplotlib, and sets it after that if it exists."""
    name = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if name is not None:
            os.environ["MPLBACKEND"] = name
    if name:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = name


with _known_backend():
    import matplotlib
    from matplotlib.figure import Figure

__all__ = ["Figure"]
