import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calojax import distributed, geometry, rng
from calojax.errors import CalojaxError
from calojax.evaluation import calibration, classifiers
from calojax.evaluation import classifier_training as training
from calojax.io import ShowerArrays
from calojax.nn.classifier import DenseClassifier, ResNetClassifier, Stem

TINY = geometry.detector("tiny")
SMALL = classifiers.ClassifierSettings(
    width=16, hidden_layers=1, batch=50, epochs=6, learning_rate=1e-2
)


def _sample(n, seed, *, scale=1.0, detector=TINY):
    generator = np.random.default_rng(seed)
    energies = 10 ** generator.uniform(3, 5, n)
    showers = generator.gamma(0.5, 1, (n, detector.n_voxels)) * energies[:, None]
    showers *= scale / detector.n_voxels
    return ShowerArrays(detector, energies.astype(np.float32), showers.astype(np.float32))


@pytest.fixture(autouse=True)
def one_device_alone(request, monkeypatch):
    """Programs for two devices take long to compile: one test is enough."""
    if "two_devices" not in request.fixturenames:
        monkeypatch.setattr(distributed, "make_mesh", lambda: RECIPE.mesh)


def _score(kind, generated, reference, *, seeds=2, settings=SMALL, seed=0):
    return classifiers.score(
        classifiers.predict(kind, generated, reference, settings, seeds=seeds, seed=seed)
    )


# One recipe and one shape of data for most tests, so that they share what is compiled.
RECIPE = training.Trainer(
    DenseClassifier(16, 1),
    classifiers.ClassifierSettings(batch=200, epochs=6, learning_rate=2e-3),
    mesh=distributed.make_mesh(jax.devices()[:1]),
)
CLASS_SIZE = 2500
KEY, OTHER_KEY = rng.per_item(rng.root(0), np.arange(2))


def _gaussians(shift):
    """Two classes of unit Gaussians [2 n, 4], ``shift`` apart along the diagonal."""
    x = np.random.default_rng(5).normal(size=(2 * CLASS_SIZE, 4))
    x[CLASS_SIZE:] += shift / 2
    return x.astype(np.float32), np.repeat([0, 1], CLASS_SIZE)


def _fit(x, labels, report=lambda accuracy: None):
    rows = training.place(x, labels, RECIPE.mesh)
    split = training.split_rows(KEY, CLASS_SIZE, 2, (60, 20, 20))
    return rows, split, RECIPE.fit(rows, split, KEY, report)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auc_of_shifted_gaussians(shift):
    x, labels = _gaussians(shift)
    rows, split, variables = _fit(x, labels)
    logits = np.asarray(RECIPE.logits(variables, rows, split.validation))[:, 0]
    # Phi(shift / sqrt 2), Phi(x) = (1 + erf(x / sqrt 2)) / 2.
    expected = (1 + math.erf(shift / 2)) / 2
    # 500 against 500: standard deviations of 0.018, 0.015 and 0.009.
    assert calibration.auc(logits, labels[split.validation]) == pytest.approx(expected, abs=0.05)


def test_rows_on_the_device_train_as_those_on_the_host():
    x, labels = _gaussians(2.0)
    on_host, split, variables = _fit(x, labels)
    assert isinstance(on_host.inputs, np.ndarray)
    expected = RECIPE.logits(variables, on_host, split.validation)
    on_device = jax.device_put(on_host, distributed.replicated(RECIPE.mesh))
    variables = RECIPE.fit(on_device, split, KEY, lambda accuracy: None)
    actual = RECIPE.logits(variables, on_device, split.validation)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_best_epoch_is_returned():
    x, labels = _gaussians(1.0)
    reported = []
    rows, split, variables = _fit(x, labels, report=reported.append)
    assert len(reported) == RECIPE.settings.epochs
    assert np.all(np.diff(reported) >= 0)
    right = (RECIPE.logits(variables, rows, split.test)[:, 0] > 0) == labels[split.test]
    assert right.mean() == pytest.approx(reported[-1])


def test_split_parts_are_disjoint_and_balanced():
    split = training.split_rows(KEY, 121, 3, (800, 200, 210))
    for part, size in zip(split, (80, 20, 21), strict=True):
        np.testing.assert_array_equal(part // 121, np.repeat([0, 1, 2], size))
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(363))
    other = training.split_rows(OTHER_KEY, 121, 3, (800, 200, 210))
    assert not np.array_equal(split.train, other.train)


