"""Generation: a shower does not depend on its batch, the devices or where one starts."""

import numpy as np
import pytest

from calojax import generation, rng
from calojax.data.challenge import ShowerArrays
from calojax.errors import CalojaxError


def collect(batches):
    energies, showers = zip(*batches, strict=True)
    return np.concatenate(energies), np.concatenate(showers)


@pytest.fixture(scope="module")
def energies():
    return np.geomspace(1e3, 1e5, 21).astype(np.float32)


@pytest.fixture(scope="module")
def whole(model, variables, energies, one_device):
    return collect(generation.generate(model, variables, energies, seed=5, mesh=one_device))[1]


def test_energies_and_order_are_kept(model, variables, energies, one_device):
    found, showers = collect(
        generation.generate(model, variables, energies, batch_size=8, mesh=one_device)
    )
    np.testing.assert_array_equal(found, energies)
    assert showers.shape == (21, 120)
    assert showers.dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 8, 20])
def test_batch_size_changes_nothing(whole, model, variables, energies, one_device, batch_size):
    batches = list(
        generation.generate(
            model, variables, energies, seed=5, batch_size=batch_size, mesh=one_device
        )
    )
    assert {len(e) for e, _ in batches[:-1]} <= {batch_size}
    np.testing.assert_allclose(collect(batches)[1], whole, rtol=1e-4, atol=1e-4)


def test_device_count_changes_nothing(whole, model, variables, energies, eight_devices):
    _, showers = collect(
        generation.generate(model, variables, energies, seed=5, mesh=eight_devices)
    )
    np.testing.assert_allclose(showers, whole, rtol=1e-4, atol=1e-4)


def test_a_later_part_alone_equals_the_same_part_of_the_whole(
    whole, model, variables, energies, one_device
):
    _, part = collect(
        generation.generate(model, variables, energies[15:], seed=5, first=15, mesh=one_device)
    )
    np.testing.assert_allclose(part, whole[15:], rtol=1e-4, atol=1e-4)


def test_seeds_and_showers_differ(whole, model, variables, energies, one_device):
    _, other = collect(generation.generate(model, variables, energies, seed=6, mesh=one_device))
    assert not np.array_equal(other, whole)
    same_energy = np.full(5, 1e4, np.float32)
    _, five = collect(generation.generate(model, variables, same_energy, mesh=one_device))
    assert len({shower.tobytes() for shower in five}) == 5


def test_reconstruction_runs_over_a_source(model, variables, showers, one_device):
    source = ShowerArrays(model.detector, showers.energies[:30], showers.showers[:30])
    energies, again = collect(
        generation.reconstruct(model, variables, source, batch_size=8, mesh=one_device)
    )
    np.testing.assert_array_equal(energies, source.energies)
    np.testing.assert_allclose(again.sum(1), showers.showers[:30].sum(1), rtol=1e-3)


@pytest.mark.parametrize("batch_size", [8, 13])
def test_simulated_showers_depend_on_neither_number_nor_batch(
    tiny, energies, one_device, batch_size
):
    _, whole = collect(generation.simulate(tiny, energies, seed=4, mesh=one_device))
    found, part = collect(
        generation.simulate(tiny, energies[:15], seed=4, batch_size=batch_size, mesh=one_device)
    )
    np.testing.assert_array_equal(found, energies[:15])
    np.testing.assert_allclose(part, whole[:15], rtol=1e-4, atol=1e-3)


def test_cold_codes_are_the_likeliest_and_hot_ones_are_any(model, variables, energies):
    energies = np.repeat(energies[:1], 200)
    layer_energy = np.ones((200, model.detector.n_layers), np.float32)
    keys = rng.per_item(rng.root(0), np.arange(200))

    def distinct(temperature):
        codes = model.sample_codes(variables, keys, energies, layer_energy, temperature)
        return len(np.unique(np.asarray(codes), axis=0))

    assert distinct(1e-4) == 1
    assert distinct(1.0) > 100


def test_a_temperature_that_is_none_is_refused(model, variables, energies):
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(CalojaxError, match=r"A temperature of .* is none"):
            next(generation.generate(model, variables, energies, temperature=temperature))
