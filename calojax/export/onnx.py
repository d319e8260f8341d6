"""An ONNX file: random numbers and incident energies in, a fixed number of showers out."""

import json
from collections.abc import Callable
from typing import Any

import jax

from calojax.api import TrainedModel
from calojax.export.conversion import convert
from calojax.export.graph import Graph, Tensor
from calojax.export.metadata import as_json, facts_of
from calojax.export.options import Options
from calojax.export.random_numbers import Layout, layout_of
from calojax.models.pointflow.microbatches import CPU, with_size

SEED_SIZE = 10
"""Normal numbers that determine a shower."""


def files(trained: TrainedModel, options: Options) -> dict[str, bytes]:
    """``model.onnx`` and ``model.json``."""
    content, facts = model(trained, options)
    return {"model.onnx": content, "model.json": as_json(facts)}


def model(trained: TrainedModel, options: Options) -> tuple[bytes, dict[str, Any]]:
    """The file of showers in MeV, and its metadata."""
    graph, layout, batch = Graph(), layout_of(trained.model), options.batch
    seeded = options.noise == "seed"
    name, size = ("seed", SEED_SIZE) if seeded else ("noise", layout.size)
    numbers, energies = graph.input(name, (batch, size)), graph.input("energies", (batch,))
    leaves = unpacked(graph, layout.from_seed if seeded else layout.unflatten, numbers)
    showers = shower_of(graph, trained, layout, leaves, energies)
    described = [{**part._asdict(), "shape": list(part.shape)} for part in layout.parts]
    facts = facts_of(trained) | {
        "inputs": {name: [batch, size], "energies": [batch]},
        "outputs": {"showers": [batch, trained.detector.n_voxels]},
        "random_numbers": f"{size} standard normal" if seeded else described,
    }
    return serialised(graph, "showers", showers, facts), facts


def unpacked(graph: Graph, unpack: Callable, numbers: Tensor) -> list[Tensor]:
    """The leaves of a model's noise, made from an array of numbers [b, n]."""
    with jax.enable_x64(True):
        return convert(graph, unpack, numbers)


def shower_of(
    graph: Graph, trained: TrainedModel, layout: Layout, leaves: list[Tensor], energies: Tensor
) -> Tensor:
    """Showers [b, v] in MeV from the leaves of their noise and energies [b] in MeV."""
    model = with_size(trained.model, CPU)

    def showers(energies, *leaves):
        noise = jax.tree.unflatten(layout.tree, leaves)
        return model.sample_from(trained.variables, noise, energies)

    return convert(graph, showers, energies, *leaves)[0]


def serialised(graph: Graph, name: str, output: Tensor, facts: dict[str, Any]) -> bytes:
    """The bytes of the file, with metadata as its properties."""
    texts = {key: x if isinstance(x, str) else json.dumps(x) for key, x in facts.items()}
    return graph.model(name, output, texts).SerializeToString()
