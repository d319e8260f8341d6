"""Vector quantisation: nearest codes, gradients, moving averages and revival."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.nn import quantizer

pytestmark = pytest.mark.usefixtures("strict_ranks")

AVERAGES = quantizer.ByAverages(8, 3, 0.25, 0.9, 0.0)


@pytest.fixture
def book():
    latents = jax.random.normal(jax.random.key(0), (64, 3))
    return AVERAGES.start(jax.random.key(1), latents)


def test_nearest_is_the_brute_force_minimum(book):
    z = jax.random.normal(jax.random.key(2), (5, 7, 3))
    distance = ((z[..., None, :] - book["vectors"][None, None]) ** 2).sum(-1)
    np.testing.assert_array_equal(quantizer.nearest(z, book["vectors"]), distance.argmin(-1))


def test_straight_through_passes_value_of_code_and_gradient_of_latent():
    z, e = jnp.array([0.2, -1.0]), jnp.array([1.0, 3.0])
    weights = jnp.array([2.0, 5.0])
    np.testing.assert_allclose(quantizer.straight_through(z, e), e)
    to_latent, to_code = jax.grad(
        lambda z, e: weights @ quantizer.straight_through(z, e), argnums=(0, 1)
    )(z, e)
    np.testing.assert_allclose(to_latent, weights)
    np.testing.assert_allclose(to_code, 0)


def test_codes_start_on_distinct_latents(book):
    latents = np.asarray(jax.random.normal(jax.random.key(0), (64, 3)))
    found = [np.flatnonzero((latents == v).all(1)) for v in np.asarray(book["vectors"])]
    assert all(len(f) == 1 for f in found)
    assert len({int(f[0]) for f in found}) == 8


def test_moving_averages_follow_their_closed_form(book):
    # Constant latents for constant codes: count_n = share + (c0 - share) d^n, likewise the means.
    z = jnp.concatenate([jnp.full((24, 3), 2.0), jnp.full((8, 3), -1.0)])
    codes = jnp.concatenate([jnp.zeros(24, int), jnp.ones(8, int)])
    left, now, update = AVERAGES.decay**5, book, jax.jit(AVERAGES.update)
    for _ in range(5):
        now = update(now, z, codes, jax.random.key(0))
    count, vectors = now["count"], now["vectors"]
    np.testing.assert_allclose(count[0], 24 + (book["count"][0] - 24) * left, rtol=1e-5)
    expected = (book["total"][0] * left + 48 * (1 - left)) / count[0]
    np.testing.assert_allclose(vectors[0], expected, rtol=1e-5)
    # Codes without latents keep their place while their count fades.
    np.testing.assert_allclose(vectors[5], book["vectors"][5], rtol=1e-5)
    np.testing.assert_allclose(count[5], book["count"][5] * left, rtol=1e-5)


def test_dead_codes_come_back_on_latents_of_the_batch(book):
    z = jax.random.normal(jax.random.key(3), (64, 3)) + 10
    far = book | {"count": book["count"].at[2].set(1e-9)}
    codes = jnp.where(jnp.arange(64) % 8 == 2, 3, jnp.arange(64) % 8)
    averages = quantizer.ByAverages(8, 3, 0.25, 0.99, 0.03)
    now = jax.jit(averages.update)(far, z, codes, jax.random.key(4))
    vectors = np.asarray(now["vectors"])
    assert (np.asarray(z) == vectors[2]).all(1).any()
    assert now["count"][2] == pytest.approx(64 / 8)
    alive = np.arange(8) != 2
    assert not (np.asarray(z)[:, None] == vectors[alive]).all(-1).any()


@pytest.mark.parametrize("levels", [(8, 5), (3, 4, 2), (7,)])
def test_finite_codes_are_all_combinations_of_levels(levels):
    finite = quantizer.Finite(levels)
    codes = jnp.arange(finite.size)
    vectors = finite.vectors(None, codes)
    assert vectors.shape == (finite.size, len(levels))
    assert len(np.unique(vectors, axis=0)) == finite.size
    assert jnp.abs(vectors).max() == 1
    # Wide latents reach every one of them, and what goes through is what the code stands for.
    latents = 3 * jax.random.normal(jax.random.key(0), (20_000, len(levels)))
    through = jax.jit(finite.through)(None, latents, jax.random.key(1))
    assert len(np.unique(through.codes)) == finite.size
    np.testing.assert_allclose(finite.vectors(None, through.codes), through.vectors, atol=1e-6)
    np.testing.assert_array_equal(finite.codes(None, latents), through.codes)


def test_gradient_goes_through_finite_levels():
    finite = quantizer.Finite((8, 8))
    z = jnp.array([[0.3, -0.2]])
    gradient = jax.grad(lambda z: finite.through(None, z, jax.random.key(0)).vectors.sum())(z)
    # That of tanh(z + shift) x 3.5 / 4, up to the small excess of its range.
    shift = np.arctanh(0.5 / 3.5035)
    np.testing.assert_allclose(gradient, (1 - np.tanh(z + shift) ** 2) * 3.5 / 4, rtol=2e-3)


@pytest.mark.parametrize(
    "kind", [AVERAGES, quantizer.ByGradient(8, 3, 0.25), quantizer.Finite((4, 2, 2))]
)
def test_in_double_precision_codes_are_the_same(kind):
    latents = jax.random.normal(jax.random.key(0), (4, 6, 3))
    book = kind.start(jax.random.key(1), latents)
    through = jax.jit(kind.through)
    single = through(book, latents, jax.random.key(2))
    with jax.enable_x64(True):
        book, latents = jax.tree.map(lambda x: np.asarray(x, float), (book, latents))
        double = through(book, latents, jax.random.key(2))
        assert double.vectors.dtype == jnp.float64
        assert double.codes.dtype == jnp.int32
    np.testing.assert_array_equal(single.codes, double.codes)
    np.testing.assert_allclose(single.vectors, np.asarray(double.vectors), atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        quantizer.ByAverages(8, 3, 0.25, 0.99, 0.03),
        quantizer.ByGradient(8, 3, 0.25),
        quantizer.ByGradient(8, 3, 1.0, 0.25, spread=0.1),
        quantizer.Finite((4, 2, 2)),
    ],
    ids=lambda kind: type(kind).__name__,
)
def test_kinds_of_quantisation_agree_on_what_codes_are(kind):
    latents = jax.random.normal(jax.random.key(0), (4, 6, 3))

    @jax.jit
    def results(latents):
        book = kind.start(jax.random.key(1), latents)
        found = kind.through(book, latents, jax.random.key(2))
        return book, found, kind.codes(book, latents), kind.vectors(book, found.codes)

    book, found, codes, vectors = results(latents)
    assert found.codes.shape == (4, 6)
    assert ((found.codes >= 0) & (found.codes < kind.size)).all()
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(vectors, found.vectors, atol=1e-6)
    assert jax.tree.structure(found.codebook) == jax.tree.structure(book)
    assert (kind.home is None) == (book is None)


def test_weights_of_the_two_terms_are_kept_apart():
    latents = jax.random.normal(jax.random.key(0), (5, 4, 3))
    book = jax.random.normal(jax.random.key(1), (8, 3))
    kind = quantizer.ByGradient(8, 3, beta=2.0, pull=0.5)

    def penalty(latents, book):
        return kind.through(book, latents, jax.random.key(0)).penalty

    # Each term reaches one side only.
    to_latents, to_book = jax.jit(jax.grad(penalty, argnums=(0, 1)))(latents, book)
    chosen = book[kind.codes(book, latents)]
    np.testing.assert_allclose(to_latents, 2.0 * 2 * (latents - chosen) / 60, rtol=1e-5)
    np.testing.assert_allclose(to_book.sum(), 0.5 * 2 * (chosen - latents).sum() / 60, rtol=1e-4)


def test_summary_reads_frequencies():
    frequency = np.asarray(quantizer.frequency(jnp.array([[0, 1], [1, 3]]), 4))
    np.testing.assert_allclose(frequency, [0.25, 0.5, 0.0, 0.25])
    summary = quantizer.summarise({"loss": np.array(2.0), "code_frequency": frequency})
    assert summary["loss"] == 2.0
    assert summary["live_codes"] == 0.75
    assert summary["perplexity"] == pytest.approx(2**1.5)
