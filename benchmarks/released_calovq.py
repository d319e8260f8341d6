"""The released Calo-VQ in PyTorch (github.com/qibin2020/calo-VQ), with random weights.

The checkout holds only pointers to its checkpoints, and timing does not need them. Showers come
from the released loop (``sample_fullchain``, as in ``gen-tools.py``), which computes the whole
prefix again for each token. It needs torch, pytorch-lightning, omegaconf and packaging; what it
imports only for pictures and metrics is replaced by empty classes.
"""

# pyright: reportMissingImports=false

import contextlib
import importlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

# Names of the configurations by geometry.
CONFIGURATIONS = {"ds1-photons": "ds1photon", "ds1-pions": "ds1pion", "ds2": "ds2", "ds3": "ds3"}


class Unused:
    """Stands for what draws or judges."""

    def __init__(self, *_: Any, **__: Any):
        pass


def rearrange(x: Any, pattern: str) -> Any:
    """Permutations by ``einops.rearrange``, all that the released code uses of it."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(name) for name in after])


def build(folder: pathlib.Path, geometry: str, device: str) -> Any:
    """The model of both stages, ready to sample, from a checkout of the released code."""
    # Before the stand-ins, because it looks for a complete torchvision.
    import pytorch_lightning  # noqa: F401
    from omegaconf import OmegaConf

    plot = ("CaloPlotter", "HighLevelFeatures2", "phyPlotter")
    stand_in("calo_ldm.plot", **dict.fromkeys(plot, Unused))
    for name, contents in (
        ("torchvision.utils", {"make_grid": Unused}),
        ("torchvision.transforms", {"Resize": Unused}),
        ("einops", {"rearrange": rearrange}),
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            stand_in(name, **contents)
    sys.path.insert(0, str(folder))
    from calo_ldm.util import instantiate_from_config

    name = CONFIGURATIONS[geometry]
    config = OmegaConf.load(folder / "config" / f"{name}_step2.yaml")["model"]
    stage = str(folder / "config" / f"{name}_step1.yaml")
    config["params"]["vq_config"] = {"model_config": stage}
    # It prints much to standard output, where the rows go.
    with contextlib.redirect_stdout(sys.stderr):
        model = instantiate_from_config(config)
    return model.to(device).eval().requires_grad_(False)


def stand_in(name: str, **contents: Any) -> None:
    """Makes a module with these contents importable, and its parent if that is torchvision."""
    parent, _, child = name.rpartition(".")
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    if parent == "torchvision":
        setattr(sys.modules.setdefault(parent, types.ModuleType(parent)), child, module)


def sampler(model: Any, energies: np.ndarray, device: str) -> Callable[[], Any]:
    """A call that draws the showers of incident energies [n] in MeV and waits for them."""
    import torch

    incident = torch.from_numpy(np.asarray(energies, np.float32)).to(device)[:, None]

    @torch.no_grad()
    def sample() -> Any:
        batch = {"E_inc": incident}
        if not model.vq_model.is_ds23:
            # The energies of dataset 1 are powers of two, given by number.
            batch["E_inc_binned"] = (torch.log2(incident) - 8).round().long()
        batch = model.preprocess_cond(model.vq_model.preprocess_cond(batch))
        showers = model.sample_fullchain(batch)["pixels_E_pred"]
        if device == "cuda":
            torch.cuda.synchronize()
        return showers

    return sample
