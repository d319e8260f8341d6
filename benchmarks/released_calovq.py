"""The released Calo-VQ in PyTorch (github.com/qibin2020/calo-VQ), built from its configurations.

Random weights: the checkpoints are not in the checkout (they are LFS pointers), and timing does not
ask for them. Showers are drawn by the released loop as it is (``sample_fullchain``, which its
``gen-tools.py`` calls): it runs the whole prefix anew for every token. It needs torch,
pytorch-lightning, omegaconf and packaging. What it imports for pictures and metrics alone is put in
the place of by names without a body.
"""

import contextlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

# By geometry: what the configurations are called.
CONFIGURATIONS = {
    "ds1-photons": "ds1photon",
    "ds1-pions": "ds1pion",
    "ds2": "ds2",
    "ds3": "ds3",
}


class Picture:
    """In the place of what draws or judges."""

    def __init__(self, *_: Any, **__: Any):
        pass


def rearrange(x: Any, pattern: str) -> Any:
    """The part of ``einops.rearrange`` that the released code needs: permutations."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(name) for name in after])


def build(folder: pathlib.Path, geometry: str, device: str) -> Any:
    """The model of both stages, ready to sample.

    Args:
      folder: a checkout.
      geometry: one of `CONFIGURATIONS`.
      device: of torch.
    """
    _import(folder)
    from calo_ldm.util import instantiate_from_config
    from omegaconf import OmegaConf

    name = CONFIGURATIONS[geometry]
    config = OmegaConf.load(folder / "config" / f"{name}_step2.yaml")["model"]
    stage = str(folder / "config" / f"{name}_step1.yaml")
    config["params"]["vq_config"] = {"model_config": stage}
    # It tells much about itself, where rows go.
    with contextlib.redirect_stdout(sys.stderr):
        model = instantiate_from_config(config)
    return model.to(device).eval().requires_grad_(False)


def sampler(model: Any, energies: np.ndarray, device: str) -> Callable[[], Any]:
    """A call that draws the showers of incident energies [n] in MeV and waits for them."""
    import torch

    incident = torch.from_numpy(np.asarray(energies, np.float32)).to(device)[:, None]

    @torch.no_grad()
    def sample() -> Any:
        batch = {"E_inc": incident}
        if not model.vq_model.is_ds23:
            # Its energies are powers of two, by number.
            batch["E_inc_binned"] = (torch.log2(incident) - 8).round().long()
        batch = model.preprocess_cond(model.vq_model.preprocess_cond(batch))
        showers = model.sample_fullchain(batch)["pixels_E_pred"]
        if device == "cuda":
            torch.cuda.synchronize()
        return showers

    return sample


def _import(folder: pathlib.Path) -> None:
    """Makes the checkout importable."""
    # First, since it looks for a torchvision that is whole.
    import pytorch_lightning  # noqa: F401

    plot = ("CaloPlotter", "HighLevelFeatures2", "phyPlotter")
    _stand_in("calo_ldm.plot", **dict.fromkeys(plot, Picture))
    for name, contents in {
        "torchvision.utils": {"make_grid": Picture},
        "torchvision.transforms": {"Resize": Picture},
        "einops": {"rearrange": rearrange},
    }.items():
        try:
            __import__(name)
        except ImportError:
            _stand_in(name, **contents)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _stand_in(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent == "torchvision":
        above = sys.modules.setdefault(parent, types.ModuleType(parent))
        setattr(above, child, module)
