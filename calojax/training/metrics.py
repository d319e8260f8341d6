"""Metrics of a training run: JSON lines in a file, and TensorBoard if asked for."""

import contextlib
import importlib
import json
import pathlib
import time
from typing import Any

from calojax import files
from calojax.errors import CalojaxError


class MetricsFile:
    """A file of JSON lines ``{"stage": ..., "step": ..., "seconds": ..., name: value, ...}``.

    ``seconds`` is the time since the run began, without interruptions.
    """

    def __init__(self, path: pathlib.Path, *, keep: list[dict[str, Any]], tensorboard: bool):
        """Opens the file, which keeps those records; with ``tensorboard`` also a folder beside it.

        The other records of a run that is resumed are dropped: their steps will be done again.
        """
        self._board = None
        if tensorboard:
            try:
                board = importlib.import_module("tensorboardX")
            except ImportError:
                raise CalojaxError(
                    "--tensorboard needs tensorboardX; install calojax[tensorboard]."
                ) from None
            self._board = board.SummaryWriter(str(path.parent / "tensorboard"))
        with files.replacing(path) as partial:
            partial.write_text("".join(json.dumps(record) + "\n" for record in keep))
        self._file = path.open("a")
        before = max((record.get("seconds", 0.0) for record in keep), default=0.0)
        self._begin = time.monotonic() - before

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        seconds = round(time.monotonic() - self._begin, 3)
        record = {"stage": stage, "step": step, "seconds": seconds} | values
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a metrics file up to the first cut or damaged line; none without a file."""
    records = []
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        for line in path.read_bytes().splitlines() if path.exists() else ():
            record = json.loads(line)
            numbers = [value for name, value in record.items() if name != "stage"]
            named = isinstance(record["stage"], str) and isinstance(record["step"], int)
            if not named or record["step"] < 0:
                break
            if not all(isinstance(value, int | float) for value in numbers):
                break
            records.append(record)
    return records