def test_initial_weights_are_uniform_in_one_over_root_fan_in():
    variables = DenseClassifier(width=300).init(rng.root(0), jnp.zeros((1, 100)), train=False)
    layers = [variables["params"][f"Linear_{i}"]["Dense_0"] for i in range(4)]
    assert [layer["kernel"].shape for layer in layers] == [
        (100, 300), (300, 300), (300, 300), (300, 1)
    ]  # fmt: skip
    for layer in layers:
        limit = layer["kernel"].shape[0] ** -0.5
        for values in (layer["kernel"], layer["bias"]):
            assert np.abs(values).max() <= limit
        assert layer["kernel"].std() == pytest.approx(limit / math.sqrt(3), rel=0.1)
        assert np.any(layer["bias"] != 0)


@pytest.mark.parametrize("name", ["ds2", "ds3"])
def test_resnet_shapes_and_parameters_are_the_official_ones(name):
    detector = geometry.detector(name)
    network = ResNetClassifier(grid=detector.grid)
    shapes = jax.eval_shape(
        lambda: network.init_with_output(
            rng.root(0), jnp.zeros((3, 1 + detector.n_voxels)), train=True
        )
    )
    outputs, variables = shapes
    assert outputs.shape == (3, 1)
    # Convolutions without bias, two numbers a channel in each normalisation after them.
    stem = 32 * 1 * 7**3 + 2 * 32
    stage_1 = 4 * 32 * 32 * 27 + 4 * 2 * 32
    stage_2 = 32 * 64 * 27 + 3 * 64 * 64 * 27 + 32 * 64 + 5 * 2 * 64
    stage_3 = 4 * 64 * 64 * 27 + 64 * 64 + 5 * 2 * 64
    stage_4 = 64 * 128 * 27 + 3 * 128 * 128 * 27 + 64 * 128 + 5 * 2 * 128
    last, energy = 128 + 1 + 1, 2
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    assert count == stem + stage_1 + stage_2 + stage_3 + stage_4 + last + energy == 2_516_644


@pytest.mark.parametrize("grid", [(5, 4, 3), (9, 16, 8)])
def test_stem_is_the_convolution(grid):
    x = jax.random.normal(rng.root(0), (2, *grid))
    stem = Stem(features=3)
    variables = stem.init(rng.root(1), x)
    expected = jax.lax.conv_general_dilated(
        x[..., None],
        variables["params"]["kernel"],
        (2, 2, 2),
        [(3, 3)] * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    np.testing.assert_allclose(stem.apply(variables, x), expected, atol=1e-5)


def test_resnet_sees_the_energy_and_every_corner():
    network = ResNetClassifier(grid=(10, 4, 3), planes=(4, 4))
    x = jax.random.normal(rng.root(0), (4, 121))

    @jax.jit
    def influence(x):
        variables = network.init(rng.root(1), x, train=False)
        return jax.grad(lambda x: network.apply(variables, x, train=False).sum())(x)

    assert np.all(np.abs(influence(x)[:, [0, 1, -1]]) > 0)


def test_resnet_halves_axes_as_the_official_padding_does():
    # Stem and pooling: 45 -> 23 -> 12, 16 -> 8 -> 4, 9 -> 5 -> 3; stages 2 to 4 halve, rounding up.
    network = ResNetClassifier(grid=(45, 16, 9))
    _, state = jax.eval_shape(
        lambda: network.init_with_output(
            rng.root(0), jnp.zeros((2, 6481)), train=False, capture_intermediates=True
        )
    )
    blocks = state["intermediates"]
    shapes = [blocks[f"ResidualBlock_{i}"]["__call__"][0].shape[1:] for i in range(0, 8, 2)]
    assert shapes == [(12, 4, 3, 32), (6, 2, 2, 64), (3, 1, 1, 64), (2, 1, 1, 128)]


def test_low_inputs():
    showers = np.zeros((1, TINY.n_voxels), np.float32)
    showers[0, :3] = 1.0, TINY.evaluation_threshold * 0.99, 40.0
    sample = ShowerArrays(TINY, np.array([2000.0], np.float32), showers)
    low = classifiers.inputs("low", [sample])
    assert low.dtype == np.float32
    np.testing.assert_allclose(low[0, :4], [math.log10(2000), 1 / 2000, 0, 40 / 2000], rtol=1e-6)
    assert not low[0, 4:].any()
    np.testing.assert_array_equal(low, classifiers.inputs("cnn", [sample]))

    normed = classifiers.inputs("low-normed", [sample])
    assert normed.shape == (1, 1 + TINY.n_voxels + TINY.n_layers)
    # The voxel below the threshold stays, but does not count in the energy of the layer.
    expected = [math.log10(2000), 1 / 41, TINY.evaluation_threshold * 0.99 / 41, 40 / 41]
    np.testing.assert_allclose(normed[0, :4], expected, rtol=1e-6)
    np.testing.assert_allclose(normed[0, -10:], [math.log10(41), *[-8] * 9], rtol=1e-6)


def test_low_inputs_larger_than_memory_go_to_a_file(monkeypatch):
    sample = _sample(50, 0)
    expected = classifiers.inputs("low", [sample, sample])
    monkeypatch.setattr(distributed, "host_memory", lambda: 10**4)
    mapped = classifiers.inputs("low", [sample, sample])
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, expected)


