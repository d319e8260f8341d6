"""Writing: round trips, equal bytes for equal showers, atomicity, bad input and bad disks."""

import errno
import gc
import os
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
from toys import GOOD_E, GOOD_S, TINY, assert_one_sentence, spoilt, toy

import calojax
from calojax import files
from calojax.errors import CalojaxError
from calojax.io import ShowerWriter, chunks, open_showers, write_showers, writer
from calojax.io.sparse import hits_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "showers.hdf5"


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_round_trip(path, batch):
    energies, showers = toy(203)
    with ShowerWriter(path, TINY, 203, {"seed": 5, "model": "none", "loss": 0.25}) as writer:
        for first in range(0, 203, batch):
            writer.append(energies[first : first + batch], showers[first : first + batch])
    source = open_showers(path)
    assert source.detector == TINY
    assert len(source) == 203
    np.testing.assert_array_equal(source.energies, energies)
    np.testing.assert_array_equal(source.read(), showers)
    assert source.read().dtype == source.energies.dtype == np.float32
    assert source.attributes == {
        "seed": 5,
        "model": "none",
        "loss": 0.25,
        "calojax_version": calojax.__version__,
        "geometry": "tiny",
    }


def test_layout_is_what_the_official_evaluation_reads(path):
    energies, showers = toy(300)
    write_showers(path, TINY, energies, np.array_split(showers, 4))
    with h5py.File(path) as file:
        assert set(file) == {"incident_energies", "showers"}
        assert file["incident_energies"].shape == (300, 1)
        assert file["showers"].shape == (300, 120)
        for dataset in file.values():
            assert dataset.dtype == np.float32
            assert (dataset.compression, dataset.compression_opts) == ("gzip", 1)
            assert dataset.shuffle
        np.testing.assert_array_equal(file["showers"][:], showers)


@pytest.mark.parametrize("layout", ["dense", "sparse", "par04", "showerdata", "ddml"])
def test_bytes_depend_neither_on_batches_nor_on_threads(layout, tmp_path, monkeypatch):
    # Some 20 blocks of showers, and several chunks of energies and of hits.
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 10 * 4 * TINY.n_voxels)
    energies, showers = toy(203)
    contents = []
    for threads, batch in ((1, 203), (1, 1), (3, 7), (8, 100)):
        path = tmp_path / f"{threads}-{batch}.hdf5"
        with ShowerWriter(path, TINY, 203, layout=layout, threads=threads) as file:
            for first in range(0, 203, batch):
                some = showers[first : first + batch]
                hits = first // batch % 3 == 1  # Some as hits, some as arrays.
                file.append(energies[first : first + batch], hits_of(some) if hits else some)
        contents.append(path.read_bytes())
    assert len(set(contents)) == 1
    if layout != "ddml":  # Which cannot be read.
        tolerance = 1e-6 if layout == "showerdata" else 0  # In GeV, floats round otherwise.
        np.testing.assert_allclose(open_showers(path).read(), showers, rtol=tolerance)


def test_batches_may_be_changed_after_they_were_appended(path):
    energies, showers = toy(50)
    with ShowerWriter(path, TINY, 50) as file:
        for first in range(0, 50, 10):
            batch = showers[first : first + 10].copy()
            file.append(energies[first : first + 10], batch)
            batch[:] = -1
    np.testing.assert_array_equal(open_showers(path).read(), showers)


