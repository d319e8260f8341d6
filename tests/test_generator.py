"""The generator of single events: determinism, events, hits, threads, and what it refuses."""

import concurrent.futures
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from calojax import generator as generators
from calojax import rng
from calojax.api import TrainedModel
from calojax.checkpoint import Progress
from calojax.errors import CalojaxError
from calojax.generator import Generator
from calojax.sampling import packing
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
    np.testing.assert_array_equal(generator(ENERGIES[:4, None], event=5), showers[:4])
    np.testing.assert_allclose(generator(ENERGIES[0], event=5), showers[:1], rtol=1e-4, atol=1e-3)
    assert np.abs(generator(ENERGIES, event=6) - showers).max() > 1
    # Those of the command for event 0.
    keys = rng.per_item(rng.stream(rng.root(3), STREAM), np.arange(2))
    expected = jax.jit(model.sample)(variables, keys, np.float32(ENERGIES[:2]))
    np.testing.assert_allclose(generator(ENERGIES[:2], event=0), expected, rtol=1e-4, atol=1e-3)


def test_events_count_up_and_no_energies_give_no_showers(generator):
    with pytest.raises(CalojaxError):
        generator([-1.0])  # Does not count.
    for event in range(2):
        generator(ENERGIES[:1], event=7)  # Nor does this.
        counted = generator(ENERGIES[:1])
        np.testing.assert_array_equal(counted, generator(ENERGIES[:1], event=event))
    assert generator([]).shape == (0, 120)


def test_blocks_are_not_mostly_padding_on_a_cpu(monkeypatch):
    sizes = (1, 16, 128)
    blocks = {17: [(0, 16), (16, 1)], 100: [(0, 128)], 137: [(0, 128), (128, 16)]}
    for number, expected in blocks.items():
        assert generators._blocks(number, sizes) == expected
    assert generators._blocks(3, (8,)) == [(0, 8)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert generators._blocks(17, sizes) == [(0, 128)]


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


@pytest.mark.parametrize("count", [0, 1, 7])
def test_hits_packed_on_an_accelerator_are_the_same(count, generator, monkeypatch):
    expected = generator.hits(ENERGIES[:count], event=5)
    packed = []

    def fetch(small, block):
        packed.append(len(block))
        return packing.fetch(small, block)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        generators,
        "packing",
        SimpleNamespace(pack=packing.pack, fetch=fetch, SMALLEST=2 * 120, LARGEST=10**9),
    )
    found = generator.hits(ENERGIES[:count], event=5)
    assert packed == {0: [], 1: [], 7: [4, 4]}[count]  # Of one shower it would take longer.
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1e4, -1.0], 0), "incident energy of shower 1 is -1 MeV"),
        ((np.ones((2, 3)), 0), r"must be numbers of shape \(n,\), got float64 of shape \(2, 3\)"),
        (([1e4], -1), "event must be a whole number from 0 to 4294967295, got -1"),
        (([1e4], 1.5), "event must be a whole number from 0 to 4294967295, got 1.5"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, generator):
    energies, event = arguments
    with pytest.raises(CalojaxError, match=message):
        generator(energies, event=event)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sizes", sizes) for sizes in ((), (0,), (1.5,))),
        *(("temperature", temperature) for temperature in (0.0, np.inf, np.nan)),
    ],
)
def test_bad_settings_are_refused(name, value, generator):
    with pytest.raises(CalojaxError, match=f"{name} must be"):
        Generator(generator.trained, **{name: value})
