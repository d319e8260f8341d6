"""The suite: which scores come out under which keys, slices, floors, and refusals."""

import dataclasses
import pathlib

import numpy as np
import pytest

from calojax.errors import CalojaxError
from calojax.evaluation import classifiers, distances, manifold, suite
from calojax.evaluation.metric import Found, Options, Score, SliceMetric
from calojax.evaluation.samples import (
    Samples,
    Selection,
    default_slices,
    energy_warnings,
    measure,
    sample_warnings,
    spread,
)
from calojax.evaluation.suite import SCORES
from calojax.geometry import detector
from calojax.io import ShowerArrays

# FPD, with its hundreds of small eigenvalue problems, in a test of its own.
CHEAP = ("histograms", "kpd", "prdc", "correlations")


@pytest.fixture(scope="module")
def samples(showers, tiny) -> tuple[ShowerArrays, ShowerArrays]:
    """Two samples of 300 showers; the fixture's energies are shuffled."""
    return tuple(
        ShowerArrays(tiny, showers.energies[rows], showers.showers[rows])
        for rows in (slice(0, 300), slice(300, 600))
    )


@pytest.fixture(scope="module")
def evaluation(samples) -> suite.Evaluation:
    edges = (1e3, 1e4, 1.1e5)
    return suite.evaluate(*samples, Options(metrics=CHEAP, slices=edges, floor=True, quick=True))


def test_every_score_has_a_meaning_and_published_names_are_unique(evaluation):
    keys = {key.removesuffix("_error").removesuffix("_chance") for key in evaluation.scores}
    assert keys <= set(SCORES)
    assert keys == {
        *(f"separation_{f}" for f in ("e_total", "e_layer", "voxel", "ec_eta", "ec_phi", "ec_r")),
        *(f"separation_{family}" for family in ("width_eta", "width_phi", "width_r", "sparsity")),
        *("kpd", "precision", "recall", "density", "coverage", "correlation_layers"),
        *("correlation_layers_max", "correlation_neighbours", "correlation_showers"),
    }
    assert len({metric.name for metric in SCORES.values()}) == len(SCORES)
    assert np.isfinite(list(evaluation.scores.values())).all()


def test_the_chance_level_is_what_equal_samples_have_on_average(evaluation):
    scores = evaluation.scores
    families = {key for key in scores if f"{key}_chance" in scores}
    assert families == {key for key in SCORES if key in scores and key.startswith("separation")}
    for key in families:
        assert scores[key] == pytest.approx(scores[f"{key}_chance"], abs=5 * scores[f"{key}_error"])
    of_layers = [h for h in evaluation.histograms if h.family == "e_layer"]
    assert len(of_layers) == evaluation.detector.n_layers
    means = scores["separation_e_layer"], scores["separation_e_layer_chance"]
    assert means == pytest.approx(np.mean([(h.separation, h.floor) for h in of_layers], axis=0))


def test_known_scores_are_not_computed_again(samples, monkeypatch):
    options = Options(metrics=("histograms", "kpd", "prdc"), slices=(1e3, 1e4, 1.1e5), floor=True)
    measured = tuple(map(measure, samples))
    steps = list(suite.scoring(*measured, options))
    assert [set(step.scores) & {"separation_voxel", "kpd", "recall"} for step in steps[:3]] == [
        {"separation_voxel"},
        {"separation_voxel", "kpd"},
        {"separation_voxel", "kpd", "recall"},
    ]
    (first, complete), computed = (steps[1], steps[-1]), []
    for module, name in ((distances, "kpd"), (manifold, "prdc")):
        metric = getattr(module, name)

        def noted(*arguments, name=name, metric=metric, **options):
            computed.append(name)
            return metric(*arguments, **options)

        monkeypatch.setattr(module, name, noted)

    def known(step):
        slices = {(part.low_mev, part.high_mev): part.scores for part in step.slices}
        return suite.Known(step.scores, slices, step.floor or {})

    assert list(suite.scoring(*measured, options, known(complete)))[-1].scores == complete.scores
    assert computed == []
    *_, again = suite.scoring(*measured, options, known(first))
    assert computed == ["prdc"] * 3 + ["kpd", "prdc"]  # all, two slices; and both of the floor
    assert again.scores == complete.scores
    assert again.slices == complete.slices
    assert again.floor == complete.floor
    assert again.settings == complete.settings


