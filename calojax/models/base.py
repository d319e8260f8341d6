"""The interface of models: all that training, checkpoints and sampling use of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from calojax.geometry import DETECTORS, Detector
from calojax.nn.precision import Precision

Batch = Mapping[str, jax.Array]
"""``energies`` [b] and ``showers`` [b, v], both in MeV, float32; or what `Stage.prepare` made of
them."""

Keys = PRNGKeyArray
"""One key for each shower, [b]."""

Noise = Mapping[str, Mapping[str, Any]]
"""The random numbers of showers: step of the model -> distribution -> arrays [b, ...].

Distributions are ``uniform`` in [0, 1), standard ``normal``, standard ``gumbel`` and ``key`` (keys,
where the number of random numbers is itself random). A model whose noise has keys can have a method
``array_noise(keys)``: the same random numbers as arrays, and more than most showers take.
"""

Energies = Float[Array, " b"]
"""Incident energies in MeV."""

Showers = Float[Array, "b v"]
"""Energies of voxels in MeV."""

Variables = dict[str, Any]
"""Nested dicts of arrays: ``params`` (trained by gradient), ``state`` (updated by other rules) and
``transforms`` (fitted once)."""

Parts = dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]
"""Steps of a computation: name -> (function, arguments)."""

ModelConfig = Any
"""Settings of a model: a frozen dataclass of plain values, tuples and dataclasses of these."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The optimiser of a stage: AdamW with linear warm-up and cosine decay to zero.

    Attributes:
      steps: number of optimiser steps.
      batch_size: showers per step, over all devices together.
      learning_rate: peak learning rate.
      warmup: steps over which the learning rate rises from zero.
      weight_decay: weight decay of AdamW.
      clip: largest global norm of the gradient.
      betas: decays of AdamW's averages of the gradient and of its square.
      average: decay per step of the moving average of the weights, which is then what is validated
        and sampled; 0 for the weights themselves.
      best: end the stage with the variables of its lowest loss in validation, not with the last.
      precision: precision of matrix products in training steps.
    """

    steps: int = 10_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    average: float = 0.0
    best: bool = False
    precision: Precision = "default"


@dataclasses.dataclass(frozen=True)
class Packing:
    """A buffer of fixed size for the hits of a group of consecutive showers of a batch.

    Attributes:
      group: number of showers that share a buffer, a power of two that divides the batch size.
      hits_per_shower: size of the buffer divided by the group.
      flag: command-line flag of that size.
    """

    group: int
    hits_per_shower: int
    flag: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the model that is trained on its own.

    Attributes:
      name: name of the stage.
      parameters: entries of ``variables["params"]`` that the stage trains.
      schedule: optimiser schedule.
      state: entries of ``variables["state"]`` that the stage changes.
      needs: earlier stages whose results it uses; it is trained again if they change.
      packing: buffer for hits, if the loss has one.
      prepare: function of (variables, batch) that computes, once for each shower, arrays [b, ...]
        that the loss takes instead of showers; None if it takes showers.
    """

    name: str
    parameters: tuple[str, ...]
    schedule: Schedule
    state: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    packing: Packing | None = None
    prepare: Callable[[Variables, Batch], Batch] | None = None


class Outcome(NamedTuple):
    """Results of a loss beside its value.

    Attributes:
      metrics: arrays by name, such that averages over batches make sense.
      state: ``variables["state"]`` after this step.
    """

    metrics: dict[str, jax.Array]
    state: Variables


class Model(Protocol):
    """A generative model of showers: frozen and hashable, with pure functions only."""

    @property
    def config(self) -> ModelConfig:
        """Settings."""
        ...

    @property
    def detector(self) -> Detector:
        """Detector of the showers."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages in the order of training."""
        ...

    def fit(self, showers: Iterable[tuple[np.ndarray, np.ndarray]]) -> Variables:
        """Fits ``transforms`` in one pass over batches of incident energies and showers in MeV.

        Raises:
          CalojaxError: if the settings do not suit the detector or the showers.
        """
        ...

    def init(self, key: PRNGKeyArray, transforms: Variables, batch: Batch) -> Variables:
        """Initial variables; may use a batch."""
        ...

    def loss(
        self, stage: str, variables: Variables, key: PRNGKeyArray, batch: Batch, *, training: bool
    ) -> tuple[Float[Array, ""], Outcome]:
        """Loss of a stage; augments the batch only if ``training``."""
        ...

    def summarise(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers for the log, from metrics averaged over batches."""
        ...

    def sample(
        self, variables: Variables, keys: Keys, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        """New showers: `sample_from` with the `noise` of the keys."""
        ...

    def noise(self, keys: Keys) -> Noise:
        """All random numbers of showers."""
        ...

    def sample_from(
        self, variables: Variables, noise: Noise, energies: Energies, *, temperature: float = 1.0
    ) -> Showers:
        """Showers as a function of their random numbers.

        A temperature of 1 samples the learnt distribution; below 1 showers are less diverse.
        """
        ...

    def reconstruct(self, variables: Variables, keys: Keys, batch: Batch) -> Showers:
        """Showers encoded to the latent representation and decoded again."""
        ...

    def parts(self, variables: Variables, keys: Keys, energies: Energies) -> Parts:
        """The steps of `sample`, for benchmarks."""
        ...


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of a model for one data set.

    Attributes:
      description: one line for ``calojax train --help``.
      geometry: name of a built-in detector.
      model: settings of the model.
    """

    description: str
    geometry: str
    model: ModelConfig

    def __post_init__(self):
        if self.geometry not in DETECTORS:
            raise ValueError(f"preset for unknown geometry {self.geometry!r}")


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model, as `calojax.models.register` takes it.

    Attributes:
      model: class of the model, called with settings and detector.
      config: class of the settings.
      presets: settings to train with, by name.
      check: function that raises `CalojaxError` for settings that make no sense.
    """

    model: Callable[[ModelConfig, Detector], Model]
    config: type
    presets: Mapping[str, Preset] = dataclasses.field(default_factory=dict)
    check: Callable[[ModelConfig], None] = lambda config: None


Module = TypeVar("Module", bound=nn.Module)


def trained(module: Module, variables: Variables, name: str) -> Module:
    """A module with its parameters ``variables["params"][name]``."""
    return module.bind({"params": variables["params"][name]})
