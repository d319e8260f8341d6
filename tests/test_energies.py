"""Models of layer energies: densities against closed forms, draws against densities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import drawn_variables

from calojax import rng
from calojax.models.calovq.energies import EnergyDensity, LayerEnergies, Scales, with_noise
from calojax.models.calovq.energy_vae import EnergyVAE
from calojax.nn.mixture import Mixture

MODELS = {
    "density": EnergyDensity(layers=3, width=8, components=2),
    "vae": EnergyVAE(layers=3, latents=2, hidden=(8,), components=2),
}


SCALES = Scales(jnp.log(jnp.array([0.3, 0.5, 0.2])), jnp.full(3, 0.1))


@pytest.fixture(scope="module")
def inputs() -> LayerEnergies:
    share = jax.random.normal(jax.random.key(0), (5, 3))
    present = jnp.array([[1, 1, 0]] * 5, bool)
    return LayerEnergies(jnp.where(present, share, 0.0), present, jnp.linspace(-1, 1, 5))


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def trained(request, inputs):
    """A model and random variables, all of them other than zero."""
    model, key = request.param, jax.random.key(0)
    return model, drawn_variables(model.init, key, inputs, np.zeros((5, 1)), SCALES, key)


@pytest.fixture(scope="module")
def drawn(trained):
    """Twenty thousand draws, their noise and incident energies."""
    model, variables = trained

    @jax.jit
    def draw(variables, keys):
        noise, condition = model.noise(keys), jnp.ones((len(keys), 1))
        return noise, model.apply(variables, noise, condition, SCALES, method="draw"), condition

    return draw(variables, rng.per_item(rng.root(2), np.arange(20_000)))


def test_mixture_has_its_closed_form_and_quantiles():
    outputs, x = np.array([0.3, -0.4, 0.2, 1.0, 0.5, -2.0], np.float32), 0.7
    mixture = Mixture(jnp.asarray(outputs))
    weight = scipy.special.softmax(outputs[:2])
    mean, scale = outputs[2:4] + np.array([-1, 1]), np.log1p(np.exp(outputs[4:])) + 0.01
    expected = np.log((weight * scipy.stats.norm.pdf(x, mean, scale)).sum())
    assert float(mixture.log_prob(x)) == pytest.approx(expected, rel=1e-5)
    low, high = mixture.at(jnp.array([weight[0] - 0.01, weight[0] + 0.01]), jnp.array([0.5, 0.5]))
    assert (low, high) == pytest.approx(tuple(mean + 0.5 * scale), rel=1e-5)


def test_terms_are_those_of_the_distributions(trained, inputs):
    model, variables = trained
    condition, key = jnp.zeros((5, 1)), jax.random.key(4)
    terms = jax.jit(model.apply)(variables, inputs, condition, SCALES, key)
    assert all(term.shape == (5,) for term in terms.values())

    @jax.jit
    def parts(variables, inputs):
        if isinstance(model, EnergyDensity):
            seen = with_noise(inputs, key)
            logits, share = model.apply(variables, seen, condition, SCALES, method="likelihood")
            return jax.nn.sigmoid(logits), Mixture(share).log_prob(inputs.share), 0.0, 1.0, None
        posterior = model.apply(variables, inputs, condition, method="posterior")
        mean, std = posterior.loc, posterior.scale_diag
        latent = mean + std * jax.random.normal(key, mean.shape)
        present, share, _ = model.apply(variables, latent, condition, method="likelihood")
        return present.probs, share.log_prob(inputs.share), mean, std, True

    present, share, mean, std, vae = jax.tree.map(np.asarray, parts(variables, inputs))
    if vae is not None:
        closed = 0.5 * (mean**2 + std**2 - 1 - 2 * np.log(std)).sum(-1)
        np.testing.assert_allclose(terms["kl"], closed, rtol=1e-4)
    # The share of the last layer, which is empty, costs nothing.
    np.testing.assert_allclose(terms["share"], -share[:, :2].sum(1), rtol=1e-4)
    occupied = np.where(inputs.present, present, 1 - present)
    np.testing.assert_allclose(terms["present"], -np.log(occupied).sum(1), rtol=1e-4)


def test_a_layer_depends_on_all_preceding_layers_only(inputs):
    model, key = MODELS["density"], jax.random.key(0)
    variables = drawn_variables(model.init, key, inputs, np.zeros((5, 1)), SCALES, key)

    def outputs(share):
        energies = inputs._replace(share=share)
        condition = jnp.zeros((5, 1))
        found = model.apply(variables, energies, condition, SCALES, method="likelihood")
        return found[1].sum(-1)[0]

    slopes = np.asarray(jax.jit(jax.jacobian(outputs))(inputs.share))[:, 0]
    np.testing.assert_array_equal(slopes != 0, np.tri(3, k=-1, dtype=bool))


def test_draws_follow_the_density(trained, drawn):
    """Layer by layer: given the drawn layers before, draws have the moments of their density."""
    model, variables = trained
    _, energies, _ = drawn

    # Arguments, because the compiler computes with constants, slowly.
    @jax.jit
    def given(variables, noise, energies, condition):
        if isinstance(model, EnergyDensity):
            logits, share = model.apply(variables, energies, condition, SCALES, method="likelihood")
            return jax.nn.sigmoid(logits), Mixture(share).mean(), Mixture(share).variance()
        latent = noise["normal"][:, : model.latents]
        present, share, _ = model.apply(variables, latent, condition, method="likelihood")
        return present.probs, share.mean(), share.variance()

    present, mean, variance = jax.tree.map(np.asarray, given(variables, *drawn))
    found = np.asarray(energies.present)
    error = 5 / len(found) ** 0.5
    # Empty layers come at the rate of their probability.
    np.testing.assert_allclose(found.mean(0), present.mean(0), atol=error)
    standard = np.where(found, (np.asarray(energies.share) - mean) / variance**0.5, 0.0)
    np.testing.assert_allclose(standard.mean(0), 0.0, atol=error)
    np.testing.assert_allclose((standard**2).sum(0) / found.sum(0), 1.0, atol=6 * error)
    # Layers are correlated only through their densities.
    np.testing.assert_allclose((standard[:, 1:] * standard[:, :-1]).mean(0), 0.0, atol=error)


def test_a_shower_drawn_alone_equals_the_same_in_a_batch(trained, drawn):
    model, variables = trained
    noise, energies, condition = drawn
    draw = jax.jit(functools.partial(model.apply, method="draw"))
    alone = draw(variables, {k: v[5:6] for k, v in noise.items()}, condition[5:6], SCALES)
    for a, b in zip(alone, energies, strict=True):
        np.testing.assert_allclose(a[0], b[5], rtol=1e-4, atol=1e-6)
