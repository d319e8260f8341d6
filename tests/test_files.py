"""Output files: what may be replaced, and who holds a folder."""

import os
import subprocess
import sys

import pytest

from calojax import files
from calojax.errors import CalojaxError, printable


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


def test_inputs_need_not_be_files(tmp_path):
    (tmp_path / "out").touch()
    files.check_output(tmp_path / "out", force=True, inputs=["50GeV," * 1000, "", tmp_path / "no"])


def test_what_killed_processes_left_is_removed_and_the_rest_is_not(tmp_path):
    (tmp_path / "other").touch()
    with files.temporary(tmp_path / "scores") as held:
        (tmp_path / "scores.partial-1").touch()
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        with files.replacing(tmp_path / "scores") as partial:
            partial.write_text("all")
        assert {path.name for path in tmp_path.iterdir()} == {"other", "scores", held.name}
