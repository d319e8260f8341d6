"""Output files: what may be replaced, and who holds a folder."""

import os
import subprocess
import sys

import pytest

from calojax import files
from calojax.errors import CalojaxError, printable


@pytest.fixture
def existing(tmp_path):
    path = tmp_path / "showers.hdf5"
    path.write_text("theirs")
    return path


def test_an_existing_file_is_replaced_on_request_only(existing):
    with pytest.raises(CalojaxError, match=r"showers\.hdf5: already exists; .* --force"):
        files.check_output(existing)
    files.check_output(existing, force=True)
    files.check_output(existing.with_name("new.hdf5"))


def test_an_input_is_never_replaced(existing):
    link = existing.with_name("link")
    link.symlink_to(existing)
    for path in (existing, link):
        with pytest.raises(CalojaxError, match="is also an input"):
            files.check_output(path, force=True, inputs=[existing])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_regular_files_are_replaced(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(CalojaxError, match="out: is "):
        files.check_output(tmp_path / "out", force=True)


def test_a_folder_has_one_writer_and_a_crash_frees_it(tmp_path):
    code = (
        "import os, pathlib, sys; from calojax import files\n"
        "with files.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(CalojaxError, match="in use by another process; wait"):
        files.locked(tmp_path).__enter__()
    holder.kill()
    holder.communicate()
    with files.locked(tmp_path):
        pass


def test_escape_codes_of_foreign_files_do_not_reach_the_terminal():
    assert printable("a\x1b[31mb\nMüller\udce4") == r"a\x1b[31mb\nMüller\udce4"
    assert str(CalojaxError("\x1b")) == r"\x1b"


def test_what_is_in_an_input_folder_is_an_input(existing):
    with pytest.raises(CalojaxError, match="is also an input"):
        files.check_output(existing, force=True, inputs=[existing.parent])
    files.check_output(existing, force=True, inputs=["50GeV," * 1000, "", existing.with_name("no")])


def test_what_killed_processes_left_is_removed_and_the_rest_is_not(tmp_path):
    folder, file = tmp_path / ".showers-1", tmp_path / "scores.partial-1"
    (tmp_path / "other").mkdir()
    with files.working_folder(tmp_path, ".showers-") as held:
        folder.mkdir()
        (folder / "half").touch()
        file.touch()
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        with files.working_folder(tmp_path, ".showers-"):
            assert held.exists()
        with files.replacing(tmp_path / "scores") as partial:
            partial.write_text("all")
    assert {path.name for path in tmp_path.iterdir()} == {"other", "scores"}
