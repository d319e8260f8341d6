"""Exported programs: the same showers as in Python, their descriptions, and what is refused."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.stats
from conftest import drawn_variables, tiny_config

from calojax import export, models, rng
from calojax.api import TrainedModel
from calojax.checkpoint import Progress
from calojax.cli import main
from calojax.errors import CalojaxError
from calojax.export import Options, par04, random_numbers
from calojax.geometry import DETECTORS, Layer
from calojax.models.calovq_released.config import (
    GPTConfig,
    ReleasedAutoencoderConfig,
    ReleasedConfig,
    TokensConfig,
)
from calojax.models.pointflow import model as pointflow
from calojax.presets import PRESETS
from calojax.sampling.generation import STREAM

PROGRESS = Progress(1, "prior", 1, (), 0, (1e3, 1e5))
CYLINDER = {"network": "cylinder", "filters": 4, "kernel": (3, 2, 2), "strides": (2, 2, 1)}
# Every prior, network, likelihood and model of layer energies; codes drawn in two steps.
KINDS = {
    "gru": {**CYLINDER, "head": "density", "scale": "quantile", "codebook_size": 70},
    "flow": {"codebook": "fsq"},
    "released": {},
    "points": {},
}
RELEASED = ReleasedConfig(
    ReleasedAutoencoderConfig(z_padding=(8, 8), codebook_size=16, code_width=4),
    TokensConfig(bits=8, dither=True),
    GPTConfig(1, 1, 8),
)
EQUAL_CELLS = dataclasses.replace(
    DETECTORS["tiny"], layers=tuple(Layer(z, (0.0, 5.0, 10.0, 15.0), 4, 13.6) for z in range(10))
)
ENERGIES = np.float32([2e3, 7e4, 1e3, 9e4])


@pytest.fixture(scope="module", autouse=True)
def two_sizes():
    """The flow of points is converted for two sizes, not for four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointflow, "_FRACTIONS", (1 / 2, 1))
        yield


@pytest.fixture(scope="module")
def trained(batch):
    """Models with random weights, far from the start so that draws differ, by kind."""

    @functools.cache
    def trained(kind):
        config = tiny_config(**KINDS[kind])
        if kind == "flow":
            prior = dataclasses.replace(config.prior, kind=kind, layers=1, heads=2, passes=3)
            energies = dataclasses.replace(config.energies, kind="vae", hidden=(8,))
            config = dataclasses.replace(config, prior=prior, energies=energies)
        config = {"released": RELEASED, "points": PRESETS["pointflow-tiny"].model}.get(kind, config)
        model = models.build(config, EQUAL_CELLS)
        transforms = model.fit([(batch["energies"], batch["showers"])])
        variables = drawn_variables(model.init, jax.random.key(0), transforms, batch)
        return TrainedModel(model, variables | {"transforms": transforms}, PROGRESS)

    return trained


def run(content, **inputs):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, inputs)
    return output


def numbers_of(layout, number):
    """Random numbers of showers in the order of a layout."""
    generator = np.random.default_rng(0)
    draws = {
        "normal": lambda shape: generator.normal(size=shape),
        "uniform": lambda shape: generator.uniform(size=shape),
        "gumbel": lambda shape: generator.gumbel(size=shape),
    }
    parts = [draws[p.distribution]((number, *p.shape)).reshape(number, -1) for p in layout.parts]
    return np.concatenate(parts, 1).astype(np.float32)


def share_equal(showers, expected):
    """The fraction of showers that are equal; rounding may change a sampled code."""
    return np.isclose(showers, expected, rtol=1e-3, atol=1e-2).all(1).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_makes_the_showers_of_jax_from_the_same_noise(kind, trained):
    subject = trained(kind)
    layout = random_numbers.layout_of(subject.model)
    numbers = numbers_of(layout, 4)
    noise = layout.unflatten(numbers)
    np.testing.assert_array_equal(layout.flatten(noise), numbers)
    expected = np.asarray(jax.jit(subject.model.sample_from)(subject.variables, noise, ENERGIES))
    made = export.contents(subject, "onnx", Options(batch=4))
    found = run(made["model.onnx"], noise=numbers, energies=ENERGIES)
    assert share_equal(found, expected) >= 0.75
    assert (found > 0).any()
    facts = json.loads(made["model.json"])
    properties = {x.key: x.value for x in onnx.load_from_string(made["model.onnx"]).metadata_props}
    assert properties.keys() == facts.keys()
    assert facts["inputs"] == {"noise": [4, layout.size], "energies": [4]}
    assert sum(np.prod(part["shape"]) for part in facts["random_numbers"]) == layout.size
    assert facts["energy_range"] == [1e3, 1e5]
    assert facts["grid"] == [10, 4, 3]


