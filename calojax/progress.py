"""Progress of long work on the screen: rate and time left; rare lines where no one watches."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(
    label: str, total: int | None, *, done: int = 0, unit: str = "shower", **options: Any
) -> tqdm:
    """A progress bar on standard error.

    Args:
      label: what is being done.
      total: units of the whole work, None if not known.
      done: units done before.
      unit: what is counted.
      **options: more of tqdm's.
    """
    watched = sys.stderr.isatty()
    # In a batch system's log every update is a line.
    pace = 0.2 if watched else 15.0
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit if unit == "B" else f" {unit}s",
        unit_scale=True,
        dynamic_ncols=watched,
        mininterval=pace,
        maxinterval=pace,
        **options,
    )
