"""Settings of priors over sequences of codes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax

from calojax.errors import CalojaxError

Variables = Any

Grid = tuple[int, int, int]
"""Numbers of codes (z, alpha, r) of a sequence, r fastest; a line of n codes is (n, 1, 1)."""

Noise = Mapping[str, jax.Array]
"""Random numbers of sequences, [b, ...], by distribution (see `calojax.models.base.Noise`)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of priors; each kind reads those that it needs.

    Attributes:
      width: size of the GRU's state, or of the flow's residual stream.
      embedding: size of the GRU's code and position embeddings.
      codes_per_step: consecutive codes that the GRU draws in one step, as one of all their
        combinations; r first, then alpha, then z.
      layers: number of blocks of the flow.
      heads: number of attention heads of the flow, a divisor of the width.
      passes: number of network evaluations per sequence of the flow.
      patch: codes (z, alpha, r) of a token of the flow; in a line the first number counts.
      spacing: spacing of the flow's passes: below 1 more of them are near the end.
      dtype: type of the flow's computation; bfloat16 is for accelerators.
    """

    width: int = 256
    embedding: int = 64
    codes_per_step: int = 1
    layers: int = 3
    heads: int = 4
    passes: int = 10
    patch: tuple[int, int, int] = (1, 2, 4)
    spacing: float = 0.4
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name in ("codes_per_step", "layers", "heads", "passes"):
            if (value := getattr(self, name)) < 1:
                option = name.replace("_", "-")
                raise CalojaxError(f"--prior.{option} must be at least 1, got {value}.")
        if min(self.patch) < 1:
            raise CalojaxError(f"--prior.patch must be at least 1 1 1, got {self.patch}.")
