"""Links, virtual data, filters and attributes of foreign files."""

import os
import pathlib

import h5py
import numpy as np
import pytest
from toys import GOOD_E, GOOD_S, assert_one_sentence, raw

from calojax.cli import main
from calojax.errors import CalojaxError
from calojax.io import hdf5, open_showers


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def linked(showers):
    return raw("x.hdf5", incident_energies=GOOD_E, showers=showers)


def virtual():
    layout = h5py.VirtualLayout(GOOD_S.shape, "f8")
    layout[:] = h5py.VirtualSource("gone.hdf5", "showers", shape=GOOD_S.shape)
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = GOOD_E
        file.create_virtual_dataset("showers", layout)
    return pathlib.Path("x.hdf5")


def raw_file():
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = GOOD_E
        file.create_dataset("showers", GOOD_S.shape, "f8", external=[("raw.bin", 0, 4800)])
    return pathlib.Path("x.hdf5")


def filtered(code):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(GOOD_S.shape)
    plan.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = GOOD_E
        space = h5py.h5s.create_simple(GOOD_S.shape)
        data = h5py.h5d.create(file.id, b"showers", h5py.h5t.IEEE_F32LE, space, dcpl=plan)
        data.write_direct_chunk((0, 0), bytes(1000), 0)
    return pathlib.Path("x.hdf5")


def no_regular_file(path):
    return lambda: pathlib.Path(path)


def pipe():
    os.mkfifo("x.hdf5")
    return pathlib.Path("x.hdf5")


REFUSED = [
    (virtual, "is a virtual dataset, or lies in raw files"),
    (raw_file, "is a virtual dataset, or lies in raw files"),
    (lambda: linked(h5py.ExternalLink("gone.hdf5", "showers")), "is a link"),
    (lambda: linked(h5py.SoftLink("/showers")), "is a link"),
    (lambda: filtered(32001), r"filter 32001.*pip install hdf5plugin"),
    (lambda: filtered(32777), r"filter 32777.*pip install hdf5plugin"),
    (pipe, "is a pipe or a device"),
    (no_regular_file("/dev/zero"), "is a pipe or a device"),
    (no_regular_file("y" * 300 + ".hdf5"), "cannot be read"),
    (no_regular_file("x.hdf5/x.hdf5"), "no such file"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_not_read(make, message, capsys):
    path = make()
    with pytest.raises(CalojaxError, match=message) as error:
        open_showers(path)
    if str(error.value).startswith("x"):
        assert_one_sentence(error.value, path)
    with pytest.raises(SystemExit):
        main(["check", str(path)])
    assert str(error.value).removeprefix(f"{path}: ") in capsys.readouterr().out


def test_a_filter_is_taken_from_its_package(monkeypatch):
    # As hdf5plugin does it: importing it makes the filter known.
    known = set()
    monkeypatch.setattr(h5py.h5z, "filter_avail", known.__contains__)
    monkeypatch.setattr(hdf5.importlib, "import_module", lambda name: known.add(32015))
    path = filtered(32015)
    assert len(open_showers(path)) == len(GOOD_S)


def odd_attributes(file: h5py.File) -> None:
    file.attrs["good"] = "text"
    file.attrs["latin"] = np.bytes_("Müller".encode("latin-1"))
    file.attrs.create(
        "variable",
        np.array("Müller".encode("latin-1"), dtype=object),
        dtype=h5py.string_dtype("utf-8"),
    )
    file.attrs["escape"] = "\x1b[31mred"
    file.attrs["one"] = np.array([5])
    file.attrs["empty"] = ""
    file.attrs["flag"] = True
    file.attrs["long"] = "x" * 100_000
    file.attrs["list"] = [1, 2, 3]
    file.attrs["texts"] = ["a", "b"]
    file.attrs["complex"] = 1j
    file.attrs["pair"] = np.array((1, 2.0), dtype=[("a", "i4"), ("b", "f8")])
    file.attrs["bytes"] = np.void(b"abc")
    file.attrs["nothing"] = h5py.Empty("f4")
    file.attrs["reference"] = file.ref
    file.attrs["layout"] = ["sparse", "dense"]
    scalar = h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5a.create(file.id, b"time", h5py.h5t.UNIX_D32LE, scalar)
    h5py.h5a.create(file.id, b"na\xffme", h5py.h5t.STD_I32LE, scalar)


def test_odd_attributes_are_survived(capsys):
    with h5py.File("x.hdf5", "w", libver="latest") as file:
        file["incident_energies"], file["showers"] = GOOD_E, GOOD_S
        odd_attributes(file)
    source = open_showers("x.hdf5")
    kept = {
        "good": "text",
        "latin": "Müller",
        "variable": "Müller",
        "escape": "\x1b[31mred",
        "one": 5,
        "empty": "",
        "flag": True,
        "bytes": "abc",
        "na\xffme": 0,
    }
    assert source.attributes == kept | {"long": "x" * 100_000}
    main(["convert", "x.hdf5", "--out", "y.hdf5", "--layout", "dense"])
    assert kept.items() <= open_showers("y.hdf5").attributes.items()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["check", "x.hdf5"])  # Its showers are of no known unit.
    printed = capsys.readouterr().out
    assert r"\x1b[31mred" in printed
    assert "\x1b" not in printed
