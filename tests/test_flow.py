"""Flows and sets: inverses, determinants, and independence of order and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import moved

from calojax.nn import tiles
from calojax.nn.deepset import Encoder
from calojax.nn.flow import Flow, Owned, Summary
from calojax.nn.tiles import Tiling

pytestmark = pytest.mark.usefixtures("strict_ranks")

SUMMARY = Summary(point=(6, 5), shower=(8,), features=4)
# Three showers of 4, 0 and 5 points in tiles of 3, and a tile without points.
HITS = jnp.array([4, 0, 5], jnp.int32)
NUM = 3
TILING, NUMBER = tiles.lay(HITS, 5, 3)
INSIDE = np.asarray(TILING.inside).reshape(-1)
PLACES = len(INSIDE)


def owned(given: int = 0, dtype=jnp.float32) -> Owned:
    key = jax.random.key(7)
    return Owned(
        jax.random.normal(key, (NUM, 3), dtype),
        TILING,
        jax.random.normal(key, (PLACES, given), dtype),
    )


# name -> (flow, its context)
FLOWS = {
    "two features": (Flow(2, depth=4, hidden=(8,)), jnp.ones((PLACES, 3))),
    "points": (Flow(2, depth=3, hidden=(8,)), owned(given=2)),
    "deep sets": (Flow(3, depth=3, hidden=(8, 8), bins=5, summary=SUMMARY), owned(given=1)),
}
of_points = pytest.mark.parametrize(
    ("flow", "context"),
    [pair for name, pair in FLOWS.items() if isinstance(pair[1], Owned)],
    ids=[name for name, (_, context) in FLOWS.items() if isinstance(context, Owned)],
)
every = pytest.mark.parametrize(("flow", "context"), FLOWS.values(), ids=FLOWS.keys())


def features(flow: Flow, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    return 2.0 * jax.random.normal(jax.random.key(seed), (PLACES, flow.features), dtype)


@functools.cache
def started(name: str):
    flow, context = FLOWS[name]
    return jax.jit(flow.init)(jax.random.key(1), features(flow), context)


def start(flow: Flow, context):
    (name,) = (name for name, (other, _) in FLOWS.items() if other is flow)
    return started(name)


def away(flow: Flow, context):
    """Parameters away from the identity."""
    return moved(start(flow, context), 0.15, seed=2)


def in_float64(tree):
    return jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a), jnp.float64) if a.dtype == jnp.float32 else a, tree
    )


# --- invertible -----------------------------------------------------------------------------------


@every
def test_starts_as_the_identity(flow, context):
    x = features(flow)
    u, log_det = jax.jit(flow.apply)(start(flow, context), x, context)
    np.testing.assert_allclose(u, x, atol=2e-6)
    np.testing.assert_allclose(log_det, 0.0, atol=2e-5)


@every
def test_inverse_is_exact_and_log_det_that_of_the_whole_jacobian(flow, context):
    """The Jacobian of all points together: in a deep set every point depends on every other."""
    x, variables = features(flow), away(flow, context)
    with jax.enable_x64(True):
        x, variables, context = in_float64((x, variables, context))

        @jax.jit
        def results(variables, x):
            def flat(inside):
                everywhere = x.at[INSIDE].set(inside.reshape(-1, flow.features))
                return flow.apply(variables, everywhere, context)[0][INSIDE].reshape(-1)

            u, log_det = flow.apply(variables, x, context)
            back = flow.apply(variables, u, context, method="inverse")
            return u, log_det, back, jax.jacrev(flat)(x[INSIDE].reshape(-1))

        u, log_det, back, jacobian = map(np.asarray, results(variables, x))
        assert u.dtype == log_det.dtype == np.float64
        assert np.abs(u - np.asarray(x)).max() > 0.1
        np.testing.assert_allclose(back, np.asarray(x), atol=1e-9)
        assert log_det[INSIDE].sum() == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-8)


@every
def test_every_pair_of_layers_moves_every_feature(flow, context):
    _, orders, back = flow.bind(start(flow, context))._couplings(context)
    kept = flow.features // 2
    for first, second in zip(orders[::2], orders[1::2], strict=False):
        assert set(first[kept:]) | set(second[kept:]) == set(range(flow.features))
    np.testing.assert_array_equal(np.take_along_axis(orders, back, 1)[0], range(flow.features))


def test_density_integrates_to_one():
    flow = Flow(2, depth=4, hidden=(8,))
    context = jnp.ones((1, 3))
    variables = moved(jax.jit(flow.init)(jax.random.key(1), jnp.ones((1, 2)), context), 0.1, seed=2)
    axis = jnp.linspace(-7.0, 7.0, 400)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_prob = jax.jit(functools.partial(flow.apply, method="log_prob"))(
        variables, grid, jnp.ones((len(grid), 3))
    )
    assert float(jnp.exp(log_prob).sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=5e-3)


# --- points ---------------------------------------------------------------------------------------


# The points of each shower in another order, at the places that they have.
ORDER = np.arange(PLACES)
ORDER[[0, 1, 2, 3]] = [2, 0, 3, 1]
ORDER[[6, 7, 8, 9, 10]] = [10, 7, 6, 9, 8]


@of_points
def test_a_permutation_of_points_permutes_the_results(flow, context):
    x, variables = features(flow), away(flow, context)
    turned = context._replace(given=context.given[ORDER])
    u, log_det = jax.jit(flow.apply)(variables, x, context)
    other, other_log_det = jax.jit(flow.apply)(variables, x[ORDER], turned)
    np.testing.assert_allclose(other[INSIDE], u[ORDER][INSIDE], atol=1e-5)
    np.testing.assert_allclose(other_log_det[INSIDE], log_det[ORDER][INSIDE], atol=1e-4)


@of_points
def test_padding_changes_nothing(flow, context):
    x, variables = features(flow), away(flow, context)
    apply = jax.jit(flow.apply)
    u, log_det = apply(variables, x, context)
    tiling, _ = tiles.lay(HITS, 7, 3)
    more = 6
    given = jnp.where(INSIDE[:, None], context.given, 3.0)
    longer = Owned(context.context, tiling, jnp.pad(given, ((0, more), (0, 0))))
    changed = jnp.where(INSIDE[:, None], x, 1e3)
    changed = jnp.pad(changed, ((0, more), (0, 0)), constant_values=-2.0)
    other, other_log_det = apply(variables, changed, longer)
    np.testing.assert_allclose(other[:PLACES][INSIDE], u[INSIDE], atol=1e-5)
    np.testing.assert_allclose(other_log_det[:PLACES][INSIDE], log_det[INSIDE], atol=1e-5)

    def loss(variables, x, context):
        log_prob = flow.apply(variables, x, context, method="log_prob")
        return jnp.where(context.tiling.inside.reshape(-1), log_prob, 0.0).sum()

    gradient = jax.jit(jax.grad(loss))
    gradients = gradient(variables, x, context), gradient(variables, changed, longer)
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@of_points
def test_the_size_of_tiles_does_not_matter(flow, context):
    x, variables = features(flow), away(flow, context)
    u, _ = jax.jit(flow.apply)(variables, x, context)
    tiling, number = tiles.lay(HITS, 15, 4)
    points, given = x[INSIDE], context.given[INSIDE]
    other, _ = jax.jit(flow.apply)(
        variables, points[number], Owned(context.context, tiling, given[number])
    )
    np.testing.assert_allclose(other[tiling.inside.reshape(-1)], u[INSIDE], atol=1e-5)


@of_points
def test_showers_are_independent(flow, context):
    x, variables = features(flow), away(flow, context)
    u, _ = jax.jit(flow.apply)(variables, x, context)
    tiling, _ = tiles.lay(HITS[2:], 2, 3)
    alone = Owned(context.context[2:], tiling, context.given[6:12])
    other, _ = jax.jit(flow.apply)(variables, x[6:12], alone)
    np.testing.assert_allclose(other[:5], u[6:11], atol=1e-5)


def test_context_of_a_shower_equals_context_at_every_point():
    flow, context = FLOWS["points"]
    x, variables = features(flow), away(flow, context)
    owner = jnp.minimum(jnp.repeat(TILING.owner, 3), NUM - 1)
    every = Tiling(jnp.arange(PLACES, dtype=jnp.int32), jnp.ones((PLACES, 1), bool))
    repeated = Owned(context.context[owner], every, context.given)
    for once, often in zip(
        jax.jit(flow.apply)(variables, x, context),
        jax.jit(flow.apply)(variables, x, repeated),
        strict=True,
    ):
        np.testing.assert_allclose(once[INSIDE], often[INSIDE], atol=1e-5)


@of_points
def test_the_smallest_size_that_suffices_runs_and_changes_nothing(flow, context):
    u, variables = features(flow), away(flow, context)

    @jax.jit
    def inverse(u, count):
        return flow.apply(
            variables, u, context, count, sizes=(6, 12, 15), method="inverse_of_first"
        )

    back, _ = jax.jit(flow.apply)(variables, inverse(u, 12), context)
    np.testing.assert_allclose(back[INSIDE], u[INSIDE], atol=1e-4)
    x = inverse(u, 4)
    np.testing.assert_array_equal(x[6:], u[6:])
    assert (x[:6] != u[:6]).any()
    if flow.summary is None:
        np.testing.assert_allclose(x[:6], inverse(u, 13)[:6], atol=1e-5)


def test_sizes_that_are_no_multiples_of_tiles_are_refused():
    flow, context = FLOWS["points"]
    u, variables = features(flow), start(flow, context)
    for sizes in ((3, 6), (4, 15)):
        with pytest.raises(ValueError, match="multiples of the tile size 3 up to 15"):
            flow.apply(variables, u, context, 4, sizes=sizes, method="inverse_of_first")


# --- sets -----------------------------------------------------------------------------------------


def test_points_lie_in_tiles_of_their_showers():
    np.testing.assert_array_equal(TILING.owner, [0, 0, 2, 2, 3])
    expected = [[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(TILING.inside, np.array(expected, bool))
    np.testing.assert_array_equal(NUMBER[INSIDE], range(9))
    # And back; what is padding in front of the tiling may go anywhere.
    owner = jnp.array([0] * 4 + [2] * 5 + [3] * 2, jnp.int32)
    np.testing.assert_array_equal(tiles.place(owner, HITS, 3)[:9], np.flatnonzero(INSIDE))


def test_points_without_a_tile_are_left_out():
    tiling, number = tiles.lay(HITS, 3, 3)
    np.testing.assert_array_equal(tiling.owner, [0, 0, 2])
    np.testing.assert_array_equal(number[tiling.inside.reshape(-1)], range(7))


@pytest.mark.parametrize("num", [NUM, 300])
def test_totals_and_copies(num):
    """Both ways of adding up, and that each is the transpose of the other."""
    values = jax.random.normal(jax.random.key(0), (PLACES, 2))
    tiling = TILING._replace(owner=jnp.where(TILING.owner == NUM, num, TILING.owner))
    total = tiles.total(values, tiling, num)
    np.testing.assert_allclose(total[0], values[:4].sum(0), rtol=1e-5)
    np.testing.assert_array_equal(total[1], 0.0)
    np.testing.assert_allclose(total[2], values[6:11].sum(0), rtol=1e-5)
    mean = tiles.mean(values, tiling, num)
    np.testing.assert_allclose(mean[2], values[6:11].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(mean[1], 0.0)
    of_showers = jax.random.normal(jax.random.key(1), (num, 2))
    copies = tiles.spread(of_showers, tiling)
    np.testing.assert_allclose(copies[2:4, 0], jnp.tile(of_showers[2], (2, 1)), rtol=1e-6)
    np.testing.assert_array_equal(copies[4:], 0.0)
    of_places = jnp.where(INSIDE[:, None], values, 0.0).reshape(5, 3, 2)
    assert float((total * of_showers).sum()) == pytest.approx(
        float((of_places * copies).sum()), rel=1e-4
    )


def test_encoder_is_a_density_of_the_set():
    encoder = Encoder(4, (6,), (8,))
    x = 10.0 * jax.random.normal(jax.random.key(0), (PLACES, 3))
    init, apply = (jax.jit(f, static_argnums=3) for f in (encoder.init, encoder.apply))
    variables = moved(init(jax.random.key(1), x, TILING, NUM), 3.0, seed=2)
    mean, log_std = apply(variables, x, TILING, NUM)
    assert mean.shape == log_std.shape == (NUM, 4)
    assert (jnp.exp(log_std) > 0).all()
    for a, b in zip(apply(variables, x[ORDER], TILING, NUM), (mean, log_std), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
