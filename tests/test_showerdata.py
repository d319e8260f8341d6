"""ShowerData's files: what they hold, points and voxels, units, and files that are refused."""

import dataclasses

import h5py
import numpy as np
import pytest
from toys import TINY, assert_one_sentence, raw, toy

from calojax.cli import main
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS, Layer
from calojax.io import open_showers, write_showers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "showers.h5"


def clouds(*showers) -> np.ndarray:
    """Points of showers, each flat, as a dataset of varying length takes them."""
    found = np.empty(len(showers), object)
    found[:] = [np.asarray(shower, np.float32).reshape(-1) for shower in showers]
    return found


def written(path, *showers, values=4, **changed):
    """A file as ShowerData writes it; each shower is a list of points."""
    count = len(showers)
    with h5py.File(path, "w") as file:
        points = file.create_dataset("showers", count, h5py.vlen_dtype(np.float32))
        for number, cloud in enumerate(clouds(*showers)):
            points[number] = cloud
    datasets = {
        "energies": np.full((count, 1), 50, np.float32),
        "directions": np.tile([0.0, 0, 1], (count, 1)),
        "pdg": np.full(count, 11),
        "shower_ids": np.arange(count),
        "num_points": [len(shower) for shower in showers],
        "shape": [count, max(map(len, showers)), values],
    }
    with h5py.File(path, "r+") as file:
        for key, value in (datasets | changed).items():
            if value is not None:
                file[key] = value
    return path


# Rings from outside the axis, an odd number of angular bins, and layers that differ.
OWN = dataclasses.replace(
    TINY, name="own", layers=(Layer(3, (2.0, 3.0, 9.0), 3, 1.0), Layer(8, (0.0, 50.0), 1, 40.0))
)


@pytest.mark.parametrize(
    "geometry", [TINY, OWN, DETECTORS["ds1-pions"]], ids=lambda geometry: geometry.name
)
def test_every_voxel_comes_back(geometry, tmp_path):
    energies, showers = toy(20, geometry=geometry)
    showers[[0, 7]] = 0
    first, second, third = (tmp_path / f"{i}.hdf5" for i in range(3))
    write_showers(first, geometry, energies, [showers], {"seed": 3})
    main(f"convert {first} --out {second} --layout showerdata".split())
    main(f"convert {second} --out {third} --layout dense".split())
    back = open_showers(third)
    assert back.detector == geometry
    assert back.attributes["seed"] == 3
    np.testing.assert_allclose(back.read(), showers, rtol=1e-6)
    np.testing.assert_allclose(back.energies, energies, rtol=1e-6)


def test_files_hold_points_in_mm_and_gev_and_numbers_of_layers(path):
    showers = np.zeros((3, TINY.n_voxels), np.float32)
    # Angular bin 3 of 4, centred at 3 pi / 4, and the second ring, 4.65 to 13.95 mm, of layer 5.
    showers[1, TINY.voxel_index(5, 3, 1)] = 40
    showers[2, [0, 119]] = 1, 2
    write_showers(path, TINY, np.array([2e3, 3e3, 4e3]), [showers], layout="showerdata")
    with h5py.File(path) as file:
        assert file["energies"][...].tolist() == [[2], [3], [4]]
        assert file["directions"][...].tolist() == [[0, 0, 1]] * 3
        assert file["pdg"][...].tolist() == [11] * 3
        assert file["shower_ids"][...].tolist() == [0, 1, 2]
        assert file["num_points"][...].tolist() == [0, 1, 2]
        assert file["shape"][...].tolist() == [3, 2, 4]
        assert [len(cloud) for cloud in file["showers"]] == [0, 4, 8]
        x = 9.3 / np.sqrt(2)
        np.testing.assert_allclose(file["showers"][1], [-x, x, 5, 0.04], rtol=1e-6)


def test_points_are_counted_in_voxels_and_those_outside_left_out(path, capsys):
    points = [
        *([1, 1, 0, 0.5, 9.0], [2, 0.5, 0, 0.25, 9.0]),  # alpha in [0, pi / 2) is bin 2.
        [-6, -1, 9, 2.0, 9.0],  # Next to -pi is bin 0.
        *([100, 0, 3, 1.0, 9.0], [0, 0, 0, 0, 0]),
    ]
    written(path, points, [], values=5)
    expected = np.zeros((2, TINY.n_voxels))
    expected[0, [TINY.voxel_index(0, 2, 0), TINY.voxel_index(9, 0, 1)]] = 750, 2000
    source = open_showers(path, TINY)
    np.testing.assert_array_equal(source.energies, [50e3, 50e3])
    np.testing.assert_array_equal(source.read(), expected)
    assert "has points outside the voxels of geometry tiny" in capsys.readouterr().err
    np.testing.assert_array_equal(source.read(1, 2), expected[1:])


POINT = [[1, 0, 0, 1.0]]
BAD = {
    "no geometry": (None, POINT, {}, "holds points, but does not say .* --geometry NAME"),
    "layer": (TINY, [[1, 0, 10, 1.0]], {}, "shower 0 has a point in layer 10, .* layers 0 to 9"),
    "NaN": (TINY, [[1, 0, np.nan, 1.0]], {}, "shower 0 has a point in layer nan"),
    "values": (TINY, [[1, 0, 0, 1, 0]], {}, "shower 0 has 5 values, which are no points of 4"),
    "negative": (TINY, [[1, 0, 0, -1.0]], {}, "voxel 6 of shower 0 is -1000 MeV"),
    "no shape": (TINY, POINT, {"shape": None}, "its 'shape' is None; it must be"),
    "shape": (TINY, POINT, {"shape": [1, 1, 3]}, r"its 'shape' is \[1, 1, 3\]; it must be"),
    "texts": (TINY, POINT, {"energies": ["1 GeV"]}, "'energies' holds object"),
    "count": (TINY, POINT, {"energies": [[1], [2]]}, r"\(2, 1\) and showers of \(1, 120\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused(kind, path):
    geometry, points, changed, message = BAD[kind]
    written(path, points, **changed)
    with pytest.raises(CalojaxError, match=message) as error:
        open_showers(path, geometry).read()
    assert_one_sentence(error.value, path)


@pytest.mark.parametrize("showers", [{}, {"showers": np.ones((2, 120))}, {"showers": [b"a", b"b"]}])
def test_files_without_points_are_refused(showers, path):
    raw(path, energies=np.ones((2, 1)), directions=np.ones((2, 3)), shape=[2, 1, 4], **showers)
    with pytest.raises(CalojaxError, match="has no 'showers' of points") as error:
        open_showers(path, TINY)
    assert_one_sentence(error.value, path)
