"""Geometry: published voxel counts, index maps and binning files."""

import dataclasses
import os

import numpy as np
import pytest

from calojax.errors import CalojaxError
from calojax.geometry import (
    DETECTORS,
    Detector,
    Layer,
    chosen_detector,
    detector,
    find_detector,
)

COUNTS = {"ds1-photons": 368, "ds1-pions": 533, "ds2": 6480, "ds3": 40500, "tiny": 120}


@pytest.mark.parametrize("name", COUNTS)
def test_voxel_counts(name):
    assert DETECTORS[name].n_voxels == COUNTS[name]
    assert DETECTORS[name].voxels.layer.shape == (COUNTS[name],)


def test_published_thresholds():
    assert detector("ds2").readout_threshold == pytest.approx(0.0151515, rel=1e-5)
    assert detector("ds1-photons").readout_threshold == 0
    assert detector("ds1-photons").evaluation_threshold == 1.0


def test_dataset_1_segments():
    # Voxels per layer, from the README of the CaloChallenge.
    per_layer = [layer.n_voxels for layer in detector("ds1-photons").layers]
    assert per_layer == [8, 160, 190, 5, 5]
    per_layer = [layer.n_voxels for layer in detector("ds1-pions").layers]
    assert per_layer == [8, 100, 100, 5, 150, 160, 10]
    assert [layer.id for layer in detector("ds1-pions").layers] == [0, 1, 2, 3, 12, 13, 14]


@pytest.mark.parametrize("name", COUNTS)
def test_index_map_is_a_bijection(name):
    geometry = DETECTORS[name]
    flat = np.arange(geometry.n_voxels)
    coordinates = geometry.voxels.layer, geometry.voxels.alpha, geometry.voxels.r
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


def test_out_of_range_coordinates_are_refused():
    with pytest.raises(IndexError, match="alpha or r"):
        detector("ds1-photons").voxel_index(0, 1, 0)  # layer 0 has one alpha bin
    with pytest.raises(IndexError, match="layer"):
        detector("ds2").voxel_index(45, 0, 0)


OWN = Detector(
    name="own",
    particle="pid 1000020040",
    layers=(Layer(4, (0.1, 1 / 3, 20.0), 7, 1 / 7), Layer(2, (0.0, 1e3), 1, 50.0)),
    energy_range=None,
    readout_threshold=0.0,
    evaluation_threshold=0.1,
    medium=DETECTORS["ds1-photons"].medium,
)


def test_a_binning_file_may_describe_a_detector_wholly(tmp_path, capsys):
    path = tmp_path / "own.xml"
    medium = " ".join(f'{k}="{v!r}"' for k, v in dataclasses.asdict(OWN.medium).items())
    layers = "".join(
        f'<Layer id="{i.id}" r_edges="{",".join(map(repr, i.r_edges))}" n_bin_alpha="{i.n_alpha}" '
        f'thickness="{i.thickness!r}"/>'
        for i in OWN.layers
    )
    text = '<Bins><Bin pid="1000020040" readout_threshold="0.0" evaluation_threshold="0.1" '
    path.write_text(f"{text}{medium}>{layers}</Bin></Bins>")
    assert find_detector(str(path)) == OWN
    assert not capsys.readouterr().err


def published(detector: Detector, pid: int, attributes: str = "", layer: str = "") -> str:
    """A binning file as the CaloChallenge publishes it, with 24 layers or more."""
    layers = {item.id: item for item in detector.layers}
    lines = [
        f'<Layer id="{i}" r_edges="{",".join(map(str, layers[i].r_edges)) if i in layers else 0}" '
        f'n_bin_alpha="{layers[i].n_alpha if i in layers else 1}" {layer}/>'
        for i in range(max(24, len(layers)))
    ]
    return f'<Bins><Bin pid="{pid}" etaMin="0" {attributes}>{"".join(lines)}</Bin></Bins>'


@pytest.mark.parametrize("name", COUNTS)
def test_published_binnings_are_those_of_the_built_in_detectors(name, tmp_path, capsys):
    built, path = DETECTORS[name], tmp_path / "binning_dataset.xml"
    pid = {"photon": 22, "pion": 211, "electron": 11}[built.particle]
    path.write_text(published(built, pid).replace("13.95", "13.950000000000001"))
    assert find_detector(str(path)) == built
    # What the file says counts; the rest is still that of the detector.
    path.write_text(published(built, pid, 'evaluation_threshold="0" energy_min="2" energy_max="3"'))
    found = find_detector(str(path))
    assert found == dataclasses.replace(
        built,
        name="binning_dataset",
        evaluation_threshold=0.0,
        energy_range=(2.0, 3.0),
        energies=(),
    )
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("pid", "change", "assumed"),
    [
        (22, ("4.65,", "4.70,"), "thickness, readout_threshold"),
        (22, ('n_bin_alpha="16"', 'n_bin_alpha="15"'), "thickness, readout_threshold"),
        (11, ("/>", 'thickness="9"/>'), "does not give readout_threshold"),
        (211, ("", ""), "thickness, readout_threshold"),
    ],
)
def test_other_binnings_say_what_is_assumed(pid, change, assumed, tmp_path, capsys):
    path = tmp_path / "ds2.xml"
    path.write_text(published(DETECTORS["ds2"], pid).replace(*change))
    found = find_detector(str(path))
    assert found.name == "ds2.xml"  # It must not pass for dataset 2.
    assert found.energy_range is None
    assert found.medium == DETECTORS["ds2"].medium
    find_detector(str(path))
    (warning,) = capsys.readouterr().err.splitlines()
    assert assumed in warning
    assert "dataset 2 (silicon-tungsten) are assumed" in warning


