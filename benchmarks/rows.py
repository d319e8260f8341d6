"""Rows of results: what was measured, with the device and the versions that it depends on.

A benchmark is one file with a dataclass of options and a function ``main`` that yields rows.
`run` prints each row as a line of JSON and, with ``--out FILE``, adds it to a file.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import jax
import numpy as np
import tyro

import calojax

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that all benchmarks share.

    Attributes:
      repeats: timed repetitions of each figure; 0 only compiles, for JAX's cache of programs.
      seconds: time after which a figure is not repeated again.
      smoke: run everything once and small, to see that it works.
      out: file of JSON lines to which the rows are added.
    """

    repeats: int = 10
    seconds: float = 60.0
    smoke: bool = False
    out: pathlib.Path | None = None

    def small(self, **changes: Any) -> Self:
        """These options or, if ``smoke`` is set, one repetition with those changes."""
        return dataclasses.replace(self, repeats=1, **changes) if self.smoke else self


AnyOptions = TypeVar("AnyOptions", bound=Options)


def environment() -> Row:
    """Device, cores and versions."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "calojax": calojax.__version__,
    }


def write(row: Row, out: pathlib.Path | None = None) -> None:
    """Prints a row with four digits and its environment, and adds it to the file ``out``."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
    line = json.dumps(environment() | rounded)
    print(line, flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(line + "\n")


def run(
    options: type[AnyOptions],
    main: Callable[[AnyOptions], Iterator[Row]],
    description: str | None,
) -> None:
    """Reads the options from the command line and writes the rows of ``main``."""
    chosen = tyro.cli(options, description=description)
    for row in main(chosen):
        if chosen.repeats:
            write(row, chosen.out)
