"""The report's files: complete, self-contained, escaped, with the numbers that were computed."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest

from calojax import plot, report
from calojax.errors import CalojaxError
from calojax.evaluation import (
    correlations,
    features,
    histograms,
    quantity,
    scoreboard,
)
from calojax.evaluation.classifiers import ClassifierSettings, MulticlassScore
from calojax.evaluation.suite import SCORES, Evaluation, Slice
from calojax.geometry import detector
from calojax.io import ShowerArrays
from calojax.report import tables
from calojax.report.tables import Table

# Few layers, since every cell of a sheet takes time.
TINY = dataclasses.replace(detector("tiny"), layers=detector("tiny").layers[:3])
NASTY = "my <script>alert(\"1\")</script> & 'run'"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.01162, 0.00214, "0.0116 ± 0.0021"),
        (0.64712, 0.0996, "0.65 ± 0.10"),
        (1315.68, 7.04, "1316 ± 7"),
        (98765.4, 1234.0, "98,800 ± 1,200"),
        (123.4, 12.0, "123 ± 12"),
        (3e-9, 2e-10, "3e-09 ± 2e-10"),
        (0.507, 1.2e-6, "0.507 ± 1.2e-06"),
        (98765.4, 0.5, "98,770 ± 0.5"),
        (8.321e36, None, "8.321e+36"),
        (8e36, 3e35, "8e+36 ± 3e+35"),
        (-1e117, 2.0, "-1e+117 ± 2"),
        (0.0, 1e36, "0 ± 1e+36"),
        (999_999.0, None, "1e+06"),
        (-0.0276, None, "-0.0276"),
        (133549.0, None, "133,500"),
        (0.5, 0.0, "0.5"),
        (0.5, float("nan"), "0.5"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_numbers_are_rounded_to_their_error(value, error, text):
    assert quantity.rounded(value, error) == text


def test_tables_are_aligned():
    table = Table(
        "A caption.", ("Model", "AUC"), (("a", "0.5"), ("longer", "0.75")), frozenset({1})
    )
    assert table.text().splitlines() == [
        "A caption.",
        "--------------",
        "  Model    AUC",
        "--------------",
        "  a        0.5",
        "* longer  0.75",
        "--------------",
    ]


def sample(seed: int, n: int = 40) -> ShowerArrays:
    rng = np.random.default_rng(seed)
    energies = np.geomspace(1.5e3, 5e4, n)
    voxels = rng.exponential(size=(n, TINY.n_voxels)) * energies[:, None] / TINY.n_voxels
    return ShowerArrays(TINY, energies, voxels)


@pytest.fixture(scope="module")
def sources():
    return sample(1), sample(2)


@pytest.fixture(scope="module")
def evaluation(sources) -> Evaluation:
    ours, theirs = (features.stream(source) for source in sources)
    scores = {"separation_e_total": 0.0132, "separation_e_total_error": 0.0024,
              "separation_e_total_chance": 0.012, "auc_low": 0.6471, "auc_low_error": 0.0051,
              "fpd": 0.0934, "fpd_error": 0.0021,
              "kpd": float("nan"), "recall": 0.25}  # fmt: skip
    return Evaluation(
        detector=TINY,
        generated=ours,
        reference=theirs,
        histograms=tuple(
            item
            for item in histograms.compare(ours, theirs, TINY)
            if item.family in ("e_total", "e_layer")  # every sheet takes a second
        ),
        layer_correlations=correlations.layers(ours, theirs),
        shower_correlations=correlations.showers(ours, theirs, TINY),
        scores=scores,
        slices=(Slice(1e3, 1e4, 20, 21, scores), Slice(1e4, 1e5, 20, 19, {})),
        floor={"auc_low": 0.5, "auc_low_error": 0.01},
        warnings=("Energies & <spectra> differ.",),
        settings={"quick": True, "fpd": {"min_samples": 10}},
    )


@pytest.fixture(scope="module")
def written(evaluation, sources) -> report.Report:
    """A report of one model with everything in it."""
    model = report.Model(
        NASTY,
        evaluation,
        showers=sources[0],
        inputs={"generated <file>": "/a/b.hdf5", "checksum": np.float32(1.5)},
        options={"seeds": 10},
        times={"cpu_ms_1": 20.0},
    )
    return report.Report(
        [model],
        reference=sources[1],
        published=scoreboard.rows("ds2"),
        multiclass=(
            MulticlassScore(
                kind="high",
                log_posterior={NASTY: -0.9, "rival": -0.5},
                log_posterior_error={NASTY: 0.01, "rival": 0.02},
                uniform=-0.693,
                cross_check=((-0.4, -1.2), (-1.1, -0.3)),
                settings=ClassifierSettings(),
            ),
        ),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("report") / "new"
    assert report.write(written, folder, dpi=40) == folder / "report.html"
    return folder


class Page(html.parser.HTMLParser):
    """Collects what a browser would see of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.seen.append(data)


