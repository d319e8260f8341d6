"""The memory-mapped cache: converted once, keyed by the files, rebuilt when damaged."""

import concurrent.futures
import errno
import mmap
import os
import shutil
import threading

import h5py
import numpy as np
import pytest
from toys import TINY, toy

from calojax import files
from calojax.errors import CalojaxError
from calojax.io import ShowerArrays, cache, open_showers, write_showers
from calojax.io.cache import open_cached

ENERGIES, SHOWERS = toy(500)


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / "1.hdf5", tmp_path / "2.hdf5"]
    write_showers(found[0], TINY, ENERGIES[:300], [SHOWERS[:300]])
    write_showers(found[1], TINY, ENERGIES[300:], [SHOWERS[300:]])
    return found


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """Counts conversions."""
    made = []
    convert = cache._convert

    def counting(source, place):
        made.append(place)
        convert(source, place)

    monkeypatch.setattr(cache, "_convert", counting)
    return made


def maps(folder):
    return sorted(folder.glob("*.npy"))


def test_conversion_and_reuse(paths, folder, conversions, capsys, monkeypatch):
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 64 * 4 * TINY.n_voxels)
    source = open_showers(paths)
    cached = open_cached(source, folder)
    assert "caching: 100%" in capsys.readouterr().err
    assert isinstance(cached, ShowerArrays)
    np.testing.assert_array_equal(cached.showers, SHOWERS)
    np.testing.assert_array_equal(cached.energies, ENERGIES)
    np.testing.assert_array_equal(cached.showers[[499, 3, 301]], SHOWERS[[499, 3, 301]])
    assert cached.detector == TINY
    memory = cached.showers
    while isinstance(memory, np.ndarray):
        memory = memory.base
    assert isinstance(memory, mmap.mmap)
    with pytest.raises(ValueError, match="read-only"):
        cached.showers[0, 0] = 1
    again = open_cached(open_showers([str(path) for path in paths]), folder)
    np.testing.assert_array_equal(again.read(290, 310), SHOWERS[290:310])
    assert len(conversions) == 1
    assert len(maps(folder)) == len(os.listdir(folder)) == 1
    assert capsys.readouterr().err == ""


def test_single_path_and_default_folder(paths, tmp_path, monkeypatch):
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path / "elsewhere"))
    open_cached(open_showers(paths[0]))
    (place,) = (tmp_path / "elsewhere").iterdir()
    assert place.name.startswith("1-")
    monkeypatch.delenv("CALOJAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache" / "calojax"


def test_changed_files_are_converted_again(paths, folder, conversions):
    open_cached(open_showers(paths), folder)
    energies, showers = toy(300, seed=1)
    write_showers(paths[0], TINY, energies, [showers])
    cached = open_cached(open_showers(paths), folder)
    np.testing.assert_array_equal(cached.showers[:300], showers)
    open_cached(open_showers(paths[1]), folder)
    open_cached(open_showers(paths[::-1]), folder)
    assert len(conversions) == len(maps(folder)) == 4


def test_files_replaced_without_a_trace(paths, folder, conversions):
    open_cached(open_showers(paths), folder)
    before = paths[0].stat()
    # The same energies in showers of the same size, at the same time.
    with h5py.File(paths[0]) as file:
        kept = {name: file[name][:] for name in file}
    copies = [paths[0].with_name(f"copy{i}.hdf5") for i in range(2)]
    for factor, copy in enumerate(copies, 2):
        with h5py.File(copy, "w") as file:
            file["incident_energies"] = kept["incident_energies"]
            file["showers"] = factor * kept["showers"]
        os.utime(copy, ns=(before.st_mtime_ns, before.st_mtime_ns))
    for factor, copy in enumerate(copies, 2):
        os.replace(copy, paths[0])
        cached = open_cached(open_showers(paths), folder)
        np.testing.assert_array_equal(cached.showers[:300], factor * SHOWERS[:300])
    assert len(conversions) == 3


DAMAGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size - 4),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "no header": lambda path: path.write_bytes(b"rubbish" + path.read_bytes()[7:]),
    "other shape": lambda path: np.save(path, SHOWERS[:499]),
    "other type": lambda path: np.save(path, SHOWERS.astype(np.float64)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_rebuilt(damage, paths, folder, conversions):
    source = open_showers(paths)
    open_cached(source, folder)
    DAMAGES[damage](maps(folder)[0])
    np.testing.assert_array_equal(open_cached(source, folder).showers, SHOWERS)
    assert len(conversions) == 2
    assert len(maps(folder)) == len(os.listdir(folder)) == 1


def test_threads_at_once(paths, folder, monkeypatch):
    # All of them find no cache and convert.
    barrier = threading.Barrier(4)
    convert = cache._convert

    def together(source, place):
        convert(source, place)
        barrier.wait(20)

    monkeypatch.setattr(cache, "_convert", together)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = [pool.submit(open_cached, open_showers(paths), folder) for _ in range(4)]
    for one in made:
        np.testing.assert_array_equal(one.result().showers, SHOWERS)
    assert len(os.listdir(folder)) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_interrupted_conversion_leaves_nothing(failure, paths, folder, monkeypatch):
    source = open_showers(paths)

    def failing(size):
        yield ENERGIES[:100], SHOWERS[:100]
        raise failure

    monkeypatch.setattr(source, "batches", failing)
    with pytest.raises(failure):
        open_cached(source, folder)
    assert os.listdir(folder) == []


def test_file_that_changes_meanwhile(paths, folder, monkeypatch):
    convert = cache._convert

    def slow(source, place):
        convert(source, place)
        os.utime(paths[1], (1, 1))

    monkeypatch.setattr(cache, "_convert", slow)
    with pytest.raises(CalojaxError, match="changed while it was read"):
        open_cached(open_showers(paths), folder)
    assert os.listdir(folder) == []


def test_small_disk(paths, folder, monkeypatch):
    real = shutil.disk_usage(paths[0].parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: real._replace(free=200_000))
        with pytest.raises(CalojaxError, match=r"cache needs .* GB, .* CALOJAX_CACHE"):
            open_cached(open_showers(paths), folder)

    def full(source, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_convert", full)
    with pytest.raises(CalojaxError, match="cache needs"):
        open_cached(open_showers(paths), folder)
    assert os.listdir(folder) == []


def test_impossible_folder_and_missing_file(paths, tmp_path):
    (tmp_path / "file").touch()
    source = open_showers(paths)
    with pytest.raises(CalojaxError, match=r"cannot be written .*CALOJAX_CACHE"):
        open_cached(source, tmp_path / "file" / "cache")
    paths[1].unlink()
    with pytest.raises(CalojaxError, match=r"2\.hdf5: cannot be read"):
        open_cached(source, tmp_path)
