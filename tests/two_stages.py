"""A model of two stages that compiles in no time, for tests of runs and checkpoints."""

import dataclasses
import itertools
import signal
from collections.abc import Callable

import jax
import jax.numpy as jnp

from calojax.geometry import Detector
from calojax.models import settings
from calojax.models.base import Family, Outcome, Preset, Schedule, Stage
from calojax.training import step

SCHEDULE = Schedule(8, 64, learning_rate=0.01, warmup=2)


@dataclasses.dataclass(frozen=True)
class TwoConfig:
    """Settings.

    Attributes:
      width: length of the vector of the second stage.
      scale: size of the first stage's noise.
      memory: number of running averages in the first stage.
      first: optimiser schedule of the first stage.
      second: optimiser schedule of the second stage.
    """

    width: int = 3
    scale: float = 1.0
    memory: int = 1
    first: Schedule = SCHEDULE
    # An average of weights and the best ones, so that tests of resumption see them.
    second: Schedule = dataclasses.replace(SCHEDULE, average=0.5, best=True)


@dataclasses.dataclass(frozen=True)
class Two:
    """A noisy mean shower with a running average, then a noisy vector."""

    config: TwoConfig
    detector: Detector

    @property
    def stages(self):
        first = Stage("first", ("mean",), self.config.first, state=("average",))
        return first, Stage("second", ("vector",), self.config.second, needs=("first",))

    def fit(self, showers):
        return {"total": jnp.float32(sum(float(s.sum()) for _, s in showers))}

    def init(self, key, transforms, batch):
        params = {
            "mean": batch["showers"][0],
            "vector": jax.random.normal(key, (self.config.width,)),
        }
        state = {"average": jnp.zeros((self.config.memory, self.detector.n_voxels))}
        return {"params": params, "state": state, "transforms": transforms}

    def loss(self, stage, variables, key, batch, *, training):
        params, state = variables["params"], variables["state"]
        if stage == "first":
            noise = self.config.scale * jax.random.normal(key, batch["showers"].shape)
            loss = jnp.abs(params["mean"] - batch["showers"] - noise).mean()
            average = 0.9 * state["average"] + 0.1 * batch["showers"].mean(0)
            return loss, Outcome({"loss": loss}, {"average": average})
        loss = jnp.square(params["vector"] - jax.random.normal(key) - params["mean"].mean()).sum()
        return loss, Outcome({"loss": loss}, state)

    def summarise(self, metrics):
        return {name: float(value) for name, value in metrics.items()}

    def sample(self, variables, keys, energies, *, temperature=1.0):
        noise = temperature * jax.vmap(jax.random.uniform)(keys)
        mean = jnp.abs(variables["params"]["mean"])
        return (energies * (1 + noise))[:, None] * mean / (1 + mean.sum())

    def reconstruct(self, variables, keys, batch):
        return batch["showers"] * (1 + 0 * variables["params"]["mean"])


def signal_at(count: int, number: signal.Signals) -> Callable:
    """A `step.make` of whose steps the ``count``-th sends a signal to this process."""
    original, calls = step.make, itertools.count(1)

    def make(*arguments):
        compiled = original(*arguments)

        def counted(*inputs):
            if next(calls) == count:
                signal.raise_signal(number)
            return compiled(*inputs)

        return counted

    return make


PRESETS = {"two": Preset("Two small stages", "tiny", TwoConfig())}
FAMILY = Family(Two, TwoConfig, PRESETS, settings.check)