@pytest.mark.parametrize("kind", ["low", "high", "cnn"])
def test_equal_samples_cannot_be_told_apart(kind, monkeypatch):
    # One thin stage, so that the test does not wait for a compiler.
    monkeypatch.setattr(
        classifiers, "ResNetClassifier", functools.partial(ResNetClassifier, planes=(4,))
    )
    (auc, jsd), _ = _score(kind, _sample(400, 0), _sample(400, 1))
    # 80 against 80: a standard deviation of sqrt((2 * 80 + 1) / 12) / 80 = 0.046 each.
    assert abs(auc - 0.5) < 3 * 0.046
    assert jsd < 0.2


def test_scaled_showers_are_told_apart_on_two_devices(two_devices):
    (auc, jsd), _ = _score("low", _sample(400, 0, scale=2.0), _sample(400, 1))
    assert auc > 0.9
    assert 0.5 < jsd < 1


def _aucs(predictions):
    return [calibration.auc(p.probabilities, p.labels) for p in predictions]


def test_every_seed_trains_another_classifier():
    samples = _sample(400, 0, scale=1.3), _sample(400, 1)
    aucs = [_aucs(classifiers.predict("low", *samples, SMALL, seeds=2, seed=s)) for s in (0, 0, 1)]
    assert aucs[0] == aucs[1]
    assert len({*aucs[0], *aucs[2]}) == 4


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("ds1-photons", (80_000, 20_000, 21_000)),
        ("ds1-pions", (80_000, 20_000, 20_800)),
        ("ds3", (60_000, 20_000, 20_000)),
    ],
)
def test_split_is_the_official_one(name, split):
    parts = classifiers.official_split(geometry.detector(name))
    hundredth = training.split_rows(KEY, sum(split) // 100, 2, parts)
    assert tuple(100 * len(part) // 2 for part in hundredth) == split


def test_slices_of_energy_hold_all_showers():
    predictions = classifiers.predict("low", _sample(400, 0), _sample(400, 1), SMALL, seeds=2)
    whole = predictions[0]
    assert len(whole.labels) == 160
    assert whole.labels.sum() == 80
    parts = [whole.within(1e3, 1e4), whole.within(1e4, 1e5)]
    assert sum(len(part.labels) for part in parts) == 160
    assert parts[0].energies.max() < 1e4 <= parts[1].energies.min()
    (low, _), _ = classifiers.score([p.within(1e3, 1e4) for p in predictions])
    (auc, _), (error, _) = classifiers.score(predictions)
    assert 0 < low < 1
    assert low != auc
    aucs = _aucs(predictions)
    assert (auc, error) == pytest.approx((np.mean(aucs), np.std(aucs, ddof=1)))
    assert np.isnan(classifiers.score(predictions[:1])[1]).all()


def test_multiclass_prefers_the_sample_that_is_right():
    samples = {
        "right": _sample(400, 0),
        "hot": _sample(400, 1, scale=2.0),
        "cold": _sample(400, 2, scale=0.5),
    }
    result = classifiers.multiclass("low", samples, _sample(400, 3), SMALL, seeds=2)
    assert result.uniform == -math.log(3)
    assert result.log_posterior["right"] > result.uniform
    assert max(result.log_posterior["hot"], result.log_posterior["cold"]) < result.uniform
    cross_check = np.array(result.cross_check)
    assert cross_check.shape == (3, 3)
    np.testing.assert_array_equal(cross_check.argmax(axis=1), [0, 1, 2])


def test_samples_of_different_size_are_cut_to_the_smaller_one():
    (predictions,) = classifiers.predict("low", _sample(421, 0), _sample(400, 1), SMALL, seeds=1)
    assert np.bincount(predictions.labels).tolist() == [80, 80]


@pytest.mark.parametrize(
    ("kind", "showers", "detector", "sentence"),
    [("cnn", 10, "ds1-photons", "layers that are all alike"), ("low", 3, "tiny", "5 showers or")],
)
def test_what_cannot_be_trained_gets_a_sentence(kind, showers, detector, sentence):
    sample = _sample(showers, 0, detector=geometry.detector(detector))
    with pytest.raises(CalojaxError, match=sentence):
        classifiers.predict(kind, sample, sample, classifiers.QUICK, seeds=1)
