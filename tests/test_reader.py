"""CaloChallenge HDF5: joined files, slices and batches, and bad files with their messages."""

import dataclasses
import os

import h5py
import msgspec
import numpy as np
import pytest
from toys import GOOD_E, GOOD_S, TINY, assert_one_sentence, raw, spoilt, toy

from calojax.errors import CalojaxError
from calojax.geometry import Layer, detector
from calojax.io import ShowerArrays, ShowerFile, open_showers, reader, sparse, write_showers
from calojax.io.stored_geometry import GEOMETRY


@pytest.fixture
def path(tmp_path):
    return tmp_path / "showers.hdf5"


@pytest.mark.parametrize("size", [1, 3, 64, 500])
@pytest.mark.parametrize("chunk", [None, (10, 120), (7, 13), (203, 120)])
def test_batches_cover_everything_in_order(size, chunk, path, monkeypatch):
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 20 * 120 * 4)
    energies, showers = toy(203)
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies
        file.create_dataset("showers", data=showers.astype(np.float64), chunks=chunk)
    batches = list(open_showers(path).batches(size))
    assert [len(s) for _, s in batches] == [size] * (203 // size) + [203 % size] * (203 % size > 0)
    np.testing.assert_array_equal(np.concatenate([e for e, _ in batches]), energies)
    np.testing.assert_array_equal(np.concatenate([s for _, s in batches]), showers)
    assert all(s.dtype == np.float32 for _, s in batches)


@pytest.mark.parametrize("bounds", [(0, None), (5, 9), (0, 0), (199, 1000), (90, 40), (-3, None)])
def test_read_follows_slices(bounds, path):
    energies, showers = toy(203)
    cut = (100, 3, 100)
    for i, (e, s) in enumerate(
        zip(np.split(energies, np.cumsum(cut)[:-1]), np.split(showers, [100, 103]), strict=True)
    ):
        write_showers(path.with_name(f"{i}.hdf5"), TINY, e, [s])
    joined = open_showers([path.with_name(f"{i}.hdf5") for i in range(3)])
    np.testing.assert_array_equal(joined.energies, energies)
    assert [len(batch) for _, batch in joined.batches(90)] == [90, 90, 23]
    arrays = ShowerArrays(TINY, energies, showers)
    for source in (joined, arrays):
        np.testing.assert_array_equal(source.read(*bounds), showers[slice(*bounds)])


def test_files_of_different_geometries_are_not_joined(path):
    write_showers(path.with_name("1.hdf5"), TINY, *[[x] if i else x for i, x in enumerate(toy(3))])
    photons = detector("ds1-photons")
    energies, showers = toy(3, geometry=photons)
    write_showers(path.with_name("2.hdf5"), photons, energies, [showers])
    files = [path.with_name("1.hdf5"), path.with_name("2.hdf5")]
    with pytest.raises(CalojaxError, match=r"2\.hdf5: .*368 voxels.*tiny has 120.*ds1-photons"):
        open_showers(files)
    with pytest.raises(CalojaxError, match=r"2\.hdf5: is of geometry ds1-photons, but .*1\.hdf5"):
        reader.ShowerFiles([ShowerFile(file) for file in files])
    with pytest.raises(CalojaxError, match="No shower file"):
        open_showers([])


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions", "ds2", "ds3", "tiny"])
def test_geometry_is_guessed_from_the_voxels(name, path):
    raw(path, incident_energies=[[1e3]], showers=np.ones((1, detector(name).n_voxels)))
    assert open_showers(path).detector == detector(name)


def test_geometry_attribute_and_argument(path, capsys):
    own = dataclasses.replace(TINY, name="own")
    energies, showers = toy(4)
    write_showers(path, own, energies, [showers])
    assert open_showers(path).detector == own
    assert open_showers(path, own).detector == own
    with h5py.File(path, "r+") as file:  # As versions before this one wrote it.
        del file[GEOMETRY]
    bigger = dataclasses.replace(own, layers=(*own.layers, Layer(10, (0.0, 1.0), 1, 1.0)))
    with pytest.raises(CalojaxError, match=r"120 voxels, but geometry own has 121; .*like.*tiny"):
        open_showers(path, bigger)
    assert open_showers(path).detector == TINY
    warning = capsys.readouterr().err
    assert "is of geometry 'own', which is not built in" in warning
    assert "taken for those of 'tiny'" in warning
    assert warning.count("--geometry FILE.xml") == 1


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_files_keep_a_geometry_that_is_not_built_in(path, layout, capsys):
    # As many voxels and the name of a built-in geometry; its text is too long for an attribute.
    r_edges = tuple(np.linspace(0.1, 1, 6481).tolist())
    own = dataclasses.replace(detector("ds2"), layers=(Layer(0, r_edges, 1, 2.5),))
    energies, showers = toy(4, geometry=own)
    write_showers(path, own, energies, [showers], layout=layout)
    assert open_showers(path).detector == own
    np.testing.assert_array_equal(open_showers(path).read(), showers)
    assert open_showers(path, detector("ds2")).detector == own
    assert "keeps its geometry 'ds2', which replaces 'ds2'" in capsys.readouterr().err
    # Another threshold is the user's to choose.
    chosen = dataclasses.replace(own, evaluation_threshold=0.0)
    assert open_showers(path, chosen).detector == chosen
    write_showers(path.with_name("2.hdf5"), detector("ds2"), energies, [showers])
    with h5py.File(path.with_name("2.hdf5")) as file:
        assert GEOMETRY not in file
    with pytest.raises(CalojaxError, match="only files of one geometry can be joined"):
        reader.ShowerFiles([ShowerFile(path), ShowerFile(path.with_name("2.hdf5"))])


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[" * 100_000,
        msgspec.json.encode(TINY).replace(b"electron", b"unicorn"),
        msgspec.json.encode(TINY).replace(b"41.85", b"1e300"),
        msgspec.json.encode(TINY).replace(b"tiny", rb"\u001b[2J"),
        [b"{}", b"{}"],
        3.0,
    ],
)
def test_damaged_geometries_are_refused(path, text):
    text = np.bytes_(text) if isinstance(text, bytes) else text
    raw(path, incident_energies=GOOD_E, showers=GOOD_S, **{GEOMETRY: text})
    with pytest.raises(CalojaxError, match="its 'calojax_geometry' is damaged"):
        open_showers(path)


