"""What a benchmark's figures depend on: the machine and the versions."""

import os
from typing import Any

import jax
import numpy as np

import calojax


def environment() -> dict[str, Any]:
    """Device, cores and versions, for every line of results."""
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
