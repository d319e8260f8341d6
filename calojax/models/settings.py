"""Checks of the numbers in settings of models."""

import dataclasses
import math
from collections.abc import Iterator

from calojax.errors import CalojaxError
from calojax.models.base import ModelConfig

# Whole numbers that may be 0; the others must be at least 1.
_FROM_ZERO = {"warmup", "z_padding"}
# Real numbers that must be above 0; the others must be at least 0.
_POSITIVE = {"learning_rate", "clip", "log_scale", "largest", "spacing"}
# Real numbers that must be below 1.
_BELOW_ONE = {"betas", "average"}
# Numbers of layers, each of which takes time to compile, and of network evaluations.
_REPEATED = {"depth", "layers", "passes"}
_MOST_REPEATED, _MOST = 1_000, 10**9


def check(config: ModelConfig) -> None:
    """Checks the numbers in settings.

    Raises:
      CalojaxError: if a number makes no sense; the message names its flag.
    """
    for setting, value in _numbers(config):
        flag, name = f"--{setting.replace('_', '-')}", setting.rpartition(".")[2]
        if isinstance(value, int):
            least = 0 if name in _FROM_ZERO else 1
            most = _MOST_REPEATED if name in _REPEATED else _MOST
            if not least <= value <= most:
                raise CalojaxError(f"{flag} must be from {least} to {most}, got {value}.")
        elif not (value > 0 if name in _POSITIVE else value >= 0) or value == math.inf:
            bound = "positive" if name in _POSITIVE else "at least 0"
            raise CalojaxError(f"{flag} must be {bound} and finite, got {value}.")
        elif name in _BELOW_ONE and value >= 1:
            raise CalojaxError(f"{flag} must be below 1, got {value}.")


def _numbers(config: ModelConfig, prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """Names and values of all numbers, also those in nested settings and tuples."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield name, number
