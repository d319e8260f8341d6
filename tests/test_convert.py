"""Conversion between layouts: exact both ways, with the file's own attributes."""

import numpy as np
import pytest
from toys import TINY, toy

from calojax.cli import main
from calojax.data import open_showers, write_showers


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
