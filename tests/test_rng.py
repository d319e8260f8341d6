"""Random streams: named, independent of order, one a shower."""

import jax
import numpy as np
import pytest

from calojax import rng
from calojax.errors import CalojaxError


def bits(key):
    return jax.random.key_data(key).tolist()


def test_streams_differ_by_name_step_and_seed():
    root = rng.root(0)
    keys = [
        rng.stream(root, "a"),
        rng.stream(root, "b"),
        rng.stream(root, "a", 1),
        rng.stream(rng.root(1), "a"),
    ]
    assert len({str(bits(key)) for key in keys}) == 4
    assert bits(rng.stream(root, "a")) == bits(keys[0])


def test_a_showers_key_depends_on_its_index_alone():
    root = rng.root(5)
    whole = rng.per_item(root, np.arange(10))
    part = rng.per_item(root, np.arange(7, 10))
    assert bits(whole[7:]) == bits(part)


def test_draws_of_a_shower_do_not_depend_on_its_batch():
    keys = rng.per_item(rng.root(5), np.arange(64))
    draw = jax.vmap(lambda key: jax.random.normal(key, (100,)))
    np.testing.assert_array_equal(draw(keys)[13], draw(keys[13:14])[0])


def test_streams_of_many_keys_equal_one_by_one():
    keys = rng.per_item(rng.root(5), np.arange(4))
    assert bits(rng.streams(keys, "x"))[2] == bits(rng.stream(keys[2], "x"))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_a_seed_outside_32_bits_is_refused(seed):
    with pytest.raises(CalojaxError, match=f"from 0 to 4294967295, got {seed}"):
        rng.root(seed)
