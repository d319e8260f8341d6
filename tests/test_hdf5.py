"""Links, virtual sources, raw files, filters and attributes of foreign files."""

import os
import pathlib

import h5py
import numpy as np
import pytest
from toys import GOOD_E, GOOD_S, assert_one_sentence, raw

from calojax.cli import main
from calojax.errors import CalojaxError
from calojax.io import hdf5, open_showers

HALF = GOOD_S[:3]
EXTERNAL = "CALOJAX_EXTERNAL_DATA"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder, and another one beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv(EXTERNAL, raising=False)
    return tmp_path / "here"


def virtual(*sources: str, count: int | None = None, key="showers", gap=0) -> pathlib.Path:
    """A file of virtual showers, three of each source."""
    count = 3 * len(sources) if count is None else count
    layout = h5py.VirtualLayout((count + gap, 120), "f8")
    for i, source in enumerate(sources):
        layout[3 * i : 3 * i + 3] = h5py.VirtualSource(source, key, shape=(3, 120))
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = np.full((count + gap, 1), 2e3)
        file.create_virtual_dataset("showers", layout)
    return pathlib.Path("x.hdf5")


def missing_source():
    raw("a.hdf5", showers=HALF)
    return virtual("a.hdf5", "b.hdf5")


def source_without_the_dataset():
    raw("a.hdf5", other=HALF)
    return virtual("a.hdf5")


def short_source():
    raw("a.hdf5", showers=HALF[:2])
    return virtual("a.hdf5")


def short_source_of_a_slice():
    path = missing_source()
    layout = h5py.VirtualLayout((3, 120), "f8")
    layout[:] = h5py.VirtualSource("a.hdf5", "showers", shape=(9, 120))[2:5]
    with h5py.File(path, "w") as file:
        file["incident_energies"] = GOOD_E[:3]
        file.create_virtual_dataset("showers", layout)
    return path


def gap():
    raw("a.hdf5", showers=HALF)
    return virtual("a.hdf5", gap=1)


def source_of_a_source():
    path = missing_source().rename("c.hdf5")
    layout = h5py.VirtualLayout((6, 120), "f8")
    layout[:] = h5py.VirtualSource(str(path), "showers", shape=(6, 120))
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = np.full((6, 1), 2e3)
        file.create_virtual_dataset("showers", layout)
    return pathlib.Path("x.hdf5")


def source_elsewhere():
    raw("../there/a.hdf5", showers=HALF)
    return virtual("../there/a.hdf5")


def source_behind_a_symbolic_link():
    raw("../there/a.hdf5", showers=HALF)
    os.symlink("../there/a.hdf5", "a.hdf5")
    return virtual("a.hdf5")


def source_that_is_a_link():
    raw("../there/a.hdf5", showers=HALF)
    raw("a.hdf5", showers=h5py.ExternalLink("../there/a.hdf5", "showers"))
    return virtual("a.hdf5")


def source_that_is_a_pipe():
    os.mkfifo("a.hdf5")
    return virtual("a.hdf5")


def growing_source():
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space = h5py.h5s.create_simple((0, 120), (h5py.h5s.UNLIMITED, 120))
    space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), stride=(3, 120), block=(3, 120))
    plan.set_virtual(space, b"a%b.hdf5", b"showers", h5py.h5s.create_simple((3, 120)))
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = GOOD_E
        h5py.h5d.create(file.id, b"showers", h5py.h5t.IEEE_F64LE, space, dcpl=plan)
    return pathlib.Path("x.hdf5")


def linked(showers):
    return raw("x.hdf5", incident_energies=GOOD_E, showers=showers)


def external_link():
    raw("a.hdf5", showers=GOOD_S)
    return linked(h5py.ExternalLink("a.hdf5", "showers"))


def soft_link_to_an_external_link():
    raw("a.hdf5", showers=GOOD_S)
    path = linked(h5py.SoftLink("/group/showers"))
    with h5py.File(path, "r+") as file:
        file["group"] = h5py.ExternalLink("a.hdf5", "/")
    return path


def broken_soft_link():
    return linked(h5py.SoftLink("/group/gone"))


def soft_link_to_itself():
    return linked(h5py.SoftLink("/showers"))


def raw_file(name="raw.bin"):
    with h5py.File("x.hdf5", "w") as file:
        file["incident_energies"] = GOOD_E
        file.create_dataset("showers", GOOD_S.shape, "f8", external=[(name, 0, 4800)])[:] = GOOD_S
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


def filtered_source():
    filtered(32015).rename("a.hdf5")
    return virtual("a.hdf5")


def no_regular_file(path):
    return lambda: pathlib.Path(path)


def pipe():
    os.mkfifo("x.hdf5")
    return pathlib.Path("x.hdf5")


