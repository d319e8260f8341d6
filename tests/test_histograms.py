"""Histograms: official separation powers, closed forms, errors against simulation, streaming."""

import dataclasses

import numpy as np
import official
import pytest

from calojax.evaluation import features, histograms
from calojax.geometry import detector
from calojax.io import ShowerArrays


@pytest.fixture(scope="module")
def photons():
    sources = [official.showers(f"ds1_photons_{side}") for side in ("generated", "reference")]
    return sources, [features.stream(source) for source in sources]


def multinomial_covariance(counts):
    return histograms.covariance(counts, np.diag(counts))


def everything(generated, reference, **options) -> list[histograms.Histogram]:
    both = features.stream(generated), features.stream(reference)
    geometry = reference.detector
    edges = histograms.voxel_edges(geometry, reference.showers.max())
    spectra = [entries(source, edges, **options) for source in (generated, reference)]
    return [*histograms.compare(*both, geometry), histograms.compare_voxels(edges, *spectra)]


def entries(source, edges, mask=None, **options) -> histograms.Entries:
    (found,) = histograms.voxel_entries(source, [edges], [mask], **options)
    return found


def by_name(items) -> dict[str, histograms.Histogram]:
    return {item.name: item for item in items}


def test_separation_powers_are_the_official_ones(photons):
    found = by_name(everything(*photons[0]))
    # The official code gives NaN where an energy's showers are all out of range.
    expected = {
        name.replace("Voxel", "voxel"): value
        for name, value in official.numbers()["separation_power"].items()
        if np.isfinite(value)
    }
    assert set(expected) <= set(found)
    assert len(expected) >= 44
    for name, value in expected.items():
        assert abs(found[name].separation - value) < 1e-9, name
    assert histograms.outside_warnings(tuple(found.values())) == ()


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.8], 0.0),
        ([1.0, 0.0], [0.0, 1.0], 1.0),
        ([1.0, 0.0], [0.5, 0.5], 1 / 3),
        ([0.0, 0.0], [0.5, 0.5], 0.5),
    ],
)
def test_separation_power_closed_forms(p, q, expected):
    assert histograms.separation_power(np.array(p), np.array(q)) == pytest.approx(expected)


def test_floor_of_equal_distributions_is_that_of_a_chi_squared():
    bins, n, m = 20, 4000, 1000
    p = np.full(bins, 1 / bins)
    covariances = (multinomial_covariance(p * count) for count in (n, m))
    error, floor = histograms.statistics(p, p, *covariances)
    assert floor == pytest.approx((bins - 1) * (1 / n + 1 / m) / 4)
    assert error == pytest.approx(np.sqrt((bins - 1) / 8) * (1 / n + 1 / m))


@pytest.mark.parametrize("tilt", [0.0, 0.3, 0.9])
def test_errors_are_the_spread_of_repeated_samples(tilt):
    rng = np.random.default_rng(1)
    n, bins = 2000, 25
    shape = np.linspace(1 - tilt, 1 + tilt, bins)
    p, q = np.full(bins, 1 / bins), shape / shape.sum()
    values, errors, floors = [], [], []
    for _ in range(400):
        x, y = rng.multinomial(n, p), rng.multinomial(n, q)
        error, floor = histograms.statistics(
            x / n, y / n, *(multinomial_covariance(counts) for counts in (x, y))
        )
        values.append(histograms.separation_power(x / n, y / n))
        errors.append(error)
        floors.append(floor)
    # 400 samples know their spread to 4 %.
    assert np.std(values) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.15)
    excess = np.mean(values) - histograms.separation_power(p, q)
    assert excess == pytest.approx(np.mean(floors), rel=0.1)


def test_two_samples_of_one_distribution_separate_at_the_level_of_their_error(showers, tiny):
    # Split so that both halves have the same incident energies but for chance.
    halves = [ShowerArrays(tiny, showers.energies[i::2], showers.showers[i::2]) for i in range(2)]
    found = everything(*halves)
    pulls = np.array([(item.separation - item.floor) / item.error for item in found if item.error])
    assert np.abs(pulls).max() < 6
    assert abs(pulls.mean()) < 0.5


def test_a_layer_that_is_empty_in_one_sample_or_both(showers, tiny):
    empty = showers.showers.reshape(-1, *tiny.grid).copy()
    empty[:, 4] = 0
    empty = ShowerArrays(tiny, showers.energies, empty.reshape(len(empty), -1))
    full = ShowerArrays(tiny, showers.energies, showers.showers)
    assert by_name(everything(empty, full))["E layer 4"].separation > 0.97
    both = by_name(everything(empty, empty))["E layer 4"]
    assert both.separation == both.error == both.floor == 0
    for item in everything(empty, full) + everything(full, empty):
        assert np.isfinite([item.separation, item.error, item.floor]).all()


def scaled(geometry, factor):
    layers = tuple(
        dataclasses.replace(layer, r_edges=tuple(factor * edge for edge in layer.r_edges))
        for layer in geometry.layers
    )
    return dataclasses.replace(geometry, layers=layers)


@pytest.mark.parametrize("factor", [0.01, 4.70 / 4.65, 50])
def test_scores_do_not_depend_on_the_size_of_a_geometry(showers, tiny, factor):
    grid = showers.showers.reshape(-1, *tiny.grid).copy()
    grid[..., 2] *= np.float32(1.1)
    found = []
    for geometry in (tiny, scaled(tiny, factor)):
        pair = [
            ShowerArrays(geometry, showers.energies, voxels)
            for voxels in (grid.reshape(len(grid), -1), showers.showers)
        ]
        found.append({name: mean[0] for name, mean in histograms.means(everything(*pair)).items()})
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[0]["ec_r"] > 0.01


