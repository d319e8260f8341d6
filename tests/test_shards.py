"""Parts in a folder: the plan, the manifest, restarts and who makes what."""

import errno
import json
import os

import pytest
from toys import TINY, toy

from calojax import files
from calojax.errors import CalojaxError
from calojax.io import open_showers, shards, write_showers

SETTINGS = {"seed": 1, "temperature": 1.0, "energies": None, "num": 25, "part_size": 10}


@pytest.mark.parametrize(("num", "size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_parts_cover_all_showers_once(num, size):
    plan = shards.split(num, size)
    assert [part.number for part in plan] == list(range(len(plan)))
    assert [i for part in plan for i in part.showers] == list(range(num))
    assert max(len(part.showers) for part in plan) <= size


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_processes_share_without_gap_or_overlap(count):
    plan = shards.split(17, 2)
    shares = [shards.share(plan, index, count) for index in range(count)]
    assert sorted(part.number for share in shares for part in share) == list(range(9))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_folder_is_begun_once_and_gone_on_with(tmp_path):
    folder = tmp_path / "deep" / "folder"
    shards.begin(folder, SETTINGS)
    before = (folder / shards.MANIFEST).read_bytes()
    shards.begin(folder, SETTINGS)
    assert (folder / shards.MANIFEST).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [shards.MANIFEST]
    assert json.loads(before) == {"settings": SETTINGS}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 2}, "begun with seed 1, but this command has 2"),
        ({"energies": "5GeV"}, "begun with energies None, but .* '5GeV'"),
        ({"version": "9"}, "begun with version None, but .* '9'"),
    ],
)
def test_other_settings_are_refused(changed, message, tmp_path):
    shards.begin(tmp_path, SETTINGS)
    with pytest.raises(CalojaxError, match=message):
        shards.begin(tmp_path, SETTINGS | changed)


NEARLY = '{"settings": {"num": "x"}}'
NOTHING = '{"settings": {"num": 0, "part_size": 5}}'
DAMAGED = ["", "{", "[]", "{}", '{"settings": 3}', NEARLY, NOTHING, "\xff", "[" * 10**5]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_manifests_are_refused(text, tmp_path):
    (tmp_path / shards.MANIFEST).write_bytes(text.encode("latin-1"))
    for use in (lambda: shards.begin(tmp_path, SETTINGS), lambda: open_showers(tmp_path)):
        with pytest.raises(CalojaxError, match="damaged or not a manifest"):
            use()


def test_a_manifest_that_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / shards.MANIFEST)
    with pytest.raises(CalojaxError, match=r"manifest\.json: is a pipe"):
        open_showers(tmp_path)


def test_folders_that_will_not_do(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(CalojaxError, match="cannot be written"):
            shards.begin(folder, SETTINGS)
    (tmp_path / "part-00001.hdf5").touch()
    with pytest.raises(CalojaxError, match=r"has part files but no manifest\.json"):
        shards.begin(tmp_path, SETTINGS)
    with pytest.raises(CalojaxError, match="--part-size must be at least 1, got 0"):
        shards.split(5, 0)


def test_a_folder_is_read_like_a_file_when_it_is_complete(tmp_path):
    energies, showers = toy(25)
    plan = shards.split(25, 10)
    shards.begin(tmp_path, SETTINGS)
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
        shards.begin(tmp_path, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_begin_a_folder_at_once_one_is_refused(tmp_path, monkeypatch):
    def slow(content):
        monkeypatch.undo()
        shards.begin(tmp_path, SETTINGS | {"seed": 2})
        return json.dumps(content).encode()

    monkeypatch.setattr(shards.msgspec.json, "encode", slow)
    with pytest.raises(CalojaxError, match="begun with seed 2, but this command has 1"):
        shards.begin(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [shards.MANIFEST]
