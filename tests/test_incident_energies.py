"""Incident energies: units, distributions, files and errors."""

import dataclasses
import math
import re

import numpy as np
import pytest
from toys import raw

from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.io import shards
from calojax.io.writer import write_showers
from calojax.sampling import incident_energies as incident
from calojax.sampling.incident_energies import energy_source, parse_energy


def energies_of(*arguments, **keywords) -> np.ndarray:
    return energy_source(*arguments, **keywords)[:]


@pytest.mark.parametrize(
    ("text", "mev"),
    [("50GeV", 5e4), ("1 TeV", 1e6), ("256MeV", 256), ("2.5gev", 2500), ("1e3keV", 1.0)],
)
def test_units(text, mev):
    assert parse_energy(text) == pytest.approx(mev)


@pytest.mark.parametrize("text", ["50", "GeV", "-1GeV", "0GeV", "nanGeV", "1e999GeV", "5 Joule"])
def test_energies_without_unit_or_sense(text):
    with pytest.raises(CalojaxError, match="write a positive number and its unit"):
        parse_energy(text)


def test_a_list_is_taken_in_turn(tiny):
    found = energies_of("50GeV,2GeV", tiny, num=5, seed=0)
    np.testing.assert_array_equal(found, [5e4, 2e3, 5e4, 2e3, 5e4])


def test_a_distribution_fills_its_range_and_does_not_depend_on_the_number(tiny):
    found = energies_of("log-uniform:2GeV:50GeV", tiny, num=2000, seed=1)
    assert 2e3 <= found.min() < 2.1e3
    assert 4.8e4 < found.max() <= 5e4
    # Uniform in log E: half of it below the geometric mean.
    assert np.mean(found < 1e4) == pytest.approx(0.5, abs=0.05)
    few = energies_of("log-uniform:2GeV:50GeV", tiny, num=10, seed=1)
    np.testing.assert_array_equal(few, found[:10])


@pytest.mark.parametrize("text", [None, "log-uniform:2GeV:50GeV", "50GeV,2GeV,3GeV"])
def test_pieces_are_pieces_of_the_whole(text, tiny, monkeypatch):
    monkeypatch.setattr(incident, "_WINDOW", 8)
    source = energy_source(text, tiny, num=30, seed=1)
    assert len(source) == 30
    whole = source[:]
    assert whole.dtype == np.float32
    for piece in (slice(0, 5), slice(7, 9), slice(8, 16), slice(15, 100), slice(29, 3)):
        np.testing.assert_array_equal(source[piece], whole[piece])
    assert len(set(whole.tolist())) == (3 if text and "," in text else 30)


def test_names_differ_where_energies_do(tmp_path, tiny, showers):
    names = set()
    for number in range(2):
        path = tmp_path / str(number) / "showers.hdf5"
        path.parent.mkdir()
        write_showers(path, tiny, showers.energies[number:][:7], [showers.showers[:7]])
        names.add(energy_source(str(path), tiny, num=None, seed=0).name)
    for text in (None, "5GeV", "log-uniform:2GeV:50GeV"):
        names.add(energy_source(text, tiny, num=7, seed=0).name)
    names.add(energy_source(None, tiny, num=7, seed=0, trained=(2e3, 3e3)).name)
    assert len(names) == 6


def test_the_detectors_spectrum_stays_in_the_trained_range():
    found = energies_of(None, DETECTORS["ds2"], num=500, seed=0, trained=(2e3, 5e3))
    assert found.min() >= 2e3
    assert found.max() <= 5e3
    discrete = energies_of(None, DETECTORS["ds1-photons"], num=500, seed=0, trained=(256.0, 2048.0))
    assert set(discrete.tolist()) == {256.0, 512.0, 1024.0, 2048.0}


@pytest.mark.parametrize("name", ["tiny", "ds1-photons"])
@pytest.mark.parametrize(
    ("trained", "seen"),
    [
        ((5e4, 5e4), ()),
        ((65536.0, 65536.0), ()),
        ((1.0, 100.0), ()),
        ((2e7, 4e7), ()),
        ((300.0, 400.0), ()),
        ((100.0, 3e5), (100.0, 3e5)),
    ],
)
def test_what_was_trained_on_can_be_drawn(name, trained, seen):
    """Also one energy, and energies outside the geometry's range or between its discrete ones."""
    source = energy_source(None, DETECTORS[name], num=500, seed=0, trained=trained, seen=seen)
    assert trained[0] <= source[:].min() <= source[:].max() <= trained[1]
    assert not seen or set(source[:].tolist()) == set(seen)
    ends = energy_source(
        "{}MeV,{}MeV".format(*trained), DETECTORS[name], num=None, seed=0, trained=trained
    )
    np.testing.assert_allclose(ends[:], trained)


def test_the_range_of_an_own_geometry_refuses_nothing(tiny):
    own = dataclasses.replace(tiny, name="own")
    np.testing.assert_allclose(energies_of("500GeV", own, num=1, seed=0), 5e5)


@pytest.mark.parametrize("text", ["uniform:2GeV:50GeV", "UNIFORM:2gev:50GEV"])
def test_a_uniform_distribution(text, tiny):
    found = energies_of(text, tiny, num=2000, seed=1)
    assert 2e3 <= found.min() < found.max() <= 5e4
    assert found.mean() == pytest.approx(26e3, rel=0.05)


@pytest.mark.parametrize(("text", "mev"), [("50gev", [5e4]), ("50gev, 2GEV,3GeV", [5e4, 2e3, 3e3])])
def test_a_list_without_a_number_is_taken_once(text, mev, tiny):
    np.testing.assert_allclose(energies_of(text, tiny, num=None, seed=0), mev)


