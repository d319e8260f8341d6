"""PointFlow: terms of its bound, showers with their totals, and no trace of the packing."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import models, rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.base import Schedule
from calojax.models.pointflow import (
    EncoderConfig,
    GenerationConfig,
    LatentConfig,
    PlacementConfig,
    PointFlow,
    PointFlowConfig,
    PointsConfig,
    TotalsConfig,
    microbatches,
)
from calojax.nn import tiles
from calojax.nn.flow import Summary
from calojax.sampling import generation
from calojax.training import batches, step

SCHEDULE = Schedule(4, 64, warmup=1)
VARIANTS = {
    "version I": {"coordinates": "plane", "dequantisation": "uniform", "deep_sets": False},
    "deep sets": {"coordinates": "plane", "dequantisation": "uniform"},
    "without alpha": {"dequantisation": "uniform"},
    "version II": {},
    "layers": {"coordinates": "layers", "energy": "log"},
    "layers, angles learnt": {"coordinates": "layers", "energy": "log", "angles": "learnt"},
}
every = pytest.mark.parametrize("name", VARIANTS)


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
        leaves, tree = jax.tree.flatten(variables["params"])
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noise = [0.05 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
        moved = jax.tree.unflatten(tree, [a + n for a, n in zip(leaves, noise, strict=True)])
        return variables | {"params": moved}

    return start


@pytest.fixture(scope="module")
def losses(start):
    """The metrics of the points' loss; ``name`` says whose arrays a model of no variant takes."""

    @functools.partial(jax.jit, static_argnames="model")
    def compiled(model, variables, batch):
        _, outcome = model.loss("points", variables, jax.random.key(0), batch, training=False)
        return outcome.metrics

    def losses(model, batch, name=None):
        name = name or next(n for n in VARIANTS if build(n) == model)
        return {k: float(v) for k, v in compiled(model, start(name), batch).items()}

    return losses


@pytest.fixture(scope="module")
def sampled(start, batch):
    """Totals and showers of sixty-four keys."""

    @functools.cache
    def sampled(name):
        model = build(name)
        keys = rng.per_item(rng.root(0), np.arange(64))
        return jax.jit(lambda v, k, e: (model.sample_totals(v, k, e), model.sample(v, k, e)))(
            start(name), keys, batch["energies"]
        )

    return sampled


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["version I", "layers, angles learnt"])
def test_each_stage_trains_its_own_parameters_and_no_others(name, start, batch):
    model, variables = build(name), start(name)
    few = {part: value[:16] for part, value in batch.items()}

    def loss(params, weights):
        values = [
            model.loss(
                stage.name, variables | {"params": params}, jax.random.key(0), few, training=True
            )[0]
            for stage in model.stages
        ]
        return sum(w * v for w, v in zip(weights, values, strict=True))

    gradient = jax.jit(jax.grad(loss))
    for stage, weights in zip(model.stages, np.eye(len(model.stages)), strict=True):
        found = gradient(variables["params"], weights)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
        reached = {part for part, tree in found.items() if any(map(np.any, jax.tree.leaves(tree)))}
        assert reached == set(stage.parameters)


@every
def test_losses_are_finite(name, losses, batch):
    metrics = losses(build(name), batch)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["left_out"] < 0.1
    assert 0.0 < metrics["padding"] < 0.2


def test_stages_are_those_of_the_settings():
    assert [s.name for s in build("version II").stages] == ["totals", "points"]
    names = [s.name for s in build("layers, angles learnt").stages]
    assert names == ["totals", "points", "placement"]


@every
def test_settings_survive_json(name):
    assert models.from_json(models.to_json(build(name))) == build(name)


