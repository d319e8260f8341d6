"""The released Calo-VQ: energies as tokens, shares, centres, and a decoder that may be zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import models, rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.calovq_released import (
    ReleasedAutoencoderConfig,
    ReleasedConfig,
    TokensConfig,
    networks,
)
from calojax.models.calovq_released.tokens import EnergyTokens
from calojax.models.voxels import layer_sums
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gpt import GPT
from calojax.nn.priors.positions import Line


def build(detector, tokens=TokensConfig(), **autoencoder):  # noqa: B008
    config = ReleasedConfig(ReleasedAutoencoderConfig(**autoencoder), tokens)
    return models.build(config, detector)


def keys(n):
    return rng.per_item(rng.root(0), np.arange(n))


def test_one_token_reads_low_by_less_than_a_step_and_dither_fills_the_step(tiny):
    fractions = np.zeros((500, tiny.n_voxels), np.float32)
    fractions[:, 3] = np.linspace(0.3, 1.2, 500)
    plain = EnergyTokens(TokensConfig(), 1024, tiny)
    dithered = EnergyTokens(TokensConfig(dither=True), 1024, tiny)
    tokens = plain.encode(fractions)
    assert tokens.shape == (500, 1)
    missing = fractions.sum(-1) - np.asarray(plain.decode(keys(500), tokens))[:, 0]
    step = 1.3 / 1024
    assert (missing > -1e-6).all()
    assert (missing < step + 1e-6).all()
    assert missing.mean() == pytest.approx(step / 2, rel=0.1)
    centred = np.asarray(dithered.decode(keys(500), tokens))[:, 0] - fractions.sum(-1)
    assert centred.mean() == pytest.approx(0, abs=0.1 * step)
    assert np.abs(centred).max() < step + 1e-6
    # Larger numbers become the largest one.
    assert plain.encode(2 * fractions).max() == 1023


def test_twenty_bits_take_two_tokens_a_layer_and_keep_the_total():
    detector = DETECTORS["ds1-photons"]
    energy_tokens = EnergyTokens(TokensConfig(20, 3.0, layers=True), 1024, detector)
    generator = np.random.default_rng(0)
    fractions = generator.exponential(0.002, (20, detector.n_voxels)).astype(np.float32)
    tokens = energy_tokens.encode(fractions)
    assert tokens.shape == (20, 12) == (20, energy_tokens.number)
    visible = np.asarray(energy_tokens.decode(keys(20), tokens))
    np.testing.assert_allclose(visible, energy_tokens.visible(fractions), atol=2e-5)
    np.testing.assert_allclose(visible.sum(1), fractions.sum(1), atol=4e-6)
    total = tokens[:, 0] * 1024 + tokens[:, 1]
    np.testing.assert_array_equal(total, np.floor(fractions.sum(1) / 3.0 * 2**20))


def test_bits_that_do_not_fill_tokens_are_refused(tiny):
    with pytest.raises(CalojaxError, match=r"--tokens.bits 12 do not divide"):
        _ = EnergyTokens(TokensConfig(bits=12), 1024, tiny).number


@pytest.mark.parametrize("name", ["ds1", "ds2", "ds3"])
def test_shares_sum_to_one_and_only_dataset_3_has_zeros(name, tiny):
    made = networks.make(name, tiny, (8, 8))
    out = jax.random.normal(jax.random.key(0), (4, tiny.n_voxels)).at[2].set(-1.0)
    shares = np.asarray(made.shares(out))
    sums = layer_sums(shares, tiny) if name == "ds1" else shares.sum(1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    assert (shares == 0).any() == (name == "ds3")
    assert np.isfinite(made.shares(1e6 * out)).all()


@pytest.mark.parametrize(
    ("name", "detector", "padding", "codes"),
    [("ds2", "ds2", (4, 8), (17, 4)), ("ds3", "ds3", (1, 2), (13, 14))],
)
def test_codes_lie_on_the_released_grids(name, detector, padding, codes):
    shape = networks.Shape(DETECTORS[detector].grid, padding)
    assert shape.codes(networks.ARCHITECTURES[name]) == codes


def test_turned_showers_have_turned_codes():
    # Codes of dataset 2 are four bins of alpha apart; its convolutions know no seam.
    detector = DETECTORS["ds2"]
    model = build(detector, code_width=8, codebook_size=64)
    x = np.random.default_rng(0).random((2, *detector.grid), np.float32)
    condition = jnp.zeros((2, 1))
    encoder = model._encoder
    variables = encoder.init(jax.random.key(0), x.reshape(2, -1), condition)
    codes = encoder.apply(variables, x.reshape(2, -1), condition).reshape(2, 17, 4, 8)
    turned = encoder.apply(variables, np.roll(x, 4, 2).reshape(2, -1), condition)
    np.testing.assert_allclose(turned.reshape(codes.shape), np.roll(codes, 1, 2), atol=1e-5)


def test_moments_are_those_of_the_shower(tiny):
    model = build(tiny)
    voxels = np.zeros((1, tiny.n_voxels), np.float32)
    first, second = 0, 5
    voxels[0, first], voxels[0, second] = 3.0, 1.0
    centre, width = (np.asarray(x) for x in model._moments(voxels))
    assert centre.shape == (1, tiny.n_layers, 2)
    for axis, place in enumerate((tiny.voxels.eta, tiny.voxels.phi)):
        a, b = place[first], place[second]
        assert centre[0, 0, axis] == pytest.approx(0.75 * a + 0.25 * b, abs=1e-4)
        assert width[0, 0, axis] == pytest.approx(np.sqrt(0.1875) * abs(a - b), abs=0.05)


def test_detectors_that_do_not_fit_an_architecture_are_refused(tiny):
    with pytest.raises(CalojaxError, match=r"10 layers are too few .* --autoencoder.z-padding"):
        networks.make("ds3", tiny, (1, 2))
    with pytest.raises(CalojaxError, match="no grid to convolve over"):
        networks.make("ds2", DETECTORS["ds1-photons"], (0, 0))


def test_labels_of_energies_start_at_256_mev():
    dense = networks.Dense(DETECTORS["ds1-photons"])
    label = dense.condition(jnp.array([256.0, 512.0, 2.0**22, 1e9]))
    np.testing.assert_array_equal(label, [0, 1, 14, 14])


def test_gpt_draws_from_the_probabilities_that_it_tells():
    cell = GPT(5, Line(3), 1, 2, 8, True, conditions=2)
    prior = Autoregressive(cell)
    context = jax.random.normal(jax.random.key(0), (1, 2))
    variables = jax.jit(prior.init)(jax.random.key(1), context)
    # Far from the uniform start, so that order and condition matter.
    variables = jax.tree.map(lambda x: 3 * x, variables)
    n = 20_000
    many = jnp.broadcast_to(context, (n, 2))
    codes = np.asarray(
        jax.jit(prior.draw)(variables, rng.per_item(rng.root(2), np.arange(n)), many)
    )
    every = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    p = np.exp(
        jax.jit(prior.log_probs)(variables, every, jnp.broadcast_to(context, (125, 2))).sum(1)
    )
    assert p.sum() == pytest.approx(1, abs=1e-5)
    found = np.bincount(codes @ np.array([25, 5, 1]), minlength=125) / n
    assert np.abs(found - p).max() < 5 * np.sqrt(p.max() / n)


def test_dataclasses_are_as_frozen_as_models_must_be(tiny):
    model = build(tiny)
    assert hash(model) == hash(dataclasses.replace(model))
    assert models.from_json(models.to_json(model)) == model
