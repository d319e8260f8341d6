"""Calo-VQ: what each stage trains, what reaches the codebook, and showers that can exist."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn_variables, tiny_config, trained_by, with_autoencoder

from calojax import models, rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.calovq.config import PriorConfig
from calojax.models.voxels import layer_sums, mirror_table, rotation_table


def test_each_stage_trains_its_own_parameters_and_no_others(model, variables, batch):
    for stage in model.stages:
        assert trained_by(model, stage, variables, batch) == set(stage.parameters)


@pytest.mark.parametrize("settings", [{"codebook": "gradient"}, {"codebook": "fsq"}])
def test_other_codebooks_are_trained_by_gradient_or_not_at_all(settings, model, batch, variables):
    model = with_autoencoder(model, **settings)
    fresh = jax.eval_shape(model.init, jax.random.key(0), variables["transforms"], batch)
    assert fresh["state"] == {}
    assert trained_by(model, model.stages[0], fresh, batch) == set(model.stages[0].parameters)
    assert ("codebook" in model.stages[0].parameters) == (settings["codebook"] == "gradient")


def test_moving_averages_change_in_training_only(model, variables, batch):
    def states(variables):
        for training in (True, False):
            _, outcome = model.loss("autoencoder", variables, key, batch, training=training)
            same = outcome.state["codebook"] is variables["state"]["codebook"]
            assert same != training

    key = jax.random.key(0)
    jax.eval_shape(states, variables)


def test_conditions_of_decoder_and_prior_follow_the_setting(model, variables, batch):
    for told, flat, by_layer in ((True, 22, 4), (False, 1, 1)):
        one = with_autoencoder(model, condition_on_layers=told)
        condition = one._condition(variables, batch["energies"], np.ones((64, 10)))
        assert condition.flat().shape == (64, flat)
        assert condition.by_layer(10).shape == (64, 10, by_layer)


def test_samples_are_showers_and_reconstruction_keeps_layer_energies(model, variables, batch):
    keys = rng.per_item(rng.root(0), np.arange(64))

    @jax.jit
    def both(variables):
        new = model.sample(variables, keys, batch["energies"])
        return new, model.reconstruct(variables, keys, batch)

    showers, again = map(np.asarray, both(variables))
    assert showers.shape == (64, 120)
    assert showers.dtype == np.float32
    assert np.isfinite(showers).all()
    assert (showers[showers > 0] >= model.detector.readout_threshold * (1 - 1e-6)).all()
    expected = layer_sums(batch["showers"], model.detector)
    np.testing.assert_allclose(layer_sums(again, model.detector), expected, rtol=1e-4, atol=1e-4)


def test_foreign_descriptions_are_refused(model):
    description = models.to_json(model)
    with pytest.raises(CalojaxError, match="'calogan' is not one of calovq"):
        models.from_json(description | {"model": "calogan"})
    description["config"]["prior"]["width"] = "wide"
    with pytest.raises(CalojaxError, match="Expected `int`, got `str`"):
        models.from_json(description)


def test_differing_settings_are_named_with_their_values(model):
    other = with_autoencoder(model, beta=0.5, hidden=(32, 8))
    other = dataclasses.replace(other, detector=DETECTORS["ds2"])
    found = models.differing(model, other)
    assert {"autoencoder.beta 0.25, not 0.5", "detector.name 'tiny', not 'ds2'"} <= {*found}
    assert {"autoencoder.hidden", "detector.layers.n_alpha"} <= {*found}
    assert models.differing(model, model) == []


# --- priors ---------------------------------------------------------------------------------------


def test_the_flow_prior_has_gradients_and_codes(tiny, variables, batch):
    config = tiny_config()
    prior = dataclasses.replace(config.prior, kind="flow", layers=1, heads=2, passes=3)
    model = models.build(dataclasses.replace(config, prior=prior), tiny)
    prior = jax.eval_shape(model._prior.init, jax.random.key(0), jnp.zeros((1, 8)))["params"]
    variables = variables | {"params": variables["params"] | {"prior": prior}}
    assert trained_by(model, model.stages[-1], variables, batch) == {"context", "prior"}
    keys = rng.per_item(rng.root(0), np.arange(64))
    layer_energy = np.ones((64, 10), np.float32)
    noise = jax.eval_shape(model.noise, keys)
    codes = jax.eval_shape(model.sample_codes, variables, noise, batch["energies"], layer_energy)
    assert (codes.shape, codes.dtype) == ((64, 4), jnp.int32)


@pytest.mark.parametrize("network", ["cylinder", "dense"])
def test_codes_computed_once_are_those_of_turned_and_mirrored_showers(network, tiny, batch):
    patches = {"filters": 4, "kernel": (3, 2, 2), "strides": (2, 2, 1)}
    model = models.build(tiny_config(network=network, **patches), tiny)
    assert model.networks.code_grid == ((4, 2, 2) if network == "cylinder" else (4, 1, 1))
    transforms = model.fit([(batch["energies"], batch["showers"])])
    variables = drawn_variables(model.init, jax.random.key(0), transforms, batch)
    variables |= {"transforms": transforms}
    few = {name: array[:6] for name, array in batch.items()}
    encoded = jax.jit(model.encoded)
    cached = encoded(variables, few)
    codes = np.asarray(cached["codes"])
    assert codes.dtype == np.uint8
    assert len(np.unique(codes)) > 4
    # Four turns of the voxels; the codes of the cylinder follow two of them.
    views = 2 if network == "cylinder" else 4
    assert codes.shape == (6, 2 * views, np.prod(model.networks.code_grid))

    def turned(codes, by):
        grid = codes.reshape(6, *model.networks.code_grid)
        return np.roll(grid, by, axis=2).reshape(codes.shape)

    images = []
    for mirror in (0, 1):
        for turn, table in enumerate(rotation_table(tiny)):
            order = table[mirror_table(tiny)] if mirror else table
            now = encoded(variables, few | {"showers": few["showers"][:, order]})["codes"][:, 0]
            sign = -1 if mirror else 1
            seen = turned(codes[:, mirror * views + turn % views], sign * (turn // views))
            np.testing.assert_array_equal(now, seen)
            images.append(np.asarray(now))
    # In training any of these is drawn, in validation the shower itself.
    draw = jax.jit(model._random_view, static_argnums=2)
    drawn = np.stack([draw(jax.random.key(n), codes, True) for n in range(40)])
    known = (drawn[:, None] == np.stack(images)[None]).all(-1)
    assert known.any(1).all()
    assert known.any((0, 2)).all()
    loss = jax.jit(functools.partial(model.loss, "prior", training=False))
    found, expected = (loss(variables, rng.root(0), given)[0] for given in (cached, few))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_prior_settings_that_do_not_fit_are_refused():
    with pytest.raises(CalojaxError, match=r"multiple of --prior.heads, got 16 and 3"):
        PriorConfig(kind="flow", width=16, heads=3)
    for name in ("layers", "heads", "passes"):
        with pytest.raises(CalojaxError, match=f"--prior.{name} must be at least 1, got 0"):
            PriorConfig(**{name: 0})
    with pytest.raises(CalojaxError, match=r"--prior\.patch must be at least 1 1 1"):
        PriorConfig(patch=(0, 2, 4))
    assert PriorConfig(width=30).kind == "gru"
    assert PriorConfig(codes_per_step=8).codes_per_step == 8
