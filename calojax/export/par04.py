"""An ONNX file for Geant4's example Par04 (model type VAE) and for DDML, with a macro.

Both hand over one vector [1, n + 4]: n standard normal numbers, then the kinetic energy divided by
1.024 TeV, the polar angle divided by 90 degrees, and the geometry as 0 and 1. They take a fraction
of the kinetic energy for each cell, z fastest, then phi, then r. With n = 10 this is Par04's
default, and the only size that DDML has.
"""

import jax.numpy as jnp
import numpy as np

from calojax.api import TrainedModel
from calojax.errors import CalojaxError
from calojax.export import onnx, random_numbers
from calojax.export.conversion import convert
from calojax.export.graph import Graph
from calojax.export.metadata import as_json, facts_of
from calojax.export.options import Options
from calojax.geometry import Detector
from calojax.geometry.builtin import SAMPLING_FRACTION

# Par04 divides the kinetic energy in MeV by this.
_UNIT = 1_024_000.0
_CONDITIONS = 4


def files(trained: TrainedModel, options: Options) -> dict[str, bytes]:
    """``model.onnx``, ``model.mac`` and ``model.json``.

    Raises:
      CalojaxError: if the geometry is not a grid of equal cells.
    """
    detector = trained.detector
    grid = z, alpha, r = _equal_cells(detector)
    fraction = options.sampling_fraction
    if fraction is None:
        fraction = SAMPLING_FRACTION if detector.name in ("ds2", "ds3") else 1.0
    low, high = trained.progress.energy_range
    graph, layout = Graph(), random_numbers.layout_of(trained.model)
    seeded = options.noise != "input"
    size = onnx.SEED_SIZE if seeded else layout.size
    vector = graph.input("latent_and_condition", (1, size + _CONDITIONS))

    def separated(vector):
        # The model knows no energies beyond those of its training.
        return vector[:, :size], jnp.clip(vector[:, size] * np.float32(_UNIT), low, high)

    def fractions(showers, energies):
        cells = showers.reshape(1, z, alpha, r).transpose(0, 3, 2, 1).reshape(1, -1)
        return cells * (np.float32(fraction) / energies[:, None])

    latent, energies = convert(graph, separated, vector)
    leaves = onnx.unpacked(graph, layout.from_seed if seeded else layout.from_normal, latent)
    showers = onnx.shower_of(graph, trained, layout, leaves, energies)
    (output,) = convert(graph, fractions, showers, energies)
    facts = facts_of(trained) | {
        "order": "r, phi from -pi, z; z fastest",
        "units": "deposited energy / kinetic energy, mm",
        "inputs": {"latent_and_condition": [1, size + _CONDITIONS]},
        "outputs": {"fractions": [1, detector.n_voxels]},
        "random_numbers": f"{size} standard normal",
        "conditions": "E / 1024 GeV (clipped to energy_range), theta / 90 degrees (not used), 0, 1",
        "sampling_fraction": fraction,
    }
    return {
        "model.onnx": onnx.serialised(graph, "fractions", output, facts),
        "model.mac": _macro(detector, grid, size).encode(),
        "model.json": as_json(facts),
    }


def _equal_cells(detector: Detector) -> tuple[int, int, int]:
    edges = detector.layers[0].r_edges
    sizes = np.diff(edges), [layer.thickness for layer in detector.layers]
    equal = all(np.ptp(size) < 1e-3 * np.max(size) for size in sizes)
    if detector.grid is None or not equal or edges[0] != 0:
        raise CalojaxError(
            f"{detector.name}: Par04 has a mesh of equal cells from the axis outward, which this "
            "geometry is not; take --format onnx."
        )
    return detector.grid


def _macro(detector: Detector, grid: tuple[int, int, int], size: int) -> str:
    z, alpha, r = grid
    width, depth = detector.layers[0].r_edges[1], detector.layers[0].thickness

    def mesh(folder: str) -> str:
        return (
            f"/Par04/{folder}/setSizeOfRhoCells {width:g} mm\n"
            f"/Par04/{folder}/setSizeOfZCells {depth:g} mm\n"
            f"/Par04/{folder}/setNbOfRhoCells {r}\n"
            f"/Par04/{folder}/setNbOfPhiCells {alpha}\n"
            f"/Par04/{folder}/setNbOfZCells {z}\n"
        )

    return f"""\
# examplePar04 -m model.mac -i
# Geometry {detector.name}, trained on {detector.particle} showers at normal incidence.
/process/had/verbose 0
# The detector of Par04; it must be the one of the training.
/Par04/detector/setDetectorInnerRadius 80 cm
/Par04/detector/setDetectorLength 2 m
/Par04/detector/setNbOfLayers 90
/Par04/detector/setAbsorber 0 G4_W 1.4 mm false
/Par04/detector/setAbsorber 1 G4_Si 0.3 mm true
{mesh("mesh")}/run/initialize
/gun/energy 10 GeV
/gun/position 0 0 0
/gun/direction 0 1 0
/Par04/inference/setSizeLatentVector {size}
/Par04/inference/setSizeConditionVector {_CONDITIONS}
/Par04/inference/setModelPathName model.onnx
/Par04/inference/setProfileFlag 0
/Par04/inference/setOptimizationFlag 0
/Par04/inference/setCudaFlag 0
/Par04/inference/setInferenceLibrary ONNX
{mesh("inference")}/analysis/setFileName showers.root
# The mesh along the particle first, then the model.
/param/ActivateModel defineMesh
/param/ActivateModel inferenceModel
/run/beamOn 100
"""
