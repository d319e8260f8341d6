"""Conversion between layouts: exact both ways, with the file's own attributes."""

import h5py
import numpy as np
import pytest
from toys import TINY, toy

from calojax.cli import main
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS
from calojax.io import open_showers, write_showers


@pytest.mark.parametrize("there", ["dense", "sparse"])
def test_there_and_back_again(there, tmp_path):
    back = {"dense": "sparse", "sparse": "dense"}[there]
    energies, showers = toy(40)
    showers[7] = 0
    first, second, third = (tmp_path / f"{i}.hdf5" for i in range(3))
    about = {"seed": 3, "model": "calovq", "calojax_version": "0.0.1", "loss": 0.5}
    write_showers(first, TINY, energies, [showers], about, layout=back)
    main(["convert", str(first), "--out", str(second), "--layout", there])
    main(["convert", str(second), "--out", str(third), "--layout", back])
    assert third.read_bytes() == first.read_bytes()
    for path in (first, second):
        source = open_showers(path)
        np.testing.assert_array_equal(source.read(), showers)
        np.testing.assert_array_equal(source.energies, energies)
        assert about.items() <= source.attributes.items()


def test_files_and_folders_are_joined(tmp_path):
    energies, showers = toy(9)
    paths = [tmp_path / f"{i}.hdf5" for i in range(3)]
    for i, path in enumerate(paths):
        rows = slice(3 * i, 3 * i + 3)
        about = {"model": "calovq", "seed": i}
        write_showers(path, TINY, energies[rows], [showers[rows]], about)
    out = tmp_path / "all.hdf5"
    main(["convert", *map(str, paths), "--out", str(out), "--layout", "sparse"])
    joined = open_showers(out)
    np.testing.assert_array_equal(joined.read(), showers)
    assert joined.attributes["model"] == "calovq"
    assert "seed" not in joined.attributes


def test_a_repair_is_counted_and_only_texts_and_numbers_are_kept(tmp_path, capsys):
    energies, showers = toy(4)
    path, out = tmp_path / "f64.hdf5", tmp_path / "out.hdf5"
    showers[1, 2], showers[3, 0] = -1, np.nan
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, showers.astype(np.float64)
        file.attrs["table"], file.attrs["model"] = np.arange(3), "theirs"
    main(["convert", str(path), "--out", str(out), "--layout", "sparse", "--repair"])
    told = capsys.readouterr()
    assert "repaired: 1 voxels set to 0, 1 showers left out" in told.out
    found = open_showers(out)
    np.testing.assert_array_equal(found.read(), np.maximum(showers[:3], 0))
    assert found.attributes["model"] == "theirs"
    assert "table" not in found.attributes


def test_a_grid_with_its_axes_in_another_order_is_refused(tmp_path):
    energies, showers = toy(4)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["incident_energy"], file["showers"] = energies, showers.reshape(-1, *TINY.grid)
    with pytest.raises(CalojaxError, match=r"axes must be \(n, r, alpha, z\)"):
        open_showers(tmp_path / "a.hdf5", TINY)


@pytest.mark.parametrize("layout", ["par04", "lemurs"])
def test_par04_and_lemurs_have_the_grid_turned_and_deposits(layout, tmp_path):
    energies, showers = toy(20)
    first, second, third = (tmp_path / f"{i}.hdf5" for i in range(3))
    write_showers(first, TINY, energies, [showers])
    words = ["--layout", layout, "--scale", "0.033"]
    main(["convert", str(first), "--out", str(second), *words])
    z, alpha, r = TINY.grid
    with h5py.File(second) as file:
        assert file["incident_energy"].shape == (20,)
        np.testing.assert_array_equal(file["incident_energy"], energies)
        cells = file["showers"][...]
        assert ("incident_theta" in file) == (layout == "lemurs")
        if layout == "lemurs":
            np.testing.assert_allclose(file["incident_theta"], np.pi / 2)
            np.testing.assert_array_equal(file["incident_phi"], 0)
    assert cells.shape == (20, r, alpha, z)
    # Of the third layer, the bin at alpha = -pi, from the axis outward.
    np.testing.assert_allclose(
        cells[4, :, 0, 2], 0.033 * showers.reshape(-1, z, alpha, r)[4, 2, 0], rtol=1e-6
    )
    main(
        ["convert", str(second), "--out", str(third), "--layout", "dense", "--scale", "30.3030303"]
    )
    back = open_showers(third)
    np.testing.assert_allclose(back.read(), showers, rtol=1e-6)
    np.testing.assert_array_equal(back.energies, energies)


def test_a_detector_of_unlike_layers_has_no_grid(tmp_path):
    detector = DETECTORS["ds1-photons"]
    energies, showers = toy(3, geometry=detector)
    write_showers(tmp_path / "a.hdf5", detector, energies, [showers])
    with pytest.raises(SystemExit):
        main(f"convert {tmp_path}/a.hdf5 --out {tmp_path}/b.hdf5 --layout par04".split())
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]
