"""The command line: ``calojax COMMAND``; each command imports what it needs when it runs."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import tyro

import calojax
from calojax.errors import CalojaxError

Positional = tyro.conf.Positional


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; a `CalojaxError` becomes one sentence and exit status 1."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(calojax.__version__)
        return
    if not arguments or arguments[0] not in _COMMANDS:
        asked = not arguments or arguments[0] in ("-h", "--help")
        print(_overview(), file=sys.stdout if asked else sys.stderr)
        if not asked:
            print(f"\nerror: there is no command {arguments[0]!r}.", file=sys.stderr)
        sys.exit(0 if asked else 2)
    name, rest = arguments[0], arguments[1:]
    command, _ = _COMMANDS[name]
    try:
        command(rest)
    except CalojaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: stopped; nothing half-written is left behind.", file=sys.stderr)
        sys.exit(130)


def _overview() -> str:
    lines = [f"  {name:10} {help_line}" for name, (_, help_line) in _COMMANDS.items()]
    return (
        "usage: calojax COMMAND [--help] ...\n\n"
        "Fast generative simulation of calorimeter showers.\n\ncommands:\n" + "\n".join(lines)
    )


# --- train ----------------------------------------------------------------------------------------


def _train(arguments: list[str]) -> None:
    from calojax.models.calovq import CaloVQConfig
    from calojax.presets import PRESETS
    from calojax.training.run import Options

    @dataclasses.dataclass(frozen=True)
    class Train:
        """Trains a model; see the settings of each stage below.

        Attributes:
          data: CaloChallenge HDF5 files to train on (energies in MeV).
          out: folder of the run: checkpoints, metrics.jsonl, loss curves.
          resume: continue the run in that folder from its newest checkpoint.
          stages: train only these stages of a finished run afresh, and those that need them.
          geometry: built-in geometry, or a binning file ending in .xml.
          cache: folder for the uncompressed copy of the data (default: ~/.cache/calojax).
          options: how the run is trained.
          model: settings of the model.
        """

        data: tuple[pathlib.Path, ...]
        out: pathlib.Path
        resume: bool = False
        stages: tuple[str, ...] = ()
        geometry: str = ""
        cache: pathlib.Path | None = None
        options: Annotated[Options, tyro.conf.arg(name="")] = Options()
        model: Annotated[CaloVQConfig, tyro.conf.arg(name="")] = CaloVQConfig()

    presets = {
        name: (
            preset.description,
            Train(tyro.MISSING, tyro.MISSING, geometry=preset.geometry, model=preset.model),
        )
        for name, preset in PRESETS.items()
    }
    train = tyro.extras.overridable_config_cli(presets, prog="calojax train", args=arguments)

    from calojax import models
    from calojax.data.cache import open_cached
    from calojax.data.challenge import open_showers
    from calojax.geometry import find_detector
    from calojax.training.batches import Dataset
    from calojax.training.run import train as run

    detector = find_detector(train.geometry)
    source = open_showers(train.data, detector)
    cached = open_cached(source, train.data, train.cache)
    train.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    run(
        models.build(train.model, detector),
        Dataset(cached.energies, cached.showers),
        train.out,
        train.options,
        resume=train.resume,
        again=train.stages,
    )
    _loss_curves(train.out)
    print(
        f"trained in {time.perf_counter() - start:.0f} s; sample with: "
        f"calojax sample {train.out} --num 1000 --out showers.hdf5"
    )


def _loss_curves(run: pathlib.Path) -> None:
    from calojax.training.metrics import read
    from calojax.training.run import METRICS_FILE

    try:
        from calojax import plot
    except ImportError:
        print("no loss curves: install calojax[plots] for pictures.")
        return
    figure = plot.loss_curves(read(run / METRICS_FILE))
    plot.save(figure, run / "loss.png")
    print(f"loss curves: {run / 'loss.png'}")


# --- sample ---------------------------------------------------------------------------------------


def _sample(arguments: list[str]) -> None:
    def sample(
        run: Positional[pathlib.Path],
        out: pathlib.Path,
        num: int | None = None,
        energies: str | None = None,
        seed: int = 0,
        batch: int = 1000,
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
        """
        from calojax import checkpoint, models
        from calojax.data.challenge import ShowerWriter
        from calojax.generation import generate
        from calojax.incident import incident_energies
        from calojax.training.metrics import progress

        _check_batch(batch)
        model, variables, done = checkpoint.load(run)
        wanted = incident_energies(
            energies, model.detector, num=num, seed=seed, trained=done.energy_range
        )
        _warn_outside(wanted, done.energy_range)
        provenance = {
            "model": models.name_of(model),
            "checkpoint": str(run.name),
            "checkpoint_step": done.total,
            "seed": seed,
        }
        start = time.perf_counter()
        batches = generate(model, variables, wanted, seed=seed, batch_size=batch)
        with (
            ShowerWriter(out, model.detector, len(wanted), provenance) as writer,
            progress("sample", len(wanted)) as bar,
        ):
            for some_energies, showers in batches:
                writer.append(some_energies, showers)
                bar.update(len(showers))
        seconds = time.perf_counter() - start
        print(
            f"{out}: {len(wanted)} showers in {seconds:.1f} s "
            "(compilation and writing included; see benchmarks/generation.py for ms/shower)"
        )

    tyro.cli(sample, prog="calojax sample", args=arguments)


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise CalojaxError(f"--batch must be at least 1, got {batch}.")


