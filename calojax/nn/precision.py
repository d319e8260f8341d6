"""The precision of matrix products."""

import contextlib
from typing import Literal

import jax

Precision = Literal["default", "float32", "tf32", "bf16"]
"""Rounding of the factors in matrix products; sums are always float32. "default" is the choice of
the device: tf32 on NVIDIA's GPUs, bf16 on TPUs, and no rounding on a CPU. Convolutions have no bf16
and use the default instead."""

# JAX's names. Its "bfloat16" is the default of the device: on a GPU, tf32.
_PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}


def rounding(precision: Precision) -> contextlib.AbstractContextManager[None]:
    """A context in which programs are traced with this precision."""
    if precision == "default":
        # JAX's None would overrule the user's environment.
        return contextlib.nullcontext()
    return jax.default_matmul_precision(_PRECISIONS[precision])