def test_metrics_file_has_stable_keys(folder, evaluation):
    found = json.loads((folder / "metrics.json").read_text())
    assert list(found) == [
        "format", "name", "geometry", "showers", "scores", "floor", "slices", "published_names",
        "warnings", "histograms", "times_ms", "multiclass", "inputs", "settings",
        "versions",
    ]  # fmt: skip
    assert (found["format"], found["name"], found["geometry"]) == (1, NASTY, "tiny")
    assert found["showers"] == {"generated": 40, "reference": 40}
    assert found["scores"]["fpd"] == 0.0934  # as computed, without the tables' 1e3
    assert found["scores"]["kpd"] is None  # JSON has no NaN
    assert found["published_names"] == {
        "separation_e_total": "sep E total", "fpd": "FPD * 1e3", "kpd": "KPD * 1e3",
        "recall": "recall", "auc_low": "binary cls low",
    }  # fmt: skip
    assert found["slices"][0]["low_mev"] == 1e3
    assert found["multiclass"][0]["log_posterior"] == {NASTY: -0.9, "rival": -0.5}
    assert found["slices"][0]["scores"]["recall"] == 0.25
    assert set(found["histograms"]) == {item.name for item in evaluation.histograms}
    assert found["settings"] == {"seeds": 10, "quick": True, "fpd": {"min_samples": 10}}
    assert {"calojax", "jax", "python", "device"} <= set(found["versions"])


def test_samples_are_ranked_by_how_much_geant4_looks_like_them(written):
    table = next(t for t in tables.tables(written) if "multi cls" in t.header)
    assert [row[:2] for row in table.rows] == [
        ("rival", "-0.500 ± 0.020"),
        (NASTY, "-0.900 ± 0.010"),
    ]
    assert table.rows[0][2:] == ("-1.100", "-0.300")


def test_tables_name_scores_that_exist():
    assert {*tables._ORDERS, *tables._CHANCES} <= set(SCORES)
    assert set(tables._BOARD) <= {*SCORES, *scoreboard.TIMES}


def test_page_is_self_contained_and_well_formed(folder):
    page = Page((folder / "report.html").read_text())
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "action", "data"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:image/png;base64,", "#"))
        assert "url(" not in (attributes.get("style") or "")
    css = "".join(page.seen)
    assert "@import" not in css
    assert "url(" not in css
    anchors = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    assert anchors == {a["id"] for _, a in page.tags if "id" in a}
    assert len(anchors) == 9


def test_page_shows_names_and_numbers_as_text(folder):
    page = Page((folder / "report.html").read_text())
    text = " ".join(page.seen)
    assert "0.0132 ± 0.0024" in text
    assert f"{NASTY} against Geant4" in text
    assert "Energies & <spectra> differ." in text
    assert "This was a quick run" in text
    assert "93.4 ± 2.1" in text  # FPD times 1e3
    assert "0.500 ± 0.010" in text  # the floor
    assert "not comparable" in text
    assert scoreboard.SOURCE in text


def test_every_picture_is_in_the_folder_and_on_the_page(folder):
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {
        "histogram_e_total", "histogram_e_layer", "response", "profile_longitudinal",
        "profile_radial", "mean_layers_1000_10000_MeV", "single_space",
        "correlation_layers", "correlation_showers", "pareto_auc_low",
    } <= names  # fmt: skip
    page = Page((folder / "report.html").read_text())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(names)
    assert all(int(image["width"]) > 100 and image["alt"] for image in images)


