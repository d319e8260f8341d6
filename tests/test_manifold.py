"""Precision, recall, density, coverage: official numbers, brute force, limits."""

import jax
import numpy as np
import official
import pytest

from calojax import distributed
from calojax.errors import CalojaxError
from calojax.evaluation import manifold
from calojax.evaluation.manifold import Prdc
from calojax.io import ShowerArrays


def brute_force(reference, generated, k) -> Prdc:
    def distances(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=2)

    radii = [np.sort(distances(x, x), axis=1)[:, k] for x in (reference, generated)]
    between = distances(reference, generated)
    held = between < radii[0][:, None]
    return Prdc(
        held.any(axis=0).mean(),
        (between < radii[1]).any(axis=1).mean(),
        held.sum(axis=0).mean() / k,
        held.any(axis=1).mean(),
    )


def test_values_are_the_official_ones():
    points = [
        manifold.log_voxels([official.showers(f"ds1_photons_{side}")])
        for side in ("reference", "generated")
    ]
    found, expected = manifold.prdc(*points), official.numbers()["prdc"]
    for name, value in found._asdict().items():
        assert value == pytest.approx(expected[name], abs=1e-3), name


@pytest.mark.parametrize("block", [7, 64, None])
@pytest.mark.parametrize("k", [1, 5])
def test_blocks_give_what_the_whole_matrix_does(block, k):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(101, 3)).astype(np.float32)
    generated = rng.normal(0.5, 1.3, size=(64, 3)).astype(np.float32)
    found = manifold.prdc(reference, generated, k=k, block=block)
    assert found == pytest.approx(brute_force(reference, generated, k))


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize(("k", "expected"), [(1, [1.0] * 10), (3, [9, *[4] * 8, 9])])
def test_radii_of_a_line_of_points(k, expected, resident, monkeypatch):
    blocks = manifold._blocks(np.arange(10.0)[:, None], 4, resident=resident)
    assert {isinstance(block.points, jax.Array) for block in blocks} == {resident}
    sent, put = [], jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda *block: sent.append(block) or put(*block))
    np.testing.assert_allclose(np.ravel(manifold.squared_radii(blocks, k))[:10], expected)
    assert len(sent) == 3 + 3 * 3  # every x once, every y for each of them


def test_log_voxels_are_official_logarithms_but_for_a_constant(tiny, monkeypatch):
    showers = np.zeros((1, tiny.n_voxels), np.float32)
    showers[0, :3] = [tiny.evaluation_threshold / 2, 0.1, 10.0]
    source = ShowerArrays(tiny, np.ones(1), showers)
    # The memory holds one of the samples, but not both.
    monkeypatch.setattr(distributed, "host_memory", lambda: 3 * showers.nbytes)
    found = manifold.log_voxels([source, source])
    assert isinstance(found, np.memmap)
    np.testing.assert_allclose(found[:, :4], [[0, 0, 2, 0]] * 2, atol=1e-6)


@pytest.mark.parametrize("block", [7, None])
@pytest.mark.parametrize("repeats", [(40, 60), (60,), (3, 4)])
def test_a_sample_with_repeated_points_is_on_its_own_manifold(repeats, block):
    rng = np.random.default_rng(0)
    points = rng.normal(3, 1, size=(100, 50)).astype(np.float32)
    start = 0
    for number in repeats:
        points[start : start + number] = points[start]
        start += number
    found = manifold.prdc(points, rng.permutation(points), block=block)
    assert found.precision == found.recall == found.coverage == 1
    assert 0.7 < found.density < 1.3
    collapsed = np.repeat(points[:1], 100, axis=0)
    others = rng.normal(3, 1, size=(100, 50)).astype(np.float32)
    assert manifold.prdc(others, collapsed, block=block).recall == 0


def test_too_few_showers_are_refused():
    points = np.ones((10, 2))
    with pytest.raises(CalojaxError, match="more than 5 showers in each sample, got 5"):
        manifold.prdc(points, points[:5])
