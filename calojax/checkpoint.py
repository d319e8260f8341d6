"""Checkpoints of a run: everything that sampling or resuming needs, on any kind of devices.

A run is a folder; its ``checkpoints/<steps>/`` hold, written by Orbax,

- ``description``: JSON with the model, its settings, the geometry, and the progress of training;
- ``variables``: arrays of the model (parameters, codebook, fitted transforms);
- ``optimizer``: state of the optimiser of the stage in progress, and its best arrays so far.

Orbax gets host arrays, so a checkpoint depends on no device: what eight GPUs wrote, one CPU reads
(of device arrays it would record the sharding, and could not restore it without those devices).
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils

import calojax
from calojax import distributed, files, models, rng
from calojax.errors import CalojaxError, first_line
from calojax.models.base import Model, Variables

_FOLDER = "checkpoints"
# Bytes for Orbax's own files and for what others write meanwhile.
_SPARE = 2**20


class Progress(NamedTuple):
    """Progress of a training.

    Attributes:
      total: number of optimiser steps of all stages together; names the checkpoint.
      stage: stage in progress, or the last one.
      step: number of steps done of that stage.
      done: stages that are trained.
      seed: seed of all random numbers of the run.
      energy_range: lowest and highest incident energy that was trained on, in MeV.
      energies: incident energies that were trained on, in MeV, if they were few.
      trained_on: marks of some training showers (`calojax.io.marks`), as text.
    """

    total: int
    stage: str
    step: int
    done: tuple[str, ...]
    seed: int
    energy_range: tuple[float, float]
    energies: tuple[float, ...] = ()
    trained_on: str = ""


class Checkpoint(NamedTuple):
    """A model, its arrays on the host, and the progress of its training."""

    model: Model
    variables: Variables
    progress: Progress


class Checkpoints:
    """The checkpoints of one run, of which the last two are kept; the first process writes."""

    def __init__(self, run: pathlib.Path):
        self.folder = pathlib.Path(run).absolute() / _FOLDER
        if os.fsencode(self.folder).decode(errors="replace") != str(self.folder):
            raise CalojaxError(
                f"{run}: its path is not UTF-8, so it cannot hold checkpoints; rename the folder."
            )
        _silence()
        if not self.folder.is_dir():
            files.make_folder(self.folder)
        # Every process has all arrays, so each uses Orbax as if it were alone.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=2, create=False, multiprocessing_options=alone
                ),
                item_names=("description", "variables", "optimizer"),
            )
        except OSError as error:
            raise _refused(self.folder, error) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        # The error that ended the block says more than one of the checkpoint in the background.
        with self._reported() if kind is None else contextlib.suppress(Exception):
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """Name of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, model: Model, variables: Variables, optimizer: Any, progress: Progress) -> None:
        """Writes a checkpoint in the background; Orbax renames it into place when complete.

        Raises `CalojaxError` if an array is not finite, or if the disk has no room for the
        checkpoint or could not store the one before.
        """
        variables, optimizer = jax.device_get((variables, optimizer))
        bad = _not_finite(variables)
        if bad:
            raise CalojaxError(
                f"{self.folder}: array {bad!r} of the model is not finite after step "
                f"{progress.step} of stage {progress.stage!r}, so it is not saved; the last "
                "checkpoint is kept: lower the learning rate of the stage or look at the data with "
                "calojax check."
            )
        if not distributed.is_first() or self.latest == progress.total:
            return
        description = {
            "calojax_version": calojax.__version__,
            **models.to_json(model),
            "progress": progress._asdict(),
        }
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves((variables, optimizer))))
        with self._reported():
            self._manager.save(
                progress.total,
                args=ocp.args.Composite(
                    description=ocp.args.JsonSave(description),
                    variables=ocp.args.StandardSave(variables),
                    optimizer=ocp.args.StandardSave(optimizer),
                ),
            )

    def load(self) -> Checkpoint:
        """The newest checkpoint; `CalojaxError` if there is none, or it is damaged or foreign."""
        where, step = self._newest()
        restored = self._restore(
            where,
            step,
            description=ocp.args.JsonRestore(),
            variables=ocp.args.StandardRestore(),
        )
        description = restored["description"]
        try:
            progress = msgspec.convert([*Progress(**description["progress"])], Progress)
            model = models.from_json(description)
            _check_progress(progress, model)
        except (AttributeError, KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            raise CalojaxError(
                f"{where}: was not written by calojax, or by another version of it ({error})."
            ) from None
        except CalojaxError as error:
            raise CalojaxError(f"{where}: {error}") from None
        # Versions before November 2026 wrote "params/decoder/kernel" instead of nested dicts. A
        # model without state has no entry for it.
        empty = {"params": {}, "state": {}, "transforms": {}}
        variables = empty | traverse_util.unflatten_dict(restored["variables"], sep="/")
        check_shapes(where, model, variables)
        bad = _not_finite(variables)
        if bad:
            raise CalojaxError(f"{where}: array {bad!r} is not finite; train the model again.")
        return Checkpoint(model, variables, progress)

    def load_optimizer(self, like: Any) -> Any:
        """The optimiser state of the newest checkpoint, in the structure and shapes of ``like``."""
        where, step = self._newest()
        item = ocp.args.StandardRestore(jax.device_get(like))
        found = self._restore(where, step, optimizer=item)["optimizer"]
        # Orbax does not compare shapes.
        if jax.tree.map(np.shape, found) != jax.tree.map(np.shape, like):
            raise CalojaxError(
                f"{where}: the optimiser state does not fit the settings of the stage; resume with "
                "the settings that the run was started with."
            )
        return found

    def wait(self) -> None:
        """Waits, in all processes, until everything is on disk."""
        with self._reported():
            self._manager.wait_until_finished()
        multihost_utils.sync_global_devices("checkpoint")

    def _newest(self) -> tuple[pathlib.Path, int]:
        if self.latest is None:
            raise CalojaxError(f"{self.folder}: holds no complete checkpoint; train first.")
        return self.folder / str(self.latest), self.latest

    def _check_room(self, size: int) -> None:
        # First, since threads of Orbax wait ten minutes for a folder that cannot be made.
        files.make_folder(self.folder)
        free = shutil.disk_usage(self.folder).free
        if size + _SPARE > free:
            raise CalojaxError(
                f"{self.folder}: a checkpoint needs {(size + _SPARE) / 1e6:,.1f} MB, but the disk "
                f"is full: {free / 1e6:,.1f} MB are left; free some space and continue the run "
                "with --resume."
            )

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Turns errors of writing into one sentence, also those of the checkpoint before."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore each raise their own kinds.
            raise CalojaxError(
                f"{self.folder}: a checkpoint cannot be written ({first_line(error)}); the last "
                "complete one is kept, so continue the run with --resume."
            ) from None

    def _restore(self, where: pathlib.Path, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds.
            raise CalojaxError(
                f"{where}: cannot be read ({first_line(error)}); check its permissions and its "
                "disk; if these are sound, it is damaged, or of another program: move that folder "
                "away to use the checkpoint before it."
            ) from None


# Folders of the models that come with calojax, in an installed package and in a checkout.
_PACKAGE = pathlib.Path(calojax.__file__).parent
_SHIPPED = (_PACKAGE / "trained", _PACKAGE.parent / "examples")


def shipped() -> dict[str, pathlib.Path]:
    """The run folders of the trained models that come with calojax, by name."""
    folders = sorted(path.parent for place in _SHIPPED for path in place.glob(f"*/{_FOLDER}"))
    return {folder.name: folder for folder in folders}


def run_folder(run: str | os.PathLike) -> pathlib.Path:
    """The folder of a run, from its path, its checkpoints' path, or the name of a shipped model."""
    named = shipped()
    run = pathlib.Path(run) if os.path.exists(run) else named.get(str(run), pathlib.Path(run))
    run = run.parent if run.name == _FOLDER else run
    try:
        os.listdir(run / _FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        raise CalojaxError(
            f"{run}: is not a run folder (it has no folder {_FOLDER!r}) and not one of the models "
            f"that come with calojax ({', '.join(named)}); check the path."
        ) from None
    except OSError as error:
        raise _refused(run / _FOLDER, error) from None
    return run


def load(run: str | os.PathLike) -> Checkpoint:
    """The newest checkpoint of a run, which `run_folder` finds, with all stages trained.

    Raises:
      CalojaxError: if there is no such run or checkpoint, or a stage is not trained yet.
    """
    run = run_folder(run)
    with Checkpoints(run) as checkpoints:
        checkpoint = checkpoints.load()
    missing = [s.name for s in checkpoint.model.stages if s.name not in checkpoint.progress.done]
    if missing:
        raise CalojaxError(
            f"{run}: not trained to the end, {' and '.join(missing)} missing; continue with "
            "calojax train --resume."
        )
    return checkpoint


def digest_of(variables: Variables) -> str:
    """Digest of all arrays of a model, which tells one training from another."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _refused(where: pathlib.Path, error: OSError) -> CalojaxError:
    reason = error.strerror or str(error)
    return CalojaxError(f"{where}: cannot be read ({reason}); check its permissions and its disk.")


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, such as ``params/decoder/kernel``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _not_finite(variables: Variables) -> str | None:
    """The name of an array that holds NaN or infinity."""
    named = _named(variables).items()
    return next((name for name, array in named if not np.isfinite(array).all()), None)


def _check_progress(progress: Progress, model: Model) -> None:
    """Raises `ValueError` with the reason if no training can have written this."""
    names = {stage.name for stage in model.stages}
    if progress.stage not in names or not set(progress.done) <= names:
        raise ValueError(f"stages {progress.stage!r} and {progress.done!r} of {sorted(names)}")
    rng.checked_seed(progress.seed)
    low, high = progress.energy_range
    if not 0 < low <= high < math.inf or any(not low <= e <= high for e in progress.energies):
        raise ValueError(f"trained on energies from {low} to {high} MeV")
    if not 0 <= progress.step <= progress.total:
        raise ValueError(f"step {progress.step} of {progress.total}")


@functools.cache
def _silence() -> None:
    """Keeps Orbax and TensorStore from printing tracebacks for errors that become one sentence.

    Their threads may end long after the one that failed, so this is not undone.
    """
    logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR)
    hook = sys.unraisablehook

    def others(unraisable) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = others


def shapes(model: Model, transforms: Variables) -> Variables:
    """The shapes of all variables of a model, without making them."""
    batch = {
        "energies": jax.ShapeDtypeStruct((2,), np.float32),
        "showers": jax.ShapeDtypeStruct((2, model.detector.n_voxels), np.float32),
    }
    return jax.eval_shape(model.init, jax.random.key(0), transforms, batch)


def check_shapes(where: pathlib.Path, model: Model, variables: Variables) -> None:
    """Refuses arrays that do not fit the model, from a foreign or hand-edited checkpoint."""
    expected = _named(shapes(model, variables["transforms"]))
    found = _named(variables)
    for name in sorted(expected.keys() | found.keys()):
        has, needs = (getattr(tree.get(name), "shape", None) for tree in (found, expected))
        if has != needs:
            raise CalojaxError(
                f"{where}: array {name!r} has shape {has}, but the model in its description needs "
                f"{needs}; the checkpoint is damaged, or of another version."
            )
