"""matplotlib, imported whatever MPLBACKEND names: calojax's figures need no backend.

Notebooks leave a name there that only their own environment knows, at which matplotlib raises.
"""

import contextlib
import os
import sys

_name = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
finally:
    if _name is not None:
        os.environ["MPLBACKEND"] = _name
if _name:
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _name
