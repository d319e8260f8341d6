"""What every exported program says about itself."""

import json
from typing import Any

import msgspec

import calojax
from calojax import checkpoint, models
from calojax.api import TrainedModel


def facts_of(trained: TrainedModel) -> dict[str, Any]:
    """Facts about a trained model, as plain JSON types; energies are in MeV, lengths in mm."""
    detector = trained.detector
    return {
        "calojax_version": calojax.__version__,
        "model": models.name_of(trained.model),
        "checkpoint": checkpoint.digest_of(trained.variables),
        "particle": detector.particle,
        "incidence": "normal to the front",
        "energy_range": list(trained.progress.energy_range),
        "readout_threshold": detector.readout_threshold,
        "voxels": detector.n_voxels,
        "grid": list(detector.grid) if detector.grid else None,
        "order": "layer, alpha from -pi, r; r fastest",
        "units": "MeV, mm",
        "geometry": msgspec.to_builtins(detector),
    }


def as_json(facts: dict[str, Any]) -> bytes:
    """Metadata as the content of a text file."""
    return json.dumps(facts, indent=1).encode()
