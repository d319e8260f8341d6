"""StableHLO: one program for CPUs, NVIDIA's and AMD's GPUs and TPUs, which needs JAX alone to run.

Example::

  program = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
  showers = program.call(np.uint32(seed), np.uint32([0, 1]), np.float32([1e4, 2e4]))   # MeV

Shower i is that of ``calojax sample --seed``: it has the same random numbers.
"""

import jax
import jax.export
import jax.numpy as jnp

from calojax import rng
from calojax.api import TrainedModel
from calojax.export.metadata import as_json, facts_of
from calojax.export.options import Options
from calojax.export.random_numbers import is_fixed
from calojax.models.pointflow.microbatches import ACCELERATOR, with_size
from calojax.sampling.generation import STREAM

PLATFORMS = ("cpu", "cuda", "tpu", "rocm")


def files(trained: TrainedModel, options: Options) -> dict[str, bytes]:
    """``model.stablehlo`` and ``model.json``."""
    content = program(trained, options.batch)
    batch = "any" if is_fixed(trained.model) else options.batch
    facts = facts_of(trained) | {
        "inputs": {"seed": [], "numbers": [batch], "energies": [batch]},
        "outputs": {"showers": [batch, trained.detector.n_voxels]},
        "platforms": PLATFORMS,
    }
    return {"model.stablehlo": content, "model.json": as_json(facts)}


def program(trained: TrainedModel, batch: int) -> bytes:
    """The serialised program.

    It is for any number of showers if each has the same number of random numbers, otherwise for
    ``batch``.
    """
    model = with_size(trained.model, ACCELERATOR)

    def showers(seed, numbers, energies):
        root = rng.stream(jax.random.key(seed, impl="threefry2x32"), STREAM)
        return model.sample(trained.variables, rng.per_item(root, numbers), energies)

    size = jax.export.symbolic_shape("b")[0] if is_fixed(trained.model) else batch
    # A hint that every compiler of StableHLO may follow or not.
    hint = jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")
    exported = jax.export.export(jax.jit(showers), platforms=PLATFORMS, disabled_checks=(hint,))(
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct((size,), jnp.uint32),
        jax.ShapeDtypeStruct((size,), jnp.float32),
    )
    return bytes(exported.serialize())