def test_screen_shows_scores_floor_slices_and_board(written):
    text = report.screen(written)
    lines = text.splitlines()
    row = next(line for line in lines if line.startswith("binary cls low "))
    assert re.fullmatch(r"binary cls low +0\.6471 ± 0\.0051 +0\.5 +0\.500 ± 0\.010 +AUC .*", row)
    row = next(line for line in lines if line.startswith("sep E total "))
    assert re.fullmatch(r"sep E total +0\.0132 ± 0\.0024 +0\.012 +– +separation .*", row)
    assert any(re.fullmatch(r"  by chance +0\.012", line) for line in lines)  # of a slice
    assert any(re.fullmatch(r"FPD \* 1e3 +93\.4 ± 2\.1 +0 +– +Frechet .*", line) for line in lines)
    assert any("recall" in line and "higher is better" in line for line in lines)
    assert any(re.fullmatch(r"recall +0\.25 +–", line) for line in lines)  # the empty slice
    marked = [line for line in lines if line.startswith("* ")]
    assert marked == [lines[-2]]  # Among the published models; too few showers to be ranked.
    assert marked[0].startswith(f"* {NASTY}  ")
    assert text.startswith("Warning: This was a quick run")


def test_several_models_stand_side_by_side(tmp_path, evaluation, sources, written):
    other = dataclasses.replace(
        evaluation, scores={"fpd": 0.5}, warnings=(*evaluation.warnings, "Only here."), slices=(),
        generated=evaluation.reference,
    )  # fmt: skip
    models = [dataclasses.replace(written.models[0], name="A"), report.Model("B", other)]
    both = dataclasses.replace(written, models=models, reference_name="Full")
    assert both.title == "A and B against Full"
    assert both.warnings[1:] == ("Energies & <spectra> differ.", "B: Only here.")
    table = tables.tables(both)[0]
    assert table.header == ("Score", "A", "B", "by chance", "Full floor", "What it is")
    assert next(r for r in table.rows if r[0] == "FPD * 1e3")[1:4] == ("93.4 ± 2.1", "500", "0")
    assert {"A", "B"} <= {row[0] for row in tables.tables(both)[-1].rows}
    content = report.metrics(both)
    assert [one["name"] for one in content] == ["A", "B"]
    path = report.write(both, tmp_path, dpi=40)
    assert json.loads((tmp_path / "metrics.json").read_text())["models"] == content
    text = " ".join(Page(path.read_text()).seen)
    assert "could not be drawn" not in text
    # Without the showers of all models there are no pictures of showers.
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"response", "histogram_e_layer", "correlation_showers"} <= names
    assert "single_space" not in names


def test_without_extras_the_report_is_shorter(tmp_path, evaluation):
    bare = dataclasses.replace(
        evaluation, histograms=(), layer_correlations=None, floor=None, shower_correlations=None,
        slices=(), warnings=(), settings={}, scores={"precision": 0.5},
    )  # fmt: skip
    made = report.Report([report.Model("Generated", bare)])
    (table,) = tables.tables(made)
    assert table.header == ("Score", "Generated", "What it is")
    page = Page(report.write(made, tmp_path, dpi=40).read_text())
    assert [p.stem for p in (tmp_path / "figures").iterdir()] == ["response"]
    assert "warning" not in {attributes.get("class") for _, attributes in page.tags}


def test_a_picture_that_fails_costs_no_other(tmp_path, evaluation, written, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("no such picture")

    monkeypatch.setattr("calojax.plot.response", fail)
    monkeypatch.setattr("calojax.evaluation.averages.average", fail)
    monkeypatch.setattr("calojax.evaluation.averages.alike", fail)
    small = dataclasses.replace(evaluation, histograms=evaluation.histograms[:1])
    model = dataclasses.replace(written.models[0], evaluation=small)
    made = dataclasses.replace(written, models=[model], published=())
    said = []
    path = report.write(made, tmp_path, dpi=40, kind="svg", warn=said.append)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "histogram_e_total.svg", "correlation_layers.svg", "correlation_showers.svg",
    }  # fmt: skip
    assert [s.partition(" could")[0] for s in said] == [
        "The picture response", "The picture profile_longitudinal", "The picture profile_radial",
        "The picture mean_layers_1000_10000_MeV", "The picture mean_layers_10000_100000_MeV",
        "The picture single_space",
    ]  # fmt: skip
    assert all(sentence in html.unescape(path.read_text()) for sentence in said)
    assert json.loads((tmp_path / "metrics.json").read_text())["scores"]["fpd"] == 0.0934


