"""Checkpoints of a run: everything that sampling or resuming needs, on any kind of devices.

A run is a folder; ``checkpoints/<steps>/`` in it holds, through Orbax,

- ``description``: JSON with the model, its settings, the geometry, and the progress of training;
- ``variables``: the model's arrays (parameters, codebook, fitted transforms), flat by path;
- ``optimizer``: the optimiser's arrays of the stage in progress.

Arrays are handed to Orbax as host arrays. A checkpoint therefore knows nothing of the devices it
came from: what eight GPUs wrote, one CPU reads (device arrays would record their sharding, which
cannot be restored without those devices).
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

import calojax
from calojax import models, processes
from calojax.errors import CalojaxError
from calojax.models.base import Model, Variables

_FOLDER = "checkpoints"


class Progress(NamedTuple):
    """How far training came.

    Attributes:
      total: optimiser steps of all stages together; names the checkpoint.
      stage: the stage in progress, or the last.
      step: steps done of that stage.
      done: the stages that are trained.
      seed: root of all random numbers of the run.
      energy_range: lowest and highest incident energy that was trained on, in MeV.
    """

    total: int
    stage: str
    step: int
    done: tuple[str, ...]
    seed: int
    energy_range: tuple[float, float]


class Checkpoint(NamedTuple):
    """What a checkpoint holds, as host arrays.

    Attributes:
      model: the model.
      variables: its arrays.
      progress: of training.
    """

    model: Model
    variables: Variables
    progress: Progress


class Checkpoints:
    """The checkpoints of one run; the last two are kept.

    Of several processes all read, and the first one writes.
    """

    def __init__(self, run: pathlib.Path):
        self.folder = pathlib.Path(run).absolute() / _FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        # Every process has all arrays, so Orbax is told that each of them is alone.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=processes.index(), active_processes={processes.index()}
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, create=False, multiprocessing_options=alone
            ),
            item_names=("description", "variables", "optimizer"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Name of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, model: Model, variables: Variables, optimizer: Any, progress: Progress) -> None:
        """Writes a checkpoint in the background; Orbax renames it into place when complete."""
        if not processes.is_first() or self.latest == progress.total:
            return
        description = {
            "calojax_version": calojax.__version__,
            **models.to_json(model),
            "progress": progress._asdict(),
        }
        self._manager.save(
            progress.total,
            args=ocp.args.Composite(
                description=ocp.args.JsonSave(description),
                variables=ocp.args.StandardSave(_flat(variables)),
                optimizer=ocp.args.StandardSave(_numbered(optimizer)),
            ),
        )

    def load(self) -> Checkpoint:
        """The newest checkpoint.

        Raises:
          CalojaxError: if there is none, or it is damaged or foreign.
        """
        where, step = self._newest()
        restored = self._restore(
            where,
            step,
            description=ocp.args.JsonRestore(),
            variables=ocp.args.StandardRestore(),
        )
        description = restored["description"]
        try:
            progress = Progress(**description["progress"])
            progress = progress._replace(
                done=tuple(progress.done), energy_range=tuple(progress.energy_range)
            )
            model = models.from_json(description)
        except (KeyError, TypeError) as error:
            raise CalojaxError(
                f"{where}: was not written by calojax, or by another version of it ({error})."
            ) from None
        except CalojaxError as error:
            raise CalojaxError(f"{where}: {error}") from None
        variables = _nested(restored["variables"])
        check_shapes(where, model, variables)
        return Checkpoint(model, variables, progress)

    def load_optimizer(self, like: Any) -> Any:
        """The optimiser state of the newest checkpoint, in the structure of ``like``.

        Raises:
          CalojaxError: if it does not fit.
        """
        where, step = self._newest()
        stored = self._restore(where, step, optimizer=ocp.args.StandardRestore())["optimizer"]
        leaves, structure = jax.tree.flatten(like)
        found = [stored.get(name) for name in _numbered(like)]
        for leaf, value in zip(leaves, found, strict=True):
            if value is None or np.shape(value) != np.shape(leaf):
                raise CalojaxError(
                    f"{where}: the optimiser state does not fit the settings of the stage; resume "
                    "with the settings that the run was started with."
                )
        return jax.tree.unflatten(structure, found)

    def wait(self) -> None:
        """Returns, in all processes, when everything is on disk."""
        self._manager.wait_until_finished()
        processes.barrier("checkpoint")

    def _newest(self) -> tuple[pathlib.Path, int]:
        if self.latest is None:
            raise CalojaxError(f"{self.folder}: holds no complete checkpoint; train first.")
        return self.folder / str(self.latest), self.latest

    def _restore(self, where: pathlib.Path, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds.
            reason = str(error).strip().split("\n")[0][:200]
            raise CalojaxError(
                f"{where}: is damaged or not a calojax checkpoint ({reason}); "
                "remove that folder to fall back to the one before."
            ) from None


def load(run: str | pathlib.Path) -> Checkpoint:
    """The newest checkpoint of a run, for sampling.

    Raises:
      CalojaxError: if the folder is missing, holds no checkpoint, or a stage is not trained yet.
    """
    run = pathlib.Path(run)
    if not (run / _FOLDER).is_dir():
        raise CalojaxError(f"{run}: is not a run of calojax (it has no folder {_FOLDER!r}).")
    with Checkpoints(run) as checkpoints:
        checkpoint = checkpoints.load()
    missing = [s.name for s in checkpoint.model.stages if s.name not in checkpoint.progress.done]
    if missing:
        raise CalojaxError(
            f"{run}: not trained to the end, {' and '.join(missing)} missing; "
            "continue with train.py and --resume."
        )
    return checkpoint


def _flat(variables: Variables) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.device_get(variables), sep="/")


def _nested(flat: dict[str, np.ndarray]) -> Variables:
    # A model without state has no entry under it.
    empty = {"params": {}, "state": {}, "transforms": {}}
    return empty | traverse_util.unflatten_dict(flat, sep="/")


def _numbered(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.device_get(jax.tree.leaves(tree))
    return {f"{number:05d}": np.asarray(leaf) for number, leaf in enumerate(leaves)}


def check_shapes(where: pathlib.Path, model: Model, variables: Variables) -> None:
    """Refuses arrays that do not fit the model: a foreign or hand-edited checkpoint."""
    detector = model.detector
    batch = {
        "energies": jax.ShapeDtypeStruct((2,), np.float32),
        "showers": jax.ShapeDtypeStruct((2, detector.n_voxels), np.float32),
    }
    expected = jax.eval_shape(model.init, jax.random.key(0), variables["transforms"], batch)
    wanted = {path: leaf.shape for path, leaf in _flat_shapes(expected).items()}
    found = {path: leaf.shape for path, leaf in _flat_shapes(variables).items()}
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            raise CalojaxError(
                f"{where}: array {path!r} has shape {found.get(path)}, but the model in its "
                f"description needs {wanted.get(path)}; the checkpoint is damaged or foreign."
            )


def _flat_shapes(variables: Variables) -> dict[str, Any]:
    return traverse_util.flatten_dict(variables, sep="/")
