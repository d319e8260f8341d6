"""PointFlow: terms of its bound, showers with their totals, and no trace of the packing."""

import dataclasses
import functools
import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import moved

from calojax import models, rng
from calojax.api import TrainedModel
from calojax.checkpoint import Progress
from calojax.errors import CalojaxError
from calojax.export import stablehlo
from calojax.geometry import DETECTORS
from calojax.models.base import Schedule
from calojax.models.pointflow import microbatches
from calojax.models.pointflow import model as module
from calojax.models.pointflow.config import (
    EncoderConfig,
    GenerationConfig,
    LatentConfig,
    PlacementConfig,
    PointFlowConfig,
    PointsConfig,
    TotalsConfig,
)
from calojax.models.pointflow.model import PointFlow
from calojax.nn import tiles
from calojax.nn.flow import Summary
from calojax.sampling.generation import STREAM
from calojax.training import batches

SCHEDULE = Schedule(4, 64, warmup=1)
VARIANTS = {
    "version II": {},
    "layers": {"coordinates": "layers", "energy": "log"},
    "layers, angles learnt": {"coordinates": "layers", "energy": "log", "angles": "learnt"},
}
# The two variants that are compiled have nothing in common but the flow of points.
compiled = pytest.mark.parametrize("name", ["version II", "layers, angles learnt"])
KEYS = rng.per_item(rng.root(0), np.arange(64))


def config(*, angles="uniform", **points) -> PointFlowConfig:
    defaults = {"group": 8, "points_per_shower": 90, "schedule": SCHEDULE}
    return PointFlowConfig(
        TotalsConfig(2, 4, (16,), SCHEDULE),
        EncoderConfig((8, 16), (16,)),
        LatentConfig(4, 2, 4, (16,)),
        PointsConfig(
            summary=Summary((8,), (8,), 4), depth=2, bins=4, hidden=(16,), **(defaults | points)
        ),
        PlacementConfig(angles, hidden=16, window=2, schedule=SCHEDULE),
        GenerationConfig(showers=8, points=256),
    )


