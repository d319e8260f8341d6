"""Incident energies as users write them: a file, a list with units, or a law."""

import dataclasses
import hashlib
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.data import simulation
from calojax.data.challenge import open_showers
from calojax.errors import CalojaxError
from calojax.geometry import Detector

_UNITS = {"kev": 1e-3, "mev": 1.0, "gev": 1e3, "tev": 1e6}
# Energies drawn at a time, about a quarter of a megabyte.
_WINDOW = 2**16
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


class EnergySource(Protocol):
    """The incident energies of all showers that a user asks for, made when they are needed.

    Attributes:
      name: what they are, in words that differ where the energies do.
    """

    name: str

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Those of a slice without a step, in MeV, float32; the same whatever else is taken."""
        ...


class Listed:
    """Given energies, in turn.

    Attributes:
      name: see `EnergySource`.
    """

    def __init__(self, name: str, values: np.ndarray, num: int):
        self.name = name
        self._values = np.asarray(values, np.float32)
        self._num = num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(self._num)
        return self._values[np.arange(start, stop) % len(self._values)]


class Drawn:
    """Random energies from one key a shower.

    Attributes:
      name: see `EnergySource`.
    """

    def __init__(self, name: str, draw: Callable[[jax.Array], jax.Array], num: int, *, seed: int):
        """Draws nothing yet.

        Args:
          name: see `EnergySource`.
          draw: keys [n] -> energies in MeV [n].
          num: how many.
          seed: of the keys.
        """
        self.name = name
        self._num = num
        key = rng.stream(rng.root(seed), "incident energies")
        self._draw = jax.jit(lambda index: draw(rng.per_item(key, index)))
        self._window = (-1, np.zeros(0, np.float32))

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(self._num)
        stop = max(start, stop)
        numbers = range(start // _WINDOW, -(-stop // _WINDOW))
        pieces = [self._drawn(number) for number in numbers]
        found = np.concatenate([np.zeros(0, np.float32), *pieces])
        first = start // _WINDOW * _WINDOW
        return found[start - first : stop - first]

    def _drawn(self, number: int) -> np.ndarray:
        """A window; always whole, so that an energy comes from the same place of one program."""
        if self._window[0] != number:
            first = number * _WINDOW
            index = np.arange(first, first + _WINDOW, dtype=np.uint64).astype(np.uint32)
            energies = self._draw(jax.device_put(index, _host()))
            self._window = number, np.asarray(jax.device_get(energies), np.float32)
        return self._window[1]


def energy_source(
    text: str | None,
    detector: Detector,
    *,
    num: int | None,
    seed: int,
    trained: tuple[float, float] | None = None,
) -> EnergySource:
    """The incident energies that a user asks for, to be taken piece by piece.

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
        energies = _inside(energies[:num], detector)
        digest = hashlib.blake2b(energies.tobytes(), digest_size=8).hexdigest()
        return Listed(f"{pathlib.Path(text).name} ({digest})", energies, len(energies))
    if num is None:
        raise CalojaxError("Say how many showers with --num; only an HDF5 file can leave it out.")
    if text is None:
        spectrum = within(detector, trained)
        name = "spectrum from {:g} to {:g} MeV".format(*simulation.energy_range(spectrum))
        return Drawn(name, lambda keys: simulation.draw_energies(keys, spectrum), num, seed=seed)
    if text.startswith("log-uniform:"):
        bounds = text.split(":")[1:]
        if len(bounds) != 2:
            raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")
        low, high = _inside([parse_energy(bound) for bound in bounds], detector).tolist()
        if not low < high:
            raise CalojaxError(f"--energies {text!r}: the first energy must be the lower one.")
        return Drawn(text, lambda keys: _log_uniform(keys, low, high), num, seed=seed)
    if "eV" in text:
        listed = _inside([parse_energy(item) for item in text.split(",")], detector)
        return Listed(text, listed, num)
    raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")


def incident_energies(
    text: str | None,
    detector: Detector,
    *,
    num: int | None,
    seed: int,
    trained: tuple[float, float] | None = None,
) -> np.ndarray:
    """All energies [n] of `energy_source` in MeV at once."""
    return energy_source(text, detector, num=num, seed=seed, trained=trained)[:]


def within(detector: Detector, trained: tuple[float, float] | None) -> Detector:
    """The detector with its spectrum cut to the range in MeV that a model was trained on."""
    if trained is None or detector.energy_range is None:
        return detector
    low = max(detector.energy_range[0], trained[0])
    high = min(detector.energy_range[1], trained[1])
    energies = tuple(e for e in detector.energies if low <= e <= high)
    return dataclasses.replace(detector, energy_range=(low, high), energies=energies)


def _inside(energies: Sequence[float] | np.ndarray, detector: Detector) -> np.ndarray:
    """Energies as float32 if all are in the detector's range."""
    energies = np.asarray(energies, np.float32)
    low, high = detector.energy_range or (0.0, math.inf)
    # Files hold rounded energies; a part in 10^5 is no extrapolation.
    outside = (energies < low * (1 - 1e-5)) | (energies > high * (1 + 1e-5))
    if outside.any():
        raise CalojaxError(
            f"An incident energy of {energies[outside][0]:g} MeV is outside the range of geometry "
            f"{detector.name!r}, {low:g} to {high:g} MeV; the model has not seen such showers."
        )
    return energies


def _log_uniform(keys: jax.Array, low: float, high: float) -> jax.Array:
    """Energies [n] between two, uniform in their logarithm, one for each of keys [n]."""
    uniform = jax.vmap(jax.random.uniform)(keys)
    # The exponential of a logarithm may round to just outside the range.
    return jnp.clip(low * jnp.exp(uniform * math.log(high / low)), low, high)


def _host() -> jax.Device:
    """Where to draw: not behind the showers that an accelerator is at work on, if that can be."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
