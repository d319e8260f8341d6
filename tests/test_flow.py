"""Flows and sets: invertible with the right determinant, and blind to order and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax.nn import segments
from calojax.nn.deepset import DeepSet, Encoder
from calojax.nn.flow import Flow, Owned, Summary

SUMMARY = Summary(point=(6, 5), shower=(8,), features=4)
# Three showers of 4, 0 and 5 points, and two places of padding.
OWNER = jnp.array([0, 0, 0, 0, 2, 2, 2, 2, 2, 3, 3], jnp.int32)
NUM = 3
POINTS = 9


def owned(given: int = 0, dtype=jnp.float32) -> Owned:
    key = jax.random.key(7)
    return Owned(
        jax.random.normal(key, (NUM, 3), dtype),
        OWNER,
        jax.random.normal(key, (len(OWNER), given), dtype),
    )


# name -> (flow, its context)
FLOWS = {
    "two features": (Flow(2, depth=4, hidden=(8,)), jnp.ones((len(OWNER), 3))),
    "five features": (Flow(5, depth=3, hidden=(8, 8), bins=5), jnp.ones((len(OWNER), 1))),
    "points": (Flow(2, depth=3, hidden=(8,)), owned(given=2)),
    "deep sets": (Flow(3, depth=3, hidden=(8, 8), summary=SUMMARY), owned(given=1)),
}
of_points = pytest.mark.parametrize(
    ("flow", "context"),
    [pair for name, pair in FLOWS.items() if isinstance(pair[1], Owned)],
    ids=[name for name, (_, context) in FLOWS.items() if isinstance(context, Owned)],
)
every = pytest.mark.parametrize(("flow", "context"), FLOWS.values(), ids=FLOWS.keys())


def features(flow: Flow, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    return 2.0 * jax.random.normal(jax.random.key(seed), (len(OWNER), flow.features), dtype)


@functools.cache
def started(name: str):
    flow, context = FLOWS[name]
    return jax.jit(flow.init)(jax.random.key(1), features(flow), context)


def start(flow: Flow, context):
    (name,) = (name for name, (other, _) in FLOWS.items() if other is flow)
    return started(name)


def moved(variables, scale: float = 0.15):
    """Parameters away from the identity."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noise = [scale * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [a + n for a, n in zip(leaves, noise, strict=True)])


def in_float64(tree):
    return jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a), jnp.float64) if a.dtype == jnp.float32 else a, tree
    )


# --- invertible -----------------------------------------------------------------------------------


@every
def test_starts_as_the_identity(flow, context):
    x = features(flow)
    u, log_det = flow.apply(start(flow, context), x, context)
    np.testing.assert_allclose(u, x, atol=2e-6)
    np.testing.assert_allclose(log_det, 0.0, atol=2e-5)


@every
def test_inverse_undoes_it(flow, context):
    x, variables = features(flow), moved(start(flow, context))
    u, _ = jax.jit(flow.apply)(variables, x, context)
    assert np.abs(u - x).max() > 0.1
    back = flow.apply(variables, u, context, method="inverse")
    np.testing.assert_allclose(back[:POINTS], x[:POINTS], atol=2e-3)


@every
def test_inverse_is_exact_in_float64(flow, context):
    x, variables = features(flow), moved(start(flow, context))
    with jax.enable_x64(True):
        x, variables, context = in_float64((x, variables, context))
        u, log_det = flow.apply(variables, x, context)
        assert u.dtype == log_det.dtype == jnp.float64
        back = flow.apply(variables, u, context, method="inverse")
        np.testing.assert_allclose(np.asarray(back)[:POINTS], np.asarray(x)[:POINTS], atol=1e-9)


@every
def test_log_det_is_that_of_the_whole_jacobian(flow, context):
    """Of all points together: in a deep set every point depends on every other."""
    x, variables = features(flow), moved(start(flow, context))
    with jax.enable_x64(True):
        x, variables, context = in_float64((x, variables, context))
        if isinstance(context, Owned):
            context = context._replace(owner=context.owner[:POINTS], given=context.given[:POINTS])
        else:
            context = context[:POINTS]
        x = x[:POINTS]

        def flat(x):
            return flow.apply(variables, x.reshape(POINTS, -1), context)[0].reshape(-1)

        jacobian = jax.jacfwd(flat)(x.reshape(-1))
        _, log_det = flow.apply(variables, x, context)
        expected = np.linalg.slogdet(np.asarray(jacobian))[1]
        assert float(log_det.sum()) == pytest.approx(expected, abs=1e-8)


