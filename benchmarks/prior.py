"""How long do priors take for a sequence of codes, and what does the cache gain?

    python benchmarks/prior.py --batch 8

The first line is the causal transformer with its key/value cache against the same transformer that
runs the prefix anew for every code, as the released Calo-VQ does: both timed in this run, on the
same keys, with the share of codes on which they agree (rounding may flip a few). The prefix is
rounded up to a multiple of ``chunk``, since shapes are static; so the ratio says what the cache
gains over prefixes that grow, not over buffers that are full from the start. Then a line of
ms/sequence for every kind of prior. Networks are untrained, which changes no shape.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import stopwatch
import tyro
from environment import show

from calojax import rng
from calojax.nn.priors import Prior, categorical
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.gru import GRU
from calojax.nn.priors.masked import Masked
from calojax.nn.priors.positions import Line
from calojax.nn.priors.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time.

    Attributes:
      batch: sequences at a time.
      length: codes a sequence (dataset 2 in the talk's latent: 416 and a start).
      size: number of codes to choose from.
      width: of the networks.
      layers: of the transformers.
      heads: of the transformers.
      passes: of masked decoding.
      dtype: of the transformers.
      chunk: of prefixes that are run anew.
      repeats: timed repetitions of each figure.
      smoke: everything tiny, to see that the benchmark runs.
    """

    batch: int = 8
    length: int = 417
    size: int = 512
    width: int = 128
    layers: int = 3
    heads: int = 4
    passes: int = 10
    dtype: str = "float32"
    chunk: int = 32
    repeats: int = 3
    smoke: bool = False


def priors(benchmark: Benchmark) -> dict[str, Prior]:
    """One of every kind."""
    b = benchmark

    def transformer(causal: bool) -> Transformer:
        dtype = jnp.dtype(b.dtype)
        return Transformer(b.size, Line(b.length), b.layers, b.heads, b.width, causal, dtype)

    return {
        "gru": Autoregressive(GRU(b.size, b.length, b.width, embedding=64)),
        "transformer": Autoregressive(transformer(causal=True)),
        "masked": Masked(transformer(causal=False), b.passes),
    }


def draw_without_cache(
    cell: Transformer, chunk: int, variables: Any, keys: jax.Array, context: jax.Array
) -> jax.Array:
    """What `Autoregressive` draws, running the prefix for every code: keys [b] -> [b, t].

    Only the last position is turned into logits.
    """
    u = categorical.uniforms(keys, cell.length)
    tokens = jnp.full((len(context), cell.length + 1), cell.size, jnp.int32)
    for start in range(0, cell.length, chunk):
        end = min(start + chunk, cell.length)

        def step(tokens, position, end=end):
            last = jnp.full((len(context), 1), position)
            arguments = tokens[:, :end], context, last
            logits = cell.apply(variables, *arguments, method="logits_at")[:, 0]
            return tokens.at[:, position + 1].set(categorical.choose(u[:, position], logits)), None

        tokens, _ = jax.lax.scan(step, tokens, jnp.arange(start, end))
    return tokens[:, 1:]


def measure(
    function: Callable[..., jax.Array], *arguments: Any, repeats: int
) -> tuple[jax.Array, dict[str, float]]:
    """What a function returns, and seconds to compile and (median) to run."""
    program, compilation = stopwatch.compiled(function, *arguments)
    times = stopwatch.repeat(lambda: program(*arguments), repeats=repeats)
    figures = {"seconds": times.median, "compile_seconds": compilation}
    return program(*arguments), figures


def main() -> None:
    """Prints a JSON line for the cache, and one for every kind."""
    b = tyro.cli(Benchmark, description=__doc__)
    if b.smoke:
        tiny = {"batch": 2, "length": 10, "size": 8, "width": 8, "layers": 1, "heads": 2}
        b = dataclasses.replace(b, **tiny, passes=3, chunk=4, repeats=1)
    shape = {name: value for name, value in dataclasses.asdict(b).items() if name != "smoke"}

    def row(**figures: Any) -> None:
        show({"benchmark": "prior"} | figures | shape)

    context = jax.random.normal(jax.random.key(0), (b.batch, 64))
    keys = rng.per_item(rng.root(0), np.arange(b.batch))
    kinds = priors(b)
    variables = {
        kind: jax.jit(prior.init)(jax.random.key(1), context) for kind, prior in kinds.items()
    }
    found = {
        kind: measure(prior.draw, variables[kind], keys, context, repeats=b.repeats)
        for kind, prior in kinds.items()
    }
    cell = kinds["transformer"].cell
    anew, without = measure(
        lambda *arguments: draw_without_cache(cell, b.chunk, *arguments),
        variables["transformer"],
        keys,
        context,
        repeats=b.repeats,
    )
    cached, with_cache = found["transformer"]
    row(
        part="cache",
        ratio=without["seconds"] / with_cache["seconds"],
        ms_per_sequence_cached=1e3 * with_cache["seconds"] / b.batch,
        ms_per_sequence_recomputed=1e3 * without["seconds"] / b.batch,
        agreement=float(jnp.mean(cached == anew)),
    )
    for kind, (_, figures) in found.items():
        row(
            part=kind,
            ms_per_sequence=1e3 * figures["seconds"] / b.batch,
            compile_seconds=figures["compile_seconds"],
        )


if __name__ == "__main__":
    main()
