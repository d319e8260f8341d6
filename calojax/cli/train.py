"""``calojax train``: trains the model of a preset."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from calojax import distributed, models
from calojax.cli.arguments import optional, refuse
from calojax.cli.process import keep_freed_memory
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
      data: HDF5 files to train on, or folders of parts, with energies in MeV.
      out: folder of the run, with checkpoints, metrics.jsonl, loss.png and run.json.
      model: settings of the model.
      resume: continue the run in --out from its newest checkpoint. Without a preset, the run
        continues with the arguments that it was started with.
      stages: stages of a finished run to train afresh; later stages that depend on them follow.
      init_from: trained run, or name of a model that comes with calojax, whose weights a new run
        starts from where their shapes fit. With --stages the other stages stay as they are there.
      geometry: name of a built-in geometry, or a binning file ending in .xml.
      particle: name or PDG number of the particle, for a binning file of several particles.
      any_units: train although the units of the showers look wrong.
      cache: folder for the uncompressed copy of the data.
      options: settings of the training.
      group: processes that train together.
    """

    data: Annotated[tuple[pathlib.Path, ...], tyro.conf.arg(metavar="FILES")]
    out: pathlib.Path
    model: Annotated[ModelConfig, tyro.conf.arg(name="")]
    resume: bool = False
    stages: Annotated[tuple[str, ...], optional("STAGES", "all that are not finished")] = ()
    init_from: Annotated[pathlib.Path | None, optional("RUN", "random weights")] = None
    geometry: str = ""
    particle: Annotated[str | None, optional("NAME", "the only one of the file")] = None
    any_units: bool = False
    cache: Annotated[pathlib.Path | None, optional("PATH", "~/.cache/calojax")] = None
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()
    group: Annotated[distributed.Group, tyro.conf.arg(name="")] = distributed.ALONE


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    # ``--flag=value`` as two words: `_continued` and `_origin` look for flags word by word.
    split = (w.split("=", 1) if re.match(r"--[\w.-]+=", w) else [w] for w in arguments)
    arguments = _continued([word for words in split for word in words])
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return
    if name.startswith("-"):
        refuse(f"A preset must come before {name}", "calojax train")
    if name not in PRESETS:
        refuse(f"There is no preset {name!r}", "calojax train", name, PRESETS)
    preset = PRESETS[name]
    asked = tyro.cli(
        Train,
        prog=f"calojax train {name}",
        args=arguments[1:],
        description=f"{preset.description}.",
        default=Train(tyro.MISSING, tyro.MISSING, geometry=preset.geometry, model=preset.model),
        config=(tyro.conf.AvoidSubcommands,),
    )
    keep_freed_memory()
    with distributed.joined(asked.group):
        _train(asked, arguments)


def _overview() -> str:
    return (
        "usage: calojax train PRESET --data FILE.hdf5 ... --out RUN [OPTIONS]\n"
        "       calojax train --resume --out RUN\n\n"
        "Trains a model. All settings of a preset: calojax train PRESET --help\n\npresets:\n"
    ) + "\n".join(f"  {name:26} {preset.description}" for name, preset in PRESETS.items())


def _continued(arguments: Sequence[str]) -> list[str]:
    """The arguments; in front of ``--resume --out RUN`` those that the run was started with."""
    arguments = list(arguments)
    if "--resume" not in arguments or "--out" not in arguments[:-1] or arguments[0][:1] != "-":
        return arguments
    path = pathlib.Path(arguments[arguments.index("--out") + 1], ORIGIN)
    try:
        started = json.loads(path.read_bytes())["arguments"]
        if not all(isinstance(word, str) for word in started):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise CalojaxError(
            f"{path}: cannot be read ({reason}); name preset, data and settings as the run was "
            "started."
        ) from None
    return [*started, *arguments]


def _origin(arguments: Sequence[str]) -> dict[str, Any]:
    """Contents of `ORIGIN`: arguments that are valid in any folder, and versions."""
    words, flag = [], ""
    for word in arguments:
        flag = word.replace("_", "-") if word.startswith("--") else flag
        if flag in ("--data", "--geometry", "--cache", "--init-from") and os.path.exists(word):
            word = os.path.abspath(word)
        # The processes may differ when the run is continued.
        if flag not in ("--resume", "--coordinator", "--processes", "--process"):
            words.append(word)
    versions = {name: importlib.metadata.version(name) for name in ("calojax", "jax", "numpy")}
    return {"arguments": words, "folder": os.getcwd(), "versions": versions}


def _train(asked: Train, arguments: Sequence[str]) -> None:
    source = open_showers(asked.data, find_detector(asked.geometry, asked.particle))
    _check_units(source, asked)
    model = models.build(asked.model, source.detector.spanning(source.energies))
    cached = open_cached(source, asked.cache)
    start = time.perf_counter()
    train(
        model,
        Dataset(cached.energies, cached.showers),
        asked.out,
        asked.options,
        resume=asked.resume,
        again=asked.stages,
        initial=asked.init_from,
        origin=_origin(arguments),
    )
    if not distributed.is_first():
        return
    print(f"trained in {time.perf_counter() - start:.0f} s")
    _draw_losses(asked.out)
    print(f"next: calojax sample {asked.out} --num 1000 --out showers.hdf5")


def _check_units(source: ShowerSource, asked: Train) -> None:
    """Refuses showers whose units are certainly wrong, and warns if they look wrong."""
    found = unit_findings(source)
    errors = [finding.sentence for finding in found if finding.severity == "error"]
    if errors and not asked.any_units:
        raise CalojaxError(
            f"{asked.data[0]}: {' '.join(errors)} If the file is right, add --any-units."
        )
    if distributed.is_first():
        for finding in found:
            warn(f"{asked.data[0]}: {finding.sentence}")


def _draw_losses(run: pathlib.Path) -> None:
    try:
        from calojax import plot
    except ImportError:
        print("no loss curves: install calojax[plots] for pictures")
        return
    plot.save(plot.loss_curves(metrics.read(run / METRICS_FILE)), run / "loss.png")
    print(f"loss curves: {run / 'loss.png'}")