def test_equal_samples_score_as_their_floor_does(evaluation):
    assert evaluation.warnings == ()
    assert set(evaluation.floor) == set(evaluation.scores)
    for key in ("precision", "coverage"):
        assert evaluation.scores[key] == pytest.approx(evaluation.floor[key], abs=0.2)


def test_slices_are_scored_as_their_showers_alone(evaluation, samples):
    assert [(part.low_mev, part.high_mev) for part in evaluation.slices] == [
        (1e3, 1e4),
        (1e4, 1.1e5),
    ]
    assert sum(part.generated for part in evaluation.slices) == len(samples[0])
    part = evaluation.slices[1]
    window = Options(metrics=CHEAP, slices=(), quick=True, energy_range=(1e4, 1.1e5))
    alone = suite.evaluate(*samples, window)
    assert part.scores == pytest.approx(dict(alone.scores))


def test_classifiers_are_scored_whole_and_in_slices(samples, monkeypatch):
    def predict(kind, generated, reference, settings, *, seeds, seed):
        """Knows the truth above 10 GeV, and below guesses by nothing at all."""
        energies = np.concatenate([generated.energies, reference.energies])
        labels = np.repeat([0, 1], len(reference))
        return [
            classifiers.Predictions(energies, labels, np.where(energies > 1e4, labels, 0.5))
            for _ in range(seeds)
        ]

    monkeypatch.setattr(classifiers, "predict", predict)
    options = Options(metrics=("low-normed", "cnn"), seeds=3, slices=(1e3, 1e4, 1.1e5))
    found = suite.evaluate(*samples, options)
    assert set(found.scores) == {
        f"{score}_{kind}{suffix}"
        for score in ("auc", "jsd")
        for kind in ("low_normed", "cnn")
        for suffix in ("", "_error")
    }
    assert 0.6 < found.scores["auc_cnn"] < 0.95
    assert [part.scores["auc_cnn"] for part in found.slices] == [0.5, 1.0]
    assert found.settings["cnn"]["width"] == 2048
    assert found.settings["cnn"]["seeds"] == 3


def test_quick_says_so(evaluation):
    assert evaluation.settings["quick"] is True
    assert evaluation.settings["kpd"] == {"batch_size": 100}


def test_fpd_alone(samples, monkeypatch):
    monkeypatch.setitem(distances.fpd.__kwdefaults__, "num_batches", 1)
    found = suite.evaluate(*samples, Options(metrics=("fpd",), slices=()))
    assert set(found.scores) == {"fpd", "fpd_error"}
    assert found.scores["fpd_error"] > 0
    assert found.settings == {"fpd": {"min_samples": 100, "max_samples": 300}}
    assert found.histograms == ()


def other_geometry(samples):
    ds2 = detector("ds2")
    reference = ShowerArrays(ds2, np.full(300, 1e4), np.zeros((300, ds2.n_voxels), np.float32))
    return samples[0], reference


def shorter(samples):
    return samples[0], Selection(samples[1], np.arange(200))


def other_energies(samples):
    generated = samples[0]
    return ShowerArrays(generated.detector, np.full(300, 2e5), generated.showers), samples[1]


def few(samples):
    return tuple(Selection(sample, np.arange(4)) for sample in samples)


def few_at_low_energy(samples):
    generated = samples[0]
    energies = np.where(np.arange(300) < 4, 2e3, 5e4)
    return ShowerArrays(generated.detector, energies, generated.showers), samples[1]


