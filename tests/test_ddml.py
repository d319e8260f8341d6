"""DDML's shower libraries: where its model places the cells, energies, and what is refused."""

import h5py
import numpy as np
import pytest
from toys import TINY, assert_one_sentence, toy

from calojax.cli import main
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.io import open_showers, write_showers
from calojax.io.inspection import inspect


@pytest.mark.parametrize(("geometry", "layers"), [(TINY, 30), (DETECTORS["ds2"], 45)])
def test_the_model_of_ddml_places_each_voxel_where_it_is(geometry, layers, tmp_path):
    path, voxels = tmp_path / "a.hdf5", geometry.voxels
    some = np.arange(0, geometry.n_voxels, 1 if geometry is TINY else 397)
    showers = 2.0 * np.eye(geometry.n_voxels)[some]
    write_showers(path, geometry, np.full(len(some), 2e3), [showers], layout="ddml")
    with h5py.File(path) as file:
        assert set(file) == {"layers"}
        assert file["layers"].shape == (len(some), layers, 30, 49)
        cells = file["layers"][...]
    shower, layer, i, j = np.nonzero(cells)
    assert (cells[shower, layer, i, j] == 2).all()
    np.testing.assert_array_equal(shower, np.arange(len(some)))
    np.testing.assert_array_equal(layer, voxels.layer[some])
    # A particle at a right angle hits the face at the cells 15.13266 and 26.92434.
    y, x = (i - 15.13266 + 0.5) * 5.088333, (j - 26.92434 + 0.5) * 5.088333
    assert np.abs(y - voxels.phi[some]).max() < 5.0884 / 2
    assert np.abs(x - voxels.eta[some]).max() < 5.0884 / 2


def test_energies_are_deposits_in_mev(tmp_path):
    energies, showers = toy(5)
    first, second = tmp_path / "a.hdf5", tmp_path / "b.hdf5"
    write_showers(first, TINY, energies, [showers])
    main(f"convert {first} --out {second} --layout ddml --scale 0.033".split())
    with h5py.File(second) as file:
        found = file["layers"][...].sum(axis=(2, 3))
    expected = 0.033 * showers.reshape(5, 10, 12).sum(axis=2)
    np.testing.assert_allclose(found[:, :10], expected, rtol=1e-5)
    assert not found[:, 10:].any()


def test_its_files_cannot_be_read(tmp_path):
    path = tmp_path / "a.hdf5"
    write_showers(path, TINY, *toy(2)[:1], [toy(2)[1]], layout="ddml")
    with pytest.raises(CalojaxError, match="no incident energies; name the file that") as error:
        open_showers(path)
    assert_one_sentence(error.value, path)
    found = inspect(path)
    assert found.layout == "ddml"
    (sentence,) = found.findings
    assert "a shower library of DDML ('layers')" in sentence.sentence


def test_a_detector_wider_than_its_cells_is_refused(tmp_path):
    detector = DETECTORS["ds1-photons"]
    energies, showers = toy(3, geometry=detector)
    with pytest.raises(
        CalojaxError, match=r"reach 2000 mm .* end at 75.6 mm; take --layout shower"
    ):
        write_showers(tmp_path / "a.hdf5", detector, energies, [showers], layout="ddml")
    assert not list(tmp_path.iterdir())
