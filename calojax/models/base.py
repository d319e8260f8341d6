"""What training, checkpoints and sampling ask of a model; they know nothing else of it."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from calojax.geometry import Detector

Batch = Mapping[str, jax.Array]
"""``energies`` [b] and ``showers`` [b, v], both in MeV, float32."""

Variables = dict[str, Any]
"""Nested dicts of arrays: ``params`` (by gradient), ``state`` (by other rules), ``transforms``."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How one stage is optimised: AdamW with linear warm-up and cosine decay to zero.

    Attributes:
      steps: optimiser steps of the stage.
      batch_size: showers a step, over all devices together.
      learning_rate: peak learning rate.
      warmup: steps over which the learning rate rises from zero.
      weight_decay: of AdamW.
      clip: largest global norm of the gradient.
    """

    steps: int = 10_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the model that is trained on its own.

    Attributes:
      name: of the stage.
      parameters: the entries of ``variables["params"]`` that it trains.
      schedule: how.
      state: the entries of ``variables["state"]`` that it changes.
      needs: stages that must be trained before, and again if they change.
    """

    name: str
    parameters: tuple[str, ...]
    schedule: Schedule
    state: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
      metrics: arrays that mean something when averaged over batches, by name.
      state: the model's ``variables["state"]`` after this step.
    """

    metrics: dict[str, jax.Array]
    state: Variables


class Model(Protocol):
    """A generative model of showers: frozen, hashable, and nothing but pure functions."""

    detector: Detector

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order of training."""
        ...

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        """Fits the transforms in one pass over (incident energies [b], showers [b, v]) in MeV.

        Raises:
          CalojaxError: if the model's settings do not suit the showers.
        """
        ...

    def init(self, key: jax.Array, transforms: Variables, batch: Batch) -> Variables:
        """All variables at the start; may look at a batch (data-dependent start)."""
        ...

    def loss(
        self, stage: str, variables: Variables, key: jax.Array, batch: Batch, *, training: bool
    ) -> tuple[jax.Array, Outcome]:
        """The scalar that the stage makes small; without ``training`` no augmentation."""
        ...

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Turns metrics that were averaged over batches into the numbers that people read."""
        ...

    def sample(
        self,
        variables: Variables,
        keys: jax.Array,
        energies: jax.Array,
        *,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Showers [b, v] in MeV from one key a shower [b] and incident energies [b] in MeV.

        At temperature 1 from the distribution that was learnt; below, showers are more alike.
        """
        ...

    def reconstruct(self, variables: Variables, keys: jax.Array, batch: Batch) -> jax.Array:
        """Showers [b, v] in MeV that went through the model's latent representation and back."""
        ...

    def parts(
        self, variables: Variables, keys: jax.Array, energies: jax.Array
    ) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """The steps of `sample` as name -> (function, arguments), for benchmarks."""
        ...
