"""A training step of every family of models, number by number: catches silent changes of maths."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest
from conftest import tiny_config

from calojax import distributed, models
from calojax.models.base import Schedule
from calojax.models.calovq_released.config import (
    GPTConfig,
    ReleasedAutoencoderConfig,
    ReleasedConfig,
    TokensConfig,
)
from calojax.models.pointflow.config import (
    EncoderConfig,
    LatentConfig,
    PlacementConfig,
    PointFlowConfig,
    PointsConfig,
    TotalsConfig,
)
from calojax.nn.flow import Summary
from calojax.training import step

SCHEDULE = Schedule(10, 16, warmup=0)
CONFIGS = {
    "calovq": tiny_config(),
    "calovq-released": ReleasedConfig(
        ReleasedAutoencoderConfig(z_padding=(8, 8), codebook_size=16, code_width=4),
        TokensConfig(bits=8),
        GPTConfig(1, 1, 8),
    ),
    "pointflow": PointFlowConfig(
        TotalsConfig(2, 4, (16,)),
        EncoderConfig((8,), (8,)),
        LatentConfig(4, 2, 4, (16,)),
        PointsConfig(
            "layers",
            energy="log",
            summary=Summary((8,), (8,), 4),
            depth=2,
            bins=4,
            hidden=(16,),
            group=8,
            points_per_shower=60,
            schedule=SCHEDULE,
        ),
        PlacementConfig("learnt", hidden=8, window=2),
    ),
}
# Loss, norm of the gradient and norm of the update of each stage.
GOLDEN = {
    "calovq": {
        "autoencoder": (39.025, 106.05, 0.13493),
        "energies": (24.425, 10.341, 0.094356),
        "prior": (2.7982, 0.38156, 0.051677),
    },
    "calovq-released": {
        "autoencoder": (0.043839, 0.022562, 0.98051),
        "prior": (2.7126, 2.5421, 0.035598),
    },
    "pointflow": {
        "totals": (28.225, 13.066, 0.055002),
        "points": (1.3668, 1.8288, 0.036235),
        "placement": (1.2481, 0.013037, 0.0050196),
    },
}


def test_every_family_has_golden_steps():
    assert CONFIGS.keys() == models.families().keys()


def assert_devices_exchange_gradients_only(program: str, model, stage, variables) -> None:
    """And sums of a codebook, and a few numbers; Calo-VQ once per step, not in a loop."""
    pattern = r"= (.*?) (all-\S+|collective-\S+|reduce-scatter)\((?:.*op_name=\"([^\"]*))?"
    found = re.findall(pattern, program)
    assert {kind for _, kind, _ in found} == {"all-reduce"}
    if models.name_of(model) == "calovq":
        assert not [name for _, _, name in found if "while/body" in name]
    shapes = [shape for result, *_ in found for shape in re.findall(r"\w32\[([\d,]*)\]", result)]
    numbers = sum(math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes)
    trees = [variables["params"][name] for name in stage.parameters]
    trees += [variables["state"][name] for name in stage.state]
    assert numbers < 1.01 * sum(leaf.size for leaf in jax.tree.leaves(trees)) + 1000


@pytest.mark.parametrize("name", CONFIGS)
def test_first_step_of_every_stage_and_that_it_learns(name, tiny, two_devices, monkeypatch):
    # What pays on a CPU only is not chosen.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    generator = np.random.default_rng(0)
    showers = generator.exponential(10.0, (16, tiny.n_voxels)).astype(np.float32)
    showers *= generator.random(showers.shape) < 0.3
    batch = {"energies": 1.2 * showers.sum(1), "showers": showers}
    model = models.build(CONFIGS[name], tiny)
    transforms = model.fit([(batch["energies"], showers)])
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), transforms, batch))
    found = {}
    for stage in model.stages:
        stage = dataclasses.replace(stage, schedule=SCHEDULE)
        state = jax.jit(functools.partial(step.start, stage=stage))(variables)
        # On two devices the numbers are the same.
        parts = distributed.sharded(two_devices)
        given = {key: jax.device_put(array, parts) for key, array in batch.items()}
        state = distributed.replicate(state, two_devices)
        take = step.make(model, stage, 0, two_devices).lower(state, given).compile()
        assert_devices_exchange_gradients_only(take.as_text(), model, stage, variables)
        state, metrics = take(state, given)
        moved = jax.tree.map(np.subtract, state.variables["params"], variables["params"])
        norm = math.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(moved)))
        norms = (metrics["loss"], metrics["gradient_norm"], norm)
        found[stage.name] = tuple(float(f"{x:.5g}") for x in norms)
        if stage.packing:
            continue  # The noise of its loss is larger than the gain of a few steps.
        for _ in range(7):
            state, metrics = take(state, given)
        assert metrics["loss"] < found[stage.name][0]
    golden = GOLDEN[name]
    same = found.keys() == golden.keys() and np.allclose(
        list(found.values()), list(golden.values()), rtol=5e-4
    )
    assert same, (
        f"The first training step of {name!r} has changed: its mathematics, its initial values or "
        "its random numbers. If this is on purpose, models that are trained from now on differ, "
        f"which belongs in the changelog; the new values are\n    {name!r}: {found},"
    )
