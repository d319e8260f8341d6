"""Families of models: built in, registered, and from the entry points of installed packages."""

import dataclasses

import h5py
import pytest
from two_stages import FAMILY, Two, TwoConfig

from calojax import checkpoint, cli, models
from calojax.errors import CalojaxError
from calojax.presets import PRESETS


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Undoes what a test registers."""
    monkeypatch.setattr(models, "_FAMILIES", dict(models.families()))
    yield
    models._load_entry_points.cache_clear()


def installed(folder, monkeypatch, value):
    """Puts a package on the path whose entry point has that value."""
    info = folder / "toypackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toypackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[calojax.models]\ntwo = {value}\n")
    monkeypatch.syspath_prepend(folder)
    models._load_entry_points.cache_clear()


def test_a_model_of_an_installed_package_trains_and_samples(showers, tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "two_stages:FAMILY")
    data, run, out = tmp_path / "data.hdf5", tmp_path / "run", tmp_path / "out.hdf5"
    with h5py.File(data, "w") as file:
        file["incident_energies"] = showers.energies[:, None]
        file["showers"] = showers.showers
    wanted = ["--data", str(data), "--out", str(run), "--cache", str(tmp_path / "cache")]
    cli.main(["train", "two", *wanted, "--width", "5"])
    model = checkpoint.load(run).model
    assert model == Two(TwoConfig(width=5), model.detector)
    cli.main(["sample", str(run), "--num", "8", "--out", str(out)])
    with h5py.File(out) as file:
        assert file["showers"].shape == (8, 120)
        assert file["showers"][:].sum() > 0


def test_registered_presets_are_seen_and_names_are_taken_once():
    assert "two" not in PRESETS
    models.register("two", FAMILY)
    assert PRESETS["two"].model == TwoConfig()
    assert len(PRESETS) == len(list(PRESETS))
    with pytest.raises(ValueError, match="already registered: two, two"):
        models.register("two", FAMILY)
    with pytest.raises(ValueError, match=r"already registered: two$"):
        models.register("other", dataclasses.replace(FAMILY))


def test_a_broken_package_breaks_no_other_model(tmp_path, monkeypatch, capsys):
    installed(tmp_path, monkeypatch, "two_stages:MISSING")
    assert "two" not in models.families()
    assert "calovq" in models.families()
    assert "model 'two' (two_stages:MISSING) was not added" in capsys.readouterr().err


def test_unregistered_models_are_refused(tiny):
    with pytest.raises(TypeError, match=r"settings of type TwoConfig.*calojax\.models\.register"):
        models.build(TwoConfig(), tiny)
    with pytest.raises(TypeError, match=r"Two is not registered; .*calojax\.models\.register"):
        models.to_json(Two(TwoConfig(), tiny))
    with pytest.raises(CalojaxError, match=r"'two' is not one of calovq, .*package"):
        models.from_json({"model": "two"})
