"""Scores of generated showers during the training, which people understand better than losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.evaluation import suite
from calojax.io import ShowerArrays
from calojax.models.base import Model, Variables
from calojax.training.batches import Data

# Showers that are generated at once.
_BATCH = 100


def scores(
    model: Model, data: Data, number: int, seed: int
) -> Callable[[Variables], dict[str, float]]:
    """A function that gives the separation powers of generated from validation showers.

    Args:
      model: model; it is compiled at the first call.
      data: showers of the training.
      number: number of showers to compare, if the validation has as many.
      seed: seed of the generated showers, which are the same draws at every call.

    Returns:
      Function of the variables; its values have the keys of `calojax.evaluation.suite.SCORES`. It
      has none where a voxel is no energy, as early in a training.
    """
    number = min(number, len(data.validation))
    batch = min(_BATCH, number)
    index = data.validation[: number - number % batch]
    energies = data.dataset.energies[index]
    reference = ShowerArrays(
        model.detector, energies, data.dataset.showers[index], name="validation showers"
    )
    root = rng.stream(rng.root(seed), "scores")
    sample = jax.jit(model.sample)

    def of(variables: Variables) -> dict[str, float]:
        # On one device, so that no other process has to take part.
        variables = jax.device_put(jax.device_get(variables), jax.local_devices()[0])
        parts = [
            sample(variables, rng.per_item(root, jnp.arange(i, i + batch)), energies[i : i + batch])
            for i in range(0, len(index), batch)
        ]
        showers = np.concatenate([np.asarray(part) for part in parts])
        if not ((showers >= 0) & (showers < np.inf)).all():
            return {}
        generated = ShowerArrays(model.detector, energies, showers, name="generated showers")
        options = suite.Options(metrics=("histograms",), slices=())
        found = suite.evaluate(generated, reference, options).scores
        return {name: found[name] for name in suite.SCORES if name in found}

    return of
