"""A model of a third party: a shower is a learnt profile times its incident energy."""

import dataclasses

import jax
import jax.numpy as jnp

from calojax.geometry import Detector
from calojax.models.base import Family, Outcome, Preset, Schedule, Stage


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Settings.

    Attributes:
      softness: width of the profile.
      schedule: optimiser schedule.
    """

    softness: float = 1.0
    schedule: Schedule = Schedule(20, 16, learning_rate=0.1, warmup=0)


@dataclasses.dataclass(frozen=True)
class Toy:
    config: ToyConfig
    detector: Detector

    @property
    def stages(self):
        return (Stage("profile", ("profile",), self.config.schedule),)

    def fit(self, showers):
        return {}

    def init(self, key, transforms, batch):
        profile = jnp.zeros(self.detector.n_voxels)
        return {"params": {"profile": profile}, "state": {}, "transforms": transforms}

    def loss(self, stage, variables, key, batch, *, training):
        difference = self.sample(variables, None, batch["energies"]) - batch["showers"]
        loss = jnp.abs(difference / batch["energies"][:, None]).sum(-1).mean()
        return loss, Outcome({"loss": loss}, variables["state"])

    def summarise(self, metrics):
        return {name: float(value) for name, value in metrics.items()}

    def sample(self, variables, keys, energies, *, temperature=1.0):
        return energies[:, None] * jax.nn.softmax(variables["params"]["profile"])

    def reconstruct(self, variables, keys, batch):
        return self.sample(variables, keys, batch["energies"])

    def parts(self, variables, keys, energies):
        return {"all": (self.sample, (variables, keys, energies))}


FAMILY = Family(Toy, ToyConfig, {"toy-tiny": Preset("A profile", "tiny", ToyConfig())})