def test_flat_energies_and_integers_are_accepted(path):
    raw(path, incident_energies=[1000, 2000], showers=np.ones((2, 120), np.int16))
    source = open_showers(path)
    np.testing.assert_array_equal(source.energies, np.float32([1000, 2000]))
    np.testing.assert_array_equal(source.read(), np.ones((2, 120), np.float32))


BAD_DATASETS = {
    "no energies": ({"showers": GOOD_S}, "has no 'incident_energies' but 'showers'"),
    "no showers": ({"incident_energies": GOOD_E, "x": 1}, "has no 'showers' but .*, 'x'"),
    "empty file": ({}, "has no 'incident_energies' but nothing"),
    "Par04": ({"incident_energy": GOOD_E[:, 0], "showers": GOOD_S}, "Par04.*four axes"),
    "two energies a shower": (
        {"incident_energies": np.ones((5, 2)), "showers": GOOD_S},
        r"incident energies of shape \(5, 2\)",
    ),
    "showers of rank 4": (
        {"incident_energies": GOOD_E, "showers": GOOD_S.reshape(5, 10, 4, 3)},
        r"showers of \(5, 10, 4, 3\) do not fit.*r fastest",
    ),
    "a single value": (
        {"incident_energies": 1e3, "showers": GOOD_S},
        "must .* in n rows",
    ),
    "no value": (
        {"incident_energies": h5py.Empty("f4"), "showers": GOOD_S},
        "must .* in n rows",
    ),
    "lengths": (
        {"incident_energies": GOOD_E[:4], "showers": GOOD_S},
        r"energies of shape \(4, 1\) and showers of \(5, 120\)",
    ),
    "none": ({"incident_energies": GOOD_E[:0], "showers": GOOD_S[:0]}, "holds no showers"),
    "voxels": (
        {"incident_energies": GOOD_E, "showers": np.ones((5, 77))},
        r"no built-in geometry has 77 voxels \(ds1-photons 368, .*XML",
    ),
    "texts": (
        {"incident_energies": ["1 GeV"] * 5, "showers": GOOD_S},
        "'incident_energies' holds object.*real numbers",
    ),
    "complex": (
        {"incident_energies": GOOD_E, "showers": GOOD_S * 1j},
        "'showers' holds complex128.*real numbers",
    ),
    "booleans": ({"incident_energies": GOOD_E, "showers": GOOD_S > 0}, "'showers' holds bool"),
    "negative energy": (
        {"incident_energies": spoilt(GOOD_E, 2, -5), "showers": GOOD_S},
        "incident energy of shower 2 is -5 MeV",
    ),
    "infinite energy": (
        {"incident_energies": spoilt(GOOD_E, 4, 1e39), "showers": GOOD_S},
        "incident energy of shower 4 is inf MeV",
    ),
}