def unlike(samples):
    """The same showers in layers that differ."""
    first, *others = samples[0].detector.layers
    layers = dataclasses.replace(first, r_edges=(0.0, 1.0, 2.0, 3.0)), *others
    geometry = dataclasses.replace(samples[0].detector, layers=layers)
    return tuple(ShowerArrays(geometry, one.energies, one.showers) for one in samples)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (other_geometry, {}, r"geometry tiny \(120 voxels\), the reference is of ds2"),
        (shorter, {}, "There are 300 generated and 200 reference showers"),
        (other_energies, {}, "The incident energies do not match"),
        (tuple, {"metrics": ("fdp",)}, "There is no metric 'fdp'; choose among histograms, fpd"),
        (tuple, {"metrics": ()}, "There is no metric to compute; choose among histograms"),
        (tuple, {"seeds": 0}, "seeds must be at least 1, got 0"),
        (tuple, {"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        (tuple, {"seed": 2**32}, "seed must be a whole number from 0"),
        (tuple, {"slices": (np.nan, 1e3)}, "Slices need increasing energies"),
        (tuple, {"slices": (-1.0, 1e3)}, "Slices need increasing energies"),
        (tuple, {"energy_range": (1e3, np.nan)}, "lower end first"),
        (few, {"metrics": ("prdc",)}, "more than 5 showers in each sample, got 4"),
        (
            few_at_low_energy,
            {"metrics": ("prdc",), "energy_range": (1e3, 1e4)},
            "more than 5 showers in each sample, got 4",
        ),
        (few, {"metrics": ("low",)}, "A classifier needs 5 showers or more in each sample, got 4"),
        (unlike, {"metrics": ("cnn",)}, "cnn classifier needs layers that are all alike"),
        (tuple, {"slices": (1e4, 1e3)}, "Slices need increasing energies"),
        (tuple, {"energy_range": (1e4, 1e3)}, "lower end first"),
        (tuple, {"energy_range": (1e7, 1e8)}, "There are no generated showers in this energy"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    samples, monkeypatch, change, options, sentence
):
    monkeypatch.setattr(suite, "measure", None)
    with pytest.raises(CalojaxError, match=sentence) as caught:
        suite.evaluate(*change(samples), Options(**options))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_floors_of_few_showers_lack_what_their_halves_cannot_have(samples):
    pair = [Selection(sample, np.arange(9)) for sample in samples]
    options = Options(metrics=("correlations", "prdc"), slices=(), floor=True)
    found = suite.evaluate(*pair, options)
    assert {"recall", "correlation_layers"} <= set(found.scores)
    assert "correlation_layers" in found.floor
    assert "recall" not in found.floor


def test_floors_do_not_depend_on_the_order_of_the_file(samples):
    rows = np.argsort(samples[1].energies).reshape(2, -1).T.ravel()  # low and high alternate
    pair = [ShowerArrays(s.detector, s.energies[rows], s.showers[rows]) for s in samples]
    options = Options(metrics=("correlations",), slices=(), floor=True)
    assert "correlation_layers" in suite.evaluate(*pair, options).floor


@pytest.mark.parametrize(
    ("change", "left_out"),
    [(unlike, {"cnn"}), (few, {"prdc", "low", "low-normed", "high", "cnn"}), (tuple, set())],
)
def test_all_leaves_out_what_cannot_be_computed(samples, change, left_out):
    _, reference = change(samples)
    options, warnings = suite.possible(
        Options(metrics=("all",)), reference.detector, len(reference)
    )
    assert set(options.metrics) == {*suite.METRICS} - left_out
    assert {text.partition(" was left out")[0] for text in warnings} == left_out


def by_energy(sample):
    rows = np.argsort(sample.energies)
    return ShowerArrays(sample.detector, sample.energies[rows], sample.showers[rows])


def test_samples_of_different_size_are_cut_evenly_over_their_energies(samples):
    generated, reference = by_energy(samples[0]), Selection(samples[1], np.arange(200))
    options = Options(metrics=("correlations",), slices=(), truncate=True)
    found = suite.evaluate(generated, reference, options)
    assert len(found.generated.total) == len(found.reference.total) == 200
    assert found.generated.energy.max() > 0.95 * generated.energies.max()
    for count in (7, 299, 300, 400):
        chosen = spread(generated, count)
        assert len(chosen) == min(count, 300)
        expected = np.quantile(generated.energies, [0.2, 0.5, 0.8])
        assert np.quantile(chosen.energies, [0.2, 0.5, 0.8]) == pytest.approx(expected, rel=0.3)


def test_quick_precision_does_not_depend_on_the_order_of_the_file(samples, monkeypatch):
    monkeypatch.setattr(manifold, "_QUICK_SHOWERS", 100)
    generated, reference = samples
    voxels = generated.showers.copy()
    voxels[generated.energies > 1e4, 60:] = 0  # wrong at high energies
    generated = ShowerArrays(generated.detector, generated.energies, voxels)
    options = Options(metrics=("prdc",), slices=(), quick=True)
    found = [
        suite.evaluate(*(order(one) for one in (generated, reference)), options).scores
        for order in (lambda sample: sample, by_energy)
    ]
    assert found[0] == found[1]


def replaced(sample, **rows):
    """The sample with some showers replaced: ``empty=slice`` or ``copied=slice``."""
    voxels = sample.showers.copy()
    if "empty" in rows:
        voxels[rows["empty"]] = 0
    if "copied" in rows:
        voxels[rows["copied"]] = voxels[-1]
    return ShowerArrays(sample.detector, sample.energies, voxels)


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (lambda a, b: (a, b), []),
        (lambda a, b: (a, a), ["100 % of the generated showers are also in the reference"]),
        (
            lambda a, b: (a, ShowerArrays(a.detector, a.energies, np.roll(a.showers, 1, 0))),
            ["100 % of the generated showers are also in the reference"],
        ),
        (
            lambda a, b: (replaced(a, empty=slice(0, 60)), b),
            ["20 % of the generated and 0 % of the reference's showers are empty"],
        ),
        (
            lambda a, b: (replaced(a, copied=slice(0, 29)), b),
            ["10 % of the generated showers occur more than once"],
        ),
        (
            lambda a, b: tuple(Selection(one, np.arange(80)) for one in (a, b)),
            ["There are only 80 showers in a sample", "FPD and KPD of 80 showers with 82 features"],
        ),
        (
            lambda a, b: (a, ShowerArrays(a.detector, a.energies, first_layer_empty(b))),
            ["8 of 82 features vary in the generated sample alone"],
        ),
    ],
)
def test_samples_that_make_scores_less_trustworthy_are_warned_about(samples, change, sentences):
    pair = change(*samples)
    both = Samples(*map(measure, pair))
    found = sample_warnings(both) + suite.METRICS["kpd"].warnings(both)
    found = [text for text in found if not text.startswith("The units of")]  # toys have odd ones
    assert len(found) == len(sentences)
    for text, sentence in zip(found, sentences, strict=True):
        assert text.startswith(sentence)


