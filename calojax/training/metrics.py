"""Where training writes its numbers: a JSON line each, and TensorBoard if installed."""

import importlib.util
import itertools
import json
import os
import pathlib
from typing import Any


class MetricsFile:
    """A file of JSON lines ``{"stage": ..., "step": ..., name: value, ...}``.

    Opening it for a run that resumes drops the lines that lie beyond the checkpoint: those steps
    will be done again.
    """

    def __init__(self, path: pathlib.Path, *, keep: list[dict[str, Any]]):
        temporary = path.with_suffix(".partial")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in keep))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._board = None
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(path.parent / "tensorboard"))

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        record = {"stage": stage, "step": step} | values
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Closes file and TensorBoard."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class Nowhere:
    """The metrics of processes that leave writing to the first."""

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a metrics file up to the first cut or damaged line; none without a file."""
    if not path.exists():
        return []
    records = map(_record, path.read_bytes().splitlines())
    return list(itertools.takewhile(lambda record: record is not None, records))


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line, None if it is not one that `MetricsFile` has written."""
    try:
        record = json.loads(line)
        named = isinstance(record["stage"], str) and isinstance(record["step"], int)
        numbers = [value for name, value in record.items() if name != "stage"]
    except (ValueError, TypeError, KeyError):
        return None
    whole = named and record["step"] >= 0 and all(isinstance(v, int | float) for v in numbers)
    return record if whole else None