@pytest.mark.parametrize(("count", "scale"), [(12, 1e30), (1, 0.0)])
def test_odd_samples_are_drawn(tmp_path, monkeypatch, scale, count):
    for name in ("histogram_sheet", "space", "layer_maps"):  # They take seconds each.
        monkeypatch.setattr(f"calojax.plot.{name}", lambda *_, **__: plot.loss_curves([]))
    plain = sample(1, count)
    odd = ShowerArrays(TINY, plain.energies, (scale * plain.read()).astype(np.float32))
    ours, theirs = features.stream(odd), features.stream(plain)
    found = Evaluation(
        detector=TINY, generated=ours, reference=theirs, histograms=(), layer_correlations=None,
        shower_correlations=None, scores={}, slices=(), floor=None, warnings=(), settings={},
    )  # fmt: skip
    said = []
    made = report.Report([report.Model("odd", found, showers=odd)], reference=plain)
    report.write(made, tmp_path, dpi=20, warn=said.append)
    assert said == []
    assert len(list((tmp_path / "figures").iterdir())) >= 4


def test_names_from_outside_reach_no_terminal_and_break_no_file(tmp_path, evaluation):
    name = "\x1b[31m$x$ <b> \udcff\n"
    small = dataclasses.replace(evaluation, histograms=(), warnings=(name,))
    made = report.Report([report.Model(name, small, inputs={name: name})], reference_name=name)
    page = report.write(made, tmp_path, dpi=40).read_text()
    assert "<b>" not in page
    assert "\\udcff" in page
    assert "could not be drawn" not in page
    assert json.loads((tmp_path / "metrics.json").read_text())["name"] == name
    shown = report.screen(made)
    assert shown.encode()
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "content",
    [
        "{}", "null", '{"models": 5}', '{"models": null}', "not JSON",
        '{"name": 1, "inputs": [], "scores": 3}', "[" * 10**5,
    ],
)  # fmt: skip
def test_files_of_others_are_not_replaced(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(CalojaxError, match=r"not written by calojax evaluate.*--force"):
        report.check(tmp_path)
    assert report.earlier(tmp_path, ["1"]) == ([report.Earlier()], [])


def test_scores_of_the_same_evaluation_are_known_again(tmp_path, evaluation, written):
    inputs = {"digest": "1", "generated": "a.hdf5"}
    model = dataclasses.replace(written.models[0], inputs=inputs)
    other = report.Model("other", evaluation, inputs={"digest": "2"})
    # With one seed there is no error.
    score = dataclasses.replace(
        written.multiclass[0], log_posterior_error=dict.fromkeys((NASTY, "rival"), float("nan"))
    )
    both = dataclasses.replace(written, models=[model, other], multiclass=[score])
    report.write(both, tmp_path, pictures=False)
    report.check(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/response.png").touch()
    (tmp_path / "figures/mine.png").touch()
    found, replaced = report.earlier(tmp_path, ["1", "3", "2"])
    assert replaced == []
    assert [one.content.get("name") for one in found] == [NASTY, None, "other"]
    assert found[0].content["inputs"] == inputs
    np.testing.assert_equal(dict(found[0].known.scores), dict(evaluation.scores))
    np.testing.assert_equal(dict(found[0].known.slices[1e3, 1e4]), dict(evaluation.scores))
    assert found[0].known.floor == evaluation.floor
    (known,) = map(dataclasses.asdict, found[0].multiclass)
    np.testing.assert_equal(known, dataclasses.asdict(score))
    assert tables._multiclass(score, both).rows[1][:2] == (NASTY, "-0.9")
    # Another evaluation takes the folder: no picture of this one is left beside its scores.
    assert report.earlier(tmp_path, ["2"])[1] == [NASTY]
    assert {p.name for p in tmp_path.rglob("*")} == {"metrics.json", "figures", "mine.png"}
    assert report.earlier(tmp_path, ["1"], force=True) == ([report.Earlier()], [NASTY, "other"])
