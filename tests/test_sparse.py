"""The sparse layout: hits and back, files in it, and damaged ones with their messages."""

import h5py
import numpy as np
import pytest
from toys import TINY, assert_one_sentence, toy

from calojax.errors import CalojaxError
from calojax.io import open_showers, reader, write_showers, writer
from calojax.io.inspection import inspect
from calojax.io.sparse import hits_of, showers_of, voxel_type


@pytest.fixture
def path(tmp_path):
    return tmp_path / "showers.hdf5"


def test_hits_of_a_shower_by_hand():
    showers = np.float32([[0, 2.5, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]])
    hits = hits_of(showers)
    np.testing.assert_array_equal(hits.counts, [2, 0, 1])
    np.testing.assert_array_equal(hits.voxels, [1, 3, 0])
    np.testing.assert_array_equal(hits.energies, np.float32([2.5, 1, 3]))
    np.testing.assert_array_equal(showers_of(hits, 4), showers)


@pytest.mark.parametrize(
    ("n_voxels", "dtype"),
    [(256, np.uint8), (257, np.uint16), (40500, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_voxels_take_the_smallest_type(n_voxels, dtype):
    assert voxel_type(n_voxels) == dtype
    hits = hits_of(np.eye(1, n_voxels, n_voxels - 1, dtype=np.float32))
    assert hits.voxels.dtype == dtype
    assert hits.voxels[0] == n_voxels - 1


def test_files_hold_what_the_layout_promises(path):
    energies, showers = toy(203)
    write_showers(path, TINY, energies, np.array_split(showers, 3), {"seed": 4}, layout="sparse")
    with h5py.File(path) as file:
        assert set(file) == {"incident_energies", "hit_offsets", "hit_voxels", "hit_energies"}
        assert file["incident_energies"].shape == (203, 1)
        assert file["hit_voxels"].dtype == np.uint8
        assert file["hit_energies"].dtype == np.float32
        offsets = file["hit_offsets"][:]
        for i in (0, 57, 202):
            mine = slice(offsets[i], offsets[i + 1])
            np.testing.assert_array_equal(file["hit_voxels"][mine], np.flatnonzero(showers[i]))
            np.testing.assert_array_equal(file["hit_energies"][mine], showers[i][showers[i] > 0])
        for dataset in file.values():
            assert dataset.shuffle
            assert dataset.compression == "gzip"
    assert open_showers(path).attributes == {
        "calojax_version": writer.calojax.__version__,
        "seed": 4,
        "geometry": "tiny",
        "layout": "sparse",
        "n_voxels": 120,
    }


@pytest.mark.parametrize("size", [1, 64, 500])
def test_files_are_read_as_if_dense(size, path, monkeypatch):
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 20 * 120 * 4)
    energies, showers = toy(203)
    showers[[0, 50, 202]] = 0
    write_showers(path, TINY, energies, [showers], layout="sparse")
    source = open_showers(path)
    assert source.detector == TINY
    np.testing.assert_array_equal(source.energies, energies)
    np.testing.assert_array_equal(np.concatenate([s for _, s in source.batches(size)]), showers)
    np.testing.assert_array_equal(source.read(199, 10**9), showers[199:])
    assert source.read(9, 3).shape == (0, 120)


def test_showers_without_a_hit(path):
    write_showers(path, TINY, np.ones(4), [np.zeros((4, 120))], layout="sparse")
    np.testing.assert_array_equal(open_showers(path).read(), np.zeros((4, 120)))


@pytest.mark.parametrize("layout", ["sparse", "showerdata"])
def test_files_of_all_layouts_are_inspected(layout, path):
    energies, showers = toy(50)
    other = path.with_name("other.hdf5")
    write_showers(path, TINY, energies, [showers], layout=layout)
    write_showers(other, TINY, energies, [showers])
    found, expected = inspect(path), inspect(other)
    lines = found.text().splitlines()
    same = expected.text().replace("layout dense", f"layout {layout}")
    assert set(same.splitlines()[1:]) <= set(lines)
    assert found.findings == expected.findings


def changed(key, make):
    """Replaces a dataset by what a function makes of its values; by nothing where that is None."""

    def damage(file):
        values = make(file[key][:])
        del file[key]
        if values is not None:
            file[key] = values

    return damage


def put(key, where, value):
    def spoil(values):
        values[where] = value
        return values

    return changed(key, spoil)


def with_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


AT_OPENING = {
    "no offsets": (changed("hit_offsets", lambda v: None), "no list 'hit_offsets'"),
    "no voxels": (changed("hit_voxels", lambda v: None), "no list 'hit_voxels'"),
    "table of energies": (
        changed("hit_energies", lambda v: v[:, None]),
        "no list 'hit_energies'",
    ),
    "real voxels": (changed("hit_voxels", lambda v: v * 1.0), "holds float64.*whole numbers"),
    "offsets too few": (changed("hit_offsets", lambda v: v[:-1]), "offsets' must go from 0 to"),
    "no offset": (changed("hit_offsets", lambda v: v[:0]), "offsets' must go from 0 to"),
    "no shower": (changed("hit_offsets", lambda v: v[[0, -1]]), r"\(10, 1\) and .* \(1, 120\)"),
    "hits lost": (changed("hit_energies", lambda v: v[:-1]), "offsets' must go from 0 to"),
    "voxels unknown": (with_attribute("n_voxels", "many"), "'n_voxels' is 'many'"),
    "voxels of another": (with_attribute("n_voxels", 121), "121 voxels, but geometry tiny has 120"),
}
AT_READING = {
    "offsets fall": (put("hit_offsets", 4, 10**6), "4?.*not in ascending order"),
    "offset beyond integers": (put("hit_offsets", 4, 2**64 - 1), "ascending order"),
    "too many hits": (
        changed("hit_offsets", lambda v: np.where(np.arange(len(v)), v[-1], 0)),
        "shower 0 are not in ascending order from 0 to 119",
    ),
    "voxel outside": (put("hit_voxels", 0, 120), "voxels of shower 0 are not in ascend"),
    "voxel twice": (put("hit_voxels", 1, 0), "voxels of shower 0 are not in ascend"),
    "negative": (put("hit_energies", 0, -1), "of shower 0 is -1 MeV"),
    "NaN": (put("hit_energies", -1, np.nan), "of shower 9 is nan MeV"),
    "infinite": (put("hit_energies", -1, np.inf), "of shower 9 is inf MeV"),
}


@pytest.mark.parametrize("kind", AT_OPENING | AT_READING)
def test_damaged_files_get_one_sentence(kind, path):
    damage, message = (AT_OPENING | AT_READING)[kind]
    energies, showers = toy(10)
    write_showers(path, TINY, energies, [showers], layout="sparse")
    with h5py.File(path, "r+") as file:
        damage(file)

    def use():
        source = open_showers(path)
        assert kind in AT_READING
        source.read()

    with pytest.raises(CalojaxError, match=message) as error:
        use()
    assert_one_sentence(error.value, path)
    assert not inspect(path).ok
