"""Presets of all families of models (see ``presets.py`` in the folder of each)."""

from collections.abc import Iterator, Mapping

from calojax import models
from calojax.models.base import ModelConfig, Preset

__all__ = ["PRESETS", "ModelConfig", "Preset"]


class _Presets(Mapping[str, Preset]):
    """The presets of all families, including families that are registered later."""

    def __getitem__(self, name: str) -> Preset:
        return self._gathered()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gathered())

    def __len__(self) -> int:
        return len(self._gathered())

    def _gathered(self) -> dict[str, Preset]:
        families = models.families().values()
        return {name: preset for family in families for name, preset in family.presets.items()}


PRESETS: Mapping[str, Preset] = _Presets()
