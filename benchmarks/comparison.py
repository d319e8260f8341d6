"""How do several models compare with Geant4? The three figures of the CaloPointFlow talk.

    python benchmarks/comparison.py NAME=SHOWERS.hdf5 ... --reference TEST.hdf5 --out FOLDER

Writes ``shapes.png`` (centres and widths of showers, hits, energy), ``layers.png`` (energies of
layers), ``correlations.png`` (their Pearson matrices), and ``marginals.png``: what a flow sees of
the reference's hits after the two dequantisations. Prints a JSON line a model: the mean correlation
of neighbouring layers, and its distance to Geant4's.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import tyro

from calojax import plot
from calojax.evaluation import correlations, features
from calojax.evaluation.features import Features
from calojax.geometry import Detector
from calojax.io import ShowerSource, open_showers
from calojax.models.pointflow import points
from calojax.models.pointflow.coordinates import Counts, make
from calojax.plot import Panel

UNITS = {"hits": "", "energy": " [MeV]"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes:
      samples: NAME=FILE each, in the order of the legend.
      reference: Geant4's showers.
      out: folder of the pictures.
      layers: of which energies are shown.
      showers: whose hits are shown dequantised.
    """

    samples: tyro.conf.Positional[tuple[str, ...]]
    reference: pathlib.Path
    out: pathlib.Path
    layers: tuple[int, ...] = (1, 3, 5, 8, 12, 16, 20, 25)
    showers: int = 500


def shapes(reference: Features, generated: dict[str, Features], detector: Detector) -> list[Panel]:
    """A panel for each of `correlations.SHOWER_QUANTITIES` over incident energies."""
    own = correlations.shower_properties(reference, detector)
    theirs = {n: correlations.shower_properties(f, detector) for n, f in generated.items()}
    panels = []
    for column, quantity in enumerate(correlations.SHOWER_QUANTITIES):
        if quantity == "energy":
            panels.append(
                Panel(
                    r"$E_{\mathrm{tot}} / E_{\mathrm{inc}}$",
                    reference.total / reference.energy,
                    {name: f.total / f.energy for name, f in generated.items()},
                )
            )
            continue
        label = quantity[:1].upper() + quantity[1:] + UNITS.get(quantity, " [mm]")
        values = {name: table[:, column] for name, table in theirs.items()}
        panels.append(Panel(label, own[:, column], values, log=quantity == "hits"))
    return panels


def layers(
    reference: Features, generated: dict[str, Features], wanted: tuple[int, ...]
) -> list[Panel]:
    """A panel a layer of its share of the incident energy."""
    return [
        Panel(
            rf"$E_{{{layer}}} / E_{{\mathrm{{inc}}}}$",
            reference.layer_energy[:, layer] / reference.energy,
            {n: f.layer_energy[:, layer] / f.energy for n, f in generated.items()},
        )
        for layer in wanted
    ]


def dequantised(source: ShowerSource, num: int) -> dict[str, dict[str, np.ndarray]]:
    """Transformed hits by coordinate and dequantisation, for `plot.marginals`."""
    showers = source.read(0, num)
    grid = showers.reshape(len(showers), *source.detector.grid)
    hit, _ = points.to_points(showers, source.detector, int((showers > 0).sum()))
    noise = jax.random.uniform(jax.random.key(0), (len(hit.owner), 3))
    total = showers.sum(1)[np.asarray(hit.owner)]
    found: dict[str, dict[str, np.ndarray]] = {"z": {}, "r": {}, "hit energy": {}}
    for bins, energy in (("uniform", "fraction"), ("cdf", "log")):
        coordinates = make("rings", bins, energy, source.detector)
        counts = Counts(coordinates)
        counts.add(grid)
        x = np.asarray(coordinates.forward(hit, total, noise, coordinates.fit(counts)))
        for column, coordinate in enumerate(found):
            name = energy if coordinate == "hit energy" else bins
            found[coordinate][name] = x[:, column]
    return found


def main() -> None:
    """Writes the pictures and prints a JSON line a model."""
    asked = tyro.cli(Comparison, description=__doc__)
    source = open_showers(asked.reference)
    detector = source.detector
    reference = features.stream(source)
    named = dict(sample.split("=", 1) for sample in asked.samples)
    generated = {n: features.stream(open_showers(path, detector)) for n, path in named.items()}
    own = correlations.pearson(reference.layer_energy)
    theirs = {n: correlations.pearson(f.layer_energy) for n, f in generated.items()}
    pictures = {
        "shapes": plot.compared(shapes(reference, generated, detector), columns=5),
        "layers": plot.compared(layers(reference, generated, asked.layers)),
        "correlations": plot.correlations(own, theirs),
        "marginals": plot.marginals(dequantised(source, asked.showers)),
    }
    for name, picture in pictures.items():
        plot.save(picture, asked.out / f"{name}.png", dpi=80)
    for name, matrix in {"Geant4": own, **theirs}.items():
        neighbours = correlations.neighbours(matrix)
        row = {"benchmark": "comparison", "model": name, "neighbours": round(neighbours, 4)}
        row["difference"] = round(neighbours - correlations.neighbours(own), 4)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