def first_layer_empty(sample):
    voxels = sample.showers.copy()
    voxels[:, :12] = 0
    return voxels


def test_incident_energies_that_agree_differ_or_are_matched():
    rng = np.random.default_rng(0)
    first, second = np.exp(rng.uniform(0, 3, (2, 2000)))
    assert energy_warnings(first, second) == ()
    assert energy_warnings(first, rng.permutation(first)) == ()
    (warning,) = energy_warnings(first, np.exp(rng.uniform(0.3, 3, 2000)))
    assert "Kolmogorov-Smirnov distance 0.1" in warning


def test_default_slices():
    electrons, photons = detector("ds2"), detector("ds1-photons")
    energies = np.geomspace(1e3, 9e5, 3000)
    assert default_slices(energies, energies, electrons) == (1e3, 1e4, 1e5, 1e6)
    few = np.geomspace(1e3, 1.2e4, 3000)  # the second decade is all but empty
    low, middle, high = default_slices(few, few, electrons)
    assert (low, middle) == pytest.approx((1e3, np.sqrt(1.2e7)))
    assert high > few.max()
    discrete = np.repeat(photons.energies, 100)
    assert default_slices(discrete, discrete, photons) == (2.0**8, 2.0**13, 2.0**18, 2.0**23)
    one = dataclasses.replace(photons, energies=(2.0**8,))
    assert default_slices(discrete[:1500], np.full(300, 2.0**8), one) == ()
    assert default_slices(np.full(300, 2.0**8), np.full(300, 2.0**8), one) == (2.0**8, 2.0**9)
    assert default_slices(energies[::20], energies[::20], electrons) == ()


