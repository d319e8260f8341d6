"""The benchmarks' count of operations, on programs whose operations are known."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

FILE = pathlib.Path(__file__).parents[1] / "benchmarks" / "work.py"
PRODUCT = 2 * 8**3  # operations of a product of 8 x 8 matrices


@pytest.fixture(scope="module")
def work():
    spec = importlib.util.spec_from_file_location("work", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def x():
    return jnp.eye(8)


def test_a_product_and_its_bytes(work, x):
    # The operands and the result of the product, and the program's own.
    sizes = 3 * x.nbytes + 2 * x.nbytes
    assert work.of(lambda x: x @ x, x) == (PRODUCT, sizes)


def test_loops_count_as_often_as_they_run(work, x):
    def scanned(x):
        def layer(x, _):
            return jax.lax.scan(lambda y, _: (y @ x, None), x, length=3)[0], None

        return jax.lax.scan(layer, x, length=5)[0]

    assert work.of(scanned, x).operations == 15 * PRODUCT


def test_loops_and_branches_that_hang_on_data_are_run(work, x):
    def until(n, x):
        return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] @ x), (0, x))[1]

    def both(n, x):
        return jax.lax.cond(n > 3, lambda x: x, lambda x: until(n, x) @ x, x)

    assert work.of(until, jnp.asarray(7), x).operations == 7 * PRODUCT
    assert work.of(both, jnp.asarray(7), x).operations == 0
    assert work.of(both, jnp.asarray(2), x).operations == 3 * PRODUCT


def test_gradients_count_what_is_done_again(work, x):
    def loss(x):
        # Forward, again for the gradient, and two products of the gradient itself.
        return jnp.sum(jax.checkpoint(lambda y: jnp.sin(y @ y))(x))

    assert work.of(jax.grad(loss), x).operations == 4 * PRODUCT


def test_convolutions(work):
    signal, kernel = jnp.ones((2, 9, 3)), jnp.ones((4, 3, 5))

    def convolve(signal, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            signal, kernel, (1,), "VALID", dimension_numbers=numbers
        )

    # Six windows of four bins with three channels, for five channels of two showers.
    assert work.of(convolve, signal, kernel).operations == 2 * (6 * 4 * 3) * 5 * 2