def test_par04_has_its_order_and_units_and_clips_energies(trained):
    subject = trained("gru")
    made = export.contents(subject, "par04", Options(noise="input", sampling_fraction=0.5))
    layout = random_numbers.layout_of(subject.model)
    normal = np.random.default_rng(0).normal(size=(1, layout.size)).astype(np.float32)
    noise = jax.jit(layout.from_normal)(normal)
    energy = np.float32([4e4])
    expected = np.asarray(jax.jit(subject.model.sample_from)(subject.variables, noise, energy))
    condition = np.float32([[4e4 / 1.024e6, 0.7, 0.0, 1.0]])
    found = run(made["model.onnx"], latent_and_condition=np.concatenate([normal, condition], 1))
    z, alpha, r = subject.detector.grid
    cells = found.reshape(r, alpha, z).transpose(2, 1, 0).reshape(1, -1)
    np.testing.assert_allclose(cells / 0.5 * 4e4, expected, rtol=1e-3, atol=1e-2)
    for name, value in (
        ("setSizeLatentVector", layout.size),
        ("mesh/setNbOfRhoCells", r),
        ("inference/setNbOfPhiCells", alpha),
        ("inference/setNbOfZCells", z),
    ):
        assert f"{name} {value}\n" in made["model.mac"].decode()


def test_ten_numbers_determine_a_shower(trained):
    """The same program in JAX, with 64-bit integers, gives the same numbers."""
    subject = trained("flow")
    made = export.contents(subject, "par04")["model.onnx"]
    vector = np.random.default_rng(0).normal(size=(1, 14)).astype(np.float32)
    vector[0, 10:] = 5e5 / 1.024e6, 0.0, 0.0, 1.0
    layout = random_numbers.layout_of(subject.model)
    with jax.enable_x64(True):
        noise = jax.jit(layout.from_seed)(vector[:, :10])
    noise = jax.tree.map(np.asarray, noise)
    # Beyond the energies of the training, so clipped.
    sample = jax.jit(subject.model.sample_from)
    expected = sample(subject.variables, noise, np.float32([1e5]))
    z, alpha, r = subject.detector.grid
    found = run(made, latent_and_condition=vector).reshape(r, alpha, z).transpose(2, 1, 0).ravel()
    np.testing.assert_allclose(1e5 * found, np.asarray(expected)[0], rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(
        run(made, latent_and_condition=vector), run(made, latent_and_condition=vector)
    )
    vector[0, 3] += 2.0**-15
    assert np.abs(run(made, latent_and_condition=vector).reshape(-1) - found).max() > 1e-6


def test_the_counter_generator_is_exact_and_uniform():
    normal = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    with jax.enable_x64(True):
        bits = np.asarray(random_numbers.random_bits(normal, 20_000))
        draws = {kind: np.asarray(of(bits)) for kind, of in random_numbers._OF_BITS.items()}
    assert bits.dtype == np.int64
    # The same by whole numbers without a bound.
    weights = np.random.default_rng(20261125)
    p, x = 2**31 - 1, 7
    whole = [int(np.floor(np.float32(g) * np.float32(2**16))) + 2**20 for g in normal[1]]
    for multiplier in weights.integers(1, p, 4).tolist():
        key = sum(k * w for k, w in zip(whole, weights.integers(1, p, 10).tolist(), strict=True))
        x = pow(x * multiplier + key, 5, p)
    assert bits[1, 7] == x
    uniform = draws["uniform"]
    assert (uniform < 1).all()
    for kind, cdf in {"uniform": "uniform", "normal": "norm", "gumbel": "gumbel_r"}.items():
        for row in draws[kind]:
            assert scipy.stats.kstest(row, cdf).pvalue > 1e-3
            assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 5 / 20_000**0.5
    assert abs(np.corrcoef(uniform)[0, 1]) < 5 / 20_000**0.5


def test_stablehlo_runs_without_calojax_for_any_number_of_showers(model, variables, tmp_path):
    subject = TrainedModel(model, variables, PROGRESS)
    export.write(subject, tmp_path, "stablehlo")
    code = (
        "import sys, pathlib, jax, jax.export, numpy as np\n"
        "program = jax.export.deserialize(pathlib.Path('model.stablehlo').read_bytes())\n"
        "assert program.platforms == ('cpu', 'cuda', 'tpu', 'rocm'), program.platforms\n"
        "showers = program.call(np.uint32(7), np.uint32([3, 0]), np.float32([2e3, 7e4]))\n"
        "assert not any(name.startswith('calojax') for name in sys.modules)\n"
        "np.save('showers.npy', showers)"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert child.returncode == 0
    keys = rng.per_item(rng.stream(rng.root(7), STREAM), np.uint32([3, 0]))
    expected = jax.jit(model.sample)(variables, keys, np.float32([2e3, 7e4]))
    assert share_equal(np.load(tmp_path / "showers.npy"), expected) == 1.0
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["inputs"] == {"seed": [], "numbers": ["any"], "energies": ["any"]}
    with pytest.raises(CalojaxError, match=r"model.stablehlo: already exists; .*--force"):
        export.write(subject, tmp_path, "stablehlo")


def test_triton_has_the_shapes_of_the_file(trained, tmp_path):
    made = export.contents(trained("flow"), "triton", Options(batch=2, noise="seed"))
    config = made["calojax/config.pbtxt"].decode()
    assert '{ name: "seed" data_type: TYPE_FP32 dims: [2, 10] }' in config
    assert '{ name: "showers" data_type: TYPE_FP32 dims: [2, 120] }' in config
    showers = run(
        made["calojax/1/model.onnx"], seed=np.zeros((2, 10), np.float32), energies=ENERGIES[:2]
    )
    assert showers.shape == (2, 120)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tflite", "There is no format 'tflite'; choose one of par04, onnx, stablehlo, triton"),
        ("par04", "ds1-photons: Par04 has a mesh of equal cells"),
    ],
)
def test_what_cannot_be_exported_is_refused(kind, message, trained):
    subject = trained("flow")
    other = dataclasses.replace(subject.model, detector=DETECTORS["ds1-photons"])
    with pytest.raises(CalojaxError, match=message):
        export.contents(dataclasses.replace(subject, model=other), kind)


