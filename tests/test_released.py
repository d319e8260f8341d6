"""The released Calo-VQ: energies as tokens, shares, centres, and a decoder that may be zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import models, rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.calovq_released import networks
from calojax.models.calovq_released.config import (
    ReleasedAutoencoderConfig,
    ReleasedConfig,
    TokensConfig,
)
from calojax.models.calovq_released.tokens import EnergyTokens
from calojax.models.voxels import layer_sums


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
    missing = fractions.sum(-1) - np.asarray(plain.decode({}, tokens))[:, 0]
    step = 1.3 / 1024
    assert (missing > -1e-6).all()
    assert (missing < step + 1e-6).all()
    assert missing.mean() == pytest.approx(step / 2, rel=0.1)
    centred = np.asarray(dithered.decode(dithered.noise(keys(500)), tokens))[:, 0] - fractions.sum(
        -1
    )
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
    visible = np.asarray(energy_tokens.decode({}, tokens))
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
    out = np.random.default_rng(0).normal(size=(4, tiny.n_voxels)).astype(np.float32)
    out[2] = -1.0
    of = jax.jit(made.shares)
    shares = np.asarray(of(out))
    sums = layer_sums(shares, tiny) if name == "ds1" else shares.sum(1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    assert (shares == 0).any() == (name == "ds3")
    assert np.isfinite(of(1e6 * out)).all()


@pytest.mark.parametrize(
    ("name", "detector", "padding", "codes"),
    [("ds2", "ds2", (4, 8), (17, 4)), ("ds3", "ds3", (1, 2), (13, 14))],
)
def test_codes_lie_on_the_released_grids(name, detector, padding, codes):
    plan = networks.Plan(networks.ARCHITECTURES[name], DETECTORS[detector].grid, padding)
    assert plan.codes == codes


def test_turned_showers_have_turned_codes():
    # Codes of dataset 2 are four bins of alpha apart, and the convolutions have no seam.
    detector = dataclasses.replace(DETECTORS["ds2"], layers=DETECTORS["ds2"].layers[:3])
    model = build(detector, code_width=8, codebook_size=64, z_padding=(6, 6))
    x = np.random.default_rng(0).random((2, *detector.grid), np.float32)

    @jax.jit
    def codes(x, turned):
        variables = model._encoder.init(jax.random.key(0), x, jnp.zeros((2, 1)))
        return [model._encoder.apply(variables, y, jnp.zeros((2, 1))) for y in (x, turned)]

    found, turned = codes(x.reshape(2, -1), np.roll(x, 4, 2).reshape(2, -1))
    shape = (2, *model.networks.plan.codes, 8)
    expected = np.roll(np.reshape(found, shape), 1, 2)
    np.testing.assert_allclose(np.reshape(turned, shape), expected, atol=1e-5)


def test_moments_are_those_of_the_shower(tiny):
    model = build(tiny)
    voxels = np.zeros((1, tiny.n_voxels), np.float32)
    first, second = 0, 5
    voxels[0, first], voxels[0, second] = 3.0, 1.0
    centre, width = map(np.asarray, jax.jit(model._moments)(voxels))
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
