"""The released CaloPointFlow in PyTorch (github.com/simonschnake/CaloPointFlow), random weights.

It needs torch, zuko 1.1, pytorch-lightning and omegaconf; torch_scatter is replaced where it is
missing. What is timed favours the released code: a training step starts with points on the device
(calojax: with voxels); generation ends with points, as many as the showers of the batch have,
without the loop on the host that fills voxels, and runs without gradients, which the released
script does not switch off.
"""

# pyright: reportMissingImports=false

import importlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from calojax.models.base import Batch

# Names of the configurations by geometry.
CONFIGURATIONS = {"ds2": "d2", "ds3": "d3"}


def scatter(src: Any, index: Any, dim: int = -1, reduce: str = "sum") -> Any:
    """Sums and means by ``torch_scatter.scatter``, all that the released code uses of it."""
    dim %= src.dim()
    shape = list(src.shape)
    shape[dim] = int(index.max()) + 1
    total = src.new_zeros(shape).index_add(dim, index, src)
    if reduce == "sum":
        return total
    count = index.bincount(minlength=shape[dim]).clamp(min=1)
    return total / count.view([-1 if axis == dim else 1 for axis in range(src.dim())])


def build(folder: pathlib.Path, geometry: str, version: str, device: str) -> Any:
    """The model of version "I" or "II", from a checkout of the released code."""
    try:
        import torch_scatter  # noqa: F401
    except ImportError:
        module = types.ModuleType("torch_scatter")
        vars(module)["scatter"] = scatter
        sys.modules["torch_scatter"] = module
    sys.path.insert(0, str(folder))
    from omegaconf import OmegaConf

    load = importlib.import_module("calopointflow.utils").load_config
    config = OmegaConf.merge(load("base"), load(f"{CONFIGURATIONS[geometry]}_{version}"))
    model = importlib.import_module("calopointflow.model").CaloPointFlow(config).to(device)
    model._log = lambda *_: None  # There is no trainer to log to.
    return model


def trainer(model: Any, batch: Batch, device: str) -> Callable[[], None]:
    """A call that trains one step, with transforms that are fitted and frozen."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    columns = points(batch, device)

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        model._step(columns, 0).backward()
        optimizer.step()
        wait(device)

    train()  # The first step fits the transforms.
    for transform in model._freezables:
        transform.freeze()
    return train


def sampler(model: Any, batch: Batch, device: str) -> Callable[[], None]:
    """A call that draws as many points as the showers of a batch have, for their energies."""
    import torch

    _, _, counts, energies = points(batch, device)
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
        wait(device)

    return generate


def points(batch: Batch, device: str) -> tuple[Any, ...]:
    """Voxels, energies, counts and incident energies, as the released code takes them."""
    import torch

    showers = np.asarray(batch["showers"])
    owner, voxel = np.nonzero(showers > 0)
    counts = np.bincount(owner, minlength=len(showers))
    energies = np.array(batch["energies"])[:, None]
    columns = voxel[:, None], showers[owner, voxel], counts, energies
    return tuple(torch.from_numpy(column).to(device) for column in columns)


def wait(device: str) -> None:
    """Waits for the device."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