@pytest.mark.parametrize(
    "layers",
    [
        [Layer(0, (1.0, 5.0, 9.0), 4, 13.6)],
        [Layer(0, (0.0, 5.0, 11.0), 4, 13.6)],
        [Layer(z, (0.0, 5.0, 10.0), 4, 10.0 + z) for z in range(2)],
    ],
)
def test_par04_needs_equal_cells_from_the_axis(layers):
    with pytest.raises(CalojaxError, match="mesh of equal cells from the axis"):
        par04._equal_cells(dataclasses.replace(DETECTORS["tiny"], layers=tuple(layers)))


def test_random_numbers_that_have_keys_only_are_refused(trained, monkeypatch):
    monkeypatch.delattr(pointflow.PointFlow, "array_noise")
    with pytest.raises(CalojaxError, match=r"draws random numbers from keys.*take --format stable"):
        export.contents(trained("points"), "onnx")


def test_a_wrong_number_of_random_numbers_is_named(trained):
    layout = random_numbers.layout_of(trained("flow").model)
    with pytest.raises(CalojaxError, match=rf"must have {layout.size} numbers .* shape \(2, 5\)"):
        layout.unflatten(np.zeros((2, 5), np.float32))


def test_a_missing_extra_is_one_sentence(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("calojax.export.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CalojaxError, match=r"--format onnx needs the package onnx; install calo"):
        export.contents(trained("flow"), "onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch must be at least 1, got 0"),
        ({"noise": "sed"}, "--noise must be input or seed, got sed"),
        ({"sampling_fraction": np.nan}, "--sampling-fraction must be positive and finite, got nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(CalojaxError, match=message):
        Options(**options)


def test_the_command_refuses_before_it_writes(tmp_path, capsys):
    options = f"--out {tmp_path}/x --format onnx --batch 0"
    with pytest.raises(SystemExit):
        main(["export", "calovq-ds2", *options.split()])
    assert "--batch must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