def test_a_file_gives_its_energies(tmp_path, tiny, showers):
    path = tmp_path / "showers.hdf5"
    batch = (showers.energies[:7], showers.showers[:7])
    write_showers(path, tiny, showers.energies[:7], [batch[1]], {})
    found = energies_of(str(path), tiny, num=None, seed=0)
    np.testing.assert_array_equal(found, showers.energies[:7])
    assert len(energies_of(str(path), tiny, num=3, seed=0)) == 3
    # Blocks of showers are whole: beyond those asked for the file goes on.
    source = energy_source(str(path), tiny, num=3, seed=0)
    np.testing.assert_array_equal(source.block(0, 7), showers.energies[:7])
    with pytest.raises(CalojaxError, match="holds 7 incident energies but --num asks for 8"):
        energies_of(str(path), tiny, num=8, seed=0)


@pytest.mark.parametrize("key", ["incident_energies", "incident_energy", "energy"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("name", ["e.hdf5", "E.HDF5", "e.h5", "energies"])
def test_a_file_needs_no_showers(key, shape, name, tiny, tmp_path):
    raw(tmp_path / name, **{key: np.array([2e3, 3e3, 4e3, 5e3]).reshape(shape)})
    found = energies_of(str(tmp_path / name), tiny, num=None, seed=0)
    np.testing.assert_array_equal(found, [2e3, 3e3, 4e3, 5e3])


def test_energies_of_showerdata_are_in_gev(tiny, tmp_path):
    path = raw(tmp_path / "e.h5", energies=np.float32([[2], [3]]), directions=np.eye(2, 3))
    np.testing.assert_array_equal(energies_of(str(path), tiny, num=None, seed=0), [2e3, 3e3])


def test_a_folder_of_parts_and_showers_of_any_geometry_give_energies(tmp_path, tiny):
    plan = shards.split(5, 3)
    shards.begin(tmp_path, {"num": 5, "part_size": 3})
    for part in plan:
        energies = 2e3 + np.arange(5.0)[part.showers.start : part.showers.stop]
        raw(tmp_path / part.name, incident_energies=energies, showers=np.ones((len(energies), 7)))
    found = energies_of(str(tmp_path), tiny, num=None, seed=0)
    np.testing.assert_array_equal(found, 2e3 + np.arange(5))


@pytest.mark.parametrize(
    "data",
    [{}, {"showers": np.ones(3)}, *({"energy": a} for a in (np.ones((2, 2)), [b"x"], [-1.0], []))],
)
def test_a_file_without_energies_is_refused(data, tiny, tmp_path):
    path = raw(tmp_path / "e.hdf5", **data)
    with pytest.raises(CalojaxError, match=re.escape(str(path))):
        energies_of(str(path), tiny, num=None, seed=0)


@pytest.mark.parametrize(
    ("text", "num", "message"),
    [
        ("500GeV", 3, "500000 MeV is outside the range of geometry 'tiny'"),
        ("log-uniform:1GeV", 3, "log-uniform:1GeV:1TeV"),
        ("log-uniform:9GeV:1GeV", 3, "lower one"),
        ("log-uniform:1GeV:9TeV", 3, "9e.06 MeV is outside the range of geometry 'tiny'"),
        ("uniform", 3, "'uniform' is not an HDF5 file"),
        ("log-uniform:5GeV:6GeV", None, "--num"),
        ("uniform:5GeV:2GeV", 3, "lower one"),
        ("5GeV,nope", None, "'nope' is not an energy"),
        ("5GeV", 0, "--num must be at least 1"),
        ("missing.hdf5", None, "missing.hdf5"),
    ],
)
def test_what_is_refused(text, num, message, tiny):
    with pytest.raises(CalojaxError, match=message):
        energies_of(text, tiny, num=num, seed=0)


def test_a_geometry_without_a_range_refuses_no_energy():
    own = dataclasses.replace(DETECTORS["tiny"], name="own", energy_range=None)
    np.testing.assert_allclose(energies_of("1keV,9TeV", own, num=2, seed=0), [1e-3, 9e6])
    with pytest.raises(CalojaxError, match="'own' has no energy range; choose the energies"):
        energies_of(None, own, num=2, seed=0)
    found = energies_of(None, dataclasses.replace(own, energy_range=(5.0, 6.0)), num=9, seed=0)
    assert ((found >= 5) & (found <= 6)).all()


@pytest.mark.parametrize(("name", "at_262"), [("ds1-photons", 10_000), ("ds1-pions", 9_800)])
def test_discrete_energies_have_the_frequencies_of_dataset_1(name, at_262):
    detector = DETECTORS[name]
    numbers = np.array([10_000] * 10 + [at_262, 5000, 3000, 2000, 1000])
    assert numbers.sum() == {"ds1-photons": 121_000, "ds1-pions": 120_800}[name]
    energies = energies_of(None, detector, num=20_000, seed=0)
    found = np.array([(energies == energy).sum() for energy in detector.energies])
    expected = 20_000 * numbers / numbers.sum()
    assert found.sum() == 20_000
    # 14 degrees of freedom: 36.1 is the 0.1 % quantile.
    assert ((found - expected) ** 2 / expected).sum() < 36.1


def test_the_spectrum_of_dataset_2_is_log_uniform():
    found = energies_of(None, DETECTORS["ds2"], num=4000, seed=0)
    low, high = DETECTORS["ds2"].energy_range
    assert low <= found.min() < found.max() <= high
    place = np.sort(np.log(found / low) / math.log(high / low))
    # Kolmogorov-Smirnov distance; 1.95 / sqrt(n) is its 0.1 % quantile.
    assert np.abs(place - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)