@pytest.fixture(scope="module", autouse=True)
def two_programs():
    """The flow of points is compiled for two sizes, not for four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FRACTIONS", (1 / 2, 1))
        yield


@functools.cache
def build(name: str) -> PointFlow:
    return models.build(config(**VARIANTS[name]), DETECTORS["tiny"])


@pytest.fixture(scope="module")
def start(showers, batch):
    """Variables of a variant, a little away from where training starts."""

    @functools.cache
    def start(name):
        model = build(name)
        variables = jax.jit(model.init)(jax.random.key(0), model.fit([showers]), batch)
        return variables | {"params": moved(variables["params"], 0.02, seed=1)}

    return start


@pytest.fixture(scope="module")
def sampled(start, batch):
    """Totals and showers of sixty-four keys, in the order of a permutation."""

    @functools.partial(jax.jit, static_argnums=0)
    def sample(model, variables, keys, energies, temperature):
        return (
            model.sample_totals(variables, model.noise(keys), energies),
            model.sample(variables, keys, energies, temperature=temperature),
        )

    def sampled(name, order=slice(None), energies=batch["energies"], temperature=1.0, keys=KEYS):
        return sample(build(name), start(name), keys[order], energies[order], temperature)

    return sampled


# --- training -------------------------------------------------------------------------------------


def test_terms_of_the_bound_are_the_closed_forms(start):
    """With flows that are the identity and an encoder with one output, all is Gaussian."""
    model = build("version II")
    variables = start("version II")
    params = jax.tree.map(lambda a: a, variables["params"])
    zero = functools.partial(jax.tree.map, np.zeros_like)
    params["latent"], params["points"] = zero(params["latent"]), zero(params["points"])
    mean, log_std = jnp.array([0.5, -1.0, 0.0, 2.0]), jnp.array([-0.5, 0.0, 0.3, -1.0])
    params["encoder"] = zero(params["encoder"])
    params["encoder"]["set"]["out"]["bias"] = jnp.concatenate([mean, log_std])

    num = 500
    hits = jnp.where(jnp.arange(num) < num // 2, 2, 1).astype(jnp.int32)
    tiling, _ = tiles.lay(hits, num + 20, 3)
    owner, inside = np.repeat(tiling.owner, 3), np.asarray(tiling.inside).reshape(-1)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(len(owner), 3)).astype(np.float32)
    reconstruction, prior, entropy = jax.jit(model.bound)(
        variables | {"params": params},
        x,
        jnp.zeros((len(owner), 0)),
        tiling,
        jnp.zeros((num, 3)),
        generator.normal(size=(num, 4)).astype(np.float32),
    )
    log_normal = np.asarray(-0.5 * (x**2).sum(1) - 1.5 * math.log(2 * math.pi))
    for shower in (0, 1, num - 1):
        expected = log_normal[(owner == shower) & inside].mean()
        assert float(reconstruction[shower]) == pytest.approx(expected, rel=1e-4)
    # Entropy and prior together are minus the divergence from a standard normal.
    std = jnp.exp(log_std)
    expected = 2.0 * (1 + math.log(2 * math.pi)) + float(log_std.sum())
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    divergence = float((0.5 * (mean**2 + std**2 - 1) - log_std).sum())
    assert float((prior + entropy).mean()) == pytest.approx(-divergence, abs=0.3)


def test_losses_of_batches_with_an_incomplete_group(start, batch):
    """The showers that complete a group do not count: all terms are those of the others."""
    model = build("version II")

    @jax.jit
    def loss(variables, batch):
        loss, outcome = model.loss("points", variables, jax.random.key(0), batch, training=False)
        return outcome.metrics | {"value": loss}

    part = {name: value[:13] for name, value in batch.items()}
    more = {
        "energies": np.concatenate([part["energies"], np.full(3, 1e4, np.float32)]),
        "showers": np.concatenate([part["showers"], np.zeros((3, 120), np.float32)]),
    }
    variables = start("version II")
    thirteen, sixteen = (jax.tree.map(float, loss(variables, b)) for b in (part, more))
    # The noise is the same; showers without points have a mean of 0.
    expected = sixteen["reconstruction"] * 16 / 13
    assert thirteen["reconstruction"] == pytest.approx(expected, rel=1e-4)
    hits = (part["showers"] > 0).sum()
    assert thirteen["padding"] == pytest.approx(1 - hits / (2 * 8 * 90), rel=1e-5)
    assert thirteen["padding"] == pytest.approx(sixteen["padding"], rel=1e-5)
    assert thirteen["left_out"] < 0.1
    terms = (thirteen["reconstruction"], thirteen["prior"], thirteen["entropy"])
    weights = (1 / 3, 1 / 4, 1 / 4)
    total = -sum(w * t for w, t in zip(weights, terms, strict=True))
    assert thirteen["value"] == pytest.approx(total, rel=1e-4)


def test_in_the_bound_points_are_summed_up():
    model = models.build(config(weights="bound"), DETECTORS["tiny"])
    assert model._weights(np.array(45)) == pytest.approx((45 / 90, 1 / 90, 1 / 90))


def test_padding_and_packing_change_nothing(start):
    """Terms of a shower with others in its buffer, and alone in other places and more padding."""
    model, variables = build("layers"), start("layers")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8, 2)).astype(np.float32)
    given = generator.normal(size=(8, 3)).astype(np.float32)
    context = generator.normal(size=(3, model.encoding.context)).astype(np.float32)
    normal = generator.normal(size=(3, 4)).astype(np.float32)
    bound = jax.jit(model.bound)

    def terms(hits, first):
        tiling, number = tiles.lay(jnp.asarray(hits, jnp.int32), 7, 4)
        return bound(variables, x[first:][number], given[first:][number], tiling, context, normal)

    for term, alone in zip(terms([3, 0, 5], 0), terms([0, 0, 5], 3), strict=True):
        np.testing.assert_allclose(alone[2], term[2], rtol=1e-4, atol=1e-5)


def test_hits_beyond_the_buffer_are_refused(showers):
    model = models.build(config(points_per_shower=70), DETECTORS["tiny"])
    hits = batches.count_hits(showers)
    message = r"can have (\d+) hits per shower.* --points.points-per-shower from 70 to \1"
    with pytest.raises(CalojaxError, match=message):
        batches.check_packing(model.stages[1], hits)
    batches.check_packing(model.stages[0], hits)


def test_settings_that_do_not_fit_together_are_refused():
    with pytest.raises(CalojaxError, match="power of two, got 12"):
        config(group=12)
    with pytest.raises(CalojaxError, match=r"multiple of --points.group, got 64 and 128"):
        config(group=128)
    with pytest.raises(CalojaxError, match=r"take --points.coordinates rings"):
        config(coordinates="plane", angles="learnt")
    model = models.build(config(), DETECTORS["ds1-photons"])
    with pytest.raises(CalojaxError, match="ds1-photons: its layers are not all alike"):
        model.fit([])


# --- generation -----------------------------------------------------------------------------------


@compiled
def test_samples_have_their_totals(name, sampled):
    (hits, energy), showers = jax.tree.map(np.asarray, sampled(name))
    threshold = DETECTORS["tiny"].readout_threshold
    assert showers.shape == (64, 120)
    assert showers.dtype == np.float32
    assert np.isfinite(showers).all()
    assert (showers[showers > 0] > threshold).all()
    np.testing.assert_allclose(showers.sum(1), energy.sum(1), rtol=1e-5)
    assert ((showers > 0).sum(1) <= hits.sum(1)).all()
    if name.startswith("layers"):
        layers = showers.reshape(64, 10, -1)
        np.testing.assert_allclose(layers.sum(2), energy, rtol=1e-5)
        np.testing.assert_array_less((layers > 0).sum(2), hits + 1)


def test_hits_share_a_voxel_only_where_a_ring_is_full(sampled):
    """Layers none of whose rings is full have as many voxels as hits, all others fewer."""
    totals, showers = sampled("layers, angles learnt")
    found = (np.asarray(showers).reshape(64, 10, 4, 3) > 0).sum(2)
    lost = np.asarray(totals.hits) - found.sum(2)
    full = (found == 4).any(2)
    assert (lost[~full] == 0).all()
    assert (~full).sum() > 100
    assert (lost[full] >= 0).all()


@compiled
def test_a_shower_does_not_depend_on_the_others(name, sampled):
    """Nor on its place in the batch, nor on its microbatch."""
    order = np.random.default_rng(0).permutation(64)
    showers = np.asarray(sampled(name)[1])
    np.testing.assert_allclose(sampled(name, order)[1], showers[order], rtol=1e-3, atol=1e-3)


def test_a_shower_alone_in_another_microbatch_is_the_same(sampled, start, batch):
    model = build("version II")
    generation = GenerationConfig(64, 8192)
    other = models.build(
        dataclasses.replace(model.config, generation=generation), DETECTORS["tiny"]
    )
    alone = jax.jit(other.sample)(start("version II"), KEYS[40:43], batch["energies"][40:43])
    expected = sampled("version II")[1][40:43]
    np.testing.assert_allclose(alone, expected, rtol=1e-3, atol=1e-3)


def test_reconstruction_keeps_totals(start, batch):
    name = "layers, angles learnt"
    again = np.asarray(jax.jit(build(name).reconstruct)(start(name), KEYS, batch))
    energy = batch["showers"].reshape(64, 10, -1).sum(2)
    np.testing.assert_allclose(again.reshape(64, 10, -1).sum(2), energy, rtol=1e-4, atol=1e-4)


def test_low_temperature_reduces_diversity(sampled):
    def spread(temperature):
        energies = np.full(64, 1e4, np.float32)
        _, showers = sampled("version II", energies=energies, temperature=temperature)
        rings = np.asarray(showers).reshape(64, 10, 4, 3).sum(2).reshape(64, -1)
        return (rings / rings.sum(1, keepdims=True)).std(0).sum()

    assert spread(0.2) < 0.7 * spread(1.0)


def test_microbatches_hold_whole_showers_and_all_of_them():
    hits = jnp.array([3, 0, 4, 5, 5, 1, 0, 0, 2])
    value = jnp.arange(9.0)

    def function(inside, hits, value):
        total = jnp.where(inside, hits, 0).sum()
        return jnp.stack([value, jnp.where(inside, total, -1).astype(jnp.float32)], 1)

    out = jax.jit(
        lambda hits, value: microbatches.apply(
            function, hits, hits, value, size=microbatches.Size(showers=4, points=7)
        )
    )(hits, value)
    np.testing.assert_array_equal(out[:, 0], value)
    np.testing.assert_array_equal(out[:, 1], [7, 7, 7, 5, 6, 6, 6, 6, 2])


def test_stablehlo_makes_the_same_showers_in_microbatches_of_the_run(sampled, start, batch):
    model = build("version II")
    trained = TrainedModel(model, start("version II"), Progress(1, "points", 1, (), 0, (1e3, 1e5)))
    numbers = np.arange(64, dtype=np.uint32)
    program = jax.export.deserialize(bytearray(stablehlo.program(trained, 64)))
    found = program.call(np.uint32(5), numbers, batch["energies"])
    keys = rng.per_item(rng.stream(rng.root(5), STREAM), numbers)
    np.testing.assert_allclose(found, sampled("version II", keys=keys)[1], rtol=1e-3, atol=1e-3)
    assert microbatches.with_size(model, microbatches.ACCELERATOR).config == model.config
    default = dataclasses.replace(model.config, generation=GenerationConfig())
    resized = microbatches.with_size(
        models.build(default, model.detector), microbatches.ACCELERATOR
    )
    assert resized.config.generation == GenerationConfig(showers=256, points=262_144)
