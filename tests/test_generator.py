"""The generator of single events: determinism, events, hits, threads, and what it refuses."""

import concurrent.futures

import jax
import numpy as np
import pytest

from calojax import generator as generators
from calojax import rng
from calojax.api import TrainedModel
from calojax.checkpoint import Progress
from calojax.errors import CalojaxError
from calojax.generator import Generator
from calojax.sampling.generation import STREAM

ENERGIES = np.geomspace(2e3, 9e4, 7)


@pytest.fixture(scope="module")
def generator(model, variables):
    trained = TrainedModel(model, variables, Progress(1, "prior", 1, (), 0, (1e3, 1e5)))
    return Generator(trained, seed=3, sizes=(4, 1))


def test_showers_depend_on_event_and_place_only(generator, model, variables):
    assert generator.sizes == (1, 4)
    showers = generator(ENERGIES, event=5)
    assert showers.shape == (7, 120)
    np.testing.assert_array_equal(generator(ENERGIES, event=5), showers)
    np.testing.assert_array_equal(generator(ENERGIES[:4], event=5), showers[:4])
    np.testing.assert_allclose(generator(ENERGIES[0], event=5), showers[:1], rtol=1e-4, atol=1e-3)
    assert np.abs(generator(ENERGIES, event=6) - showers).max() > 1
    # Those of the command for event 0.
    keys = rng.per_item(rng.stream(rng.root(3), STREAM), np.arange(2))
    expected = jax.jit(model.sample)(variables, keys, np.float32(ENERGIES[:2]))
    np.testing.assert_allclose(generator(ENERGIES[:2], event=0), expected, rtol=1e-4, atol=1e-3)


def test_events_count_up_and_no_energies_give_no_showers(generator):
    first, second = generator(ENERGIES[:1]), generator(ENERGIES[:1])
    assert np.abs(first - second).max() > 0
    assert generator([]).shape == (0, 120)


def test_threads_get_the_same_showers(generator):
    alone = [generator(ENERGIES, event=event) for event in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda event: generator(ENERGIES, event=event), range(8)))
    np.testing.assert_array_equal(together, alone)


def test_hits_are_the_voxels_with_energy_at_their_places(generator):
    showers = generator(ENERGIES, event=5)
    hits = generator.hits(ENERGIES, event=5)
    again = generator.detector.voxelise(hits.shower, hits.x, hits.y, hits.z, hits.energy, 7)
    np.testing.assert_array_equal(again, showers)
    voxel = generator.detector.voxel_index(hits.layer, hits.alpha, hits.r)
    np.testing.assert_array_equal(showers[hits.shower, voxel], hits.energy)
    assert (hits.energy > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1e4, -1.0],), "incident energy of shower 1 is -1 MeV"),
        (([1e4], -1), "event must be from 0 to 4294967295, got -1"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, generator):
    with pytest.raises(CalojaxError, match=message):
        generator(arguments[0], event=arguments[1] if arguments[1:] else 0)


@pytest.mark.parametrize("options", [{"sizes": (0,)}, {"sizes": ()}, {"temperature": 0.0}])
def test_bad_settings_are_refused(options, generator):
    with pytest.raises(CalojaxError, match="must be"):
        generators.Generator(generator.trained, **options)
