"""How many codes should a shower of Calo-VQ have? Scores of trained runs against bits per shower.

    python benchmarks/rate.py RUN ... --reference TEST.hdf5 --out results/rate_cpu.jsonl
    python benchmarks/rate.py cyl416 cyl208 cyl104 --rows results/rate_cpu.jsonl --picture rate.png

A row for every run: the bits of a shower's codes under its prior, the share of codes that survive
small noise on the latents, the scores of reconstructed showers, which the first stage limits, and
those of generated ones. With ``--others`` also the scores of other Geant4 showers, reconstructed:
as good as generated ones could be with a perfect prior and perfect layer energies; ``pairs`` is how
many times as many pairs of neighbouring hits these have as before.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import rows
import tyro
from rows import Row

import calojax
from calojax import plot, rng
from calojax.evaluation.samples import Selection
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
      runs: folders of trained runs of Calo-VQ; with ``rows``, names of those to draw.
      reference: test showers.
      others: other Geant4 showers, at least as many.
      rows: file of rows to draw, instead of measuring runs.
      picture: picture of the rows.
    """

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]] = ()
    reference: pathlib.Path | None = None
    others: pathlib.Path | None = None
    rows: pathlib.Path | None = None
    picture: pathlib.Path | None = None


def main(options: Rate) -> Iterator[Row]:
    """Rows of the runs; or the picture of earlier rows."""
    if options.rows and options.picture:
        found = [json.loads(line) for line in options.rows.read_text().splitlines()]
        names = {folder.name for folder in options.runs}
        draw([row for row in found if row["run"] in names], options.picture)
        return
    if options.reference is None:
        raise SystemExit("error: --reference must name the test showers.")
    reference = open_showers(options.reference)
    others = open_showers(options.others) if options.others else None
    for folder in options.runs:
        yield measured(folder, reference, others)


def measured(folder: pathlib.Path, reference: ShowerSource, others: ShowerSource | None) -> Row:
    """The row of a run."""
    run = calojax.load(folder)
    assert isinstance(run.model, CaloVQ)
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
    samples = {
        "reconstructed": reconstructed(run, reference),
        "generated": calojax.generate(run, reference.energies, seed=1, batch_size=BATCH),
    }
    if others:
        first = Selection(others, np.arange(len(reference)))
        samples["perfect"] = reconstructed(run, first)
        row["pairs"] = pairs(samples["perfect"], run) / pairs(first.read(), run)
    for name, sample in samples.items():
        found = calojax.evaluate(sample, reference, metrics=METRICS, slices=()).scores
        row |= {f"{name}_{key}": found[key] for key in SCORES}
    return row


def reconstructed(run: calojax.TrainedModel, source: ShowerSource) -> np.ndarray:
    """Showers encoded and decoded again, [n, v]."""
    batches = generation.reconstruct(run.model, run.variables, source, seed=1)
    return np.concatenate([batch for _, batch in batches])


def pairs(showers: np.ndarray, run: calojax.TrainedModel) -> int:
    """Number of pairs of hits beside each other in z or alpha, in the outer half of the radii."""
    hit = showers.reshape(-1, *run.detector.grid)[..., run.detector.grid[2] // 2 :] > 0
    return int((hit & np.roll(hit, 1, 2)).sum() + (hit[:, 1:] & hit[:, :-1]).sum())


def code_statistics(run: calojax.TrainedModel, reference: ShowerSource) -> Row:
    """Bits per shower under the prior, perplexity, and the share of codes that survive noise."""
    model = run.model
    assert isinstance(model, CaloVQ)

    @jax.jit
    def of(variables, keys, energies, showers):
        latents = model._latents(variables, showers, energies)
        book = model._codebook(variables)
        codes = model._quantizer.codes(book, latents)
        noise = rng.normal(keys, latents.shape[1:])
        noisy = latents + NOISE * latents.std((0, 1)) * noise
        context = model._prior_context(variables, energies, layer_sums(showers, model.detector))
        loss = model._prior.loss(model._prior_variables(variables), keys, codes, context)
        return loss, codes, model._quantizer.codes(book, noisy)

    everything = reference.read()
    results = []
    for start in range(0, len(reference.energies) // BATCH * BATCH, BATCH):
        keys = rng.per_item(rng.root(2), jnp.arange(start, start + BATCH))
        part = slice(start, start + BATCH)
        results.append(of(run.variables, keys, reference.energies[part], everything[part]))
    loss, codes, noisy = (np.concatenate(x) for x in zip(*results, strict=True))
    shares = np.bincount(codes.reshape(-1), minlength=model._quantizer.size) / codes.size
    used = shares[shares > 0]
    row: Row = {
        "codebook_size": model._quantizer.size,
        "perplexity": float(np.exp(-(used * np.log(used)).sum())),
        "survive": float((codes == noisy).mean()),
    }
    # The flow's loss is no likelihood.
    if model.config.prior.kind == "gru":
        nats = float(loss.mean())
        row |= {"nats_per_code": nats, "bits": nats / np.log(2) * codes.shape[1]}
    return row


@style.styled
def draw(found: list[Row], picture: pathlib.Path) -> None:
    """FPD and recall of generated and of Geant4's encoded showers, against bits per shower."""
    figure = style.figure(10, 4)
    markers = {"generated": "o", "reconstructed": "s", "perfect": "^"}
    for place, (key, factor, label) in enumerate(
        (("fpd", 1e3, "FPD x 1e3"), ("recall", 1, "recall")), 1
    ):
        axes = figure.add_subplot(1, 2, place, xlabel="bits per shower", ylabel=label)
        for name, marker in markers.items():
            of = [row for row in found if f"{name}_{key}" in row]
            points = [(row["bits"], factor * row[f"{name}_{key}"]) for row in of]
            if points:
                axes.plot(*zip(*points, strict=True), marker, label=name)
        for row in found:
            at = row["bits"], factor * row[f"generated_{key}"]
            axes.annotate(row["run"], at, (4, 5), textcoords="offset points", fontsize=8)
        axes.margins(0.15)
    figure.axes[0].legend()
    plot.save(figure, picture)


if __name__ == "__main__":
    rows.run(Rate, main, __doc__)
