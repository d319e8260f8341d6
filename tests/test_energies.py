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
    return vae.init(jax.random.key(1), inputs, jnp.zeros((5, 1)), jnp.zeros((5, 2)))


def test_kl_term_is_the_closed_form(vae, variables, inputs):
    condition = jnp.zeros((5, 1))
    posterior = vae.apply(variables, inputs, condition, method="posterior")
    mean, std = posterior.loc, posterior.scale_diag
    closed = 0.5 * (mean**2 + std**2 - 1 - 2 * jnp.log(std)).sum(-1)
    terms = vae.apply(variables, inputs, condition, jnp.zeros((5, 2)))
    np.testing.assert_allclose(terms["kl"], closed, rtol=1e-5)


def test_empty_layers_cost_only_their_emptiness(vae, variables, inputs):
    condition, noise = jnp.zeros((5, 1)), jnp.zeros((5, 2))
    moved = inputs._replace(share=inputs.share.at[:, 2].set(3.0))
    # The encoder would see the change: compare the decoder's terms at the same latent.
    latent = jnp.zeros((5, 2))
    present, share, visible = vae.apply(variables, latent, condition, inputs, method="likelihood")
    assert (share.log_prob(moved.share)[:, 2] != share.log_prob(inputs.share)[:, 2]).all()
    terms = vae.apply(variables, inputs, condition, noise)
    assert set(terms) == {"present", "share", "visible", "kl"}
    assert all(term.shape == (5,) for term in terms.values())
    assert present.probs.shape == (5, 3)
    assert visible.loc.shape == (5,)


def test_a_layer_sees_those_in_front_of_it_and_no_others(vae, variables, inputs):
    def means(share):
        energies = inputs._replace(share=share)
        found = vae.apply(variables, jnp.zeros((5, 2)), jnp.zeros((5, 1)), energies,
                          method="likelihood")  # fmt: skip
        return found[1].mean()[0]

    slopes = np.asarray(jax.jacobian(means)(inputs.share))[:, 0]
    np.testing.assert_array_equal(slopes != 0, np.tri(3, k=-1, dtype=bool))


@pytest.mark.parametrize("memory", [0, 2, 5])
def test_draws_follow_the_density(memory):
    # Layer by layer: what is drawn has the moments that its density, given what was drawn in
    # front of it and the same latents, tells.
    vae = EnergyVAE(layers=3, latents=2, hidden=(8,), components=2, memory=memory)
    n = 20_000
    zeros = LayerEnergies(jnp.zeros((2, 3)), jnp.ones((2, 3), bool), jnp.zeros(2))
    variables = vae.init(jax.random.key(1), zeros, jnp.zeros((2, 1)), jnp.zeros((2, 2)))
    keys = rng.per_item(rng.root(2), np.arange(n))
    drawn = vae.apply(variables, keys, jnp.ones((n, 1)), method="draw")
    latent = jax.vmap(lambda key: jax.random.normal(jax.random.split(key)[0], (2,)))(keys)
    told = drawn._replace(share=jnp.where(drawn.present, drawn.share, 0.0))
    found = vae.apply(variables, latent, jnp.ones((n, 1)), told, method="likelihood")
    present, share, visible = found
    error = 4 / n**0.5
    np.testing.assert_allclose(drawn.present.mean(0), present.probs.mean(0), atol=error)
    standard = (drawn.share - share.mean()) / jnp.sqrt(share.variance())
    np.testing.assert_allclose(standard.mean(0), 0.0, atol=error)
    np.testing.assert_allclose((standard**2).mean(0), 1.0, atol=4 * error)
    # Nothing of a layer's draw is left in that of the next but through its density.
    np.testing.assert_allclose((standard[:, 1:] * standard[:, :-1]).mean(0), 0.0, atol=error)
    assert float(drawn.visible.mean()) == pytest.approx(float(visible.loc.mean()), abs=2 * error)


def test_a_shower_drawn_alone_equals_the_same_in_a_batch(vae, variables):
    keys = rng.per_item(rng.root(2), np.arange(8))
    condition = jnp.linspace(-1, 1, 8)[:, None]
    together = vae.apply(variables, keys, condition, method="draw")
    alone = vae.apply(variables, keys[5:6], condition[5:6], method="draw")
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a[0], b[5], rtol=1e-5)
