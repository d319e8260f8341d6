"""Settings of an export."""

import dataclasses
import math
from typing import Literal, get_args

from calojax.errors import CalojaxError

NoiseName = Literal["input", "seed"]
"""``input``: all random numbers of a shower; ``seed``: ten normal numbers that determine them."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of an export.

    Attributes:
      batch: number of showers that a program makes at a time; ``par04`` has one, and ``stablehlo``
        takes any number where the model allows it.
      noise: random numbers that the program takes; ``stablehlo`` takes a seed and draws them.
      sampling_fraction: ratio of deposited energy to voxel energy, for ``par04`` only.
    """

    batch: int = 1
    noise: NoiseName | None = None
    sampling_fraction: float | None = None

    def __post_init__(self):
        if self.batch < 1:
            raise CalojaxError(f"--batch must be at least 1, got {self.batch}.")
        if self.noise not in (None, *get_args(NoiseName)):
            raise CalojaxError(f"--noise must be input or seed, got {self.noise}.")
        if self.sampling_fraction is not None and not 0 < self.sampling_fraction < math.inf:
            raise CalojaxError(
                f"--sampling-fraction must be positive and finite, got {self.sampling_fraction}."
            )