SEVERAL = "".join(
    f'<Bin pid="{pid}" {name}><Layer id="0" r_edges="0,{edge}" n_bin_alpha="1"/></Bin>'
    for edge, (pid, name) in enumerate([(22, ""), (211, 'name="pion"'), (-211, ""), (13, "")], 1)
)


@pytest.mark.parametrize(
    ("particle", "edge", "species"),
    [("22", 1, "photon"), ("photon", 1, "photon"), ("-211", 3, "pion"), ("muon", 4, "muon")],
)
def test_files_of_several_particles(particle, edge, species, tmp_path):
    path = tmp_path / "several.xml"
    path.write_text(f"<Bins>{SEVERAL}</Bins>")
    found = find_detector(str(path), particle)
    assert (found.layers[0].r_edges[-1], found.particle) == (edge, species)


@pytest.mark.parametrize(
    ("bins", "particle", "message"),
    [
        (SEVERAL, None, r"several particles, 22 \(photon\), 211 .*-211 .*--particle"),
        (SEVERAL, "pion", r"several particles, 211 \(pion\), -211 \(pion\); choose"),
        (SEVERAL, "kaon", r"no <Bin> of particle 'kaon'; choose among 22 \(photon\), 211"),
        (SEVERAL.replace("22", "13"), "13", r"2 <Bin> of particle 13 .*leave only one"),
    ],
)
def test_the_particle_must_be_one_of_the_file(bins, particle, message, tmp_path):
    path = tmp_path / "several.xml"
    path.write_text(f"<Bins>{bins}</Bins>")
    with pytest.raises(CalojaxError, match=message):
        find_detector(str(path), particle)


def test_particles_are_chosen_in_binning_files():
    with pytest.raises(CalojaxError, match=r"--particle .*add --geometry FILE\.xml"):
        find_detector("ds2", "photon")
    with pytest.raises(CalojaxError, match=r"--particle .*add --geometry FILE\.xml"):
        chosen_detector(None, "photon")
    assert chosen_detector(None, None) is None


@pytest.mark.parametrize(
    ("pid", "name", "shower"),
    [
        (-11, "positron", "electron"),
        (111, "pi0", "photon"),
        (-321, "kaon", "hadron"),
        (2212, "proton", "hadron"),
        (-13, "muon", "none"),
        (1000020040, "pid 1000020040", "hadron"),
        (-3122, "pid -3122", "hadron"),
    ],
)
def test_any_particle(pid, name, shower, tmp_path):
    path = tmp_path / "one.xml"
    path.write_text(f'<Bins><Bin pid="{pid}">{_GOOD}</Bin></Bins>')
    found = find_detector(str(path))
    assert (found.particle, found.shower) == (name, shower)


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
        ('<Layer id="7" r_edges="0,2,1" n_bin_alpha="1"/>', "layer 7: r edges must increase"),
        ('<Layer id="7" r_edges="0,nan" n_bin_alpha="1"/>', "layer 7: r edges must be from 0"),
        ('<Layer id="7" r_edges="0,1"/>', "layer 7: attribute 'n_bin_alpha'"),
        ('<Layer id="7" r_edges="0,1" n_bin_alpha="0"/>', "layer 7: n_alpha must be at least 1"),
        (_GOOD + _GOOD, "layer 3: attribute 'id' occurs more than once"),
        (_GOOD.replace("3", str(2**31)), "id must be below"),
        (_GOOD.replace("0,1", ""), "attribute 'r_edges' must be numbers"),
        (_GOOD.replace("0,1", "0,inf"), "r edges must be from 0 to 1e.12 mm"),
        (_GOOD.replace("0,1", "0,1e300"), "r edges must be from 0 to 1e.12 mm"),
        (_GOOD.replace("0,1", "0,1,1.00000001"), "increase, also when rounded to float32"),
        (_GOOD.replace('alpha="1"', 'alpha="1000000000"'), "1,000,000,000 voxels are too many"),
        (_GOOD.replace('alpha="1"', f'alpha="{"9" * 9999}"'), "attribute 'n_bin_alpha'"),
        ("".join(_GOOD.replace("3", str(i)) for i in range(1001)), "1,001 layers are too many"),
        (_GOOD.replace("/>", ' thickness="0"/>'), "layer 3: thickness must be positive"),
        (_GOOD.replace("/>", ' thickness="-1"/>'), "layer 3: thickness must be positive"),
        (_GOOD.replace("/>", ' thickness="1e300"/>'), "layer 3: thickness must be positive"),
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
        ("<Bins/>", "has no <Bin>"),
        ('<Bins><Bin name="unicorn"/></Bins>', "attribute 'name' is 'unicorn'.*pion, kaon"),
        ('<Bins><Bin pid="0"/></Bins>', "'pid' '0'"),
        (f'<Bins><Bin pid="{"9" * 99}"/></Bins>', "attribute 'name' is None"),
        ('<Bins><Bin pid="22" energy_min="5"/></Bins>', "must be given together"),
        (f'<Bins><Bin pid="22" response="nan">{_GOOD}</Bin></Bins>', "medium: response must be"),
        (f'<Bins><Bin pid="22" radiation_length="0">{_GOOD}</Bin></Bins>', "radiation_length must"),
        (
            f'<Bins><Bin pid="22" energy_min="5" energy_max="1">{_GOOD}</Bin></Bins>',
            "energy range must be two increasing",
        ),
        (f'<Bins><Bin pid="22" readout_threshold="1e99">{_GOOD}</Bin></Bins>', "readout_thr"),
        ('<!DOCTYPE x [<!ENTITY a "9">]><Bins/>', "remove its <!DOCTYPE"),
        ('<?xml version="1.0" encoding="klingon"?><Bins/>', "not well-formed"),
        (" " * 2**24 + "<Bins/>", "larger than 16 MiB"),
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


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_opened(kind, tmp_path):
    path = tmp_path / "binning.xml"
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    with pytest.raises(CalojaxError, match=r"binning\.xml: is not a regular file"):
        find_detector(str(path))


