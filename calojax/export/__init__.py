"""Trained models as programs for other software: StableHLO, ONNX, Geant4's Par04, Triton.

Example::

  import calojax
  from calojax import export

  export.write(calojax.load("calovq-ds2"), "par04-model", "par04")

Every format is a module with a function ``files`` of a trained model and `Options`.
"""

import importlib
import os
import pathlib
from typing import Literal, get_args

from calojax import files
from calojax.api import TrainedModel
from calojax.errors import CalojaxError
from calojax.export.options import NoiseName, Options

__all__ = ["FORMATS", "FormatName", "NoiseName", "Options", "contents", "write"]

FormatName = Literal["par04", "onnx", "stablehlo", "triton"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)


def contents(trained: TrainedModel, kind: str, options: Options | None = None) -> dict[str, bytes]:
    """The files of a format, one of `FORMATS`, by path.

    Raises:
      CalojaxError: if the format is unknown, the extra is missing, or the model does not suit it.
    """
    if kind not in FORMATS:
        raise CalojaxError(f"There is no format {kind!r}; choose one of {', '.join(FORMATS)}.")
    try:
        module = importlib.import_module(f"calojax.export.{kind}")
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise CalojaxError(
            f"--format {kind} needs the package onnx; install calojax[export]."
        ) from None
    return module.files(trained, Options() if options is None else options)


def write(
    trained: TrainedModel,
    out: str | os.PathLike,
    kind: str,
    options: Options | None = None,
    *,
    force: bool = False,
) -> list[pathlib.Path]:
    """Writes the files of a format to the folder ``out``, each when it is complete.

    Returns:
      Their paths.

    Raises:
      CalojaxError: see `contents`; or if a file exists and not ``force``, or cannot be written.
    """
    made = contents(trained, kind, options)
    paths = [pathlib.Path(out, name) for name in made]
    for path in paths:
        files.check_output(path, force=force)
    for path, content in zip(paths, made.values(), strict=True):
        files.make_folder(path.parent)
        with files.replacing(path) as partial:
            partial.write_bytes(content)
    return paths
