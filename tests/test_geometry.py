"""Geometry: published voxel counts, index maps and binning files."""

import dataclasses

import numpy as np
import pytest

from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS, Detector, Layer, binning, detector, find_detector

COUNTS = {"ds1-photons": 368, "ds1-pions": 533, "ds2": 6480, "ds3": 40500, "tiny": 120}


@pytest.mark.parametrize("name", COUNTS)
def test_voxel_counts(name):
    assert DETECTORS[name].n_voxels == COUNTS[name]
    assert DETECTORS[name].voxels.layer.shape == (COUNTS[name],)


def test_dataset_1_segments():
    # models.md A.3 / CaloChallenge README: voxels per layer of both particles.
    per_layer = [layer.n_voxels for layer in detector("ds1-photons").layers]
    assert per_layer == [8, 160, 190, 5, 5]
    per_layer = [layer.n_voxels for layer in detector("ds1-pions").layers]
    assert per_layer == [8, 100, 100, 5, 150, 160, 10]
    assert [layer.id for layer in detector("ds1-pions").layers] == [0, 1, 2, 3, 12, 13, 14]


@pytest.mark.parametrize("name", COUNTS)
def test_index_map_is_a_bijection(name):
    geometry = DETECTORS[name]
    flat = np.arange(geometry.n_voxels)
    coordinates = geometry.voxel_coordinates(flat)
    np.testing.assert_array_equal(geometry.voxel_index(*coordinates), flat)
    assert len(set(zip(*(c.tolist() for c in coordinates), strict=True))) == geometry.n_voxels
    for position, where in enumerate(geometry.layer_slices):
        assert (geometry.voxels.layer[where] == position).all()


def test_order_is_r_fastest_then_alpha_then_layer():
    geometry = detector("ds2")
    shower = np.arange(6480).reshape(geometry.grid)
    assert geometry.grid == (45, 16, 9)
    assert shower[3, 5, 7] == geometry.voxel_index(3, 5, 7)
    # alpha bin 0 starts at -pi, so its centre has eta < 0 and phi just below 0.
    first = geometry.voxel_index(0, 0, 0)
    assert geometry.voxels.alpha_center[first] == pytest.approx(-np.pi + np.pi / 16)
    assert geometry.voxels.eta[first] == pytest.approx(-2.325 * np.cos(np.pi / 16))


def test_irregular_layers_have_no_grid():
    assert detector("ds1-pions").grid is None


def test_out_of_range_coordinates_are_refused():
    with pytest.raises(IndexError, match="alpha or r"):
        detector("ds1-photons").voxel_index(0, 1, 0)  # layer 0 has one alpha bin
    with pytest.raises(IndexError, match="layer"):
        detector("ds2").voxel_index(45, 0, 0)


def test_detectors_are_hashable_and_equal_by_value():
    again = dataclasses.replace(detector("ds2"))
    assert again == detector("ds2")
    assert hash(again) == hash(detector("ds2"))


def test_silicon_threshold():
    assert detector("ds2").readout_threshold == pytest.approx(0.0151515, rel=1e-5)
    assert detector("ds1-photons").readout_threshold == 0
    assert detector("ds1-photons").evaluation_threshold == 1.0


@pytest.mark.parametrize("name", COUNTS)
def test_xml_round_trip(name, tmp_path):
    path = tmp_path / f"{name}.xml"
    binning.to_xml(DETECTORS[name], path)
    again = find_detector(str(path))
    assert again == dataclasses.replace(DETECTORS[name], energies=())


def test_xml_skips_layers_without_voxels(tmp_path):
    path = tmp_path / "two.xml"
    path.write_text(
        '<Bins><Bin pid="22" name="photon">'
        '<Layer id="0" r_edges="0,5,10" n_bin_alpha="4"/>'
        '<Layer id="1" r_edges="0" n_bin_alpha="1"/>'
        '<Layer id="12" r_edges="0,7" n_bin_alpha="1"/></Bin></Bins>'
    )
    geometry = find_detector(str(path))
    assert [layer.id for layer in geometry.layers] == [0, 12]
    assert geometry.n_voxels == 9
    assert geometry.particle == "photon"


_GOOD = '<Layer id="3" r_edges="0,1" n_bin_alpha="1"/>'


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ('<Layer r_edges="0,1" n_bin_alpha="1"/>', "attribute 'id'"),
        ('<Layer id="7" n_bin_alpha="1"/>', "layer 7: attribute 'r_edges' is missing"),
        ('<Layer id="7" r_edges="0,x" n_bin_alpha="1"/>', "layer 7: attribute 'r_edges'.*'0,x'"),
        ('<Layer id="7" r_edges="0,2,1" n_bin_alpha="1"/>', "layer 7: attribute 'r_edges'"),
        ('<Layer id="7" r_edges="0,nan" n_bin_alpha="1"/>', "layer 7: attribute 'r_edges'"),
        ('<Layer id="7" r_edges="0,1"/>', "layer 7: attribute 'n_bin_alpha'"),
        ('<Layer id="7" r_edges="0,1" n_bin_alpha="0"/>', "layer 7: attribute 'n_bin_alpha'"),
        (_GOOD + _GOOD, "layer 3: attribute 'id' occurs more than once"),
        ('<Layer id="7" r_edges="0,1" n_bin_alpha="1" thickness="?"/>', "'thickness'"),
        ('<Layer id="7" r_edges="0" n_bin_alpha="1"/>', "no layers"),
    ],
)
def test_malformed_xml_names_file_layer_and_attribute(layer, message, tmp_path):
    path = tmp_path / "bad.xml"
    path.write_text(f'<Bins><Bin pid="22" name="photon">{layer}</Bin></Bins>')
    with pytest.raises(CalojaxError, match=message) as error:
        find_detector(str(path))
    assert "bad.xml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Bins>", "not well-formed"),
        ("", "not well-formed"),
        ("<Bins/>", "exactly one <Bin>"),
        ('<Bins><Bin pid="99" name="kaon"/></Bins>', "attribute 'name' is 'kaon'"),
    ],
)
def test_foreign_xml(text, message, tmp_path):
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(CalojaxError, match=message):
        find_detector(str(path))


def test_unknown_names():
    with pytest.raises(CalojaxError, match="no built-in geometry 'ds4'"):
        find_detector("ds4")
    with pytest.raises(CalojaxError, match=r"missing\.xml: cannot be read"):
        find_detector("missing.xml")


def test_impossible_media_name_the_attribute(tmp_path):
    path = tmp_path / "bad.xml"
    path.write_text(f'<Bins><Bin pid="22" name="photon" radiation_length="0">{_GOOD}</Bin></Bins>')
    with pytest.raises(CalojaxError, match=r"bad\.xml: medium: radiation_length must be positive"):
        find_detector(str(path))


@pytest.mark.parametrize(
    "change",
    [{"r_edges": (0.0,)}, {"r_edges": (0.0, 2.0, 1.0)}, {"n_alpha": 0}, {"thickness": 0.0}],
)
def test_impossible_layers_are_refused(change):
    good = {"id": 1, "r_edges": (0.0, 1.0), "n_alpha": 1, "thickness": 1.0}
    with pytest.raises(ValueError, match="layer 1"):
        Layer(**(good | change))


def test_impossible_detectors_are_refused():
    with pytest.raises(ValueError, match="no layers"):
        dataclasses.replace(detector("tiny"), layers=())
    with pytest.raises(ValueError, match="energy range"):
        dataclasses.replace(detector("tiny"), energy_range=(5.0, 1.0))
    assert isinstance(detector("tiny"), Detector)
