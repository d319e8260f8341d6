"""Calo-VQ: what each stage trains, what reaches the codebook, and showers that can exist."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config, with_autoencoder

from calojax import models, rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.calovq import PriorConfig
from calojax.models.voxels import layer_sums
from calojax.training import step


def reached(tree):
    return {name for name, part in tree.items() if any(np.any(x) for x in jax.tree.leaves(part))}


def test_each_stage_trains_its_own_parameters_and_no_others(model, variables, batch):
    few = {part: value[:8] for part, value in batch.items()}

    def loss(params, weights):
        now, key = variables | {"params": params}, jax.random.key(0)
        losses = [model.loss(s.name, now, key, few, training=True)[0] for s in model.stages]
        return sum(w * x for w, x in zip(weights, losses, strict=True))

    # One program for all stages.
    gradient = jax.jit(jax.grad(loss))
    for stage, weights in zip(model.stages, np.eye(3, dtype=np.float32), strict=True):
        assert reached(gradient(variables["params"], weights)) == set(stage.parameters)


def test_codebook_learnt_by_gradient_gets_one(model, batch, variables):
    by_gradient = with_autoencoder(model, codebook="gradient")
    few = {part: value[:8] for part, value in batch.items()}
    fresh = jax.eval_shape(by_gradient.init, jax.random.key(0), variables["transforms"], few)
    assert fresh["state"] == {}
    assert fresh["params"]["codebook"].shape == (16, 4)
    assert "codebook" in by_gradient.stages[0].parameters
    codebook = variables["state"]["codebook"]["vectors"]

    def loss(codebook):
        now = variables | {"params": variables["params"] | {"codebook": codebook}}
        return by_gradient.loss("autoencoder", now, jax.random.key(0), few, training=True)[0]

    assert np.any(jax.jit(jax.grad(loss))(codebook))


def test_codebook_of_averages_changes_in_training_only(model, variables, batch):
    few = {part: value[:8] for part, value in batch.items()}

    @jax.jit
    def states(variables):
        return [
            model.loss("autoencoder", variables, jax.random.key(0), few, training=training)[1].state
            for training in (True, False)
        ]

    training, validation = (state["codebook"]["vectors"] for state in states(variables))
    before = variables["state"]["codebook"]["vectors"]
    assert np.any(training != before)
    np.testing.assert_array_equal(validation, before)


@pytest.mark.parametrize(("head", "codebook"), [("density", "ema"), ("point", "gradient")])
def test_every_stage_learns(model, showers, batch, variables, head, codebook, one_device):
    model = with_autoencoder(model, head=head, codebook=codebook)
    now = jax.jit(model.init)(jax.random.key(0), variables["transforms"], batch)
    # The stages after the first see codes, wherever they come from.
    stages = model.stages if head == "density" else model.stages[:1]
    for stage in stages:
        train_step = step.make(model, stage, 0, one_device)
        state = step.start(now, stage)
        losses = []
        for _ in range(8):
            state, metrics = train_step(state, batch)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < losses[0]
        now = state.variables


def test_conditions_of_decoder_and_prior_follow_the_setting(model, variables, batch):
    told = model._condition(variables, batch["energies"], np.ones((64, 10)))
    alone = with_autoencoder(model, condition_on_layers=False)
    assert told.flat().shape == (64, 22)
    assert told.by_layer(10).shape == (64, 10, 4)
    alone = alone._condition(variables, batch["energies"], np.ones((64, 10)))
    assert alone.flat().shape == (64, 1)
    assert alone.by_layer(10).shape == (64, 10, 1)


def test_samples_are_showers_and_parts_together_are_the_whole(model, variables, batch):
    keys = rng.per_item(rng.root(0), np.arange(64))

    @jax.jit
    def both(variables):
        parts = model.parts(variables, keys, batch["energies"])
        assert list(parts) == ["energies", "prior", "decoder"]
        function, arguments = parts["decoder"]
        return model.sample(variables, keys, batch["energies"]), function(*arguments)

    showers, again = map(np.asarray, both(variables))
    assert showers.shape == (64, 120)
    assert showers.dtype == np.float32
    assert np.isfinite(showers).all()
    assert (showers[showers > 0] >= model.detector.readout_threshold * (1 - 1e-6)).all()
    np.testing.assert_allclose(again, showers, rtol=1e-5)


def test_reconstruction_keeps_layer_energies(model, variables, batch):
    keys = rng.per_item(rng.root(0), np.arange(64))
    again = jax.jit(model.reconstruct)(variables, keys, batch)
    expected = layer_sums(batch["showers"], model.detector)
    np.testing.assert_allclose(layer_sums(again, model.detector), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ds1-pions", "ds2"])
def test_every_geometry_trains_and_samples(name):
    detector = DETECTORS[name]
    model = models.build(tiny_config(rotate=detector.grid is not None), detector)
    rng_ = np.random.default_rng(0)
    showers = rng_.exponential(10.0, (8, detector.n_voxels)).astype(np.float32)
    batch = {"energies": showers.sum(1), "showers": showers}
    fitted = model.fit([(showers.sum(1), showers)])
    variables = jax.jit(model.init)(jax.random.key(0), fitted, batch)
    losses = jax.jit(
        lambda variables: [
            model.loss(stage.name, variables, jax.random.key(1), batch, training=True)[0]
            for stage in model.stages
        ]
    )
    assert np.isfinite(losses(variables)).all()
    keys = rng.per_item(rng.root(0), np.arange(8))
    sampled = jax.jit(model.sample)(variables, keys, batch["energies"])
    assert sampled.shape == showers.shape
    assert np.isfinite(sampled).all()


def test_models_survive_json(model):
    assert models.from_json(models.to_json(model)) == model
    assert hash(models.from_json(models.to_json(model))) == hash(model)


def test_foreign_descriptions_are_refused(model):
    description = models.to_json(model)
    with pytest.raises(CalojaxError, match="'calogan' is not one of calovq"):
        models.from_json(description | {"model": "calogan"})
    description["config"]["prior"]["width"] = "wide"
    with pytest.raises(CalojaxError, match="Expected `int`, got `str`"):
        models.from_json(description)


# --- priors ---------------------------------------------------------------------------------------


def with_prior(**settings):
    config = tiny_config()
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, **settings))


@pytest.mark.parametrize("kind", ["gru", "transformer", "masked"])
def test_every_kind_trains_and_samples(kind, tiny, variables, batch, one_device):
    model = models.build(with_prior(kind=kind, layers=1, heads=2, passes=3), tiny)
    assert models.from_json(models.to_json(model)) == model
    prior = jax.jit(model._prior.init)(jax.random.key(0), jnp.zeros((1, 8)))["params"]
    now = variables | {"params": variables["params"] | {"prior": prior}}
    now = jax.tree.map(jnp.copy, now)  # Steps are donated their variables.
    stage = model.stages[-1]
    train_step = step.make(model, stage, 0, one_device)
    state = step.start(now, stage)
    losses = []
    for _ in range(8):
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    layer_energy = np.ones((64, 10), np.float32)
    sample = jax.jit(model.sample_codes)
    codes = sample(
        state.variables, rng.per_item(rng.root(0), np.arange(64)), batch["energies"], layer_energy
    )
    assert codes.shape == (64, 4)
    assert codes.min() >= 0
    assert codes.max() < 16


def test_settings_that_do_not_fit():
    with pytest.raises(CalojaxError, match="width 16 is not a multiple of twice its 3 heads"):
        PriorConfig(kind="transformer", width=16, heads=3)
    for name in ("layers", "heads", "passes"):
        with pytest.raises(CalojaxError, match=f"{name} are 0; take 1 or more"):
            PriorConfig(**{name: 0})
    assert PriorConfig(width=30).kind == "gru"