def test_terms_of_the_bound_are_the_closed_forms(start):
    """With flows that are the identity and an encoder that says one thing, all is Gaussian."""
    model = build("version II")
    variables = start("version II")
    params = jax.tree.map(lambda a: a, variables["params"])
    zero = functools.partial(jax.tree.map, jnp.zeros_like)
    params["latent"], params["points"] = zero(params["latent"]), zero(params["points"])
    mean, log_std = jnp.array([0.5, -1.0, 0.0, 2.0]), jnp.array([-0.5, 0.0, 0.3, -1.0])
    params["encoder"] = zero(params["encoder"])
    params["encoder"]["set"]["out"]["bias"] = jnp.concatenate([mean, log_std])

    num = 500
    hits = jnp.where(jnp.arange(num) < num // 2, 2, 1).astype(jnp.int32)
    tiling, _ = tiles.lay(hits, num + 20, 3)
    owner, inside = np.repeat(tiling.owner, 3), np.asarray(tiling.inside).reshape(-1)
    x = jax.random.normal(jax.random.key(0), (len(owner), 3))
    reconstruction, prior, entropy = model.bound(
        variables | {"params": params},
        x,
        jnp.zeros((len(owner), 0)),
        tiling,
        jnp.zeros((num, 3)),
        jax.random.normal(jax.random.key(1), (num, 4)),
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


@pytest.mark.parametrize("weights", ["slide", "released", "bound"])
def test_weights_of_the_terms(weights, losses, batch):
    model = models.build(config(weights=weights), DETECTORS["tiny"])
    # Showers that are all alike, since the bound weighs them by their hits.
    alike = {name: np.repeat(value[:1], 16, 0) for name, value in batch.items()}
    hits = (alike["showers"][0] > 0).sum()
    found = losses(model, alike, "version II")
    expected = {
        "slide": (1.0, 1.0, 1.0),
        "released": (1 / 3, 1 / 4, 1 / 4),
        "bound": (hits / 90, 1 / 90, 1 / 90),
    }[weights]
    terms = (found["reconstruction"], found["prior"], found["entropy"])
    assert found["loss"] == pytest.approx(
        -sum(w * t for w, t in zip(expected, terms, strict=True)), rel=1e-4
    )


def test_padding_and_packing_change_nothing(start, batch):
    """Terms of showers in one buffer, in a longer one, and of each alone."""
    model, variables = build("layers"), start("layers")
    generator = np.random.default_rng(0)
    hits = np.array([3, 0, 5], np.int32)
    x = generator.normal(size=(8, 2)).astype(np.float32)
    given = generator.normal(size=(8, 3)).astype(np.float32)
    context = generator.normal(size=(3, model.encoding.context)).astype(np.float32)
    normal = generator.normal(size=(3, 4)).astype(np.float32)

    def bound(showers, first, count):
        tiling, number = tiles.lay(jnp.asarray(hits[showers]), count, 4)
        return jax.jit(model.bound)(
            variables,
            x[first:][number],
            given[first:][number],
            tiling,
            context[showers],
            normal[showers],
        )

    terms, longer = bound(slice(3), 0, 3), bound(slice(3), 0, 7)
    alone = bound(slice(2, 3), 3, 2)
    for term, other, single in zip(terms, longer, alone, strict=True):
        np.testing.assert_allclose(other, term, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(single[0], term[2], rtol=1e-4, atol=1e-5)


def test_batches_that_are_no_whole_groups_are_filled_up(losses, batch):
    """What fills them up counts nothing: the terms are those of the showers that there are."""
    model = build("version II")
    part = {name: value[:13] for name, value in batch.items()}
    more = {
        "energies": np.concatenate([part["energies"], np.full(3, 1e4, np.float32)]),
        "showers": np.concatenate([part["showers"], np.zeros((3, 120), np.float32)]),
    }
    thirteen, sixteen = losses(model, part), losses(model, more)
    # The noise is the same; showers without points have a mean of 0, which takes part here.
    expected = sixteen["reconstruction"] * 16 / 13
    assert thirteen["reconstruction"] == pytest.approx(expected, rel=1e-4)
    assert thirteen["padding"] == pytest.approx(sixteen["padding"], rel=1e-5)


def test_hits_beyond_the_buffer_are_refused_and_counted(losses, showers, batch):
    model = models.build(config(points_per_shower=70), DETECTORS["tiny"])
    hits = batches.count_hits(showers)
    message = r"can have (\d+) hits per shower.* --points.points-per-shower from 70 to \1"
    with pytest.raises(CalojaxError, match=message):
        batches.check_packing(model.stages[1], hits)
    batches.check_packing(model.stages[0], hits)
    assert losses(model, batch, "version II")["left_out"] > 0.01


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


def test_eight_devices_compute_the_same(start, batch, one_device, eight_devices):
    model = build("version II")
    stage = model.stages[1]
    found = []
    for mesh in (one_device, eight_devices):
        variables = jax.tree.map(jnp.array, start("version II"))
        _, metrics = step.make(model, stage, 0, mesh)(step.start(variables, stage), batch)
        found.append(metrics)
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-3, atol=1e-6)


# --- generation -----------------------------------------------------------------------------------


@every
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


@pytest.mark.parametrize("name", ["version I", "layers, angles learnt"])
def test_a_shower_alone_equals_the_same_in_a_batch(name, sampled, start, batch):
    model = build(name)
    keys = rng.per_item(rng.root(0), np.arange(40, 43))
    alone = jax.jit(model.sample)(start(name), keys, batch["energies"][40:43])
    np.testing.assert_allclose(alone, sampled(name)[1][40:43], rtol=1e-3, atol=1e-3)


def test_microbatches_change_nothing(sampled, start, batch):
    model = build("version II")
    other = models.build(
        dataclasses.replace(model.config, generation=GenerationConfig(64, 8192)),
        DETECTORS["tiny"],
    )
    keys = rng.per_item(rng.root(0), np.arange(64))
    showers = jax.jit(other.sample)(start("version II"), keys, batch["energies"])
    np.testing.assert_allclose(showers, sampled("version II")[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["version I", "layers"])
def test_reconstruction_keeps_totals(name, start, batch):
    model = build(name)
    keys = rng.per_item(rng.root(0), np.arange(64))
    again = np.asarray(jax.jit(model.reconstruct)(start(name), keys, batch))
    np.testing.assert_allclose(again.sum(1), batch["showers"].sum(1), rtol=1e-5)
    if name.startswith("layers"):
        energy = batch["showers"].reshape(64, 10, -1).sum(2)
        np.testing.assert_allclose(again.reshape(64, 10, -1).sum(2), energy, rtol=1e-4, atol=1e-4)


@every
def test_every_variant_has_all_methods(name, start, batch):
    """Traced, not compiled, for those whose values no other test looks at."""
    model, keys = build(name), rng.per_item(rng.root(0), np.arange(64))
    again = jax.eval_shape(model.reconstruct, start(name), keys, batch)
    assert again.shape == (64, 120)

    def outputs(variables):
        parts = model.parts(variables, keys, batch["energies"])
        return {part: function(*arguments) for part, (function, arguments) in parts.items()}

    parts = jax.eval_shape(outputs, start(name))
    assert list(parts) == sorted(["totals", "latent", "points", "placement"][: len(parts)])


def test_parts_together_are_the_whole(sampled, start, batch):
    name = "layers, angles learnt"
    model, keys = build(name), rng.per_item(rng.root(0), np.arange(64))
    names = []

    @jax.jit
    def last(variables):
        parts = model.parts(variables, keys, batch["energies"])
        names.extend(parts)
        function, arguments = parts["placement"]
        return function(*arguments)

    showers = last(start(name))
    assert names == ["totals", "latent", "points", "placement"]
    np.testing.assert_allclose(showers, sampled(name)[1], rtol=1e-3, atol=1e-3)


def test_temperature_makes_showers_alike(start, batch):
    model = build("version II")
    keys = rng.per_item(rng.root(0), np.arange(64))
    energies = np.full(64, 1e4, np.float32)
    sample = jax.jit(model.sample)

    def spread(temperature):
        showers = np.asarray(sample(start("version II"), keys, energies, temperature=temperature))
        rings = showers.reshape(64, 10, 4, 3).sum(2).reshape(64, -1)
        return (rings / rings.sum(1, keepdims=True)).std(0).sum()

    assert spread(0.2) < 0.7 * spread(1.0)


def test_several_devices_sample_the_same(start, batch, one_device, eight_devices):
    model = build("version II")

    def showers(mesh):
        batches = generation.generate(
            model, start("version II"), batch["energies"], batch_size=32, mesh=mesh
        )
        return np.concatenate([part for _, part in batches])

    # Two batches for two of the devices, or for one.
    np.testing.assert_array_equal(showers(eight_devices), showers(one_device))


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
