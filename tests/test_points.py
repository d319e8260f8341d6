"""Points: exact both ways, and hits on distinct voxels of their rings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.models.pointflow import points as module
from calojax.models.pointflow.points import Points

TINY = DETECTORS["tiny"]
# One program for each shape, instead of one for each operation.


def from_keys(keys, points, detector):
    uniform = module.noise(lambda key: jax.random.uniform(key, (), "f4"), keys, points.owner)
    return module.place(uniform, points, len(keys), detector)


place = jax.jit(from_keys, static_argnums=2)
to_points = jax.jit(module.to_points, static_argnums=(1, 2))
to_showers = jax.jit(module.to_showers, static_argnums=(1, 2))


def random_showers(detector=TINY, num=6, seed=0):
    """Showers of every filling: the first empty, the last full."""
    generator = np.random.default_rng(seed)
    energy = generator.exponential(1.0, (num, detector.n_voxels)) + 0.02
    filling = np.linspace(0, 1, num)[:, None]
    return (energy * (generator.random(energy.shape) < filling)).astype(np.float32)


def test_points_have_the_same_numbers_from_arrays_as_from_keys():
    """Also in a buffer with more places than a shower has numbers."""
    owner = jnp.array([0, 0, 0, 1, 1, *[2] * 9])

    @jax.jit
    def both(keys, owner):
        of = jax.vmap(lambda key: module.noise(jax.random.normal, key[None], jnp.zeros(4, int)))
        return module.of_showers(of(keys), owner), module.noise(jax.random.normal, keys, owner)

    found, expected = map(np.asarray, both(keys(3, 5), owner))
    np.testing.assert_array_equal(found[:5], expected[:5])
    assert found.shape == owner.shape


@pytest.mark.parametrize(("name", "spare"), [("tiny", 0), ("tiny", 1), ("ds2", 1000), ("ds3", 1)])
def test_grid_to_points_to_grid_is_exact(name, spare):
    detector = DETECTORS[name]
    showers = random_showers(detector)
    hits = np.count_nonzero(showers)
    points, overflow = to_points(showers, detector, hits + spare)
    np.testing.assert_array_equal(to_showers(points, detector, len(showers)), showers)
    assert overflow == 0
    owner, voxel = np.nonzero(showers)
    layer, alpha, r = (getattr(detector.voxels, axis)[voxel] for axis in ("layer", "alpha", "r"))
    expected = Points(layer, alpha, r, showers[owner, voxel], owner)
    for field, found, wanted in zip(Points._fields, points, expected, strict=True):
        np.testing.assert_array_equal(found[:hits], wanted, err_msg=field)
        assert found.dtype == (jnp.float32 if field == "energy" else jnp.int32)
        np.testing.assert_array_equal(found[hits:], len(showers) if field == "owner" else 0)


def test_hits_that_do_not_fit_are_counted_and_the_last_ones():
    showers = random_showers()
    hits = np.count_nonzero(showers)
    points, overflow = to_points(showers, TINY, hits - 17)
    assert overflow == 17
    again = np.asarray(to_showers(points, TINY, len(showers)))
    left_out = np.nonzero((again != showers).reshape(-1))[0]
    np.testing.assert_array_equal(left_out, np.nonzero(showers.reshape(-1))[0][-17:])


def test_points_on_one_voxel_are_added():
    ones = jnp.ones(3, jnp.int32)
    points = Points(ones, ones, ones, jnp.array([1.0, 2.0, 4.0]), jnp.array([0, 0, 1]))
    showers = np.asarray(to_showers(points, TINY, 2))
    voxel = TINY.voxel_index(1, 1, 1)
    assert showers[0, voxel] == 3
    assert showers[1, voxel] == 4
    assert showers.sum() == 7


def rings(counts, *, budget, seed=1):
    """Points without an angle: counts [g, n_z, n_r] of each ring, shuffled within the shower."""
    counts = np.asarray(counts)
    num, _, n_r = counts.shape
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(num), counts.sum((1, 2)))
    ring = np.concatenate(
        [generator.permutation(np.repeat(np.arange(c.size), c.reshape(-1))) for c in counts]
    )
    energy = generator.exponential(1.0, len(owner)).astype(np.float32)
    columns = (ring // n_r, np.zeros_like(ring), ring % n_r, energy, owner)
    ends = (0, 0, 0, 0, num)
    padded = (
        np.pad(column, (0, budget - len(owner)), constant_values=end)
        for column, end in zip(columns, ends, strict=True)
    )
    return Points(*(jnp.asarray(c, None if c.dtype == np.float32 else jnp.int32) for c in padded))


def random_counts(num, most, *, detector=TINY, seed=0):
    n_z, _, n_r = detector.grid
    return np.random.default_rng(seed).integers(0, most + 1, (num, n_z, n_r))


def keys(*index):
    return rng.per_item(rng.root(7), np.asarray(index))


def sums(points, num):
    """Energy and hits of each (shower, layer, r)."""
    shape = (num, TINY.grid[0], TINY.grid[2])
    energy, hits = np.zeros(shape), np.zeros(shape, int)
    real = np.asarray(points.owner) < num
    where = tuple(np.asarray(c)[real] for c in (points.owner, points.layer, points.r))
    np.add.at(energy, where, np.asarray(points.energy)[real])
    np.add.at(hits, where, 1)
    return energy, hits


def test_hits_of_a_ring_that_is_not_full_have_distinct_voxels():
    counts = random_counts(8, TINY.grid[1])
    placed = place(keys(*range(8)), rings(counts, budget=2000), TINY)
    showers = np.asarray(to_showers(placed, TINY, 8))
    assert np.count_nonzero(showers) == counts.sum()
    occupied = (showers > 0).reshape(8, *TINY.grid).sum(2)
    np.testing.assert_array_equal(occupied, counts)


def test_placing_keeps_owners_rings_and_energies():
    counts = random_counts(8, 11)
    before = rings(counts, budget=2000)
    after = place(keys(*range(8)), before, TINY)
    for one, other in zip(sums(before, 8), sums(after, 8), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert (np.diff(after.owner) >= 0).all()
    showers = np.asarray(to_showers(after, TINY, 8))
    np.testing.assert_allclose(showers.reshape(8, *TINY.grid).sum(2), sums(before, 8)[0], rtol=1e-5)
    padding = np.asarray(after.owner) == 8
    assert padding.sum() == 2000 - counts.sum()
    for column in (after.layer, after.alpha, after.r, after.energy):
        assert (np.asarray(column)[padding] == 0).all()


def test_surplus_hits_begin_again_on_distinct_voxels():
    n_z, n_alpha, n_r = TINY.grid
    counts = np.full((5, n_z, n_r), 2 * n_alpha + 3)
    points = rings(counts, budget=2000)
    placed = place(keys(*range(5)), points._replace(energy=jnp.sign(points.energy)), TINY)
    hits = np.asarray(to_showers(placed, TINY, 5)).reshape(5, *TINY.grid)
    # Two rounds fill every voxel twice; the third adds one to three of the four.
    np.testing.assert_array_equal(np.sort(hits, 2)[0, 0, :, 0], [2, 3, 3, 3])
    assert set(np.unique(hits)) == {2, 3}
    np.testing.assert_array_equal(hits.sum(2), counts)


def chi_square_bound(freedom):
    """A value that chi-square exceeds once in 10^4 (Wilson and Hilferty, PNAS 17, 1931)."""
    a = 2 / (9 * freedom)
    return freedom * (1 - a + 3.72 * a**0.5) ** 3


@pytest.mark.parametrize("hits", [1, 2, 3, 6])
def test_every_set_of_voxels_is_as_likely(hits):
    # Six hits: four fill the ring, so that the surplus two are a set of their own.
    num = 4000
    counts = np.zeros((num, TINY.grid[0], TINY.grid[2]), int)
    counts[:, 3, 1] = hits
    placed = place(keys(*range(num)), rings(counts, budget=num * hits + 5), TINY)
    showers = to_showers(placed._replace(energy=jnp.sign(placed.energy)), TINY, num)
    ring = np.asarray(showers).reshape(num, *TINY.grid)[:, 3, :, 1]
    subset = ((ring > hits // 4) * [1, 2, 4, 8]).sum(1)
    _, frequency = np.unique(subset, return_counts=True)
    subsets = {1: 4, 2: 6, 3: 4, 6: 6}[hits]
    assert len(frequency) == subsets
    expected = num / subsets
    assert np.sum((frequency - expected) ** 2 / expected) < chi_square_bound(subsets - 1)


def test_every_order_of_hits_in_a_ring_is_as_likely():
    # Which hit sits where is uniform too, not only the set of voxels.
    num = 4000
    counts = np.zeros((num, TINY.grid[0], TINY.grid[2]), int)
    counts[:, 0, 0] = 4
    points = rings(counts, budget=4 * num)
    marked = points._replace(energy=jnp.tile(jnp.arange(1.0, 5.0), num))
    ring = np.asarray(to_showers(place(keys(*range(num)), marked, TINY), TINY, num))
    ring = ring.reshape(num, *TINY.grid)[:, 0, :, 0].astype(int)
    _, frequency = np.unique((ring * [1, 10, 100, 1000]).sum(1), return_counts=True)
    assert len(frequency) == 24
    expected = num / 24
    assert np.sum((frequency - expected) ** 2 / expected) < chi_square_bound(23)


def test_a_shower_does_not_depend_on_other_showers_or_the_buffer():
    counts = random_counts(6, 7)
    together = place(keys(*range(6)), rings(counts, budget=2000), TINY)
    showers = to_showers(together, TINY, 6)
    points = rings(counts, budget=2000)
    # As many places for each, so that one program does for all.
    room = int(np.bincount(np.asarray(points.owner))[:6].max()) + 3
    for shower in (0, 3, 5):
        own = np.asarray(points.owner) == shower
        spare = (0, room - own.sum())
        alone = Points(*(np.pad(np.asarray(column)[own], spare) for column in points))
        owner = np.pad(np.zeros(own.sum(), np.int32), spare, constant_values=1)
        placed = place(keys(shower), alone._replace(owner=owner), TINY)
        np.testing.assert_array_equal(to_showers(placed, TINY, 1)[0], showers[shower])


def test_nothing_is_placed_without_hits():
    points, _ = to_points(np.zeros((2, TINY.n_voxels), np.float32), TINY, 5)
    placed = place(keys(0, 1), points, TINY)
    assert (np.asarray(to_showers(placed, TINY, 2)) == 0).all()


def test_double_precision_changes_nothing():
    showers = random_showers()
    points, _ = to_points(showers, TINY, 500)
    placed = place(keys(*range(6)), points, TINY)
    with jax.enable_x64(True):
        again, _ = to_points(showers, TINY, 500)
        twice = place(keys(*range(6)), again, TINY)
        assert [column.dtype for column in twice] == [column.dtype for column in placed]
        np.testing.assert_array_equal(to_showers(again, TINY, 6), showers)
    for one, other in zip(placed, twice, strict=True):
        np.testing.assert_array_equal(one, other)


def test_layers_that_differ_are_refused():
    detector = DETECTORS["ds1-photons"]
    with pytest.raises(CalojaxError, match="ds1-photons: its layers are not all alike"):
        to_points(np.zeros((1, detector.n_voxels), np.float32), detector, 5)
    uneven = dataclasses.replace(TINY, layers=(*TINY.layers[1:], DETECTORS["ds2"].layers[0]))
    with pytest.raises(CalojaxError, match="train Calo-VQ"):
        place(keys(0), rings(random_counts(1, 1), budget=40), uneven)
