"""How many codes should a shower of Calo-VQ have? Scores of trained runs against bits per shower.

    python benchmarks/rate.py RUN ... --reference TEST.hdf5 --out results/rate_cpu.jsonl
    python benchmarks/rate.py --rows results/rate_cpu.jsonl --picture ../docs/rate.png

A row for every run: the bits of a shower's codes under its prior, the share of codes that survive
small noise on the latents, the scores of reconstructed showers, which the first stage limits, and
those of generated ones.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import rows
import tyro
from rows import Row

import calojax
from calojax import plot, rng
from calojax.io import ShowerSource, open_showers
from calojax.models.calovq.model import CaloVQ
from calojax.models.voxels import layer_sums
from calojax.plot import style
from calojax.sampling import generation

SCORES = (
    *("fpd", "precision", "recall", "density", "coverage", "separation_voxel"),
    *("separation_ec_r", "separation_sparsity", "correlation_neighbours"),
)
METRICS = ("histograms", "fpd", "prdc", "correlations")
# Standard deviation of the noise, in units of that of the latents.
NOISE = 0.1
BATCH = 100


@dataclasses.dataclass(frozen=True)
class Rate(rows.Options):
    """Options.

    Attributes:
      runs: folders of trained runs of Calo-VQ.
      reference: test showers.
      rows: file of rows to draw, instead of measuring runs.
      picture: picture of the rows.
    """

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]] = ()
    reference: pathlib.Path | None = None
    rows: pathlib.Path | None = None
    picture: pathlib.Path | None = None


def main(options: Rate) -> Iterator[Row]:
    """Rows of the runs; or the picture of earlier rows."""
    if options.rows and options.picture:
        found = [json.loads(line) for line in options.rows.read_text().splitlines()]
        draw(found, options.picture)
        return
    reference = open_showers(options.reference)
    for folder in options.runs:
        yield measured(folder, reference)


def measured(folder: pathlib.Path, reference: ShowerSource) -> Row:
    """The row of a run."""
    run = calojax.load(folder)
    config = run.model.config
    row: Row = {
        "benchmark": "rate",
        "run": folder.name,
        "network": config.autoencoder.network,
        "codes": int(np.prod(run.model.networks.code_grid)),
        "codebook": config.autoencoder.codebook,
        "prior": config.prior.kind,
        "energies": config.energies.kind,
    }
    row |= code_statistics(run, reference)
    reconstructed = generation.reconstruct(run.model, run.variables, reference, seed=1)
    showers = np.concatenate([batch for _, batch in reconstructed])
    for name, sample in (
        ("reconstructed", showers),
        ("generated", calojax.generate(run, reference.energies, seed=1, batch_size=BATCH)),
    ):
        found = calojax.evaluate(sample, reference, metrics=METRICS, slices=()).scores
        row |= {f"{name}_{key}": found[key] for key in SCORES}
    return row


def code_statistics(run: calojax.TrainedModel, reference: ShowerSource) -> Row:
    """Bits per shower under the prior, perplexity, and the share of codes that survive noise."""
    model = run.model
    assert isinstance(model, CaloVQ)

    @jax.jit
    def of(variables, keys, energies, showers):
        latents = model._latents(variables, showers, energies)
        book = model._codebook(variables)
        codes = model._quantizer.codes(book, latents)
        noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys)
        noisy = latents + NOISE * latents.std((0, 1)) * noise
        context = model._prior_context(variables, energies, layer_sums(showers, model.detector))
        loss = model._prior.loss(model._prior_variables(variables), keys, codes, context)
        return loss, codes, model._quantizer.codes(book, noisy)

    everything = reference.read()
    results = []
    for start in range(0, len(reference.energies) // BATCH * BATCH, BATCH):
        keys = rng.per_item(rng.root(2), np.arange(start, start + BATCH))
        part = slice(start, start + BATCH)
        results.append(of(run.variables, keys, reference.energies[part], everything[part]))
    loss, codes, noisy = (np.concatenate(x) for x in zip(*results, strict=True))
    shares = np.bincount(codes.reshape(-1), minlength=model._quantizer.size) / codes.size
    used = shares[shares > 0]
    return {
        "codebook_size": model._quantizer.size,
        "perplexity": float(np.exp(-(used * np.log(used)).sum())),
        "nats_per_code": float(loss.mean()),
        "bits": float(loss.mean() / np.log(2) * codes.shape[1]),
        "survive": float((codes == noisy).mean()),
    }


def draw(found: list[Row], picture: pathlib.Path) -> None:
    """FPD against bits per shower, generated and reconstructed."""
    with style.context():
        figure, (left, right) = plot.backend.pyplot().subplots(1, 2, figsize=(12, 5))
        for axes, key, factor in ((left, "fpd", 1e3), (right, "recall", 1)):
            for name, marker in (("generated", "o"), ("reconstructed", "s")):
                x = [row["bits"] for row in found]
                axes.plot(x, [factor * row[f"{name}_{key}"] for row in found], marker, label=name)
            axes.set_xscale("log")
            axes.set_xlabel("bits per shower")
        left.set_ylabel("FPD x 1000")
        right.set_ylabel("recall")
        left.legend()
        figure.savefig(picture)


if __name__ == "__main__":
    rows.run(Rate, main, __doc__)
