"""Incident energies as users write them: a file, a list with units, or a law."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.data import simulation
from calojax.data.challenge import open_showers
from calojax.errors import CalojaxError
from calojax.geometry import Detector

_UNITS = {"kev": 1e-3, "mev": 1.0, "gev": 1e3, "tev": 1e6}
_FORMS = (
    "an HDF5 file (its energies in order), a list such as 50GeV,100GeV (in turn), "
    "or log-uniform:1GeV:1TeV"
)


def parse_energy(text: str) -> float:
    """An energy with its unit, such as ``50GeV`` -> MeV.

    Raises:
      CalojaxError: if the unit is missing or the number is not positive.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*([kMGT]eV)\s*", text, re.IGNORECASE)
    try:
        value = float(match[1]) * _UNITS[match[2].lower()] if match else float("nan")
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise CalojaxError(
            f"{text!r} is not an energy: write a positive number and its unit, such as 50GeV."
        )
    return value


def incident_energies(
    text: str | None,
    detector: Detector,
    *,
    num: int | None,
    seed: int,
    trained: tuple[float, float] | None = None,
) -> np.ndarray:
    """The incident energies [n] in MeV that a user asks for.

    Args:
      text: a file, a list or a law (see `_FORMS`); None draws from the detector's own spectrum.
      detector: gives the range; energies outside are refused.
      trained: the range in MeV that a model was trained on; None's draws stay in it.
      num: how many; a file may leave it out.
      seed: of random energies; shower i gets the same energy whatever ``num`` is.

    Raises:
      CalojaxError: if the text is none of the forms, an energy is outside the detector's range, or
        a file holds fewer energies than asked for.
    """
    if num is not None and num < 1:
        raise CalojaxError(f"--num must be at least 1, got {num}.")
    if text is not None and pathlib.Path(text).suffix in (".hdf5", ".h5"):
        energies = open_showers(text, None).energies
        if num is not None and num > len(energies):
            raise CalojaxError(
                f"{text}: holds {len(energies)} incident energies but --num asks for {num}; "
                "ask for fewer or draw from a law."
            )
        energies = energies[:num]
    elif num is None:
        raise CalojaxError("Say how many showers with --num; only an HDF5 file can leave it out.")
    elif text is None:
        keys = rng.per_item(_key(seed), np.arange(num))
        energies = simulation.draw_energies(keys, within(detector, trained))
    elif text.startswith("log-uniform:"):
        bounds = text.split(":")[1:]
        if len(bounds) != 2:
            raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")
        low, high = (parse_energy(bound) for bound in bounds)
        if not low < high:
            raise CalojaxError(f"--energies {text!r}: the first energy must be the lower one.")
        keys = rng.per_item(_key(seed), np.arange(num))
        uniform = jax.vmap(jax.random.uniform)(keys)
        energies = jnp.exp(jnp.log(low) + uniform * (jnp.log(high) - jnp.log(low)))
        energies = jnp.clip(energies, low, high)
    elif "eV" in text:
        energies = np.resize([parse_energy(item) for item in text.split(",")], num)
    else:
        raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")
    energies = np.asarray(energies, np.float32)
    low, high = detector.energy_range
    # Files hold rounded energies; a part in 10^5 is no extrapolation.
    outside = (energies < low * (1 - 1e-5)) | (energies > high * (1 + 1e-5))
    if outside.any():
        raise CalojaxError(
            f"An incident energy of {energies[outside][0]:g} MeV is outside the range of geometry "
            f"{detector.name!r}, {low:g} to {high:g} MeV; the model has not seen such showers."
        )
    return energies


def within(detector: Detector, trained: tuple[float, float] | None) -> Detector:
    """The detector with its spectrum cut to the range in MeV that a model was trained on."""
    if trained is None:
        return detector
    low = max(detector.energy_range[0], trained[0])
    high = min(detector.energy_range[1], trained[1])
    energies = tuple(e for e in detector.energies if low <= e <= high)
    return dataclasses.replace(detector, energy_range=(low, high), energies=energies)


def _key(seed: int) -> jax.Array:
    return rng.stream(rng.root(seed), "incident energies")