def test_a_selection_is_the_source_of_its_rows(samples):
    source = samples[0]
    rows = np.array([3, 4, 10, 200])
    chosen = Selection(source, rows)
    assert len(chosen) == 4
    np.testing.assert_array_equal(chosen.read(), source.showers[rows])
    np.testing.assert_array_equal(chosen.read(1, 3), source.showers[rows[1:3]])
    energies, showers = zip(*chosen.batches(3), strict=True)
    np.testing.assert_array_equal(np.concatenate(showers), source.showers[rows])
    np.testing.assert_array_equal(np.concatenate(energies), source.energies[rows])
    assert chosen.read(2, 2).shape == (0, 120)


def test_the_documentation_has_every_key():
    lines = (pathlib.Path(__file__).parents[1] / "docs" / "evaluation.md").read_text().splitlines()
    rows = [
        f"| `{key}` | {score.name} | {score.scale:g} | "
        f"{'higher' if score.higher_is_better else 'lower'} | "
        f"{score.description.replace('|', '&#124;')} |"
        for key, score in SCORES.items()
    ]
    assert [line for line in lines if line.startswith("| `")] == rows


class MeanEnergy(SliceMetric):
    """A whole metric of another package."""

    scores = {"mean_energy": Score("mean E", "|difference| of mean visible energies, MeV")}  # noqa: RUF012

    def compute(self, samples, options):
        means = [sample.features.total.mean() for sample in samples]
        return Found({"mean_energy": abs(means[0] - means[1])})


def test_a_metric_is_one_class_and_one_call(samples, monkeypatch):
    for registry in ("METRICS", "SCORES"):
        monkeypatch.setattr(suite, registry, getattr(suite, registry).copy())
    suite.register("mean-energy", MeanEnergy())
    options = Options(metrics=("mean-energy",), slices=(1e3, 1e4, 1.1e5), floor=True)
    found = suite.evaluate(*samples, options)
    totals = [sample.read().sum() for sample in samples]
    assert found.scores["mean_energy"] == pytest.approx(abs(totals[0] - totals[1]) / 300, rel=1e-2)
    assert all(part.scores["mean_energy"] > 0 for part in found.slices)
    assert set(found.floor) == {"mean_energy"}
    with pytest.raises(ValueError, match="there is another metric 'mean-energy'"):
        suite.register("mean-energy", MeanEnergy())


def test_results_print_as_one_line(evaluation):
    assert repr(evaluation) == (
        "<Evaluation of 300 against 300 showers of tiny: 19 scores, 2 slices, 0 warnings>"
    )
    for thing in (evaluation.histograms[0], evaluation.generated, evaluation.layer_correlations):
        assert len(repr(thing)) < 120


def test_samples_in_other_units_are_warned_of(samples):
    ours, theirs = (
        ShowerArrays(part.detector, part.energies / 1e3, part.showers * scale)
        for part, scale in zip(samples, (1, 1e-3), strict=True)
    )
    warnings = suite.evaluate(ours, theirs, Options(metrics=("histograms",), slices=())).warnings
    assert [
        ("generated" in text, "incident energies look like GeV" in text, "voxels look" in text)
        for text in warnings
        if text.startswith("The units of")
    ] == [(True, True, False), (False, True, False), (False, False, True)]
