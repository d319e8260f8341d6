"""What does each choice in Calo-VQ gain, all else equal?

    python benchmarks/ablation.py TRAIN.hdf5 ... --reference TEST.hdf5 --out FOLDER

Trains one model for every variant of a preset on the same showers, for the same steps and with the
same seed, and prints a JSON line each: how the codes are used, and the scores of what comes back
from the codes (``reconstruction/``). With ``--generated`` the other stages are trained too, and
what is generated is scored (``generated/``). Runs are kept in the folder, and a variant whose run
is complete there is not trained again.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Iterator

import numpy as np
import tyro
from environment import environment

from calojax import checkpoint, models
from calojax.evaluation import suite
from calojax.geometry import find_detector
from calojax.io import ShowerArrays, open_showers
from calojax.io.cache import open_cached
from calojax.models.base import Model
from calojax.models.calovq.config import CaloVQConfig
from calojax.presets import PRESETS
from calojax.sampling import generation
from calojax.training import metrics
from calojax.training.batches import Dataset
from calojax.training.run import METRICS_FILE, Options, train

# What differs from the preset, by part of its settings. G.1 to G.4 are the faults of the published
# model: code usage, zeros, energies, and a loss that does not see soft hits.
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "preset": {},
    "gradient codebook": {"autoencoder": {"codebook": "gradient"}},
    "finite scalar quantisation": {"autoencoder": {"codebook": "fsq"}},
    "point": {"autoencoder": {"head": "point", "scale": "arctanh"}},
    "point, linear": {"autoencoder": {"head": "point", "scale": "linear"}},
    "density, arctanh": {"autoencoder": {"scale": "arctanh"}},
    "layers not told": {"autoencoder": {"condition_on_layers": False}},
}


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What to compare.

    Attributes:
      data: CaloChallenge files to train on.
      reference: file to judge by; not one of those trained on.
      out: folder of the runs.
      preset: that the variants differ from.
      variants: some of the names that the script lists (default: all).
      steps: of the autoencoder.
      generated: train energies and prior too, for as many and half as many steps.
      batch_size: showers a step.
      showers: to judge.
      seed: of everything.
    """

    data: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    reference: pathlib.Path
    out: pathlib.Path
    preset: str = "calovq-ds2-mlp"
    variants: tuple[str, ...] = tuple(VARIANTS)
    steps: int = 1000
    generated: bool = False
    batch_size: int = 256
    showers: int = 5000
    seed: int = 0


def settings(asked: Ablation, variant: str) -> CaloVQConfig:
    """The preset with a variant's changes and the comparison's schedule."""
    config = PRESETS[asked.preset].model
    for part, steps in (
        ("autoencoder", asked.steps),
        ("energies", asked.steps if asked.generated else 1),
        ("prior", asked.steps // 2 if asked.generated else 1),
    ):
        block = getattr(config, part)
        schedule = dataclasses.replace(block.schedule, steps=steps, batch_size=asked.batch_size)
        changes = VARIANTS[variant].get(part, {})
        block = dataclasses.replace(block, schedule=schedule, **changes)
        config = dataclasses.replace(config, **{part: block})
    return config


def trained(model: Model, dataset: Dataset, out: pathlib.Path, seed: int) -> tuple[dict, float]:
    """Variables of a finished run, trained if it is not, and the seconds that took."""
    options = Options(seed=seed, checkpoint_every=10**9, validate_every=10**9)
    start = time.perf_counter()
    variables = train(model, dataset, out, options, resume=out.exists())
    return variables, time.perf_counter() - start


def scores(batches: Iterable[tuple[np.ndarray, np.ndarray]], reference, name: str) -> dict:
    """Separation powers of showers, under ``name/``."""
    energies, showers = (np.concatenate(part) for part in zip(*batches, strict=True))
    options = suite.Options(metrics=("histograms", "fpd", "correlations"), slices=())
    sample = ShowerArrays(reference.detector, energies, showers)
    found = suite.evaluate(sample, reference, options).scores
    return {f"{name}/{key}": float(value) for key, value in found.items()}


def usage(run: pathlib.Path) -> Iterator[tuple[str, float]]:
    """How the codes are used at the end of the first stage."""
    records = [r for r in metrics.read(run / METRICS_FILE) if r["stage"] == "autoencoder"]
    for name in ("live_codes", "perplexity"):
        values = [r[f"validation/{name}"] for r in records if f"validation/{name}" in r]
        yield name, values[-1]


def main() -> None:
    """Prints a JSON line for every variant."""
    asked = tyro.cli(Ablation, description=__doc__)
    detector = find_detector(PRESETS[asked.preset].geometry)
    cached = open_cached(open_showers(asked.data, detector), asked.data, None)
    dataset = Dataset(cached.energies, cached.showers)
    reference = open_showers(asked.reference, detector)
    showers = reference.read(0, min(asked.showers, len(reference)))
    reference = ShowerArrays(detector, reference.energies[: len(showers)], showers)
    for variant in asked.variants:
        model = models.build(settings(asked, variant), detector)
        run = asked.out / variant.replace(", ", "-").replace(" ", "-")
        _, seconds = trained(model, dataset, run, asked.seed)
        _, variables, _ = checkpoint.load(run)
        back = generation.reconstruct(model, variables, reference, seed=asked.seed)
        row = {"benchmark": "ablation", "variant": variant} | dict(usage(run))
        row |= scores(back, reference, "reconstruction")
        if asked.generated:
            new = generation.generate(model, variables, reference.energies, seed=asked.seed)
            row |= scores(new, reference, "generated")
        row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
        row |= {"preset": asked.preset, "steps": asked.steps, "batch": asked.batch_size}
        row |= {"showers": len(reference), "seconds": round(seconds)} | environment()
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
