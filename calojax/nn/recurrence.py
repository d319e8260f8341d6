"""Loops over the steps of a sequence."""

from collections.abc import Callable
from typing import Any

import jax

# Steps of a turn of the loop on a GPU. XLA fuses them: the 16 kernels of a step of the GRU prior
# become 11 (for an H100, one shower), and each waits for the one before. More steps compile longer.
_ON_GPU = 8


def scan(step: Callable[..., Any], start: Any, inputs: Any) -> Any:
    """`jax.lax.scan`; on a GPU with several steps in a turn of the loop."""
    unroll = _ON_GPU if jax.default_backend() == "gpu" else 1
    return jax.lax.scan(step, start, inputs, unroll=unroll)
