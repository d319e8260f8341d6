"""Generation: a shower does not depend on its batch, the devices or where one starts."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_stages import Two, TwoConfig

from calojax import rng
from calojax.errors import CalojaxError
from calojax.io import ShowerArrays
from calojax.io.sparse import Hits, showers_of
from calojax.sampling import generation, packing
from calojax.sampling.incident_energies import EnergySource

ONE, TWO = jax.devices()[:1], jax.devices()[:2]


def collect(batches):
    energies, showers = zip(*batches, strict=True)
    return np.concatenate(energies), np.concatenate(showers)


@pytest.fixture(scope="module")
def energies():
    return np.geomspace(1e3, 1e5, 21).astype(np.float32)


@pytest.fixture(scope="module")
def small(tiny, batch):
    """(model, variables) that compile in no time."""
    model = Two(TwoConfig(), tiny)
    return model, model.init(jax.random.key(0), model.fit([]), batch)


@pytest.fixture(scope="module")
def whole(model, variables, energies):
    """(energies, showers) in blocks of 8, as most tests here make them: one compiled program."""
    return collect(
        generation.generate(model, variables, energies, seed=5, batch_size=8, devices=ONE)
    )


def test_energies_and_order_are_kept(whole, energies):
    found, showers = whole
    np.testing.assert_array_equal(found, energies)
    assert showers.shape == (21, 120)
    assert showers.dtype == np.float32


def test_batch_size_changes_last_bits_only(small, energies):
    found = {
        size: list(generation.generate(*small, energies, batch_size=size, devices=ONE))
        for size in (8, 20)
    }
    assert [len(e) for e, _ in found[20]] == [20, 1]
    np.testing.assert_allclose(collect(found[20])[1], collect(found[8])[1], rtol=1e-4)


def test_device_count_changes_no_bit(small, energies):
    # Seven blocks for two devices, or for one.
    found = [
        collect(generation.generate(*small, energies, batch_size=3, devices=devices))
        for devices in (ONE, TWO)
    ]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", ["generate", "reconstruct"])
def test_neither_number_nor_parts_change_a_bit(kind, whole, model, variables, showers, energies):
    """Of 21 showers in blocks of 8: the first ones alone, and parts in any order."""

    def made(num, **options):
        if kind == "reconstruct":
            source = ShowerArrays(model.detector, energies[:num], showers.showers[:num])
            batches = generation.reconstruct(
                model, variables, source, batch_size=8, devices=ONE, seed=5
            )
        else:
            batches = generation.generate(
                model, variables, energies[:num], batch_size=8, devices=ONE, seed=5, **options
            )
        return collect(batches)[1]

    expected = whole[1] if kind == "generate" else made(21)
    for num in (1, 8, 15):
        np.testing.assert_array_equal(made(num), expected[:num])
    if kind == "generate":
        for parts in ([range(5, 11), range(11, 20)], [range(16, 21), range(0, 3)], [range(7, 8)]):
            rows = [i for part in parts for i in part]
            np.testing.assert_array_equal(made(21, parts=parts), expected[rows])


@dataclasses.dataclass(frozen=True)
class Shares:
    """Showers with hits in a share of the voxels, which is the incident energy in MeV - 1."""

    def sample(self, variables, keys, energies, *, temperature):
        voxels = jax.vmap(lambda key: jax.random.uniform(key, (120,)))(keys)
        return jnp.where(voxels < energies[:, None] - 1, voxels, 0)


def test_packed_showers_are_dense_ones_to_the_last_bit():
    """Also showers without a hit, a block of them, and one with more hits than the buffers hold."""
    energies = 1 + np.float32([0.1, 0.0, 0.5, 0.2] + 4 * [0] + [0.9, 0.9, 0.1, 0.9] + 2 * [0.3])
    parts = [range(0, 2), range(2, 6), range(8, 14)]

    def batches(**options):
        options |= {"parts": parts, "batch_size": 4, "devices": TWO}
        return list(generation.generate(Shares(), {}, energies, **options))

    dense, packed = batches(), batches(packed=True)
    hits = [showers for _, showers in batches(packed=True, hits=True)]
    assert [isinstance(some, Hits) for some in hits] == [True, True, True, False, True]
    for (_, expected), (_, found), some in zip(dense, packed, hits, strict=True):
        np.testing.assert_array_equal(found, expected)
        if isinstance(some, Hits):
            np.testing.assert_array_equal(showers_of(some, 120), expected)


def test_hits_are_packed_on_any_device():
    showers = jax.ShapeDtypeStruct((7, 70_000), np.float32)
    lowered = packing.pack.trace(showers).lower(lowering_platforms=("cpu", "cuda", "tpu"))
    assert lowered.out_info.voxels[0].dtype == np.uint32
    assert not re.search(r"stablehlo.sort|x(70000|490000)xi64|<490000xi64", lowered.as_text())


def test_no_number_of_showers_compiles_anew(small, energies):
    def program(num):
        list(generation.generate(*small, energies[:num], batch_size=8, devices=ONE))
        return generation._compute._cache_size()

    assert len({program(num) for num in (8, 1, 5, 21)}) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_blocks_lie_at_fixed_places_and_cover_parts(size):
    parts = [range(0, 5), range(9, 10), range(10, 16)]
    blocks = list(generation.blocks(parts, size))
    assert [i for _, wanted in blocks for r in wanted for i in r] == [i for p in parts for i in p]
    for first, wanted in blocks:
        assert first % size == 0
        for piece in wanted:
            assert first <= piece.start < piece.stop <= first + size
            assert any(piece.start >= p.start and piece.stop <= p.stop for p in parts)
    # A block that two parts share is computed once.
    assert len({first for first, _ in blocks}) == len(blocks)


BAD = [float("nan"), float("inf"), 0.0, -5e4]


@pytest.mark.parametrize(
    "energies",
    [*(np.array([5e4, bad], np.float32) for bad in BAD), np.ones((3, 2)), 5e4, ["50GeV"]],
)
def test_bad_energies_are_refused(energies, small, tiny):
    with pytest.raises(CalojaxError, match="incident energ"):
        next(generation.generate(*small, energies))
    with pytest.raises(CalojaxError, match="incident energ"):
        next(generation.simulate(tiny, energies))


def test_energies_may_have_the_shape_of_a_file_s(small, energies):
    def showers(given):
        return collect(generation.generate(*small, given, batch_size=8, devices=ONE))

    flat, column = showers(energies[:3]), showers(energies[:3, None].tolist())
    np.testing.assert_array_equal(column[0], flat[0])
    np.testing.assert_array_equal(column[1], flat[1])


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")])
def test_a_full_memory_is_a_sentence_with_a_smaller_batch(error, tiny, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(generation, "_compute", full)
    with pytest.raises(CalojaxError, match=r"memory .* is full; --batch 100 .* such as 50"):
        next(generation.simulate(tiny, [5e4], batch_size=100))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_voxels_that_are_not_energies_are_the_models_fault(bad, packed):
    @dataclasses.dataclass(frozen=True)
    class Failing:
        bad: float

        def sample(self, variables, keys, energies, *, temperature):
            return energies[:, None] * jnp.where(energies[:, None] == 3.0, self.bad, jnp.eye(1, 3))

    def made(energies, **options):
        options |= {"batch_size": 2, "devices": ONE, "packed": packed}
        return collect(generation.generate(Failing(bad), {}, energies, **options))

    with pytest.raises(CalojaxError, match=r"model gave .* to voxel 0 of shower 5 .*train it"):
        made([1.0, 2.0, 1.0, 2.0, 1.0, 3.0])
    # Neighbours that fill up a block may be what they like.
    made([1.0, 2.0, 1.0, 2.0, 1.0, 3.0], parts=[range(4, 5)])


def test_more_showers_than_a_seed_has_are_refused(small):
    many = EnergySource("many", 2**32 + 1, lambda start, stop: np.ones(stop - start))
    with pytest.raises(CalojaxError, match="4,294,967,296 showers, fewer than 4,294,967,297"):
        next(generation.generate(*small, many))


def test_a_warm_sampler_neither_traces_nor_transfers_by_itself(small, energies):
    @dataclasses.dataclass(frozen=True)
    class Counting:
        """The model, and how often JAX looked into it."""

        model: Two
        traces: list = dataclasses.field(default_factory=list, compare=False)

        def sample(self, *arguments, **options):
            self.traces.append(len(arguments))
            return self.model.sample(*arguments, **options)

    counting, variables = Counting(small[0]), small[1]

    def batches(energies, seed):
        return generation.generate(
            counting, variables, energies, seed=seed, batch_size=3, devices=TWO
        )

    list(batches(energies, 0))
    warm = batches(energies[::-1], 1)
    next(warm)
    with jax.transfer_guard("disallow"):
        list(warm)
    assert len(counting.traces) == 1


def test_seeds_and_showers_differ(whole, model, variables, energies):
    def showers(energies, seed):
        options = {"seed": seed, "batch_size": 8, "devices": ONE}
        return collect(generation.generate(model, variables, energies, **options))[1]

    assert not np.array_equal(showers(energies, 6), whole[1])
    same_energy = np.full(5, 1e4, np.float32)
    assert len({shower.tobytes() for shower in showers(same_energy, 0)}) == 5


def test_reconstruction_runs_over_a_source(model, variables, showers):
    source = ShowerArrays(model.detector, showers.energies[:21], showers.showers[:21])
    energies, again = collect(
        generation.reconstruct(model, variables, source, batch_size=8, devices=ONE)
    )
    np.testing.assert_array_equal(energies, source.energies)
    np.testing.assert_allclose(again.sum(1), showers.showers[:21].sum(1), rtol=1e-3)


def test_cold_codes_are_the_likeliest_and_hot_ones_are_any(model, variables, energies):
    energies = np.repeat(energies[:1], 200)
    layer_energy = np.ones((200, model.detector.n_layers), np.float32)
    noise = model.noise(rng.per_item(rng.root(0), np.arange(200)))

    def distinct(temperature):
        codes = model.sample_codes(variables, noise, energies, layer_energy, temperature)
        return len(np.unique(np.asarray(codes), axis=0))

    assert distinct(1e-4) == 1
    assert distinct(1.0) > 100


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("default", "precision = [DEFAULT, DEFAULT] :"),
        ("float32", "precision = [HIGHEST, HIGHEST] :"),
        ("tf32", "precision = [HIGH, HIGH] :"),
        ("bf16", "algorithm = <lhs_precision_type = bf16, rhs_precision_type = bf16"),
    ],
)
def test_precision_is_that_of_the_products(model, variables, precision, words):
    """As the program is handed to the compiler; what a device makes of it, only it can tell."""
    function = generation._Sample(model, 1.0, precision)
    arguments = variables, rng.per_item(rng.root(0), np.arange(2)), np.full(2, 1e4, np.float32)
    text = jax.jit(function).lower(*arguments).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 5
    assert all(words in line for line in products)


def test_the_default_precision_is_the_environment_s(model, variables):
    arguments = variables, rng.per_item(rng.root(0), np.arange(2)), np.full(2, 1e4, np.float32)
    with jax.default_matmul_precision("float32"):
        text = jax.jit(generation._Sample(model, 1.0, "default")).lower(*arguments).as_text()
    assert "[HIGHEST, HIGHEST]" in text


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_positive_and_finite(temperature, small, energies):
    with pytest.raises(CalojaxError, match="temperature must be positive and finite, got"):
        next(generation.generate(*small, energies, temperature=temperature))


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_is_a_whole_number_of_32_bits(seed, small, tiny, energies):
    for batches in (
        generation.generate(*small, energies, seed=seed),
        generation.simulate(tiny, energies, seed=seed),
    ):
        with pytest.raises(CalojaxError, match="seed must be a whole number from 0 to 4294967295"):
            next(batches)
