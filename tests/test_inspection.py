"""`calojax check`: sound files pass, distorted ones are recognised for what they are."""

import dataclasses

import h5py
import numpy as np
import pytest

from calojax.geometry import DETECTORS, detector
from calojax.io import ShowerArrays, findings, scan, voxel_order, write_showers
from calojax.io.inspection import inspect

DS2 = detector("ds2")
THRESHOLD = DS2.readout_threshold


def toy_showers(geometry, energies: np.ndarray, seed: int = 0) -> np.ndarray:
    """Showers [n, v] that rise and fall along z and fall off exponentially in r, in MeV."""
    rng = np.random.default_rng(seed)
    voxels = geometry.voxels
    depth = voxels.z_center / geometry.medium.radiation_length
    area = voxels.r_high**2 - voxels.r_low**2
    peak = np.log(energies / geometry.medium.critical_energy)[:, None] - 0.8
    scale = geometry.medium.moliere_radius / 3
    density = depth**3 * np.exp(-3 * depth / peak) * np.exp(-voxels.r_center / scale) * area
    showers = rng.gamma(0.5, density / voxels.n_alpha)
    scale = geometry.medium.response * energies * rng.normal(1, 0.03, len(energies))
    showers *= (scale / showers.sum(axis=1))[:, None]
    showers[showers < max(geometry.readout_threshold, 1e-6)] = 0
    return showers.astype(np.float32)


