"""The energy VAE: its bound against a closed form, its draws against its density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import rng
from calojax.models.calovq.energies import EnergyVAE, LayerEnergies


@pytest.fixture(scope="module")
def vae():
    return EnergyVAE(layers=3, latents=2, hidden=(8,), components=2, memory=2)


@pytest.fixture(scope="module")
def inputs():
    share = jax.random.normal(jax.random.key(0), (5, 3))
    present = jnp.array([[1, 1, 0]] * 5, bool)
    return LayerEnergies(jnp.where(present, share, 0.0), present, jnp.linspace(-1, 1, 5))


@pytest.fixture(scope="module")
def variables(vae, inputs):
    return jax.jit(vae.init)(jax.random.key(1), inputs, jnp.zeros((5, 1)), jnp.zeros((5, 2)))


def test_terms_are_their_closed_forms(vae, variables, inputs):
    condition, noise = jnp.zeros((5, 1)), jnp.zeros((5, 2))

    @jax.jit
    def results(variables):
        posterior = vae.apply(variables, inputs, condition, method="posterior")
        terms = vae.apply(variables, inputs, condition, noise)
        present, share, _ = vae.apply(
            variables, posterior.loc, condition, inputs, method="likelihood"
        )
        log_share, log_present = share.log_prob(inputs.share), jnp.log(present.probs)
        return terms, posterior.loc, posterior.scale_diag, log_share, log_present

    terms, mean, std, log_share, log_present = jax.tree.map(np.asarray, results(variables))
    assert terms.keys() == {"present", "share", "visible", "kl"}
    assert all(term.shape == (5,) for term in terms.values())
    closed = 0.5 * (mean**2 + std**2 - 1 - 2 * np.log(std)).sum(-1)
    np.testing.assert_allclose(terms["kl"], closed, rtol=1e-5)
    # The share of the last layer, which is empty, costs nothing.
    np.testing.assert_allclose(terms["share"], -log_share[:, :2].sum(1), rtol=1e-5)
    empty = np.log1p(-np.exp(log_present[:, 2]))
    np.testing.assert_allclose(terms["present"], -log_present[:, :2].sum(1) - empty, rtol=1e-5)


def test_a_layer_depends_on_preceding_layers_only(vae, variables, inputs):
    def means(share):
        energies = inputs._replace(share=share)
        found = vae.apply(variables, jnp.zeros((5, 2)), jnp.zeros((5, 1)), energies,
                          method="likelihood")  # fmt: skip
        return found[1].mean()[0]

    slopes = np.asarray(jax.jit(jax.jacobian(means))(inputs.share))[:, 0]
    np.testing.assert_array_equal(slopes != 0, np.tri(3, k=-1, dtype=bool))


@pytest.mark.parametrize("memory", [0, 2])
def test_draws_follow_the_density(memory):
    """Layer by layer: draws have the moments of their density, given the drawn preceding layers."""
    vae = EnergyVAE(layers=3, latents=2, hidden=(8,), components=2, memory=memory)
    n = 20_000
    keys = rng.per_item(rng.root(2), np.arange(n))

    @jax.jit
    def draw(keys):
        zeros = LayerEnergies(jnp.zeros((2, 3)), jnp.ones((2, 3), bool), jnp.zeros(2))
        variables = vae.init(jax.random.key(1), zeros, jnp.zeros((2, 1)), jnp.zeros((2, 2)))
        noise = vae.noise(keys)
        drawn = vae.apply(variables, noise, jnp.ones((n, 1)), method="draw")
        latent = noise["normal"][0]
        given = drawn._replace(share=jnp.where(drawn.present, drawn.share, 0.0))
        present, share, visible = vae.apply(
            variables, latent, jnp.ones((n, 1)), given, method="likelihood"
        )
        standard = (drawn.share - share.mean()) / jnp.sqrt(share.variance())
        return drawn, present.probs, standard, visible.loc

    drawn, present, standard, visible = jax.tree.map(np.asarray, draw(keys))
    error = 4 / n**0.5
    np.testing.assert_allclose(drawn.present.mean(0), present.mean(0), atol=error)
    np.testing.assert_allclose(standard.mean(0), 0.0, atol=error)
    np.testing.assert_allclose((standard**2).mean(0), 1.0, atol=4 * error)
    # Layers are correlated only through their densities.
    np.testing.assert_allclose((standard[:, 1:] * standard[:, :-1]).mean(0), 0.0, atol=error)
    assert float(drawn.visible.mean()) == pytest.approx(float(visible.mean()), abs=2 * error)


def test_a_shower_drawn_alone_equals_the_same_in_a_batch(vae, variables):
    keys = rng.per_item(rng.root(2), np.arange(8))
    condition = jnp.linspace(-1, 1, 8)[:, None]

    @jax.jit
    def draw(variables, keys, condition):
        return vae.apply(variables, vae.noise(keys), condition, method="draw")

    together = draw(variables, keys, condition)
    alone = draw(variables, keys[5:6], condition[5:6])
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a[0], b[5], rtol=1e-5)
