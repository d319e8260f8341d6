"""The released CaloPointFlow in PyTorch (github.com/simonschnake/CaloPointFlow), to be timed.

Random weights. It needs torch, zuko 1.1, pytorch-lightning and omegaconf; where torch_scatter is
missing, torch adds up. What is timed favours it: a step of training starts with points on the
device, ours with voxels; generation ends with as many points as the showers of the batch have,
without the loop over showers that fills voxels on the host, and runs without gradients, which the
released script does not switch off.
"""

import importlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from calojax.training.batches import Dataset

# By geometry: what the configurations are called.
CONFIGURATIONS = {"ds2": "d2", "ds3": "d3"}


def scatter(src: Any, index: Any, dim: int = -1, reduce: str = "sum") -> Any:
    """The part of ``torch_scatter.scatter`` that the released code needs."""
    dim %= src.dim()
    shape = list(src.shape)
    shape[dim] = int(index.max()) + 1
    total = src.new_zeros(shape).index_add(dim, index, src)
    if reduce == "sum":
        return total
    count = index.bincount(minlength=shape[dim]).clamp(min=1)
    return total / count.view([-1 if axis == dim else 1 for axis in range(src.dim())])


def build(folder: pathlib.Path, geometry: str, version: str, device: str) -> Any:
    """The model.

    Args:
      folder: a checkout.
      geometry: one of `CONFIGURATIONS`.
      version: "I" or "II" (see its ``configs``).
      device: of torch.
    """
    try:
        import torch_scatter  # noqa: F401
    except ImportError:
        sys.modules["torch_scatter"] = types.ModuleType("torch_scatter")
        sys.modules["torch_scatter"].scatter = scatter
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for module in ("model", "utils"):
        importlib.import_module(f"calopointflow.{module}")
    from omegaconf import OmegaConf

    released = sys.modules["calopointflow"]
    load = released.utils.load_config
    configuration = load(f"{CONFIGURATIONS[geometry]}_{version}")
    model = released.model.CaloPointFlow(OmegaConf.merge(load("base"), configuration)).to(device)
    # There is no trainer to log to.
    model._log = lambda *_: None
    return model


def trainer(model: Any, batch: Dataset, device: str) -> Callable[[], None]:
    """A call that makes a step of training, with transforms fitted and frozen."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    points = _points(batch, device)

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        model._step(points, 0).backward()
        optimizer.step()
        _wait(device)

    # The first step fits the transforms too; they are frozen after the first epoch.
    train()
    for transform in model._freezables:
        transform.freeze()
    return train


def sampler(model: Any, batch: Dataset, device: str) -> Callable[[], None]:
    """A call that draws as many points as the showers of a batch have, for their energies."""
    import torch

    _, _, counts, energies = _points(batch, device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)

    @torch.no_grad()
    def generate() -> None:
        model.eval()
        energy = model.transform_e_in(energies)
        shower = model.conditional_flow(energy).sample()
        model.deconstruct_conditional(shower, energies)
        context = torch.cat([energy, shower], -1)
        context = torch.cat([context, model.latent_flow(context).sample()], -1)
        context = torch.repeat_interleave(context, counts, dim=0)
        sets = (owner, counts) if model.config.deepset_flow else ()
        model.deconstruct_points(model.point_flow(*sets, context).sample())
        _wait(device)

    return generate


def _points(batch: Dataset, device: str) -> tuple[Any, ...]:
    """Voxels, energies, counts, incident energies of a batch, as the released code takes them."""
    import torch

    energies, showers = batch
    owner, voxel = np.nonzero(showers > 0)
    counts = np.bincount(owner, minlength=len(showers))
    columns = voxel[:, None], showers[owner, voxel], counts, energies[:, None]
    return tuple(torch.from_numpy(column).to(device) for column in columns)


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