@every
def test_tails_are_left_alone(flow, context):
    variables = moved(start(flow, context))
    far = jnp.where(features(flow) > 0, 13.8, -6.0)
    u, log_det = flow.apply(variables, far, context)
    np.testing.assert_array_equal(u, far)
    np.testing.assert_array_equal(log_det, 0.0)


@every
def test_every_pair_of_layers_moves_every_feature(flow, context):
    _, orders, back = flow.bind(start(flow, context))._couplings(context)
    kept = flow.features // 2
    for first, second in zip(orders[::2], orders[1::2], strict=False):
        assert set(first[kept:]) | set(second[kept:]) == set(range(flow.features))
    np.testing.assert_array_equal(np.take_along_axis(orders, back, 1)[0], range(flow.features))


def test_halves_follow_the_seed():
    def orders(seed):
        flow = Flow(16, depth=6, hidden=(4,), seed=seed)
        context = jnp.ones((1, 1))
        variables = flow.init(jax.random.key(0), jnp.ones((1, 16)), context)
        return flow.bind(variables)._couplings(context)[1]

    np.testing.assert_array_equal(orders(3), orders(3))
    assert (orders(3) != orders(4)).any()


def test_density_integrates_to_one():
    flow = Flow(2, depth=4, hidden=(8,))
    context = jnp.ones((1, 3))
    variables = moved(flow.init(jax.random.key(1), jnp.ones((1, 2)), context), 0.1)
    axis = jnp.linspace(-7.0, 7.0, 400)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_prob = flow.apply(variables, grid, jnp.ones((len(grid), 3)), method="log_prob")
    assert float(jnp.exp(log_prob).sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=5e-3)


# --- points ---------------------------------------------------------------------------------------


@of_points
def test_order_of_points_goes_with_them(flow, context):
    x, variables = features(flow), moved(start(flow, context))
    order = jnp.array([2, 0, 3, 1, 8, 5, 4, 7, 6, 9, 10])
    turned = context._replace(given=context.given[order])
    u, log_det = flow.apply(variables, x, context)
    other, other_log_det = flow.apply(variables, x[order], turned)
    np.testing.assert_allclose(other[:POINTS], u[order][:POINTS], atol=1e-5)
    np.testing.assert_allclose(other_log_det[:POINTS], log_det[order][:POINTS], atol=1e-4)


@of_points
def test_padding_is_harmless(flow, context):
    x, variables = features(flow), moved(start(flow, context))
    apply = jax.jit(flow.apply)
    u, log_det = apply(variables, x, context)
    longer = Owned(
        context.context,
        jnp.concatenate([OWNER, jnp.full(5, NUM + 4, jnp.int32)]),
        jnp.concatenate([context.given, jnp.full((5, context.given.shape[1]), 3.0)]),
    )
    changed = jnp.concatenate([x.at[POINTS:].set(1e3), jnp.full((5, flow.features), -2.0)])
    other, other_log_det = apply(variables, changed, longer)
    np.testing.assert_allclose(other[:POINTS], u[:POINTS], atol=1e-5)
    np.testing.assert_allclose(other_log_det[:POINTS], log_det[:POINTS], atol=1e-5)

    def loss(variables, x, context):
        log_prob = flow.apply(variables, x, context, method="log_prob")
        return jnp.where(context.owner < NUM, log_prob, 0.0).sum()

    gradient = jax.jit(jax.grad(loss))
    gradients = gradient(variables, x, context), gradient(variables, changed, longer)
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@of_points
def test_showers_know_nothing_of_each_other(flow, context):
    x, variables = features(flow), moved(start(flow, context))
    u, _ = flow.apply(variables, x, context)
    alone = Owned(context.context[2:], jnp.zeros(5, jnp.int32), context.given[4:POINTS])
    other, _ = flow.apply(variables, x[4:POINTS], alone)
    np.testing.assert_allclose(other, u[4:POINTS], atol=1e-5)


def test_context_once_a_shower_is_context_at_every_point():
    flow, context = FLOWS["points"]
    x, variables = features(flow), moved(start(flow, context))
    repeated = Owned(
        context.context[jnp.minimum(OWNER, NUM - 1)],
        jnp.arange(len(OWNER), dtype=jnp.int32),
        context.given,
    )
    for once, often in zip(
        flow.apply(variables, x, context), flow.apply(variables, x, repeated), strict=True
    ):
        np.testing.assert_allclose(once[:POINTS], often[:POINTS], atol=1e-5)


