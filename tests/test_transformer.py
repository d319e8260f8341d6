"""Transformers over codes: the cache against none, and how rotary attention sees a cylinder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from calojax import rng
from calojax.nn.priors import categorical
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.positions import Cylinder, Line, rotate
from calojax.nn.priors.transformer import Transformer

pytestmark = pytest.mark.usefixtures("strict_ranks")

GRID = Cylinder(z=2, alpha=4, r=3)
CONTEXT = jax.random.normal(jax.random.key(0), (3, 2))


def network(positions=GRID, *, causal, dtype=jnp.float32):
    return Transformer(7, positions, layers=2, heads=2, width=24, causal=causal, dtype=dtype)


@functools.cache
def start(module):
    return jax.tree.map(lambda x: 2 * x, jax.jit(module.init)(jax.random.key(1), CONTEXT))


def draw_without_cache(cell, variables, keys, context):
    """What `Autoregressive.draw` draws, by running the whole sequence for every code."""
    u = categorical.uniforms(keys, cell.length)

    def step(tokens, position):
        logits = cell.apply(variables, tokens[:, :-1], context, method="logits")
        code = categorical.choose(u[:, position], logits[:, position])
        return tokens.at[:, position + 1].set(code), None

    # Places not drawn yet hold a code that would be seen if the cell looked ahead.
    tokens = jnp.full((len(context), cell.length + 1), cell.size).at[:, 1:].set(3)
    return lax.scan(step, tokens, jnp.arange(cell.length))[0][:, 1:]


def test_with_a_cache_as_without():
    cell = network(causal=True).clone(stretch=10)
    variables = start(cell)
    keys = rng.per_item(rng.root(0), np.arange(3))
    noise = {"uniform": categorical.uniforms(keys, cell.length)}
    cached = jax.jit(Autoregressive(cell).draw)(variables, noise, CONTEXT)
    whole = jax.jit(lambda *arguments: draw_without_cache(cell, *arguments))
    np.testing.assert_array_equal(cached, whole(variables, keys, CONTEXT))


def test_cache_holds_what_has_been_and_zeros():
    cell = network(causal=True)
    variables = start(cell)
    step = jax.jit(functools.partial(cell.apply, method="step"))
    caches = cell.apply(variables, CONTEXT, method="start")
    for t, room in enumerate([2, 2, 4, 4, 24]):
        caches = cell.apply(variables, caches, room, method="grow")
        caches, _ = step(variables, caches, jnp.full(3, t), jnp.asarray(t), CONTEXT)
    assert len(caches) == 2
    for cache in caches:
        for buffer in cache:
            assert buffer.shape == (3, 24, 2, 12)
            assert (np.asarray(buffer[:, :5]) != 0).any((2, 3)).all()
            assert not np.any(buffer[:, 5:])


def scores(positions, pairs=6):
    """Product of one query with one key, at every two positions: [t, t]."""
    q, k = jax.random.normal(jax.random.key(3), (2, 2 * pairs))
    angles = jnp.asarray(positions.angles(pairs), jnp.float32)
    spread = (1, positions.length, 1, 2 * pairs)
    return jnp.einsum(
        "bqhd,bkhd->qk",
        rotate(jnp.broadcast_to(q, spread), angles),
        rotate(jnp.broadcast_to(k, spread), angles),
    )


def rolled(x, axis, steps, grid=GRID):
    return jnp.roll(x.reshape(grid.z, grid.alpha, grid.r), steps, axis).reshape(-1)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_roll_in_alpha_is_a_relative_rotation(steps):
    order = rolled(jnp.arange(24), 1, steps)
    product = scores(GRID)
    np.testing.assert_allclose(product[order][:, order], product, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 2], ids=["z", "r"])
def test_a_roll_in_z_or_r_is_not(axis):
    order = rolled(jnp.arange(24), axis, 1)
    product = scores(GRID)
    assert jnp.abs(product[order][:, order] - product).max() > 0.1


def test_products_along_a_line_depend_on_distance():
    product = scores(Line(10))
    for t in range(1, 10):
        np.testing.assert_allclose(product[t, 1:], product[t - 1, :-1], atol=1e-4)
    assert abs(product[0, 9] - product[0, 0]) > 0.1


@pytest.mark.parametrize(
    "grid", [Cylinder(17, 4, 1), Cylinder(13, 8, 4), Cylinder(3, 1, 2), Cylinder(1, 1, 1)]
)
def test_every_two_positions_differ_in_angles(grid):
    angles = np.exp(1j * grid.angles(8))
    assert angles.shape == (grid.length, 8)
    distance = np.abs(angles[:, None] - angles).max(-1) + np.eye(grid.length)
    assert distance.min() > 1e-2
    assert len(set(grid.rings.tolist())) == grid.z * grid.r


def test_coordinates_have_r_fastest():
    np.testing.assert_array_equal(GRID.coordinates[[0, 1, 3, 12]], np.eye(4, 3)[[3, 2, 1, 0]])


def test_rolling_what_is_known_rolls_what_is_predicted():
    module = network(causal=False)
    variables = start(module)
    tokens = jax.random.randint(jax.random.key(2), (3, 24), 0, 8)
    apply = jax.jit(lambda tokens: module.apply(variables, tokens, CONTEXT, method="logits"))
    order = rolled(jnp.arange(24), 1, 1)
    np.testing.assert_allclose(apply(tokens)[:, order], apply(tokens[:, order]), atol=1e-4)
    other = rolled(jnp.arange(24), 0, 1)
    assert jnp.abs(apply(tokens)[:, other] - apply(tokens[:, other])).max() > 0.1


def test_logits_of_chosen_positions():
    module = network(causal=False)
    variables = start(module)
    tokens = jax.random.randint(jax.random.key(2), (3, 24), 0, 8)
    chosen = jnp.array([[0, 5], [23, 1], [7, 24]])
    whole = jax.jit(functools.partial(module.apply, method="logits"))(variables, tokens, CONTEXT)
    some = jax.jit(functools.partial(module.apply, method="logits_at"))(
        variables, tokens, CONTEXT, chosen
    )
    expected = whole[jnp.arange(3)[:, None], jnp.minimum(chosen, 23)]
    np.testing.assert_allclose(some, expected, atol=1e-5)


def test_bfloat16_computation_has_float32_logits():
    exact, rough = network(causal=True), network(causal=True, dtype=jnp.bfloat16)
    variables = start(exact)
    other = jax.eval_shape(rough.init, jax.random.key(1), CONTEXT)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), variables, other)
    )
    codes = jax.random.randint(jax.random.key(2), (3, 24), 0, 7)
    log_p = [
        jax.jit(Autoregressive(cell).log_probs)(variables, codes, CONTEXT)
        for cell in (exact, rough)
    ]
    assert log_p[1].dtype == jnp.float32
    difference = jnp.abs(log_p[1] - log_p[0])
    assert 0 < difference.max() < 0.2

    def first(variables):
        caches = rough.apply(variables, CONTEXT, method="start")
        caches = rough.apply(variables, caches, 24, method="grow")
        arguments = caches, jnp.zeros(3, int), jnp.asarray(0), CONTEXT
        return rough.apply(variables, *arguments, method="step")

    caches, logits = jax.eval_shape(first, variables)
    assert caches[0].keys.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32


def test_double_precision_elsewhere_changes_nothing():
    cell = network(causal=True)
    variables, prior = start(cell), Autoregressive(cell)
    keys = rng.per_item(rng.root(0), np.arange(3))

    def draw(variables, keys, context):
        return prior.draw(variables, prior.noise(keys), context)

    single = jax.jit(draw)(variables, keys, CONTEXT)
    with jax.enable_x64(True):
        double = jax.jit(lambda *inputs: draw(*inputs))(variables, keys, CONTEXT)
        forced = jax.eval_shape(prior.log_probs, variables, double, CONTEXT)
        assert forced.dtype == jnp.float32
    np.testing.assert_array_equal(single, double)
    assert double.dtype == jnp.int32