@pytest.mark.parametrize("kind", BAD_DATASETS)
def test_bad_files_are_refused_when_opened(kind, path):
    datasets, message = BAD_DATASETS[kind]
    raw(path, **datasets)
    with pytest.raises(CalojaxError, match=message) as error:
        open_showers(path)
    assert_one_sentence(error.value, path)


BAD_VOXELS = {
    "NaN": (np.nan, "voxel 17 of shower 3 is nan MeV"),
    "infinite": (np.inf, "voxel 17 of shower 3 is inf MeV"),
    "beyond float32": (1e39, "voxel 17 of shower 3 is inf MeV"),
    "negative": (-2.0, "voxel 17 of shower 3 is -2 MeV"),
    "slightly negative": (-1e-12, "voxel 17 of shower 3 is -1e-12 MeV"),
}


@pytest.mark.parametrize("kind", BAD_VOXELS)
def test_bad_voxels_are_refused_when_read(kind, path):
    value, message = BAD_VOXELS[kind]
    bad = spoilt(GOOD_S, (3, 17), value)
    raw(path, incident_energies=GOOD_E, showers=bad)
    source = open_showers(path)
    with pytest.raises(CalojaxError, match=message) as error:
        source.read()
    assert_one_sentence(error.value, path)
    with pytest.raises(CalojaxError, match=message):
        list(source.batches(2))
    with pytest.raises(CalojaxError, match=message):
        ShowerArrays(TINY, GOOD_E, bad)
    np.testing.assert_array_equal(source.read(0, 3), GOOD_S[:3])


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_repair(layout, path):
    energies, showers = toy(40)
    showers[3, 5], showers[7, :2], showers[21, 1] = -1e-9, -4.0, -2.0
    bad = [9, 20, 21, 39]
    broken, wrong = showers.copy(), energies.copy()
    broken[9, 3], broken[20, 4], broken[21, 5], wrong[39] = np.nan, np.inf, -np.inf, 0
    if layout == "dense":
        raw(path, incident_energies=wrong[:, None], showers=broken)
    else:
        hits = sparse.hits_of(broken)
        raw(
            path,
            incident_energies=wrong[:, None],
            hit_offsets=np.concatenate([[0], np.cumsum(hits.counts)]),
            hit_voxels=hits.voxels,
            hit_energies=hits.energies,
        )
        with h5py.File(path, "r+") as file:
            file.attrs["layout"], file.attrs["n_voxels"] = "sparse", 120
    good = np.delete(np.arange(40), bad)
    source = open_showers([path, path], repair=True)
    assert (source.dropped, source.clipped) == (8, 6)
    expected = np.tile(np.maximum(showers[good], 0), (2, 1))
    np.testing.assert_array_equal(source.energies, np.tile(energies[good], 2))
    np.testing.assert_array_equal(source.read(), expected)
    np.testing.assert_array_equal(source.read(7, 40), expected[7:40])
    np.testing.assert_array_equal(np.concatenate([s for _, s in source.batches(7)]), expected)
    with pytest.raises(CalojaxError, match="calojax convert --repair"):
        open_showers(path).read()


def test_hopeless_files_are_not_repaired(path):
    raw(path, incident_energies=GOOD_E, showers=GOOD_S * np.nan)
    with pytest.raises(CalojaxError, match="no shower that can be repaired"):
        open_showers(path, repair=True)


