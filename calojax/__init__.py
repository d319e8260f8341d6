"""Fast generative simulation of calorimeter showers in JAX.

Example::

  import calojax

  trained = calojax.load("calovq-ds2")                           # a shipped model, or a run folder
  showers = calojax.generate(trained, [5e3, 2e4, 5e4], seed=1)   # MeV -> [3, voxels], MeV
  scores = calojax.evaluate("showers.hdf5", "geant4.hdf5").scores

Names are imported when they are first used, so that ``import calojax`` itself is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calojax.api import TrainedModel, evaluate, generate, load, train
    from calojax.errors import CalojaxError
    from calojax.generator import Generator, Hits
    from calojax.geometry import DETECTORS, Detector, find_detector
    from calojax.io import ShowerArrays, ShowerSource, ShowerWriter, open_showers, write_showers
    from calojax.models import Family, register
    from calojax.presets import PRESETS, Preset

__version__ = "0.1.0"

__all__ = [
    "DETECTORS",
    "PRESETS",
    "CalojaxError",
    "Detector",
    "Family",
    "Generator",
    "Hits",
    "Preset",
    "ShowerArrays",
    "ShowerSource",
    "ShowerWriter",
    "TrainedModel",
    "evaluate",
    "find_detector",
    "generate",
    "load",
    "open_showers",
    "register",
    "train",
    "write_showers",
]

_MODULES = {
    "calojax.api": ("TrainedModel", "evaluate", "generate", "load", "train"),
    "calojax.io": (
        "ShowerArrays",
        "ShowerSource",
        "ShowerWriter",
        "open_showers",
        "write_showers",
    ),
    "calojax.errors": ("CalojaxError",),
    "calojax.generator": ("Generator", "Hits"),
    "calojax.geometry": ("DETECTORS", "Detector", "find_detector"),
    "calojax.models": ("Family", "register"),
    "calojax.presets": ("PRESETS", "Preset"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'calojax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
