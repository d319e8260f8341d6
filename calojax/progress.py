"""Progress bars with rate and time left; fewer updates if the output is not a terminal."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(
    label: str, total: int | None, *, done: int = 0, unit: str = "shower", **options: Any
) -> tqdm:
    """A progress bar on standard error, with ``done`` of ``total`` units at its start."""
    watched = sys.stderr.isatty()
    # In the log of a batch system every update is a line.
    pace = 0.2 if watched else 15.0
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=f" {unit}s",
        unit_scale=True,
        dynamic_ncols=watched,
        mininterval=pace,
        maxinterval=pace,
        **options,
    )
