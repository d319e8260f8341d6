"""``calojax train``: trains the model of a preset."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from calojax import distributed, models
from calojax.cli.allocator import keep_freed_memory
from calojax.errors import CalojaxError, warn
from calojax.geometry import find_detector
from calojax.io import ShowerSource, open_showers
from calojax.io.cache import open_cached
from calojax.io.findings import unit_findings
from calojax.presets import PRESETS, ModelConfig
from calojax.training import metrics
from calojax.training.batches import Dataset
from calojax.training.run import METRICS_FILE, ORIGIN, Options, train


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a model.

    Attributes:
      data: CaloChallenge HDF5 files to train on (energies in MeV).
      out: folder of the run: checkpoints, metrics.jsonl, loss curves.
      model: settings of the model.
      resume: continue the run in that folder from its newest checkpoint; without a preset, with
        the arguments that it was started with.
      stages: train only these stages of a finished run afresh, and those that need them.
      geometry: built-in geometry, or a binning file ending in .xml.
      particle: name or PDG number, if the binning file is of several particles.
      any_units: train although the units of the showers look wrong.
      cache: folder for the uncompressed copy of the data (default: ~/.cache/calojax).
      options: how the run is trained.
      group: the processes that train together.
    """

    data: tuple[pathlib.Path, ...]
    out: pathlib.Path
    model: Annotated[ModelConfig, tyro.conf.arg(name="")]
    resume: bool = False
    stages: tuple[str, ...] = ()
    geometry: str = ""
    particle: str | None = None
    any_units: bool = False
    cache: pathlib.Path | None = None
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()
    group: Annotated[distributed.Group, tyro.conf.arg(name="")] = distributed.ALONE


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    arguments = _continued(arguments)
    presets = {
        name: (
            preset.description,
            Train(tyro.MISSING, tyro.MISSING, geometry=preset.geometry, model=preset.model),
        )
        for name, preset in PRESETS.items()
    }
    asked = tyro.extras.overridable_config_cli(presets, prog="calojax train", args=arguments)
    keep_freed_memory()
    with distributed.joined(asked.group):
        _train(asked, arguments)


def _continued(arguments: Sequence[str]) -> list[str]:
    """The arguments of a run that is continued by ``--resume --out RUN``, in front of these."""
    arguments = list(arguments)
    if "--resume" not in arguments or "--out" not in arguments[:-1] or arguments[0][:1] != "-":
        return arguments
    path = pathlib.Path(arguments[arguments.index("--out") + 1], ORIGIN)
    try:
        begun = json.loads(path.read_bytes())["arguments"]
        if not all(isinstance(word, str) for word in begun):
            raise TypeError
    except OSError as error:
        raise CalojaxError(
            f"{path}: cannot be read ({error.strerror}); name preset, data and settings as the run "
            "was started."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise CalojaxError(
            f"{path}: is damaged; name preset, data and settings as the run was started."
        ) from None
    return [*begun, *arguments]


def _origin(arguments: Sequence[str]) -> dict[str, Any]:
    """What `ORIGIN` says of a run: how to start it again from any folder, and with what it ran."""
    words, flag = [], ""
    for word in arguments:
        flag = word if word.startswith("--") else flag
        if flag in ("--data", "--geometry", "--cache") and os.path.exists(word):
            word = os.path.abspath(word)
        # Another start may have other processes.
        if flag not in ("--resume", "--coordinator", "--processes", "--process"):
            words.append(word)
    versions = {name: importlib.metadata.version(name) for name in ("calojax", "jax", "numpy")}
    return {"arguments": words, "folder": os.getcwd(), "versions": versions}


def _train(asked: Train, arguments: Sequence[str]) -> None:
    source = open_showers(asked.data, find_detector(asked.geometry, asked.particle))
    _check_units(source, asked)
    model = models.build(asked.model, source.detector.spanning(source.energies))
    cached = open_cached(source, asked.data, asked.cache)
    start = time.perf_counter()
    train(
        model,
        Dataset(cached.energies, cached.showers),
        asked.out,
        asked.options,
        resume=asked.resume,
        again=asked.stages,
        origin=_origin(arguments),
    )
    if not distributed.is_first():
        return
    print(f"trained in {time.perf_counter() - start:.0f} s")
    _draw_losses(asked.out)
    print(f"next: calojax sample {asked.out} --num 1000 --out showers.hdf5")


def _check_units(source: ShowerSource, asked: Train) -> None:
    """Refuses showers in units that are surely wrong, and warns of what may be."""
    found = {"error": [], "warning": []}
    for finding in unit_findings(source):
        found["warning" if asked.any_units else finding.severity].append(finding.sentence)
    if found["error"]:
        raise CalojaxError(
            f"{asked.data[0]}: {' '.join(found['error'])} If the file is right, add --any-units."
        )
    if distributed.is_first():
        for sentence in found["warning"]:
            warn(f"{asked.data[0]}: {sentence}")


def _draw_losses(run: pathlib.Path) -> None:
    try:
        from calojax import plot
    except ImportError:
        print("no loss curves: install calojax[plots] for pictures")
        return
    plot.save(plot.loss_curves(metrics.read(run / METRICS_FILE)), run / "loss.png")
    print(f"loss curves: {run / 'loss.png'}")