def _warn_outside(energies, trained: tuple[float, float]) -> None:
    low, high = trained
    outside = ((energies < low * (1 - 1e-5)) | (energies > high * (1 + 1e-5))).mean()
    if outside > 0:
        print(
            f"warning: {outside:.1%} of the incident energies are outside {low:g} to {high:g} MeV, "
            "which the model was trained on; their showers are extrapolated.",
            file=sys.stderr,
        )


# --- simulate -------------------------------------------------------------------------------------


def _simulate(arguments: list[str]) -> None:
    def simulate(
        out: pathlib.Path,
        num: int,
        geometry: str = "ds2",
        energies: str | None = None,
        seed: int = 0,
        batch: int = 1000,
    ) -> None:
        """Writes showers of a parametric generator (GFLASH, hep-ex/0001020): data without Geant4.

        Args:
          out: HDF5 file to write; appears when it is complete.
          num: how many showers.
          geometry: built-in geometry, or a binning file ending in .xml.
          energies: a list such as 50GeV,100GeV (in turn), log-uniform:1GeV:1TeV, or an HDF5 file;
            default: the spectrum of the CaloChallenge's data set.
          seed: of all random numbers; shower i is the same for any --num.
          batch: showers computed at a time.
        """
        from calojax import generation
        from calojax.data.challenge import ShowerWriter
        from calojax.geometry import find_detector
        from calojax.incident import incident_energies
        from calojax.training.metrics import progress

        _check_batch(batch)
        detector = find_detector(geometry)
        wanted = incident_energies(energies, detector, num=num, seed=seed)
        with (
            ShowerWriter(out, detector, num, {"model": "gflash", "seed": seed}) as writer,
            progress("simulate", num) as bar,
        ):
            for some_energies, showers in generation.simulate(
                detector, wanted, seed=seed, batch_size=batch
            ):
                writer.append(some_energies, showers)
                bar.update(len(showers))
        print(f"{out}: {num} showers of geometry {detector.name}")

    tyro.cli(simulate, prog="calojax simulate", args=arguments)


# --- check, download ------------------------------------------------------------------------------


def _check(arguments: list[str]) -> None:
    def check(file: Positional[pathlib.Path], geometry: str | None = None) -> None:
        """Tells what a shower file is and what is wrong with it.

        Args:
          file: an HDF5 file.
          geometry: what it should be (default: guessed).
        """
        from calojax.data.inspection import inspect
        from calojax.geometry import find_detector

        found = inspect(file, find_detector(geometry) if geometry else None)
        print(found.text())
        if any(finding.severity == "error" for finding in found.findings):
            sys.exit(1)

    tyro.cli(check, prog="calojax check", args=arguments)


def _download(arguments: list[str]) -> None:
    def download(
        dataset: Positional[Literal["1-photons", "1-pions", "2", "3"]],
        folder: pathlib.Path = pathlib.Path("data"),
    ) -> None:
        """Fetches the files of a CaloChallenge data set from Zenodo; continues what was cut off.

        Args:
          dataset: which.
          folder: where to put them.
        """
        from calojax.data.download import download

        for path in download(dataset, folder):
            print(path)

    tyro.cli(download, prog="calojax download", args=arguments)


_COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (_train, "train a model on shower files"),
    "sample": (_sample, "write showers of a trained model"),
    "simulate": (_simulate, "write showers of a parametric generator, as training data"),
    "check": (_check, "tell what a shower file is and what is wrong with it"),
    "download": (_download, "fetch the CaloChallenge's data sets"),
}