def test_a_response_that_is_not_calibrated_has_a_range_of_its_own(showers, tiny):
    weak = ShowerArrays(tiny, showers.energies, 0.07 * showers.showers)
    weaker = ShowerArrays(tiny, showers.energies, 0.06 * showers.showers)
    found = by_name(everything(weaker, weak))["Etot / Einc"]
    assert found.separation > 0.2
    assert found.reference_outside < 0.02


def partly(change, values):
    """The values with ``change`` applied to every third shower."""
    values = values.copy()
    values[::3] = change(values[::3])
    return values


@pytest.mark.parametrize(
    ("change", "families"),
    [
        (np.zeros_like, {"e_total", "e_layer"}),
        (lambda voxels: 1e4 * voxels, {"e_total", "e_layer", "voxel"}),
        (lambda voxels: np.full_like(voxels, 1e30), {"e_total", "e_layer", "voxel"}),
    ],
)
def test_showers_outside_of_the_range_count(showers, tiny, change, families):
    reference = ShowerArrays(tiny, showers.energies, showers.showers)
    generated = ShowerArrays(tiny, showers.energies, partly(change, showers.showers))
    compared = everything(generated, reference)
    means = histograms.means(compared)
    for family in families:
        # A third is elsewhere, which alone gives 0.2; some layers are often empty in both.
        assert means[family][0] > 0.1, family
    assert {item.family for item in compared if item.outside_counts} >= families
    (warning,) = histograms.outside_warnings(compared)
    assert "Etot / Einc (33.3 % of the generated and 0 % of the reference's entries)" in warning


def test_values_that_are_not_numbers_count_as_outside(photons):
    ours, theirs = photons[1]
    for value in (np.nan, np.inf, -np.inf):
        broken = ours._replace(center_eta=partly(lambda x: np.full_like(x, value), ours.center_eta))  # noqa: B023
        found = by_name(histograms.compare(broken, theirs, detector("ds1-photons")))
        assert found["EC Eta layer 1"].separation > 0.18
        assert found["EC Eta layer 1"].generated_outside == pytest.approx(1 / 3, abs=0.01)


def test_a_geometry_without_a_threshold_has_finite_bins(showers, tiny):
    free = dataclasses.replace(tiny, readout_threshold=0.0, evaluation_threshold=0.0)
    reference = ShowerArrays(free, showers.energies, showers.showers)
    weak = ShowerArrays(free, showers.energies, 0.3 * showers.showers)
    same, other = (everything(source, reference) for source in (reference, weak))
    assert all(item.separation == 0 for item in same)
    means = histograms.means(other)
    assert 0.1 < means["e_layer"][0] < 1
    assert 0.01 < means["voxel"][0] < 1


def test_spectra_count_as_numpy_does_in_any_batches(showers, tiny):
    source = ShowerArrays(tiny, showers.energies, showers.showers)
    edges = histograms.voxel_edges(tiny, float(showers.showers.max()))
    mask = showers.energies > 1e4
    found = [
        histograms.voxel_entries(source, [edges] * 2, [None, mask], batch=batch)
        for batch in (37, 1000)
    ]
    for which, voxels in enumerate((showers.showers, showers.showers[mask])):
        expected, _ = np.histogram(voxels.astype(np.float64).ravel(), edges)
        for spectra in found:
            np.testing.assert_array_equal(spectra[which].counts[1:-1], expected)
        np.testing.assert_array_equal(*(spectra[which].products for spectra in found))


def in_order(tiny, voxels) -> ShowerArrays:
    """A source of showers whose first voxels are given."""
    showers = np.zeros((len(voxels), tiny.n_voxels), np.float32)
    showers[:, : voxels.shape[1]] = voxels
    return ShowerArrays(tiny, np.full(len(voxels), 1e4), showers)


def test_the_last_bin_includes_its_edge(tiny):
    source = in_order(tiny, np.array([[1.0, 2.0, 4.0, 4.5]]))
    found = entries(source, np.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(found.counts, [0, 1, 2, 1])


def test_independent_voxels_have_a_multinomial_covariance(tiny):
    values = np.clip(np.exp(np.random.default_rng(0).normal(1, 2, (300, 1))), 0, 999)
    found = entries(in_order(tiny, values), np.geomspace(0.1, 1000.0, 6))
    np.testing.assert_allclose(found.products, np.diag(found.counts))
    assert 250 < found.counts[1:-1].sum() <= 300


@pytest.mark.parametrize(
    ("name", "count", "ends"),
    [
        ("ds2", 362, {"EC Eta layer 7": 30, "Width r layer 0": 20, "EC r layer 44": 42}),
        (
            "ds1-pions",
            61,
            {"EC Phi layer 12": 500, "Width Eta layer 13": 400, "EC r layer 14": 1500,
             "EC r layer 3": 500, "Width Phi layer 2": 100},
        ),
    ],
)  # fmt: skip
def test_official_names_and_ranges(name, count, ends):
    geometry = detector(name)
    energies = np.resize(geometry.energies or (1e4,), 15)
    source = ShowerArrays(geometry, energies, np.full((15, geometry.n_voxels), 2.0, np.float32))
    found = by_name(everything(source, source))
    assert len(found) == count
    for item, end in ends.items():
        assert found[item].edges[-1] == end


def test_response_bins_of_photons_narrow_with_energy(photons):
    found = by_name(histograms.compare(*photons[1], detector("ds1-photons")))
    wide, narrow = (found[f"Etot / Einc at E = {energy}"] for energy in ("2048.0", "4096.0"))
    assert (wide.edges[0], wide.edges[-1], len(wide.edges)) == (0.4, 1.4, 21)
    assert (narrow.edges[0], narrow.edges[-1], len(narrow.edges)) == (0.9, 1.1, 21)
