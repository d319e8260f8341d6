"""From JAX to ONNX, rule by rule: ONNX Runtime computes what JAX computes."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import scipy.special
from jax import lax

from calojax import rng
from calojax.export.conversion import convert
from calojax.export.graph import Graph, NoRule
from calojax.nn import recurrence
from calojax.nn.priors import categorical

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + 0.1
CUBE = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
INDEX = np.array([[2.0, 0.0], [1.0, 3.0], [0.0, 1.0]], np.float32)
SMALL = np.float32([0.0, 1e-8, -3e-6, 0.5, -0.9, 20.0])


def ran(function, *arrays):
    """The result of a function in ONNX Runtime, from float32 arrays."""
    graph = Graph()
    inputs = [graph.input(f"x{i}", x.shape) for i, x in enumerate(arrays)]
    (output,) = convert(graph, function, *inputs)
    model = graph.model("y", graph.cast(output, np.float32), {})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {f"x{i}": x for i, x in enumerate(arrays)}
    used = {x.name for x in session.get_inputs()}
    return session.run(None, {k: v for k, v in feeds.items() if k in used})[0], model


def at(x):
    return x.astype(jnp.int32)


def exponential(x):
    return jnp.exp(x - x.max(1, keepdims=True))


def ratio(e):
    return e / e.sum(1, keepdims=True)


def loop(length, reverse=False):
    """A loop with a carry, a constant, and what does not change."""

    def run(x, w):
        def step(carry, row):
            carry = jnp.tanh(carry + row @ w) + jnp.exp(w).sum()
            return carry, carry * row[0]

        rows = jnp.broadcast_to(x, (length, *x.shape))[:, 0]
        last, every = lax.scan(step, jnp.zeros(4), rows, reverse=reverse)
        return jnp.concatenate([last[None], every])

    return run


def nested(x):
    """A loop in a loop; the inner one uses what the outer one knows."""

    def outer(total, row):
        def inner(carry, _):
            return carry + row, None

        return lax.scan(inner, total, None, 20)[0], None

    return lax.scan(outer, jnp.zeros(4), jnp.broadcast_to(x, (7, 3, 4)).reshape(21, 4))[0]


def halved(x):
    """A loop whose number of steps depends on values."""
    w = jnp.tanh(x[0])
    return lax.while_loop(
        lambda state: jnp.abs(state[0]).max() > 0.1,
        lambda state: (0.5 * state[0] + 0.01 * w, state[1] + 1),
        (x, jnp.zeros(())),
    )[1] + jnp.zeros_like(x)


def branched(x, index):
    """One of three functions; the last one has a loop."""
    functions = [jnp.exp, lambda x: x @ jnp.ones((4, 4)), lambda x: nested(x) + x]
    return lax.switch(at(x[0, 0] * 0 + index), functions, x)


def recurrent(state, x, kernel):
    """A step of the recurrent prior with constant weights."""
    width = state.shape[1]
    generator = np.random.default_rng(0)
    recurrent, bias, new = (
        jnp.asarray(generator.normal(size=shape), jnp.float32)
        for shape in ((width, 3 * width), (3 * width,), (1, width))
    )
    weights = jnp.asarray(generator.normal(size=(x.shape[1], 3 * width)), jnp.float32)
    return recurrence.gru_step(state, x @ weights + bias, recurrent, new) + kernel


CASES = {
    "add, lazy broadcast": (lambda x: x + jnp.sum(x, 1, keepdims=True) * 2, X),
    "sub": (lambda x: 1.0 - x, X),
    "div": (lambda x: x / (x + 10), X),
    "div of integers": (lambda x: at(10 * x) // 3 + lax.rem(at(10 * x), 3) + at(10 * x) % 3, X),
    "max, min, clip": (lambda x: jnp.clip(jnp.maximum(x, 0.1), None, 0.5) + jnp.minimum(x, 0), X),
    "pow": (lambda x: x**1.5 + x**3 + x**-2.0, POSITIVE),
    "neg, abs, sign": (lambda x: jnp.sign(x) * jnp.abs(x) - (-x), X),
    "floor, ceil, round": (lambda x: jnp.floor(x) * 10 + jnp.ceil(x) + jnp.round(2 * x), X),
    "exp, log, sqrt": (lambda x: jnp.exp(x) + jnp.log(x) + jnp.sqrt(x) + lax.rsqrt(x), POSITIVE),
    "log2": (jnp.log2, POSITIVE),
    "tanh, sin, cos": (lambda x: jnp.tanh(x) + jnp.sin(x) * jnp.cos(x), X),
    "atan2": (lambda x: jnp.arctan2(x[:, :3], jnp.zeros(3).at[1].set(1) * x[:, 1:]), X),
    "logistic": (jax.nn.sigmoid, 30 * X),
    "softplus": (jax.nn.softplus, 30 * X),
    "log1p": (jnp.log1p, SMALL),
    "log1p at infinity": (jnp.log1p, np.float32([np.inf, -1.0, -0.5])),
    "expm1": (jnp.expm1, SMALL),
    "erf": (lax.erf, SMALL),
    "erfc": (lax.erfc, np.linspace(-5, 9, 200, dtype=np.float32)),
    "ndtr": (jax.scipy.special.ndtr, np.linspace(-9, 9, 200, dtype=np.float32)),
    "normal quantile": (rng.normal_quantile, np.linspace(1e-6, 1 - 1e-6, 200, dtype=np.float32)),
    "normal quantile at the ends": (rng.normal_quantile, np.float32([0, 1, 1e-30, 2, np.nan])),
    "normal share": (rng.normal_share, np.linspace(-9, 9, 200, dtype=np.float32)),
    "codes by quantiles": (
        lambda u, x: categorical.choose(u, x[..., None] * jnp.sin(jnp.arange(40))),
        np.linspace(0, 0.99, 12, dtype=np.float32).reshape(3, 4), X,
    ),
    "comparisons": (lambda x: (x > 0.1) & (x <= 0.9) | ~(x < 0.5) ^ (x != 0.1), X),
    "is_finite": (jnp.isfinite, np.float32([1.0, np.inf, np.nan, -np.inf])),
    "select": (lambda x: jnp.where(x > 0, x, -2.0), X),
    "convert": (lambda x: at(3 * x).astype(jnp.float32) + (x > 0), X),
    "bfloat16 as float32": (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32) * 0 + x, X),
    "reshape, transpose": (lambda x: x.reshape(5, 4, 3).transpose(2, 0, 1), CUBE),
    "squeeze, expand": (lambda x: x[:, :1].squeeze(1)[:, None], X),
    "broadcast": (lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)).sum(1), X),
    "concatenate, stack": (lambda x: jnp.concatenate([jnp.stack([x, x], 1)[:, 0], x], 1), X),
    "slice": (lambda x: x[:, 1:5:2, ::-2], CUBE),
    "split": (lambda x: jnp.split(x, [1, 3], 1)[1], X),
    "unstack": (lambda x: sum(jnp.unstack(x, axis=1)[1:]), CUBE),
    "rev": (lambda x: x[::-1, ::-1], X),
    "pad": (lambda x: lax.pad(x, 7.0, [(1, 2, 1), (-1, 3, 2)]), X),
    "roll": (lambda x: jnp.roll(x, 2, 1), X),
    "sums": (lambda x: x.sum((0, 2)) + x.max((0, 2)) + x.min((0, 2)) + x.prod((0, 2)), CUBE),
    "any, all": (lambda x: (x > 1).any(1) * 2 + (x > -1).all(1), X),
    "argmax, argmin": (lambda x: x.argmax(1) + 10 * x.argmin(1), X),
    "cumsum": (lambda x: jnp.cumsum(x, 1) + lax.cumsum(x, 1, reverse=True), X),
    "dot": (lambda x: x @ jnp.asarray(X.T), X),
    "dot of three axes": (lambda x: jnp.einsum("abc,dbc->da", x, x[:1]), CUBE),
    "dot in a batch": (lambda x: jnp.einsum("bij,bkj->bki", x, x[:, :2]), CUBE),
    "vectors": (lambda x: x[0] @ x[1] + x @ x[2] + jnp.outer(x[0], x[1])[:3, 0], X),
    "softmax": (jax.nn.softmax, X),
    "softmax of another axis": (lambda x: ratio(jnp.exp(x - x.max(0))), X),
    "sums of rows for columns": (lambda x: (lambda e: e / e.sum(1))(exponential(x)), X[:, :3]),
    "softmax, reshaped": (lambda x: ratio(exponential(x).reshape(6, 2)), X),
    "attention": (lambda x: jax.nn.dot_product_attention(*[x[:, :, None]] * 3), CUBE),
    "layer norm": (lambda x: jax.nn.gelu(jax.nn.standardize(x)), X),
    "convolution": (
        lambda x: lax.conv_general_dilated(
            x[..., None], jnp.asarray(CUBE[:, :3, :4].reshape(2, 3, 1, 4)), (2, 1),
            [(1, 0), (2, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        CUBE,
    ),
    "transposed convolution": (
        lambda x: lax.conv_transpose(x, jnp.asarray(CUBE.reshape(2, 6, 5)), (2,), "VALID"),
        CUBE,
    ),
    "take": (lambda x: jnp.take(x, jnp.array([[2, 0], [1, 1]]), 1), X),
    "take of rows by index": (lambda x, i: x[at(i)[:, 0]], X, INDEX),
    "take along": (lambda x, i: jnp.take_along_axis(x, at(i), 1), X, INDEX),
    "take beyond the end": (lambda x, i: jnp.take(x, at(i) + 1, 1), X, INDEX),
    "take of two axes": (lambda x, i: x[at(i)[:, 0], 1, at(i)[:, 1]], CUBE, INDEX / 2),
    "clipped take": (lambda x, i: jnp.take_along_axis(x, at(i) + 2, 1, mode="clip"), X, INDEX),
    "dynamic slice": (lambda x, i: lax.dynamic_slice(x, (0, at(i)[1, 1]), (3, 2)), X, INDEX),
    "dynamic update": (
        lambda x, i: lax.dynamic_update_slice(x, x[:, :1] * 9, (0, at(i)[0, 0])), X, INDEX
    ),
    "update at a known place": (
        lambda x: lax.dynamic_update_slice(x, x[:, :2, 1:3] * 9, (0, 2, 9)) + x[0, 0, 0], CUBE
    ),
    "update of zeros": (
        lambda x: lax.dynamic_update_slice(jnp.zeros((2, 4, 9)), x[:, :2], (0, 1, 2)), CUBE
    ),
    "wide dynamic update": (
        lambda x, i: lax.dynamic_update_slice(x, x[1:, :3] * 9, (1, at(i)[1, 1])), X, INDEX
    ),
    "scatter": (lambda x, i: x.at[..., at(i)[0, 0]].set(9 * x[..., 0]), CUBE, INDEX),
    "scatter beyond the end": (lambda x, i: x.at[:, at(i)[0, 0] + 7].set(0), X, INDEX),
    "scatter of a window": (lambda x: x.at[:, 1:3].set(9 * x[:, :2]), X),
    "scatter-add": (lambda x, i: x.at[at(i)[:, 0]].add(x[:, ::-1]), X, INDEX / 2),
    "scatter-add beyond the end": (lambda x, i: x[:, 0].at[at(2 * i).ravel() - 1].add(1), X, INDEX),
    "sort of several arrays": (
        lambda x: sum(lax.sort((at(2 * x), x, 10 * x), dimension=1, num_keys=1, is_stable=True)), X
    ),
    "cummax": (lambda x: lax.cummax(x, 1) + 10 * lax.cummax(x, 0, reverse=True), X),
    "searchsorted": (lambda x: jnp.searchsorted(jnp.sort(x[0]), x, side="right"), X),
    "unsigned numbers": (lambda x: (at(9 * x).astype(jnp.uint32) - 7 + 3) // 5, X),
    "while": (halved, X),
    "while in a long loop": (lambda x: lax.map(halved, jnp.broadcast_to(x, (20, 3, 4))), X),
    "cond": (lambda x: branched(x, 0) + branched(x, 1) * 10 + branched(x, 7) * 100, X),
    "short loop": (loop(5), X, X.T @ X),
    "long loop": (loop(40), X, X.T @ X),
    "long loop, reversed": (loop(40, reverse=True), X, X.T @ X),
    "loop in a loop": (nested, X),
    "recurrent unit": (recurrent, X, POSITIVE, X),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_onnx_computes_what_jax_computes(name):
    function, *arrays = CASES[name]
    expected = np.asarray(jax.jit(function)(*arrays))
    found, _ = ran(function, *arrays)
    assert found.shape == expected.shape
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-6 * scale)


def test_tails_of_the_normal_distribution_keep_their_digits():
    x = np.linspace(1, 6, 300, dtype=np.float32)
    found, _ = ran(lax.erfc, x)
    np.testing.assert_allclose(found, scipy.special.erfc(x.astype(np.float64)), rtol=4e-6)


def operators(graph):
    """Operators of a graph and, per loop, of its body."""
    bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [node.op_type for node in graph.node], [operators(body)[0] for body in bodies]


def test_what_does_not_change_is_outside_of_the_loop():
    _, model = ran(loop(40), X, X.T @ X)
    outside, (inside,) = operators(model.graph)
    assert "Exp" in outside
    assert "Exp" not in inside
    assert "Tanh" in inside


def test_softmax_is_one_operator():
    _, model = ran(jax.nn.softmax, X)
    assert operators(model.graph)[0] == ["Softmax", "Identity"]


def test_a_step_of_the_recurrent_unit_is_one_operator():
    _, model = ran(recurrent, X, POSITIVE, X)
    assert operators(model.graph)[0].count("GRU") == 1
    assert "Sigmoid" not in operators(model.graph)[0]


def test_a_branch_is_computed_only_if_it_is_taken():
    _, model = ran(lambda x: branched(jnp.exp(x), 1), X)
    outside, inside = operators(model.graph)
    assert outside.count("Exp") == 1
    assert "MatMul" not in outside
    assert sorted(inside) == [["Equal", "If"], ["Exp"]]


def test_equal_nodes_are_made_once_and_constants_are_folded():
    _, model = ran(lambda x: jnp.exp(x) * jnp.exp(x) + jnp.exp(jnp.ones(4)).sum(), X)
    names = operators(model.graph)[0]
    assert names.count("Exp") == 1
    assert "ReduceSum" not in names


def test_constants_that_are_broadcast_are_not_stored():
    big = jnp.zeros((100, 200))
    _, model = ran(lambda x: jnp.concatenate([jnp.where(x[0, 0] > 0, big, 1.0), big + 3]), X)
    assert model.ByteSize() < 4_000


REFUSED = {
    "uses 'cholesky' of JAX": lambda x: jnp.linalg.cholesky(x @ x.T),
    "combines the bits of integers": lambda x: at(x) | 3,
    "multiplies or sums up unsigned numbers": lambda x: at(x).astype(jnp.uint32) * 3,
    "has arrays of type float16": lambda x: x.astype(jnp.float16),
    "writes to a clipped index": lambda x: x.at[at(x[0, 0])].set(0, mode="clip"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_rule_is_one_sentence(message):
    with pytest.raises(NoRule, match=f"The model {message}, for .*; take --format stablehlo"):
        ran(REFUSED[message], X)
