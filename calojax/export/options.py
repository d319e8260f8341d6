"""Settings of an export."""

import dataclasses
from typing import Literal

from calojax.errors import CalojaxError

NoiseName = Literal["input", "seed"]
"""``input``: all random numbers of a shower; ``seed``: ten normal numbers that determine them."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of an export; each format reads those that it needs.

    Attributes:
      batch: number of showers that a program makes at a time, if it is fixed.
      noise: random numbers that the program takes.
      sampling_fraction: deposited energy of the voxels' energy, for Par04.
    """

    batch: int = 1
    noise: NoiseName | None = None
    sampling_fraction: float | None = None

    def __post_init__(self):
        if self.batch < 1:
            raise CalojaxError(f"--batch must be at least 1, got {self.batch}.")
