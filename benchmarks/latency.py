"""How long does a call take that makes one shower, or a hundred? Four ways to call a model.

    taskset -c 0 python benchmarks/latency.py examples/calovq-ds2

The four are the compiled function, `calojax.Generator`, an exported StableHLO program, and ONNX
Runtime with one thread. ``equal_showers`` is the fraction of 200 showers that ONNX Runtime and JAX
make equal from the same random numbers. The ways take turns.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnxruntime
import rows
import stopwatch
import tyro
from rows import Row

import calojax
from calojax import export, rng
from calojax.api import TrainedModel
from calojax.export import Options, random_numbers

_COMPARED = 200


@dataclasses.dataclass(frozen=True)
class Benchmark(rows.Options):
    """Options.

    Attributes:
      models: folders of trained runs, or names of models that come with calojax.
      batch: numbers of showers.
      keep: folder for the ONNX files, with the compared showers for `onnx_runtime.py`.
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ("calovq-ds2",)
    batch: tuple[int, ...] = (1, 100)
    keep: pathlib.Path | None = None


def figures(name: str, trained: TrainedModel, size: int, b: Benchmark) -> Iterator[Row]:
    """Rows of all ways to make ``size`` showers."""
    energies = np.geomspace(*trained.progress.energy_range, size).astype(np.float32)
    model, variables = trained.model, trained.variables
    layout = random_numbers.layout_of(model)

    @jax.jit
    def from_numbers(numbers, energies):
        return model.sample_from(variables, layout.unflatten(numbers), energies)

    number = size * (1 if b.smoke else -(-_COMPARED // size))
    keys = rng.per_item(rng.root(0), jnp.arange(number))
    numbers = layout.flatten(jax.jit(random_numbers.noise_of(model))(keys))
    sample = jax.jit(lambda keys, energies: model.sample(variables, keys, energies))
    generator = calojax.Generator(trained, sizes=(size,))
    stablehlo = export.contents(trained, "stablehlo", Options(size))["model.stablehlo"]
    program = jax.jit(jax.export.deserialize(bytearray(stablehlo)).call)
    index = np.arange(size, dtype=np.uint32)
    onnx = export.contents(trained, "onnx", Options(size))["model.onnx"]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, settings, ["CPUExecutionProvider"])

    def run(numbers: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"noise": numbers, "energies": energies})[0])

    groups = numbers.reshape(-1, size, layout.size)
    expected = np.stack([from_numbers(group, energies) for group in groups])
    found = np.stack([run(group) for group in groups])
    share = float(np.isclose(found, expected, rtol=1e-3, atol=1e-2).all(-1).mean())
    if b.keep:
        path = b.keep / f"{pathlib.Path(name).name}-{size}.onnx"
        path.write_bytes(onnx)
        np.savez(path.with_suffix(".npz"), noise=groups, expected=expected, energies=energies)
    ways: dict[str, tuple[Callable[[], object], Row]] = {
        "compiled call, from numbers": (lambda: from_numbers(numbers[:size], energies), {}),
        "compiled call": (lambda: sample(keys[:size], energies), {}),
        "Generator": (lambda: generator(energies, event=0), {}),
        "StableHLO": (
            lambda: program(np.uint32(0), index, energies),
            {"megabytes": len(stablehlo) / 1e6},
        ),
        "ONNX Runtime": (
            lambda: run(numbers[:size]),
            {
                "megabytes": len(onnx) / 1e6,
                "equal_showers": share,
                "onnxruntime": onnxruntime.__version__,
            },
        ),
    }
    calls = [call for call, _ in ways.values()]
    every = stopwatch.in_turns(calls, repeats=b.repeats, seconds=b.seconds)
    for (part, (_, more)), times in zip(ways.items(), every, strict=True):
        ms = {"ms_per_call": 1e3 * times.median, "ms_fastest": 1e3 * times.fastest}
        yield {"part": part, "batch": size} | more | ms | {"repeats": times.repeats}


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each model, number of showers, and way to make them."""
    b = b.small(batch=(2,))
    for name in b.models:
        trained = calojax.load(name)
        for size in b.batch:
            for row in figures(name, trained, size, b):
                yield {"benchmark": "latency", "subject": name} | row


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