REFUSED = [
    (missing_source, "source 'b.hdf5' is missing"),
    (source_of_a_source, "c.hdf5: .*source 'b.hdf5' is missing"),
    (source_without_the_dataset, "'showers' of its source 'a.hdf5' lacks values"),
    (short_source, "source 'a.hdf5' lacks values"),
    (short_source_of_a_slice, "source 'a.hdf5' lacks values"),
    (gap, "sources for 360 of its 480 values"),
    (growing_source, "grows with its sources"),
    (source_elsewhere, r"read from .*/there/a.hdf5, outside .*CALOJAX_EXTERNAL_DATA=allow"),
    (source_behind_a_symbolic_link, "read from .*a.hdf5, outside"),
    (source_that_is_a_link, "a.hdf5: 'showers' is a link to 'showers' of the file"),
    (source_that_is_a_pipe, "a.hdf5: is a pipe"),
    (external_link, "is a link to 'showers' of the file 'a.hdf5'; .*CALOJAX_EXTERNAL_DATA=allow"),
    (soft_link_to_an_external_link, "is a link to '/' of the file 'a.hdf5'"),
    (broken_soft_link, "is a link to '/group/gone', which is not in the file"),
    (soft_link_to_itself, "leads back to itself"),
    (raw_file, "raw file 'raw.bin'.*CALOJAX_EXTERNAL_DATA=allow"),
    (lambda: filtered(32001), r"filter 32001.*pip install hdf5plugin"),
    (lambda: filtered(32777), r"filter 32777.*pip install hdf5plugin"),
    (filtered_source, r"a.hdf5: 'showers' is compressed by filter 32015"),
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


def test_sources_that_vanish_after_opening():
    raw("a.hdf5", showers=HALF)
    source = open_showers(virtual("a.hdf5"))
    os.rename("a.hdf5", "b.hdf5")
    with pytest.raises(CalojaxError, match="is missing"):
        source.read()


@pytest.mark.parametrize(
    "make",
    [
        source_elsewhere,
        source_behind_a_symbolic_link,
        source_that_is_a_link,
        external_link,
        soft_link_to_an_external_link,
        raw_file,
    ],
)
def test_data_outside_is_read_if_asked(make, monkeypatch):
    monkeypatch.setenv(EXTERNAL, "allow")
    source = open_showers(make())
    assert (source.read() == 0.5).all()
    assert source.files[0] == pathlib.Path("x.hdf5")
    assert len(source.files) > 1
    assert all(path.is_file() for path in source.files)


def test_missing_data_outside_is_refused_even_if_asked(monkeypatch):
    monkeypatch.setenv(EXTERNAL, "allow")
    with pytest.raises(CalojaxError, match=r"of the file 'gone.hdf5', which is missing"):
        open_showers(linked(h5py.ExternalLink("gone.hdf5", "showers")))
    path = raw_file()
    os.truncate("raw.bin", 100)
    with pytest.raises(CalojaxError, match="raw files that are too short"):
        open_showers(path)


def test_sources_are_found_as_hdf5_finds_them(folder, monkeypatch):
    raw("a.hdf5", showers=HALF)
    virtual("a.hdf5")
    monkeypatch.chdir("..")
    assert (open_showers("here/x.hdf5").read() == 0.5).all()
    # A folder that was moved: absolute names of sources are looked for beside the file.
    monkeypatch.chdir(folder)
    virtual(str(folder / "a.hdf5"))
    folder.rename(folder.with_name("moved"))
    source = open_showers(folder.with_name("moved") / "x.hdf5")
    assert (source.read() == 0.5).all()
    assert source.files[1] == folder.with_name("moved") / "a.hdf5"


def test_links_and_sources_within_a_file_are_read():
    path = linked(h5py.SoftLink("group/./deep"))
    with h5py.File(path, "r+") as file:
        file["group/real"] = GOOD_S
        layout = h5py.VirtualLayout(GOOD_S.shape, "f8")
        layout[:] = h5py.VirtualSource(file["group/real"])
        file.create_virtual_dataset("group/deep", layout)
    assert (open_showers(path).read() == GOOD_S).all()


def test_a_filter_is_taken_from_its_package(monkeypatch):
    # As hdf5plugin does it: importing it makes the filter known.
    known = set()
    monkeypatch.setattr(h5py.h5z, "filter_avail", known.__contains__)
    monkeypatch.setattr(hdf5.importlib, "import_module", lambda name: known.add(32015))
    path = filtered(32015)
    assert open_showers(path).dtype == np.float32


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
    assert set(source.other_attributes) == {
        *("list", "texts", "complex", "pair", "nothing", "reference", "layout"),
        "time",
    }
    main(["convert", "x.hdf5", "--out", "y.hdf5", "--layout", "dense"])
    assert kept.items() <= open_showers("y.hdf5").attributes.items()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["check", "x.hdf5"])  # Its showers are of no known unit.
    printed = capsys.readouterr().out
    assert r"\x1b[31mred" in printed
    assert "\x1b" not in printed


def test_names_that_are_not_utf8_are_printed(capsys):
    name = os.fsdecode(b"m\xfcller.hdf5")
    raw(name, incident_energies=GOOD_E, showers=GOOD_S)
    with pytest.raises(SystemExit):
        main(["check", name])
    assert r"m\udcfcller.hdf5" in capsys.readouterr().out
