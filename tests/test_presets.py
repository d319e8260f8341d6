"""Presets: each can be trained and sampled, traced at full size, and has the promised sizes."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import trained_by
from jax.interpreters import partial_eval

from calojax import models, rng
from calojax.export import conversion
from calojax.export.rules import functions
from calojax.geometry import DETECTORS
from calojax.models.base import Model
from calojax.models.pointflow import model as pointflow
from calojax.presets import PRESETS

B = 64
KEYS = rng.per_item(rng.root(0), np.arange(B))


@pytest.fixture(scope="module", autouse=True)
def one_size():
    """The flow of points is traced for one size, not for four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointflow, "_FRACTIONS", (1,))
        yield


@functools.cache
def shapes(name: str) -> tuple[Model, dict, dict]:
    """A preset's model, and the shapes of its variables and of a batch."""
    preset = PRESETS[name]
    detector = DETECTORS[preset.geometry]
    model = models.build(preset.model, detector)
    batch = {
        "energies": jax.ShapeDtypeStruct((B,), jnp.float32),
        "showers": jax.ShapeDtypeStruct((B, detector.n_voxels), jnp.float32),
    }
    some = np.random.default_rng(0).exponential(1.0, (2, detector.n_voxels))
    fitted = model.fit([(some.sum(1), some.astype(np.float32))])
    return model, jax.eval_shape(lambda b: model.init(rng.root(0), fitted, b), batch), batch


def primitives(jaxpr) -> set[str]:
    """The primitives of a jaxpr and of those inside it, but for functions that have a rule."""
    found = {equation.primitive.name for equation in jaxpr.eqns}
    walked = [e for e in jaxpr.eqns if e.params.get("name") not in functions.IN_JAX]
    values = [value for equation in walked for value in equation.params.values()]
    inner = [getattr(value, "jaxpr", value) for value in values]
    return found.union(*(primitives(x) for x in inner if hasattr(x, "eqns")))


def assert_suits_accelerators(traced: jax.stages.Traced) -> None:
    """A program lowers for accelerators, calls no host, and computes nothing in float64."""
    text = traced.lower(lowering_platforms=("cuda", "rocm", "tpu")).as_text()
    assert "callback" not in text
    assert "f64" not in text


# Primitives of constants, which need no rule.
CONSTANT = {"iota", "nextafter"}
# Presets with the same settings for another detector are traced once.
DIFFERENT = {preset.model: name for name, preset in PRESETS.items()}
# Those whose settings differ in numbers only are trained and lowered by the same code.
KINDS = {re.sub(r"\d[\d.e-]*", "#", repr(model)): name for model, name in DIFFERENT.items()}


@pytest.mark.parametrize("name", DIFFERENT.values())
def test_each_preset_trains_its_parameters_and_samples(name):
    model, variables, batch = shapes(name)
    assert models.from_json(models.to_json(model)) == model
    for stage in model.stages if name in KINDS.values() else ():
        assert trained_by(model, stage, variables, batch) == set(stage.parameters)

    def outputs(variables, batch):
        new = model.sample(variables, KEYS, batch["energies"])
        return new, model.reconstruct(variables, KEYS, batch)

    traced = jax.jit(outputs).trace(variables, batch)
    for some in traced.out_info:
        assert (some.shape, some.dtype) == ((B, model.detector.n_voxels), jnp.float32)
    if name in KINDS.values():
        assert_suits_accelerators(traced)


@pytest.mark.parametrize("name", [name for name in KINDS.values() if "calovq" in name])
def test_showers_are_a_function_of_named_random_numbers_for_any_batch(name):
    """The number of showers is a symbol, as in an exported program."""
    model, variables, _ = shapes(name)
    (b,) = jax.export.symbolic_shape("b")
    noise = jax.eval_shape(model.noise, KEYS)
    kinds = {kind for part in noise.values() for kind in part}
    assert kinds <= {"uniform", "normal", "gumbel"}
    noise = jax.tree.map(lambda x: jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype), noise)
    energies = jax.ShapeDtypeStruct((b,), jnp.float32)
    closed, showers = jax.make_jaxpr(model.sample_from, return_shape=True)(
        variables, noise, energies
    )
    assert showers.shape == (b, model.detector.n_voxels)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True])
    assert primitives(jaxpr) <= conversion.PRIMITIVES | CONSTANT


@pytest.mark.parametrize("name", ["pointflow-ds2-v1", "pointflow-ds2-layers-alpha"])
def test_points_of_a_shower_are_a_function_of_arrays_of_random_numbers(name):
    model, variables, _ = shapes(name)
    noise = jax.eval_shape(model.array_noise, KEYS[:1])
    kinds = {kind for part in noise.values() for kind in part}
    assert kinds <= {"uniform", "normal", "gumbel"}
    energies = jax.ShapeDtypeStruct((1,), jnp.float32)
    closed = jax.make_jaxpr(model.sample_from)(variables, noise, energies)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True])
    assert primitives(jaxpr) <= conversion.PRIMITIVES | CONSTANT


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("calovq-tiny", ["noise", "energies", "prior", "decoder"]),
        ("calovq-ds2-paper", ["noise", "prior", "decoder"]),
        ("pointflow-ds2-layers-alpha", ["noise", "totals", "latent", "points", "placement"]),
    ],
)
def test_parts_end_with_showers(name, names):
    model, variables, batch = shapes(name)

    def last(variables, batch):
        parts = model.parts(variables, KEYS, batch["energies"])
        assert list(parts) == names
        function, arguments = parts[names[-1]]
        return function(*arguments)

    showers = jax.eval_shape(last, variables, batch)
    assert (showers.shape, showers.dtype) == ((B, model.detector.n_voxels), jnp.float32)


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Encoder and decoder alone, prior, layers around the codebook, and all that generation needs, as in
# the official tables (10.5281/zenodo.15961728 and the following), in which the table of incident
# energies of dataset 1's prior (54 numbers) is not counted.
COUNTS = {
    "calovq-ds2-paper": (429_584, 701_833, 234_560, 33_024, 32_896, 1_231_433),
    "calovq-ds3-paper": (652_576, 592_050, 37_984, 49_344, 49_408, 876_050),
    "calovq-ds1-photons-paper": (1_462_829, 1_593_789, 230_912, 65_792, 65_792, 2_152_637),
    "calovq-ds1-pions-paper": (1_547_309, 1_678_434, 231_168, 65_792, 65_792, 2_237_538),
}


@pytest.mark.parametrize("name", COUNTS)
def test_released_presets_have_the_published_numbers_of_parameters(name):
    params = jax.tree.map(lambda leaf: leaf, shapes(name)[1]["params"])
    quant, post_quant = params["encoder"].pop("quant"), params["decoder"].pop("post_quant")
    encoder, decoder, prior = (size(params[part]) for part in ("encoder", "decoder", "prior"))
    whole = decoder + size(post_quant) + size(params["codebook"]) + prior
    found = (encoder, decoder, prior, size(quant), size(post_quant), whole)
    assert found == COUNTS[name]


# The talk promises 150,000 parameters for dataset 2.
@pytest.mark.parametrize(
    ("name", "grid", "most"),
    [("calovq-ds2", (13, 4, 2), 150_000), ("calovq-ds3", (13, 5, 2), 400_000)],
)
def test_networks_after_the_talk_are_as_small_as_promised(name, grid, most):
    model, variables, _ = shapes(name)
    assert size(variables["params"]["encoder"]) < most
    assert size(variables["params"]["decoder"]) < most
    assert 28 <= PRESETS[name].model.autoencoder.filters <= 40
    assert model.networks.code_grid == grid
