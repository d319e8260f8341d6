"""What figures depend on, the machine and the versions, and the lines that have both."""

import json
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


def show(row: dict[str, Any]) -> None:
    """Prints a line of results as JSON: four digits, and the environment."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
    print(json.dumps(rounded | environment()), flush=True)