def energies_of(geometry, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if geometry.energies:
        return rng.choice(np.float32(geometry.energies), count)
    return np.exp(rng.uniform(*np.log(geometry.energy_range), count)).astype(np.float32)


ENERGIES = energies_of(DS2, 300)
SHOWERS = toy_showers(DS2, ENERGIES)
MEAN = (SHOWERS.sum(axis=1) / ENERGIES).mean()
GRID = SHOWERS.reshape(-1, *DS2.grid)


@pytest.fixture
def check(tmp_path):
    """Writes datasets into a file as they are and inspects it."""

    def run(showers=SHOWERS, energies=ENERGIES, key="incident_energies", geometry=None):
        path = tmp_path / "showers.hdf5"
        with h5py.File(path, "w") as file:
            file[key] = np.reshape(energies, (-1, 1))
            file["showers"] = showers
        return inspect(path, geometry)

    return run


def sentences(result) -> list[str]:
    return [f"{finding.severity}: {finding.sentence}" for finding in result.findings]


@pytest.mark.parametrize("name", DETECTORS)
def test_sound_files_pass(name, tmp_path):
    geometry = detector(name)
    count = 20 if name == "ds3" else 200
    energies = energies_of(geometry, count)
    showers = toy_showers(geometry, energies)
    path = tmp_path / "sound.hdf5"
    write_showers(path, geometry, energies, [showers], {"seed": 3})
    result = inspect(path)
    assert sentences(result) == []
    assert result.ok
    found = result.scan
    assert found.detector == geometry
    np.testing.assert_array_equal(found.energies, energies)
    assert found.response == pytest.approx(geometry.medium.response, abs=0.02)
    assert found.spread == pytest.approx(0.03, abs=0.02)
    assert found.occupied == (showers > 0).sum()
    assert found.smallest == showers[showers > 0].min()
    assert result.attributes["seed"] == 3
    text = result.text()
    assert "nothing wrong" in text
    assert f"{geometry.n_voxels:,} voxels (geometry {name}," in text


def test_averages_are_sampled_but_values_are_not(check, monkeypatch):
    monkeypatch.setattr(scan, "SAMPLE", 50)
    bad = SHOWERS.copy()
    bad[[7, 151], 5] = np.nan
    result = check(bad)
    assert len(result.scan.index) == 50
    assert "50 showers spread over the file" in result.text()
    assert sentences(result) == ["error: 2 voxels are NaN (first in shower 7)."]


UNITS = {
    "showers in GeV": (1e-3, 1, ["voxels look like GeV: multiply them by 1,000"]),
    "showers in keV": (1e3, 1, ["voxels look like keV"]),
    "CaloDiffusion": (
        1 / 200e3,
        1,
        ["voxels look like GeV/200 (as CaloDiffusion writes by default): multiply them by 200,000"],
    ),
    "both in GeV": (1e-3, 1e-3, ["incident energies look like GeV", "voxels look like GeV"]),
    "both in GeV/200": (
        1 / 200e3,
        1 / 200e3,
        ["incident energies look like GeV/200", "voxels look like GeV/200"],
    ),
    "energies in GeV": (1, 1e-3, ["incident energies look like GeV: multiply them by 1,000"]),
    "energies in keV": (1, 1e3, ["incident energies look like keV"]),
    "silicon": (0.033, 1, ["deposited in silicon: divide them by the sampling fraction"]),
    "silicon in GeV": (0.033e-3, 1, ["deposited in silicon in GeV"]),
    "scaled twice": (1 / 0.033, 1, ["divided by the sampling fraction 0.033 twice"]),
    "fractions": (1 / ENERGIES[:, None], 1, ["fractions of the incident or visible energy"]),
    "unknown": (7, 1, ["in no unit that is known here (0.955 is expected)"]),
}


@pytest.mark.parametrize("kind", UNITS)
def test_units_are_told_from_all_showers_and_from_a_few(kind, check):
    showers, energies, expected = UNITS[kind]
    showers, energies = SHOWERS * np.float32(showers), ENERGIES * np.float32(energies)
    result = check(showers, energies)
    # Sorted, so that no run of neighbours has all energies; and more than are read.
    order = np.tile(np.argsort(energies), (3, 1)).T.reshape(-1)
    few = findings.unit_findings(ShowerArrays(DS2, energies[order], showers[order]))
    for found in (result.findings, few):
        assert {finding.severity for finding in found} == {"error"}
        assert all(words in one.sentence for one, words in zip(found, expected, strict=True))


@pytest.mark.parametrize("count", [1, 31, 100, 300])
def test_good_units_are_not_accused(count):
    source = ShowerArrays(DS2, ENERGIES[:count], SHOWERS[:count])
    assert findings.unit_findings(source) == ()


@pytest.mark.parametrize("response", [0.033, 0.07])
def test_response_of_own_geometries(response, check):
    own = dataclasses.replace(DS2, name="own")
    result = check(SHOWERS * np.float32(response / MEAN), geometry=own)
    (sentence,) = sentences(result)
    assert sentence.startswith("warning: ")
    assert f'set response="{response}" in the geometry\'s XML file' in sentence
    assert result.ok


def test_original_dataset_2_has_a_lower_response(check):
    # E_sum/E_inc = 0.785 on average in the published dataset 2.
    assert check(SHOWERS * np.float32(0.785 / 0.955)).ok


ORDERS = {
    "Par04": (GRID.transpose(0, 3, 2, 1), "(r, alpha, z)"),
    "alpha and r swapped": (GRID.transpose(0, 1, 3, 2), "(z, r, alpha)"),
    "alpha first": (GRID.transpose(0, 2, 1, 3), "(alpha, z, r)"),
    "z last": (GRID.transpose(0, 2, 3, 1), "(alpha, r, z)"),
    "r first": (GRID.transpose(0, 3, 1, 2), "(r, z, alpha)"),
}


@pytest.mark.parametrize("kind", ORDERS)
def test_order(kind, check):
    showers, name = ORDERS[kind]
    (sentence,) = sentences(check(showers.reshape(-1, 6480)))
    assert sentence.startswith(f"error: voxels look ordered as {name} and not as (z, alpha, r)")


def test_order_in_irregular_layers(check):
    geometry = detector("ds1-photons")
    energies = energies_of(geometry, 200)
    showers = toy_showers(geometry, energies)
    swapped = showers.copy()
    for part, layer in zip(geometry.layer_slices, geometry.layers, strict=True):
        rings = showers[:, part].reshape(-1, layer.n_alpha, layer.n_r)
        swapped[:, part] = rings.swapaxes(1, 2).reshape(len(showers), -1)
    (sentence,) = sentences(check(swapped, energies))
    assert "ordered as (z, r, alpha)" in sentence


def test_noise_is_no_shower(check):
    noise = np.random.default_rng(0).exponential(1.0, SHOWERS.shape)
    noise *= (ENERGIES / noise.sum(axis=1))[:, None]
    (sentence,) = sentences(check(np.maximum(noise, THRESHOLD)))
    assert "no other order of the axes is better" in sentence


def test_a_par04_file_is_read_in_its_own_order(check):
    result = check(GRID.transpose(0, 3, 2, 1), key="incident_energy")
    assert result.scan.response == pytest.approx(0.955, abs=0.01)
    assert not sentences(result)
    assert "ordered as" in " ".join(sentences(check(GRID, key="incident_energy")))


def test_threshold(check):
    low = np.where(SHOWERS == 0, 0, SHOWERS)
    low[4, np.flatnonzero(low[4] == 0)[:20]] = 0.008
    low[5, np.flatnonzero(low[5] == 0)[0]] = 0.004
    # What float32 makes of the threshold itself is not below it.
    low[6, np.flatnonzero(low[6] == 0)[0]] = np.nextafter(np.float32(THRESHOLD), np.float32(0))
    result = check(low)
    (sentence,) = sentences(result)
    assert sentence.startswith("warning: 21 voxels (")
    assert "threshold of 15.15 keV; the smallest is 4 keV" in sentence
    assert result.ok


def test_bad_voxels(check):
    bad = SHOWERS.copy()
    bad[3, :4] = np.nan
    bad[9, 0] = np.inf
    bad[2, 7], bad[200, 8] = -0.5, -1e-9
    bad[11] = 0
    assert sentences(check(bad)) == [
        "error: 4 voxels are NaN (first in shower 3).",
        "error: 1 voxel is infinite (first in shower 9).",
        "error: 2 voxels are negative (first in shower 2).",
        "warning: 1 of 300 showers have no energy at all.",
    ]


def test_repeated_showers(check):
    twice = np.concatenate([SHOWERS, SHOWERS[[5, 6, 6]]])
    result = check(twice, np.concatenate([ENERGIES, ENERGIES[[5, 6, 6]]]))
    assert sentences(result) == [
        "warning: 3 of 303 showers repeat earlier ones (shower 300 equals 5)."
    ]


def test_energies_out_of_range(check):
    energies = ENERGIES.copy()
    energies[:2] = 900, 2e6
    showers = toy_showers(DS2, energies)
    (sentence,) = sentences(check(showers, energies))
    assert "2 of 300 incident energies are outside the range of geometry ds2, 1 GeV to 1 TeV" in (
        sentence
    )
    # A narrow range fits several units; again the threshold decides.
    energies = np.geomspace(2e3, 5e4, 300)
    found = sentences(check(toy_showers(DS2, energies) / np.float32(2e5), energies / 2e5))
    assert len(found) == 2
    assert all("look like GeV/200" in sentence for sentence in found)
    # All of them below the range, but the readout threshold shows that the unit is MeV.
    energies = np.linspace(300, 900, 300)
    (sentence,) = sentences(check(toy_showers(DS2, energies), energies))
    assert sentence.startswith("warning: 300 of 300 incident energies are outside")


def test_wrong_geometry(check):
    result = check(geometry=detector("ds3"))
    (sentence,) = sentences(result)
    assert "6,480 voxels, but geometry ds3 has 40,500" in sentence
    assert result.scan.detector == DS2


def test_unknown_energy_range_and_particles_without_showers(check):
    own = dataclasses.replace(DS2, name="own", energy_range=None)
    assert not sentences(check(SHOWERS, ENERGIES * np.float32(1.2), geometry=own))
    muons = dataclasses.replace(own, particle="muon", readout_threshold=0.0)
    assert not sentences(check(SHOWERS[:, ::-1] * np.float32(0.01), geometry=muons))


@pytest.mark.parametrize("few", [1, 2, 10])
def test_few_showers_are_not_accused(few, check):
    assert sentences(check(SHOWERS[:few], ENERGIES[:few])) == []


@pytest.mark.parametrize(
    ("showers", "energies", "expected"),
    [
        (np.full((4, 6480), np.nan), np.full(4, 1e4), "25,920 voxels are NaN"),
        (np.full((4, 6480), -1.0), np.full(4, 1e4), "25,920 voxels are negative"),
        (np.full((4, 6480), np.inf), np.full(4, 1e4), "25,920 voxels are infinite"),
        (np.zeros((4, 6480)), np.full(4, 1e4), "4 of 4 showers have no energy"),
        (SHOWERS[:4], np.full(4, np.nan), "incident energy of shower 0 is nan"),
        (SHOWERS[:4], [1e4] * 3, "energies of shape (3, 1) and showers of (4, 6480)"),
        (np.ones((4, 77)), [1e4] * 4, "no built-in geometry has 77 voxels"),
        (np.ones(4), [1e4] * 4, "showers of (4,) do not fit"),
        (np.ones((0, 6480)), [], "holds no showers"),
        (np.ones((4, 6480), complex), [1e4] * 4, "'showers' holds complex128"),
    ],
)
def test_hopeless_files_are_survived(showers, energies, expected, check):
    assert expected in check(showers, energies).text()


def test_what_is_no_shower_file(tmp_path):
    path = tmp_path / "x.hdf5"
    (sentence,) = sentences(inspect(path))
    assert sentence == "error: there is no such file; check the path."
    path.write_text("text")
    result = inspect(path)
    assert not result.ok
    assert result.scan is None
    assert "error: is not an HDF5 file" in result.text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15.15e-3, "15.15 keV"),
        (256.0, "256 MeV"),
        (1e3, "1 GeV"),
        (63.9e3, "63.9 GeV"),
        (0, "0 MeV"),
    ],
)
def test_energies_have_the_unit_that_suits_them(value, text):
    assert findings.energy_text(value) == text


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("energy", [300.0, 1e4, 1e6])
def test_expected_shower(name, energy):
    geometry = detector(name)
    share = voxel_order.expected_shower(geometry, energy)
    assert (share > 0).all()
    per_layer = np.array([share[part].sum() for part in geometry.layer_slices])
    if geometry.grid is None:
        np.testing.assert_allclose(per_layer, 1)
    else:
        assert per_layer.sum() == pytest.approx(1)
        depth = geometry.medium.radiation_length
        peak = np.log(energy / geometry.medium.critical_energy) - 0.858
        at = np.searchsorted(geometry.z_edges, peak * depth) - 1
        assert abs(per_layer.argmax() - at) <= 1
        inside = share[geometry.voxels.r_high < geometry.medium.moliere_radius * 1.001].sum()
        if name != "tiny":
            assert inside == pytest.approx(0.9, abs=0.02)
