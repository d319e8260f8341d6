"""The published rows are the published rows, and ours stands where it belongs among them."""

import dataclasses
import json

import pytest

from calojax.errors import CalojaxError
from calojax.evaluation import scoreboard
from calojax.evaluation.scoreboard import Row
from calojax.evaluation.suite import SCORES
from calojax.geometry import detector

MODELS = {"ds1-photons": 16, "ds1-pions": 13, "ds2": 18, "ds3": 16}


@pytest.mark.parametrize("dataset", MODELS)
def test_every_data_set_has_its_models_and_geant4_first(dataset):
    rows = scoreboard.rows(dataset)
    assert len(rows) == MODELS[dataset]
    assert rows[0].is_geant4
    assert len({row.model for row in rows}) == len(rows)
    assert all(row.published and {"fpd", "auc_low"} <= row.values.keys() for row in rows)
    # Every column has a name.
    assert set().union(*(row.values for row in rows)) <= {*SCORES, *scoreboard.TIMES, "parameters"}


def test_known_numbers_of_the_published_tables():
    # arXiv:2410.21611, result tables, as printed: FPD and KPD times 1e3, times in ms per shower.
    values = {row.model: row.values for row in scoreboard.rows("ds2")}
    dream, vq = values["CaloDREAM"], values["Calo-VQ"]
    assert 1e3 * dream["fpd"] == pytest.approx(24.6, abs=0.05)
    assert dream["auc_low"] == pytest.approx(0.531, abs=5e-4)
    assert "gpu_ms_10000" not in dream  # did not run
    assert vq["separation_e_layer"] == pytest.approx(8.78e-3, abs=5e-6)
    assert vq["cpu_ms_1"] == pytest.approx(168, abs=0.5)
    assert vq["gpu_ms_1"] == pytest.approx(72.8, abs=0.05)
    assert vq["parameters"] == pytest.approx(1.23e6, rel=0.01)
    pions = scoreboard.rows("ds1-pions")[0].values
    assert pions["auc_low"] == pytest.approx(0.609, abs=5e-4)
    assert "auc_cnn" not in pions


@pytest.mark.parametrize(
    ("name", "dataset"), [("ds1-photons", "ds1-photons"), ("ds2", "ds2"), ("tiny", None)]
)
def test_data_set_of_a_detector_is_told_by_its_layers(name, dataset):
    geometry = detector(name)
    other = "own" if dataset else "ds2"
    assert scoreboard.dataset_of(dataclasses.replace(geometry, name=other)) == dataset
    shorter = dataclasses.replace(geometry, layers=geometry.layers[1:])
    assert scoreboard.dataset_of(shorter) is None


@pytest.mark.parametrize(("ranked", "place"), [(True, 1), (False, -1)])
def test_only_rows_that_may_be_ranked_stand_among_the_others(ranked, place):
    ours = [Row("o", {"auc_low": 0.5})]
    rows = scoreboard.ranking(ours, scoreboard.rows("ds2"), "auc_low", ranked=ranked)
    assert rows[place].model == "o"


def test_rows_are_sorted_and_missing_values_come_last():
    published = (
        Row("none", {}, published=True),
        Row("high", {"fpd": 0.9}, published=True),
        Row("Geant4", {"fpd": 0.5}, published=True),
        Row("low", {"fpd": 0.1}, published=True),
    )
    rows = scoreboard.ranking([Row("ours", {"fpd": 0.4})], published, "fpd")
    assert [row.model for row in rows] == ["Geant4", "low", "ours", "high", "none"]


def test_rows_from_a_users_own_table(tmp_path):
    path = tmp_path / "results.json"
    entry = {"model": "mine", "auc_low": 0.7, "unknown column": 1, "fpd": None}
    path.write_text(json.dumps({"datasets": {"ds2": [entry]}}))
    (row,) = scoreboard.rows("ds2", path)
    assert row == Row("mine", {"auc_low": 0.7, "unknown column": 1.0}, published=True)
    with pytest.raises(CalojaxError, match="no scores of 'ds3', only of ds2"):
        scoreboard.rows("ds3", path)
    with pytest.raises(CalojaxError, match=r"results\.json: has no scores of 'ds9'"):
        scoreboard.rows("ds9")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"datasets": {"ds2": [{"fpd": 1}]}}'])
def test_a_file_that_is_no_table_of_scores(tmp_path, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CalojaxError, match=r"results\.json: is not a table of scores"):
        scoreboard.rows("ds2", path)