@pytest.mark.parametrize(
    ("energies", "showers", "message"),
    [
        (GOOD_E, spoilt(GOOD_S, (1, 2), np.nan), "voxel 2 of shower 11 is nan"),
        (GOOD_E, spoilt(GOOD_S, (1, 2), np.inf), "voxel 2 of shower 11 is inf"),
        (GOOD_E, spoilt(GOOD_S, (1, 2), -1e-9), "voxel 2 of shower 11 is -1e-09"),
        (spoilt(GOOD_E, 4, np.nan), GOOD_S, "incident energy of shower 14 is nan"),
        (spoilt(GOOD_E, 4, 0), GOOD_S, "incident energy of shower 14 is 0"),
        (GOOD_E, GOOD_S[:, :100], r"showers of \(5, 100\) do not fit"),
        (GOOD_E[:3], GOOD_S, r"\(3,\) and showers of \(5, 120\)"),
        (GOOD_E, GOOD_S.reshape(5, 10, 4, 3), "do not fit"),
        (GOOD_E, GOOD_S.astype(complex), "complex128"),
        (np.tile(GOOD_E, (2, 1)), np.tile(GOOD_S, (2, 1)), "announced with 15 .*, but got 20"),
        (GOOD_E[:2], GOOD_S[:2], "announced with 15 .*, but got 12"),
    ],
)
def test_writer_refuses_and_leaves_the_old_file(energies, showers, message, path):
    path.write_text("old")
    first = toy(10)

    def write():
        with ShowerWriter(path, TINY, 15) as writer:
            writer.append(*first)
            writer.append(energies, showers)

    with pytest.raises(CalojaxError, match=message) as error:
        write()
    assert_one_sentence(error.value, path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
def test_interruption_leaves_nothing(kind, path):
    path.write_text("old")

    def write():
        with ShowerWriter(path, TINY, 20) as writer:
            writer.append(*toy(10))
            assert len(list(path.parent.glob("showers.hdf5.partial-*"))) == 1
            raise kind

    with pytest.raises(kind):
        write()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("locks", [True, False])
def test_of_two_writers_the_later_one_wins_and_remains_are_removed(locks, path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if locks:  # A killed run has left this one unlocked.
        left = path.with_name("showers.hdf5.partial-0")
        left.write_text("rubbish")
        os.utime(left, (0, 0))
    else:
        monkeypatch.setattr(files.fcntl, "flock", unsupported)
    a, b = toy(10, 1), toy(10, 2)
    with ShowerWriter(path, TINY, 10) as early:
        early.append(*a)
        with ShowerWriter(path, TINY, 10) as late:
            late.append(*b)
        np.testing.assert_array_equal(open_showers(path).read(), b[1])
    np.testing.assert_array_equal(open_showers(path).read(), a[1])
    assert os.listdir(path.parent) == [path.name]


def test_a_link_stays_a_link(path):
    real = path.parent / "big" / "real.hdf5"
    real.parent.mkdir()
    path.symlink_to(real)
    energies, showers = toy(10)
    for _ in range(2):  # The first time, there is nothing behind the link.
        write_showers(path, TINY, energies, [showers])
        assert path.is_symlink()
        assert os.listdir(real.parent) == [real.name]
    np.testing.assert_array_equal(open_showers(real).read(), showers)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_only_regular_files_are_replaced(make, path):
    make(path)
    with pytest.raises(CalojaxError, match="is not a regular file"):
        write_showers(path, TINY, *toy(3))
    assert os.listdir(path.parent) == [path.name]


ODD = {
    "empty": ("", ""),
    "nul": ("a\0b", "a\0b"),
    "surrogate": ("\udce4", "\\udce4"),
    "huge": (2**70, None),
    "tiny": (-(2**70), None),
    "long": ("x" * 65_500, None),  # Of which HDF5 2.0 makes a file that it cannot read.
    "longer": ("x" * 70_000, None),
    "": (1, None),
}


def test_odd_attributes_are_kept_or_left_out_with_a_warning(path, capsys):
    energies, showers = toy(3)
    write_showers(
        path, TINY, energies, [showers], {name: value for name, (value, _) in ODD.items()}
    )
    kept = {name: value for name, (_, value) in ODD.items() if value is not None}
    left_out = len(ODD) - len(kept)
    found = open_showers(path).attributes
    assert found == kept | {"geometry": "tiny", "calojax_version": calojax.__version__}
    assert capsys.readouterr().err.count("is left out, because HDF5 cannot hold it") == left_out


def test_an_early_error_leaves_no_open_file(path, monkeypatch):
    def broken(*arguments):
        raise CalojaxError("broken")

    monkeypatch.setattr(ShowerWriter, "_new_block", broken)
    with pytest.raises(CalojaxError, match="broken"):
        ShowerWriter(path, TINY, 10).__enter__()
    gc.collect()  # An h5py file that is not closed would complain of its closed disk.
    assert os.listdir(path.parent) == []


def test_unwritable_places(path, monkeypatch):
    energies, showers = toy(3)
    with pytest.raises(CalojaxError, match="make its folder first"):
        write_showers(path / "not" / "there.hdf5", TINY, energies, [showers])
    with pytest.raises(CalojaxError, match="is a folder"):
        write_showers(path.parent, TINY, energies, [showers])
    with pytest.raises(CalojaxError, match="at least 1, got 0"):
        write_showers(path, TINY, energies[:0], [])

    def forbidden(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "open", forbidden)
    with pytest.raises(CalojaxError, match=r"cannot be written \(Permission denied\)"):
        write_showers(path, TINY, energies, [showers])


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "No space left on device.*free some space"), (errno.EIO, "output error")],
)
@pytest.mark.parametrize("room", [0, 5_000, 100_000])
def test_failing_disk(number, message, room, path, monkeypatch):
    path.write_text("old")
    write = os.write

    def limited(descriptor, data):
        there = os.lseek(descriptor, 0, os.SEEK_CUR)
        if there + len(data) > room:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data)

    monkeypatch.setattr(writer.os, "write", limited)
    energies, showers = toy(4000)
    with pytest.raises(CalojaxError, match=message) as error:
        write_showers(path, TINY, energies, np.split(showers, 4))
    assert_one_sentence(error.value, path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def test_hdf5_survives_a_disk_that_is_really_too_small(path):
    # HDF5 itself crashes the interpreter at exit when a file cannot be flushed, so in a process.
    program = f"""
        import resource
        import numpy as np
        from calojax.io import write_showers
        from calojax.errors import CalojaxError
        from calojax.geometry import detector
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        showers = np.random.default_rng(0).random((4000, 120), np.float32)
        try:
            write_showers({str(path)!r}, detector("tiny"), np.full(4000, 1e3), np.split(showers, 8))
        except CalojaxError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "cannot be written (File too large)" in done.stdout
    assert os.listdir(path.parent) == []