@pytest.mark.parametrize("change", ["name", "thickness", "rounding", "r_edges", "n_alpha"])
def test_binning_is_what_makes_showers_comparable(change):
    tiny = detector("tiny")
    layers = {
        "thickness": {"thickness": 1.0},
        "rounding": {"r_edges": (0.0, 4.65, 13.95 * (1 + 1e-15), 41.85)},
        "r_edges": {"r_edges": (0.0, 4.7, 13.95, 41.85)},
        "n_alpha": {"n_alpha": 5},
    }
    if change == "name":
        other = dataclasses.replace(tiny, name="other")
    else:
        first = dataclasses.replace(tiny.layers[0], **layers[change])
        other = dataclasses.replace(tiny, layers=(first, *tiny.layers[1:]))
    assert other != tiny
    assert (other.binning == tiny.binning) == (change in ("name", "thickness", "rounding"))


def test_an_unknown_energy_range_is_that_of_the_data():
    energies = np.float32([5.0, 2.0, 800.0])
    assert OWN.spanning(energies).energy_range == (2.0, 800.0)
    assert OWN.spanning(energies[:1]).energy_range == (5.0, 10.0)
    assert detector("ds2").spanning(energies) == detector("ds2")


@pytest.mark.parametrize("name", COUNTS)
def test_hits_become_voxels(name):
    geometry = detector(name)
    v = geometry.voxels
    low, high = geometry.z_edges[v.layer], geometry.z_edges[v.layer + 1]
    n_alpha = np.array([layer.n_alpha for layer in geometry.layers])[v.layer]
    rng = np.random.default_rng(1)
    # Two hits anywhere inside of each voxel, and its own energy.
    numbers = np.tile(np.arange(geometry.n_voxels), 2)
    place = rng.uniform(0.001, 0.999, (3, len(numbers)))
    r = (v.r_low + place[0].reshape(2, -1) * (v.r_high - v.r_low)).reshape(-1)
    alpha = (v.alpha + place[1].reshape(2, -1)) * 2 * np.pi / n_alpha - np.pi
    z = (low + place[2].reshape(2, -1) * (high - low)).reshape(-1)
    x, y = r * np.cos(alpha.reshape(-1)), r * np.sin(alpha.reshape(-1))
    found = geometry.voxelise(np.full(len(numbers), 1), x, y, z, numbers / 2, count=3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1], np.arange(geometry.n_voxels))
    assert not found[[0, 2]].any()


def test_hits_outside_all_voxels_are_left_out():
    x, y, z = np.array([(0, 0, -1), (0, 0, 136), (42, 0, 5), (-1, 0.0, 5), (-1, -0.0, 0)]).T
    found = detector("tiny").voxelise(np.zeros(5, int), x, y, z, np.full(5, 2.0))
    assert found.shape == (1, 120)
    # Both sides of the cut in alpha, which is where it starts.
    assert found[0, detector("tiny").voxel_index(0, 0, 0)] == found.sum() == 4
