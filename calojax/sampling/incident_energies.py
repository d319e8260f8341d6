"""Incident energies as users write them: a file, a list with units, or a law."""

import abc
import dataclasses
import hashlib
import math
import pathlib
import re
from collections.abc import Callable, Sequence

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.errors import CalojaxError
from calojax.geometry import DETECTORS, Detector
from calojax.io import shards
from calojax.io.dense import ENERGIES, PAR04_ENERGIES
from calojax.io.hdf5 import opened
from calojax.io.source import checked_energies
from calojax.sampling import gflash

_UNITS = {"kev": 1e-3, "mev": 1.0, "gev": 1e3, "tev": 1e6}
# Energies drawn at a time, about a quarter of a megabyte.
_WINDOW = 2**16
# Files hold rounded energies; a part in 10^5 is no extrapolation.
_ROUNDING = 1e-5
_FORMS = (
    "an HDF5 file or a folder of parts (their energies in order), a list such as 50GeV,100GeV (in "
    "turn), uniform:1GeV:10GeV or log-uniform:1GeV:1TeV"
)
# Where files keep incident energies: the CaloChallenge's key first.
_KEYS = (ENERGIES, PAR04_ENERGIES, "energies", "energy")


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


class EnergySource(abc.ABC):
    """The incident energies of all showers that a user asks for, made when they are needed.

    Attributes:
      name: what they are, in words that differ where the energies do.
    """

    def __init__(self, name: str, num: int):
        self.name = name
        self._num = num

    def __len__(self) -> int:
        """How many there are."""
        return self._num

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Those of a slice without a step, in MeV, float32; the same whatever else is taken."""
        start, stop, _ = rows.indices(self._num)
        return self.block(start, max(start, stop))

    @abc.abstractmethod
    def block(self, start: int, stop: int) -> np.ndarray:
        """Energies ``start`` to ``stop`` in MeV, float32; also those beyond the last."""


class Listed(EnergySource):
    """Given energies, in turn."""

    def __init__(self, name: str, values: np.ndarray, num: int):
        super().__init__(name, num)
        self._values = np.asarray(values, np.float32)

    def block(self, start: int, stop: int) -> np.ndarray:
        """See `EnergySource`."""
        return self._values[np.arange(start, stop) % len(self._values)]


class Drawn(EnergySource):
    """Random energies from one key a shower."""

    def __init__(self, name: str, draw: Callable[[jax.Array], jax.Array], num: int, *, seed: int):
        """Draws nothing yet.

        Args:
          name: see `EnergySource`.
          draw: keys [n] -> energies in MeV [n].
          num: how many.
          seed: of the keys.
        """
        super().__init__(name, num)
        key = rng.stream(rng.root(seed), "incident energies")
        self._draw = jax.jit(lambda index: draw(rng.per_item(key, index)))
        self._window = (-1, np.zeros(0, np.float32))

    def block(self, start: int, stop: int) -> np.ndarray:
        """See `EnergySource`."""
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
    seen: Sequence[float] = (),
) -> EnergySource:
    """The incident energies that a user asks for, to be taken piece by piece.

    Args:
      text: a file, a list or a law (see `_FORMS`); None draws from the spectrum of the training, or
        without a training from the detector's own.
      detector: gives the range; energies outside it and outside ``trained`` are refused.
      trained: the range in MeV that a model was trained on.
      num: how many; a file or a list may leave it out.
      seed: of random energies; shower i gets the same energy whatever ``num`` is.
      seen: the energies in MeV that a model was trained on, if they were few.

    Raises:
      CalojaxError: if the text is none of the forms, an energy is outside the range, or a file
        holds fewer energies than asked for.
    """
    if num is not None and num < 1:
        raise CalojaxError(f"--num must be at least 1, got {num}.")
    if text is None:
        spectrum, name = _spectrum(detector, trained, seen)
        num = _given(num)
        return Drawn(name, lambda keys: gflash.draw_energies(keys, spectrum), num, seed=seed)
    law, *bounds = text.split(":")
    if law.lower() in _LAWS:
        if len(bounds) != 2:
            raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")
        bounds = [parse_energy(bound) for bound in bounds]
        low, high = _inside(bounds, detector, trained).tolist()
        if not low < high:
            raise CalojaxError(f"--energies {text!r}: the first energy must be the lower one.")
        draw = _LAWS[law.lower()]
        return Drawn(text, lambda keys: draw(keys, low, high), _given(num), seed=seed)
    path = pathlib.Path(text)
    if path.suffix.lower() in (".hdf5", ".h5") or path.exists():
        energies = _inside(read_energies(path), detector, trained)
        num = len(energies) if num is None else num
        if num > len(energies):
            raise CalojaxError(
                f"{text}: holds {len(energies)} incident energies but --num asks for {num}; "
                "ask for fewer or draw from a law."
            )
        digest = hashlib.blake2b(energies[:num].tobytes(), digest_size=8).hexdigest()
        return Listed(f"{path.name} ({digest})", energies, num)
    if "ev" in text.lower():
        listed = _inside([parse_energy(item) for item in text.split(",")], detector, trained)
        return Listed(text, listed, len(listed) if num is None else num)
    raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")


def _given(num: int | None) -> int:
    if num is None:
        raise CalojaxError(
            "Say how many showers with --num; only a file or a list of energies can leave it out."
        )
    return num


def read_energies(path: pathlib.Path) -> np.ndarray:
    """The incident energies [n] in MeV, float32, of a file or a folder of parts.

    Files need no showers: a geometry is not asked for.

    Raises:
      CalojaxError: if a file is missing or damaged, or its energies are not positive numbers.
    """
    return np.concatenate([_energies_in(file) for file in shards.files_of(path)])


def _energies_in(path: pathlib.Path) -> np.ndarray:
    with opened(path) as file:
        candidates = ((key, file.find(key)) for key in _KEYS)
        key, data = next((c for c in candidates if isinstance(c[1], h5py.Dataset)), ("", None))
        if data is None:
            raise CalojaxError(
                f"{path}: has no {ENERGIES!r} but {file.names()}; write it under that key."
            )
        if data.dtype.kind not in "fiu" or data.shape not in ((data.size,), (data.size, 1)):
            raise CalojaxError(
                f"{path}: {key!r} is {data.dtype} of shape {data.shape}; it must be (n, 1) numbers."
            )
        if not data.size:
            raise CalojaxError(f"{path}: holds no incident energies; write it again.")
        return checked_energies(path, data[...].reshape(-1))


def _spectrum(
    detector: Detector, trained: tuple[float, float] | None, seen: Sequence[float]
) -> tuple[Detector, str]:
    """The detector with the spectrum of the training, and the name of that spectrum."""
    low, high = trained or gflash.energy_range(detector)
    name = f"spectrum from {low:g} to {high:g} MeV"
    if trained is None:
        return detector, name
    if low == high:
        seen = (low,)
    near = (low * (1 - _ROUNDING), high * (1 + _ROUNDING))
    energies = tuple(seen) or tuple(e for e in detector.energies if near[0] <= e <= near[1])
    if energies:
        return dataclasses.replace(detector, energies=energies), name
    return dataclasses.replace(detector, energies=(), energy_range=(low, high)), name


def _inside(
    energies: Sequence[float] | np.ndarray, detector: Detector, trained: tuple[float, float] | None
) -> np.ndarray:
    """Energies as float32 if all are in the detector's range, or in that of the training.

    The range of a geometry that is not built in is often a guess, so it refuses nothing.
    """
    energies = np.asarray(energies, np.float32)
    if detector not in DETECTORS.values():
        return energies
    lows, highs = zip(detector.energy_range, trained or detector.energy_range, strict=True)
    low, high = min(lows), max(highs)
    outside = (energies < low * (1 - _ROUNDING)) | (energies > high * (1 + _ROUNDING))
    if outside.any():
        raise CalojaxError(
            f"An incident energy of {energies[outside][0]:g} MeV is outside the range of geometry "
            f"{detector.name!r}, {low:g} to {high:g} MeV; the model has not seen such showers."
        )
    return energies


def _uniform(keys: jax.Array, low: float, high: float) -> jax.Array:
    """Energies [n] uniform between two, one for each of keys [n]."""
    return jnp.clip(low + (high - low) * jax.vmap(jax.random.uniform)(keys), low, high)


def _log_uniform(keys: jax.Array, low: float, high: float) -> jax.Array:
    """Energies [n] between two, uniform in their logarithm, one for each of keys [n]."""
    uniform = jax.vmap(jax.random.uniform)(keys)
    # The exponential of a logarithm may round to just outside the range.
    return jnp.clip(low * jnp.exp(uniform * math.log(high / low)), low, high)


_LAWS = {"uniform": _uniform, "log-uniform": _log_uniform}


def _host() -> jax.Device:
    """Where to draw: not behind the showers that an accelerator is at work on, if that can be."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