@pytest.mark.parametrize("chunk", [(1000, 1), (1000, 120), (999, 7)])
def test_memory_is_bounded_whatever_the_chunks(chunk, path, monkeypatch):
    monkeypatch.setattr(reader, "_BLOCK_BYTES", 20 * 120 * 8)
    monkeypatch.setattr(reader, "_MOST_BYTES", 100 * 120 * 8)
    energies, showers = toy(1000)
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies
        file.create_dataset("showers", data=showers.astype(np.float64), chunks=chunk)
        blocks = [block for _, block in reader.blocks_of(file["showers"])]
    assert max(map(len, blocks)) <= 100
    np.testing.assert_array_equal(np.concatenate(blocks), showers)


def truncated(path):
    energies, showers = toy(500)
    write_showers(path, TINY, energies, [showers])
    os.truncate(path, path.stat().st_size // 2)


def a_group(path):
    with h5py.File(path, "w") as file:
        file["incident_energies"] = GOOD_E
        file.create_group("showers/of/many")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("version https://git-lfs.github.com"), "is not an HDF5 file"),
        (lambda path: path.touch(), "is not an HDF5 file"),
        (truncated, "truncated or damaged"),
        (a_group, "'showers' is a group"),
    ],
)
def test_bad_files_of_other_kinds(make, message, path):
    make(path)
    with pytest.raises(CalojaxError, match=message) as error:
        open_showers(path)
    assert_one_sentence(error.value, path)


def test_damaged_chunk(path):
    energies, showers = toy(500)
    write_showers(path, TINY, energies, [showers])
    with h5py.File(path) as file:
        where = file["showers"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(where.byte_offset + where.size // 2)
        file.write(b"\xff" * 64)
    with pytest.raises(CalojaxError, match="truncated or damaged"):
        open_showers(path).read()


def test_wrong_geometry_names_both_and_the_guess(path):
    raw(path, incident_energies=GOOD_E, showers=np.ones((5, 368)))
    with pytest.raises(
        CalojaxError, match=r"368 voxels, but geometry ds2 has 6,480; .*looks like.*ds1-photons"
    ):
        open_showers(path, detector("ds2"))
    raw(path, incident_energies=GOOD_E, showers=np.ones((5, 7)))
    with pytest.raises(CalojaxError, match=r"7 voxels, but geometry ds2 .*binning XML"):
        open_showers(path, detector("ds2"))


def test_file_that_changes_after_opening(path):
    energies, showers = toy(10)
    write_showers(path, TINY, energies, [showers])
    source = open_showers(path)
    write_showers(path, TINY, energies[:5], [showers[:5]])
    with pytest.raises(CalojaxError, match="changed since"):
        source.read()


def test_no_handle_is_held(path):
    energies, showers = toy(100)
    write_showers(path, TINY, energies, [showers])
    source = open_showers(path)
    batches = source.batches(10)
    next(batches)
    batches.close()
    with h5py.File(path, "r+") as file:  # HDF5 refuses this while a reader has the file open.
        file.attrs["note"] = "writable"


def test_arrays_are_read_only_and_checked():
    energies, showers = toy(10)
    source = ShowerArrays(TINY, energies[:, None], showers)
    assert source.energies.shape == (10,)
    (pair,) = source.batches(10)
    with pytest.raises(ValueError, match="read-only"):
        pair[1][0, 0] = 1
    assert energies.flags.writeable
    assert showers.flags.writeable
    source.read()[0, 0] = 1  # A copy.
    with pytest.raises(CalojaxError, match=r"\(10,\) and showers of \(9, 120\) do not fit"):
        ShowerArrays(TINY, energies, showers[:9])
    with pytest.raises(CalojaxError, match=r"needs \(n,\) and \(n, 6480\)"):
        ShowerArrays(detector("ds2"), energies, showers)
    with pytest.raises(CalojaxError, match="showers in memory: the incident energy of shower 2"):
        ShowerArrays(TINY, spoilt(energies, 2, 0), showers)
    with pytest.raises(CalojaxError, match="complex"):
        ShowerArrays(TINY, energies, showers * 1j)
    with pytest.raises(CalojaxError, match="has no showers"):
        ShowerArrays(TINY, energies[:0], showers[:0])
    with pytest.raises(ValueError, match="batch size"):
        next(source.batches(0))
