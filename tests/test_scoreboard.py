"""The published rows are the published rows, and ours stands where it belongs among them."""

import dataclasses
import json

import pytest

from calojax.errors import CalojaxError
from calojax.evaluation import scoreboard
from calojax.evaluation.scoreboard import Row
from calojax.geometry import detector

MODELS = {"ds1_photons": 16, "ds1_pions": 13, "ds2": 18, "ds3": 16}


@pytest.mark.parametrize("dataset", MODELS)
def test_every_data_set_has_its_models_and_geant4_first(dataset):
    rows = scoreboard.rows(dataset)
    assert len(rows) == MODELS[dataset]
    assert scoreboard.is_geant4(rows[0])
    assert len({row.model for row in rows}) == len(rows)
    assert all(row.published and row.fpd is not None and row.auc_low is not None for row in rows)


def test_known_numbers_of_the_published_tables():
    # arXiv:2410.21611, result tables, as printed: FPD and KPD times 1e3, times in ms per shower.
    by_name = {row.model: row for row in scoreboard.rows("ds2")}
    dream, vq = by_name["CaloDREAM"], by_name["Calo-VQ"]
    assert dream.fpd == pytest.approx(24.6, abs=0.05)
    assert dream.auc_low == pytest.approx(0.531, abs=5e-4)
    assert dream.gpu_ms_10000 is None  # did not run
    assert vq.separation_e_layer == pytest.approx(8.78e-3, abs=5e-6)
    assert (vq.cpu_ms_1, vq.gpu_ms_1) == (
        pytest.approx(168, abs=0.5),
        pytest.approx(72.8, abs=0.05),
    )
    assert vq.parameters == pytest.approx(1.23e6, rel=0.01)
    pions = scoreboard.rows("ds1-pions")[0]
    assert pions.auc_low == pytest.approx(0.609, abs=5e-4)
    assert pions.auc_cnn is None


@pytest.mark.parametrize(
    ("name", "dataset"), [("ds1-photons", "ds1_photons"), ("ds2", "ds2"), ("tiny", None)]
)
def test_data_set_of_a_detector_is_told_by_its_layers(name, dataset):
    geometry = detector(name)
    other = "own" if dataset else "ds2"
    assert scoreboard.dataset_of(dataclasses.replace(geometry, name=other)) == dataset
    shorter = dataclasses.replace(geometry, layers=geometry.layers[1:])
    assert scoreboard.dataset_of(shorter) is None


@pytest.mark.parametrize(
    ("showers", "quick", "expected"),
    [(100_000, False, True), (100_000, True, False), (300, False, False)],
)
def test_only_runs_of_full_size_are_ranked(showers, quick, expected):
    ranked = scoreboard.is_full_size(showers, quick)
    assert ranked == expected
    rows = scoreboard.against({"o": {"binary cls low": 0.5}}, scoreboard.rows("ds2"), ranked=ranked)
    assert (rows[1].model == "o") == expected
    assert (rows[-1].model == "o") != expected


def test_unknown_data_set_names_those_that_exist():
    with pytest.raises(CalojaxError, match="ds1_photons, ds1_pions, ds2, ds3"):
        scoreboard.rows("ds4")


def test_ours_is_sorted_in_and_carries_only_what_was_computed():
    scores = {"binary cls low": 0.6, "FPD * 1e3": 50.0, "KPD * 1e3": float("nan"), "other": 1.0}
    rows = scoreboard.against({"ours": scores}, scoreboard.rows("ds2"))
    position = [row.model for row in rows].index("ours")
    ours = rows[position]
    assert (ours.auc_low, ours.fpd, ours.kpd, ours.published) == (0.6, 50.0, None, False)
    assert scoreboard.is_geant4(rows[0])
    assert all(row.auc_low <= 0.6 for row in rows[1:position])
    assert all(row.auc_low >= 0.6 for row in rows[position + 1 :])


def test_higher_is_better_sorts_the_other_way_and_missing_values_come_last():
    published = (
        Row(model="low", published=True, coverage=0.1),
        Row(model="none", published=True),
        Row(model="Geant4", published=True, coverage=0.5),
        Row(model="high", published=True, coverage=0.9),
    )
    rows = scoreboard.against({"ours": {"coverage": 0.4}}, published, sort="coverage")
    assert [row.model for row in rows] == ["Geant4", "high", "ours", "low", "none"]


def test_rows_from_a_users_own_table(tmp_path):
    path = tmp_path / "results.json"
    table = {"datasets": {"ds2": [{"model": "mine", "auc_low": 0.7, "unknown column": 1}]}}
    path.write_text(json.dumps(table))
    (row,) = scoreboard.read(path, "ds2")
    assert (row.model, row.auc_low, row.fpd) == ("mine", 0.7, None)
    with pytest.raises(CalojaxError, match="no scores of 'ds3', only of ds2"):
        scoreboard.read(path, "ds3")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"datasets": {"ds2": [{"fpd": 1}]}}'])
def test_a_file_that_is_no_table_of_scores(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(CalojaxError, match=r"results\.json: is not a table of scores"):
        scoreboard.read(path, "ds2")


def test_a_missing_table_of_scores(tmp_path):
    with pytest.raises(CalojaxError, match="is not a table of scores"):
        scoreboard.read(tmp_path / "none.json", "ds2")
