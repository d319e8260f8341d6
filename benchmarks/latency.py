"""How long does a call take that makes one shower, or a hundred? Four ways to call a model.

    taskset -c 0 python benchmarks/latency.py examples/calovq-ds2

The four are the compiled function, `calojax.Generator`, an exported StableHLO program, and ONNX
Runtime with one thread. ``equal_showers`` is the fraction of 200 showers that ONNX Runtime and JAX
make equal from the same random numbers.
"""

import dataclasses
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
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ("calovq-ds2",)
    batch: tuple[int, ...] = (1, 100)


def columns(call: Callable[[], object], size: int, b: Benchmark) -> Row:
    """Number of showers, and median of the time of a call in ms."""
    times = stopwatch.repeat(call, repeats=b.repeats, seconds=b.seconds)
    return {"batch": size, "ms_per_call": 1e3 * times.median, "repeats": times.repeats}


def figures(trained: TrainedModel, size: int, b: Benchmark) -> Iterator[Row]:
    """Rows of all ways to make ``size`` showers."""
    energies = np.geomspace(*trained.progress.energy_range, size).astype(np.float32)
    model, variables = trained.model, trained.variables
    layout = random_numbers.layout_of(model)

    @jax.jit
    def from_numbers(numbers, energies):
        return model.sample_from(variables, layout.unflatten(numbers), energies)

    number = size * (1 if b.smoke else -(-_COMPARED // size))
    keys = rng.per_item(rng.root(0), jnp.arange(number))
    numbers = layout.flatten(jax.jit(model.noise)(keys))
    yield {"part": "compiled call, from numbers"} | columns(
        lambda: from_numbers(numbers[:size], energies), size, b
    )
    sample = jax.jit(lambda keys, energies: model.sample(variables, keys, energies))
    yield {"part": "compiled call"} | columns(lambda: sample(keys[:size], energies), size, b)
    generator = calojax.Generator(trained, sizes=(size,))
    yield {"part": "Generator"} | columns(lambda: generator(energies, event=0), size, b)
    content = export.contents(trained, "stablehlo", Options(size))["model.stablehlo"]
    program = jax.jit(jax.export.deserialize(bytearray(content)).call)
    index = np.arange(size, dtype=np.uint32)
    yield {"part": "StableHLO", "megabytes": len(content) / 1e6} | columns(
        lambda: program(np.uint32(0), index, energies), size, b
    )
    content = export.contents(trained, "onnx", Options(size))["model.onnx"]
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, settings, ["CPUExecutionProvider"])

    def run(numbers: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"noise": numbers, "energies": energies})[0])

    equal = [
        np.isclose(run(some), from_numbers(some, energies), rtol=1e-3, atol=1e-2).all(1)
        for some in np.split(numbers, number // size)
    ]
    share = float(np.mean(np.concatenate(equal)))
    row = {"part": "ONNX Runtime", "megabytes": len(content) / 1e6, "equal_showers": share}
    yield row | columns(lambda: run(numbers[:size]), size, b)


def main(b: Benchmark) -> Iterator[Row]:
    """A row for each model, number of showers, and way to make them."""
    b = b.small(batch=(2,))
    for name in b.models:
        trained = calojax.load(name)
        for size in b.batch:
            for row in figures(trained, size, b):
                yield {"benchmark": "latency", "subject": name} | row


if __name__ == "__main__":
    rows.run(Benchmark, main, __doc__)