@of_points
@pytest.mark.parametrize("piece", [1, 11])
def test_pieces_change_nothing(flow, context, piece):
    u, variables = features(flow), moved(start(flow, context))
    whole = flow.apply(variables, u, context, method="inverse")
    inverse = jax.jit(
        lambda u, count: flow.apply(
            variables, u, context, count, piece=piece, method="inverse_of_first"
        )
    )
    np.testing.assert_allclose(inverse(u, POINTS)[:POINTS], whole[:POINTS], atol=1e-4)


def test_pieces_of_padding_are_not_worked_on():
    flow, context = FLOWS["points"]
    u, variables = features(flow), moved(start(flow, context))
    x = flow.apply(variables, u, context, 3, piece=1, method="inverse_of_first")
    np.testing.assert_array_equal(x[3:], u[3:])
    assert (x[:3] != u[:3]).any()
    with pytest.raises(ValueError, match="11 points do not divide into pieces of 4"):
        flow.apply(variables, u, context, 3, piece=4, method="inverse_of_first")


# --- sets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [NUM, 300])
def test_totals_and_copies(num):
    """Both ways of adding up, and that each is the transpose of the other."""
    values = jax.random.normal(jax.random.key(0), (len(OWNER), 2))
    owner = jnp.where(OWNER == NUM, num, OWNER)
    total = segments.total(values, owner, num)
    np.testing.assert_allclose(total[0], values[:4].sum(0), rtol=1e-5)
    np.testing.assert_array_equal(total[1], 0.0)
    np.testing.assert_allclose(total[2], values[4:9].sum(0), rtol=1e-5)
    mean = segments.mean(values, owner, num)
    np.testing.assert_allclose(mean[2], values[4:9].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(mean[1], 0.0)
    of_showers = jax.random.normal(jax.random.key(1), (num, 2))
    copies = segments.spread(of_showers, owner)
    np.testing.assert_allclose(copies[4:9], jnp.tile(of_showers[2], (5, 1)), rtol=1e-6)
    np.testing.assert_array_equal(copies[9:], 0.0)
    assert float((total * of_showers).sum()) == pytest.approx(
        float((values * copies).sum()), rel=1e-4
    )
    np.testing.assert_array_equal(segments.sizes(owner, num)[:3], [4, 0, 5])


def test_sets_have_no_order_and_no_padding():
    network = DeepSet((6, 7), (8,), 4)
    x = jax.random.normal(jax.random.key(0), (len(OWNER), 3))
    variables = network.init(jax.random.key(1), x, OWNER, NUM)
    out = network.apply(variables, x, OWNER, NUM)
    order = jnp.array([3, 1, 2, 0, 5, 4, 8, 7, 6, 10, 9])
    np.testing.assert_allclose(network.apply(variables, x[order], OWNER, NUM), out, atol=1e-6)
    changed = x.at[POINTS:].set(1e4)
    np.testing.assert_allclose(network.apply(variables, changed, OWNER, NUM), out, atol=1e-6)
    without = network.apply(variables, x[:POINTS], OWNER[:POINTS], NUM)
    np.testing.assert_allclose(without, out, atol=1e-6)


def test_linear_maps_may_change_places_with_the_mean():
    """What lets the published encoder do its last point layer once a shower."""
    x = jax.random.normal(jax.random.key(0), (POINTS, 6))
    weights = jax.random.normal(jax.random.key(1), (6, 9))
    owner = OWNER[:POINTS]
    np.testing.assert_allclose(
        segments.mean(x @ weights, owner, NUM), segments.mean(x, owner, NUM) @ weights, atol=1e-5
    )


def test_encoder_is_a_density_of_the_set():
    encoder = Encoder(4, (6,), (8,))
    x = 10.0 * jax.random.normal(jax.random.key(0), (len(OWNER), 3))
    variables = moved(encoder.init(jax.random.key(1), x, OWNER, NUM), 3.0)
    mean, log_std = encoder.apply(variables, x, OWNER, NUM)
    assert mean.shape == log_std.shape == (NUM, 4)
    assert (jnp.exp(log_std) > 0).all()
    order = jnp.array([3, 1, 2, 0, 5, 4, 8, 7, 6, 10, 9])
    for a, b in zip(encoder.apply(variables, x[order], OWNER, NUM), (mean, log_std), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
