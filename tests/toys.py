"""Toy showers and files for the tests of what is on disk."""

import pathlib
import re

import h5py
import numpy as np

from calojax.errors import CalojaxError
from calojax.geometry import detector

TINY = detector("tiny")
GOOD_E = np.full((5, 1), 2e3)
GOOD_S = np.full((5, 120), 0.5)


def spoilt(values: np.ndarray, where, value) -> np.ndarray:
    values = values.copy()
    values[where] = value
    return values


def toy(count: int, seed: int = 0, geometry=TINY) -> tuple[np.ndarray, np.ndarray]:
    """Incident energies [n] and showers [n, v] with distinct values and many zeros."""
    rng = np.random.default_rng(seed)
    energies = rng.uniform(1e3, 1e5, count).astype(np.float32)
    showers = rng.exponential(10.0, (count, geometry.n_voxels)).astype(np.float32)
    return energies, np.where(showers > 5, showers, 0)


def raw(path: pathlib.Path, **datasets) -> pathlib.Path:
    """A file with those datasets, whatever they are."""
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
    return path


def assert_one_sentence(error: CalojaxError, path: pathlib.Path):
    sentence = str(error)
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(re.findall(r"\. [A-Z]", sentence)) == 0
