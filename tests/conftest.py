"""Two CPU devices for every test, and the tiny model that several files train or sample."""

import gc
import os
import tempfile

# Before JAX starts. Tests of data parallelism need several devices; and tests compile far longer
# than they compute, so code is not optimised, and loops are not made by way of MLIR, which takes
# twice as long (JAX 0.12 ignores that option). One module of code for each program, not 32 that
# are compiled side by side, takes a quarter less.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    + " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One thread for linear algebra: the tests run side by side, and matrices are small.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The same small programs are compiled again and again, here and in child processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="calojax-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_stages
from jax.extend.core import Literal

from calojax import distributed, models
from calojax.geometry import DETECTORS, Detector
from calojax.models.base import Schedule
from calojax.models.calovq.config import (
    AutoencoderConfig,
    CaloVQConfig,
    EnergiesConfig,
    PriorConfig,
)
from calojax.models.calovq.model import CaloVQ
from calojax.sampling import generation
from calojax.training.batches import Dataset


def pytest_collection_finish():
    """What is imported stays: the garbage collector, which takes a second for it, passes it by."""
    gc.collect()
    gc.freeze()
    # Tracing makes many objects, few of them garbage.
    gc.set_threshold(50_000)


@pytest.fixture
def strict_ranks():
    """Arrays of different ranks do not broadcast: a shape that is wrong by one axis is an error."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def one_device() -> jax.sharding.Mesh:
    return distributed.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def two_devices() -> jax.sharding.Mesh:
    return distributed.make_mesh(jax.devices())


@pytest.fixture(scope="module")
def two_stages_known():
    """The small model of two stages is one of the presets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_FAMILIES", dict(models.families()) | {"two": two_stages.FAMILY})
        yield


@pytest.fixture(scope="module")
def two(two_stages_known, tiny) -> two_stages.Two:
    """A model of two stages that compiles in no time."""
    return models.build(two_stages.TwoConfig(), tiny)


@pytest.fixture(scope="module")
def variables_of_two(two, batch):
    return jax.device_get(two.init(jax.random.key(0), two.fit([]), batch))


@pytest.fixture(scope="session")
def tiny() -> Detector:
    return DETECTORS["tiny"]


@pytest.fixture(scope="session")
def showers(tiny) -> Dataset:
    """Six hundred generated showers of the tiny detector."""
    energies = np.geomspace(1e3, 1e5, 600).astype(np.float32)
    np.random.default_rng(0).shuffle(energies)
    parts = list(generation.simulate(tiny, energies, seed=3, devices=jax.devices()[:1]))
    return Dataset(energies, np.concatenate([part for _, part in parts]))


def tiny_config(steps: int = 8, **autoencoder) -> CaloVQConfig:
    """Settings with which a step takes milliseconds."""
    schedule = Schedule(steps=steps, batch_size=64, warmup=2)
    return CaloVQConfig(
        AutoencoderConfig(
            **{
                "hidden": (32,),
                "length": 4,
                "codebook_size": 16,
                "code_width": 4,
                "components": 1,
                "rotate": True,
                "schedule": schedule,
            }
            | autoencoder
        ),
        EnergiesConfig(width=8, schedule=schedule),
        PriorConfig(width=16, embedding=8, context=8, schedule=schedule),
    )


@pytest.fixture(scope="session")
def model(tiny) -> CaloVQ:
    return models.build(tiny_config(), tiny)


@pytest.fixture(scope="session")
def batch(showers) -> dict[str, np.ndarray]:
    return {"energies": showers.energies[:64], "showers": showers.showers[:64]}


@pytest.fixture(scope="session")
def variables(model, showers, batch):
    """Random variables of the tiny model."""
    transforms = model.fit([showers])
    found = drawn_variables(model.init, jax.random.key(0), transforms, batch)
    return found | {"transforms": transforms}


def drawn_variables(init, *arguments, scale: float = 0.3):
    """Random variables of the shapes that ``init`` makes, which is traced but not compiled."""
    shapes = jax.eval_shape(init, *arguments)
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(generator.normal(0, scale, x.shape), x.dtype), shapes)


def moved(variables, scale: float, seed: int = 0):
    """Variables with a little noise; of NumPy, for which nothing is compiled."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + np.float32(generator.normal(0, scale, x.shape))),
        variables,
    )


def with_autoencoder(model: CaloVQ, **settings) -> CaloVQ:
    """The model with other settings of its first stage."""
    autoencoder = dataclasses.replace(model.config.autoencoder, **settings)
    return CaloVQ(dataclasses.replace(model.config, autoencoder=autoencoder), model.detector)


def depends(function, *arguments):
    """Which leaves of a result depend on the arguments; found by tracing, without compilation."""
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    known = set(traced.jaxpr.invars)
    for equation in traced.jaxpr.eqns:
        if any(x in known for x in equation.invars if not isinstance(x, Literal)):
            known.update(equation.outvars)
    found = [not isinstance(x, Literal) and x in known for x in traced.jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def trained_by(model, stage, variables, batch) -> set[str]:
    """The entries of ``params`` to which the loss of a stage has a gradient."""

    def loss(params, variables, batch):
        now = variables | {"params": params}
        return model.loss(stage.name, now, jax.random.key(0), batch, training=True)[0]

    gradient = depends(jax.grad(loss), variables["params"], variables, batch)
    return {name for name, tree in gradient.items() if any(jax.tree.leaves(tree))}
