"""``calojax sample``: writes showers of a trained model."""

import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np
import tyro

from calojax import checkpoint, generation, models
from calojax.data.writer import ShowerWriter
from calojax.incident import incident_energies
from calojax.progress import progress_bar


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    tyro.cli(sample, prog="calojax sample", args=arguments)


def sample(
    run: tyro.conf.Positional[pathlib.Path],
    out: pathlib.Path,
    num: int | None = None,
    energies: str | None = None,
    seed: int = 0,
    batch: int = 1000,
    temperature: float = 1.0,
) -> None:
    """Writes showers of a trained model to a CaloChallenge HDF5 file (MeV).

    Args:
      run: folder of a trained run.
      out: HDF5 file to write; appears when it is complete.
      num: how many showers; an energy file may leave it out.
      energies: an HDF5 file (its energies in order), a list such as 50GeV,100GeV (in turn), or
        log-uniform:1GeV:1TeV; default: the detector's spectrum in the range of the training.
      seed: of all random numbers; shower i is the same for any --num.
      batch: showers computed at a time.
      temperature: below 1 showers are more alike than those of the training, above less.
    """
    model, variables, done = checkpoint.load(run)
    wanted = incident_energies(
        energies, model.detector, num=num, seed=seed, trained=done.energy_range
    )
    warn_outside(wanted, done.energy_range)
    provenance = {
        "model": models.name_of(model),
        "checkpoint": run.resolve().name,
        "checkpoint_step": done.total,
        "seed": seed,
        "temperature": temperature,
    }
    start = time.perf_counter()
    batches = generation.generate(
        model, variables, wanted, seed=seed, batch_size=batch, temperature=temperature
    )
    write(out, model.detector, len(wanted), provenance, batches, label="sample")
    print(
        f"{out}: {len(wanted)} showers in {time.perf_counter() - start:.1f} s, compilation and "
        "writing included (benchmarks/generation.py measures ms/shower)"
    )


def write(out: pathlib.Path, detector, num: int, provenance, batches, *, label: str) -> None:
    """Writes batches of showers to a file under a progress bar."""
    with (
        ShowerWriter(out, detector, num, provenance) as writer,
        progress_bar(label, num) as bar,
    ):
        for energies, showers in batches:
            writer.append(energies, showers)
            bar.update(len(showers))


def warn_outside(energies: np.ndarray, trained: tuple[float, float]) -> None:
    """Tells on standard error if energies [n] are outside the trained range, all in MeV."""
    low, high = trained
    # A finite sample does not reach the ends of its spectrum.
    outside = ((energies < 0.98 * low) | (energies > 1.02 * high)).mean()
    if outside > 0:
        print(
            f"warning: {outside:.1%} of the incident energies are outside {low:g} to {high:g} MeV, "
            "which the model was trained on; their showers are extrapolated.",
            file=sys.stderr,
        )
