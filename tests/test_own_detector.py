"""The page on own detectors: its XML file, its code and its commands work."""

import pathlib
import re

import numpy as np
import pytest

from calojax import cli
from calojax.cli import train
from calojax.geometry import find_detector
from calojax.io import open_showers

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "own_detector.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the first two steps of the page make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALOJAX_CACHE", str(tmp_path / "cache"))
    (xml,), (code,) = blocks("xml"), blocks("python")
    pathlib.Path("ecal.xml").write_text(xml)
    exec(code, {})
    return tmp_path


def test_the_page_leads_from_hits_to_training(folder, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(train, "train", lambda model, *_, **__: built.append(model))
    monkeypatch.setattr(train, "_draw_losses", lambda run: None)
    detector = find_detector("ecal.xml")
    pathlib.Path("ecal.xml").unlink()  # The files keep the geometry.
    check, commands = blocks("sh")
    cli.main(check.split()[1:])
    said = capsys.readouterr()
    assert "geometry ecal, photons" in said.out
    assert "error" not in said.out
    assert "warning" not in said.out + said.err
    cli.main(commands.splitlines()[0].split()[1:])
    energies = open_showers("train.hdf5").energies
    (model,) = built
    assert model.detector == detector.spanning(energies)
    assert model.detector.energy_range == (energies.min(), energies.max())


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_converted_files_keep_the_geometry(folder, layout):
    cli.main(f"convert test.hdf5 --out other.hdf5 --layout {layout}".split())
    ours, theirs = open_showers("test.hdf5"), open_showers("other.hdf5")
    assert theirs.detector == ours.detector == find_detector("ecal.xml")
    np.testing.assert_array_equal(theirs.read(), ours.read())


def test_every_attribute_is_on_the_page():
    page = PAGE.read_text()
    detector = find_detector("ds2")
    for name in (*vars(detector.medium), "readout_threshold", "evaluation_threshold", "thickness"):
        assert f"`{name}`" in page
    for name, value in vars(detector.medium).items():
        assert re.search(rf"`{name}`.*dataset 2's[^|]*\b{value:g}\b", page), name


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("simulate --geometry ecal.xml --num 2 --out x.hdf5", "no energy range.*--energies"),
        ("simulate --particle 22 --num 2 --out x.hdf5", "add --geometry FILE.xml"),
        ("check train.hdf5 --geometry ecal.xml --particle pion", "no <Bin> of particle 'pion'"),
        ("convert train.hdf5 --out x.hdf5 --layout sparse --particle 22", "add --geometry"),
        ("evaluate test.hdf5 test.hdf5 --out x --particle 22", "add --geometry FILE.xml"),
        ("train calovq-tiny --data train.hdf5 --out x --particle 22", "add --geometry FILE.xml"),
    ],
)
def test_mistakes_get_a_sentence(folder, command, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(command.split())
    assert re.search(f"^error: .*{message}", capsys.readouterr().err, re.MULTILINE)
    assert not pathlib.Path("x.hdf5").exists()
