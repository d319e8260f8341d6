"""Parts in a folder: the plan, the manifest, restarts and who makes what."""

import errno
import json
import os

import pytest
from toys import TINY, toy

from calojax import files
from calojax.errors import CalojaxError
from calojax.io import open_showers, shards, write_showers

SETTINGS = {"seed": 1, "temperature": 1.0, "energies": None, "layout": "dense"}


@pytest.mark.parametrize(("num", "size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_parts_cover_all_showers_once(num, size):
    plan = shards.split(num, size)
    assert [part.number for part in plan] == list(range(len(plan)))
    assert [i for part in plan for i in part.showers] == list(range(num))
    assert max(len(part.showers) for part in plan) <= size


def test_names_stay_in_order():
    names = [part.name for part in shards.split(120, 1)]
    assert names == sorted(names)
    assert names[:2] == ["part-00000.hdf5", "part-00001.hdf5"]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_processes_share_without_gap_or_overlap(count):
    plan = shards.split(17, 2)
    shares = [shards.share(plan, index, count) for index in range(count)]
    assert sorted(part.number for share in shares for part in share) == list(range(9))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_folder_is_begun_once_and_gone_on_with(tmp_path):
    folder, plan = tmp_path / "deep" / "folder", shards.split(25, 10)
    shards.begin(folder, SETTINGS, plan)
    before = (folder / shards.MANIFEST).read_bytes()
    shards.begin(folder, SETTINGS, plan)
    assert (folder / shards.MANIFEST).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [shards.MANIFEST]
    assert json.loads(before) == {
        "settings": SETTINGS,
        "parts": [
            {"file": "part-00000.hdf5", "first": 0, "showers": 10},
            {"file": "part-00001.hdf5", "first": 10, "showers": 10},
            {"file": "part-00002.hdf5", "first": 20, "showers": 5},
        ],
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 2}, "begun with seed 1, but this command has 2"),
        ({"energies": "5GeV"}, "begun with energies None, but .* '5GeV'"),
        ({"version": "9"}, "begun with version None, but .* '9'"),
    ],
)
def test_other_settings_are_refused(changed, message, tmp_path):
    shards.begin(tmp_path, SETTINGS, shards.split(5, 2))
    with pytest.raises(CalojaxError, match=message):
        shards.begin(tmp_path, SETTINGS | changed, shards.split(5, 2))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": {}, "parts": 3}', "\xff"])
def test_damaged_manifests_are_refused(text, tmp_path):
    (tmp_path / shards.MANIFEST).write_bytes(text.encode("latin-1"))
    for use in (lambda: shards.begin(tmp_path, SETTINGS, ()), lambda: open_showers(tmp_path)):
        with pytest.raises(CalojaxError, match="damaged or not a manifest"):
            use()


def manifest(*names: str) -> bytes:
    listed = [{"file": name, "first": 0, "showers": 1} for name in names]
    return json.dumps({"settings": {}, "parts": listed}).encode()


UNTRUSTED = {
    "above": manifest("../x.hdf5"),
    "absolute": manifest("/etc/passwd"),
    "deeper": manifest("a/x.hdf5"),
    "the folder above": manifest(".."),
    "the folder": manifest("."),
    "no name": manifest(""),
    "escape code": manifest("\x1b[31m.hdf5"),
    "NUL": manifest("a\0.hdf5"),
    "long": manifest("x" * 100_000),
    "half a surrogate": manifest("a").replace(b'"a"', b'"\\udc80"'),
    "twice": manifest("a", "a"),
    "none": manifest(),
    "nested": b'{"settings": {}, "parts": [], "x": ' + b"[" * 100_000,
    "number": b'{"settings": {}, "parts": [{"file": 3, "first": 0, "showers": 1}]}',
    "settings": b'{"settings": {"a": [1]}, "parts": []}',
    "enormous": b" " * (2**26 + 1),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_untrusted_manifests_are_refused(kind, tmp_path):
    (tmp_path / shards.MANIFEST).write_bytes(UNTRUSTED[kind])
    with pytest.raises(CalojaxError, match="damaged or not a manifest") as error:
        open_showers(tmp_path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_parts_and_manifests_that_are_no_regular_files(tmp_path):
    path = tmp_path / "folder" / shards.MANIFEST
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(CalojaxError, match=r"manifest\.json: is a pipe"):
        open_showers(path.parent)
    path.unlink()
    path.write_bytes(manifest("a.hdf5"))
    os.mkfifo(tmp_path / "folder" / "a.hdf5")
    with pytest.raises(CalojaxError, match=r"a\.hdf5: is a pipe"):
        open_showers(path.parent)
    (tmp_path / "folder" / "a.hdf5").unlink()
    energies, showers = toy(5)
    write_showers(tmp_path / "a.hdf5", TINY, energies, [showers])
    os.symlink(tmp_path / "a.hdf5", tmp_path / "folder" / "a.hdf5")
    with pytest.raises(CalojaxError, match=r"outside .*CALOJAX_EXTERNAL_DATA=allow"):
        open_showers(path.parent)


def test_folders_that_will_not_do(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(CalojaxError, match="cannot be written"):
            shards.begin(folder, SETTINGS, ())
    (tmp_path / "part-00001.hdf5").touch()
    with pytest.raises(CalojaxError, match=r"has part files but no manifest\.json"):
        shards.begin(tmp_path, SETTINGS, shards.split(5, 2))
    with pytest.raises(CalojaxError, match="--part-size must be at least 1, got 0"):
        shards.split(5, 0)


def test_a_folder_is_read_like_a_file_when_it_is_complete(tmp_path):
    energies, showers = toy(25)
    plan = shards.split(25, 10)
    shards.begin(tmp_path, SETTINGS, plan)
    for part in plan:
        with pytest.raises(CalojaxError, match="of 3 parts are missing"):
            open_showers(tmp_path)
        rows = slice(part.showers.start, part.showers.stop)
        about = {"seed": 1, "part": part.number}
        write_showers(tmp_path / part.name, TINY, energies[rows], [showers[rows]], about)
        assert shards.missing(tmp_path, plan) == plan[part.number + 1 :]
    source = open_showers(tmp_path)
    assert (source.read() == showers).all()
    assert source.attributes.keys() == {"seed", "geometry", "calojax_version"}


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("link", "replace"):
        monkeypatch.setattr(files.os, name, full)
    with pytest.raises(CalojaxError, match=r"cannot be written \(No space left on device\)"):
        shards.begin(tmp_path, SETTINGS, shards.split(5, 2))
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_begin_a_folder_at_once_one_is_refused(tmp_path, monkeypatch):
    def slow(settings, plan):
        monkeypatch.undo()
        shards.begin(tmp_path, SETTINGS | {"seed": 2}, plan)
        return shards._text(settings, plan)

    monkeypatch.setattr(shards, "_text", slow)
    with pytest.raises(CalojaxError, match="begun with seed 2, but this command has 1"):
        shards.begin(tmp_path, SETTINGS, shards.split(5, 2))
    assert [path.name for path in tmp_path.iterdir()] == [shards.MANIFEST]
