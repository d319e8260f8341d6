"""Incident energies as users write them: a file, a list with units, or a distribution."""

import dataclasses
import functools
import hashlib
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

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
from calojax.io.layouts import LAYOUTS, layout_of
from calojax.io.source import checked_energies

_UNITS = {"kev": 1e-3, "mev": 1.0, "gev": 1e3, "tev": 1e6}
# Number of energies drawn at a time, about a quarter of a megabyte.
_WINDOW = 2**16
# Energies in files are rounded; a difference of 1e-5 is not an extrapolation.
_ROUNDING = 1e-5
_FORMS = (
    "an HDF5 file or a folder of parts (their energies in order), a list such as 50GeV,100GeV "
    "(repeated), uniform:1GeV:10GeV or log-uniform:1GeV:1TeV"
)
# Keys under which files keep incident energies; the CaloChallenge's comes first.
_KEYS = (ENERGIES, PAR04_ENERGIES, "energies", "energy")


def parse_energy(text: str) -> float:
    """An energy with its unit, such as ``50GeV`` -> MeV."""
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


@dataclasses.dataclass(frozen=True)
class EnergySource:
    """Incident energies of all showers to generate, made when they are needed."""

    name: str  # description, which differs if the energies differ
    num: int
    # Of (start, stop): the energies of this range in MeV, float32; also beyond the last one, since
    # showers are computed in whole blocks.
    block: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Energies of a slice without a step, in MeV, float32."""
        start, stop, _ = rows.indices(self.num)
        return self.block(start, max(start, stop))


def listed(name: str, values: np.ndarray, num: int) -> EnergySource:
    """Given energies in MeV, repeated if there are fewer than ``num``."""
    values = np.asarray(values, np.float32)
    return EnergySource(name, num, lambda start, stop: values[np.arange(start, stop) % len(values)])


def drawn(
    name: str, draw: Callable[[jax.Array], jax.Array], num: int, *, seed: int
) -> EnergySource:
    """Random energies in MeV, by a function of keys [n]; energy i depends on the seed and on i."""
    key = rng.stream(rng.root(seed), "incident energies")
    program = jax.jit(lambda index: draw(rng.per_item(key, index)))

    @functools.lru_cache(maxsize=1)
    def window(number: int) -> np.ndarray:
        # Always whole, so that an energy comes from the same place of the same program.
        index = number * _WINDOW + np.arange(_WINDOW, dtype=np.uint64)
        energies = program(jax.device_put(index.astype(np.uint32), _host()))
        return np.asarray(jax.device_get(energies), np.float32)

    def block(start: int, stop: int) -> np.ndarray:
        first = start // _WINDOW
        pieces = [window(number) for number in range(first, -(-stop // _WINDOW))]
        found = np.concatenate([np.zeros(0, np.float32), *pieces])
        return found[start - first * _WINDOW : stop - first * _WINDOW]

    return EnergySource(name, num, block)


def energy_source(
    text: str | None,
    detector: Detector,
    *,
    num: int | None,
    seed: int,
    trained: tuple[float, float] | None = None,
    seen: Sequence[float] = (),
) -> EnergySource:
    """The incident energies that a user asks for.

    Args:
      text: file, list or distribution (see `_FORMS`); None draws from the spectrum of the training,
        or of the detector if there is no training.
      detector: detector; energies outside both its range and ``trained`` are refused.
      num: number of energies; may be left out for a file or a list.
      seed: seed of random energies; energy i is the same for any ``num``.
      trained: range in MeV that a model was trained on.
      seen: energies in MeV that a model was trained on, if they were few.

    Raises:
      CalojaxError: if the text has none of these forms, an energy is outside the range, or a file
        holds fewer energies than ``num``.
    """
    if num is not None and num < 1:
        raise CalojaxError(f"--num must be at least 1, got {num}.")
    if text is None:
        spectrum, name = _spectrum(detector, trained, seen)
        num = _given(num)
        return drawn(name, lambda keys: draw_energies(keys, spectrum), num, seed=seed)
    kind, *bounds = text.split(":")
    if kind.lower() in _DISTRIBUTIONS:
        if len(bounds) != 2:
            raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")
        low, high = _inside([parse_energy(bound) for bound in bounds], detector, trained).tolist()
        if not low < high:
            raise CalojaxError(f"--energies {text!r}: the first energy must be the lower one.")
        draw = _DISTRIBUTIONS[kind.lower()]
        return drawn(text, lambda keys: draw(keys, low, high), _given(num), seed=seed)
    path = pathlib.Path(text)
    if path.suffix.lower() in (".hdf5", ".h5") or path.exists():
        energies = _inside(read_energies(path), detector, trained)
        num = len(energies) if num is None else num
        if num > len(energies):
            raise CalojaxError(
                f"{text}: holds {len(energies)} incident energies but --num asks for {num}; "
                "ask for fewer, or use log-uniform:LOW:HIGH."
            )
        digest = hashlib.blake2b(energies[:num].tobytes(), digest_size=8).hexdigest()
        return listed(f"{path.name} ({digest})", energies, num)
    if "ev" in text.lower():
        energies = _inside([parse_energy(item) for item in text.split(",")], detector, trained)
        return listed(text, energies, len(energies) if num is None else num)
    raise CalojaxError(f"--energies {text!r} is not {_FORMS}.")


def _given(num: int | None) -> int:
    if num is None:
        raise CalojaxError(
            "--num is missing: give the number of showers (only a file or a list has one)."
        )
    return num


def read_energies(path: pathlib.Path) -> np.ndarray:
    """The incident energies [n] in MeV, float32, of a file or a folder of parts."""
    return np.concatenate([_energies_in(file) for file in shards.files_of(path)])


def _energies_in(path: pathlib.Path) -> np.ndarray:
    with opened(path) as file:
        for key in _KEYS:
            data = file.find(key)
            if isinstance(data, h5py.Dataset):
                break
        else:
            raise CalojaxError(
                f"{path}: has no {ENERGIES!r} but {file.names()}; write the energies under that "
                "key."
            )
        if data.dtype.kind not in "fiu" or data.shape not in ((data.size,), (data.size, 1)):
            raise CalojaxError(
                f"{path}: {key!r} is {data.dtype} of shape {data.shape}; it must be (n, 1) numbers."
            )
        if not data.size:
            raise CalojaxError(f"{path}: holds no incident energies; write it again.")
        unit = LAYOUTS[layout_of(file)].unit
        return checked_energies(path, unit * np.asarray(data[...]).reshape(-1))


def _spectrum(
    detector: Detector, trained: tuple[float, float] | None, seen: Sequence[float]
) -> tuple[Detector, str]:
    """The detector with the spectrum of the training, and the name of that spectrum."""
    low, high = trained or energy_range(detector)
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
    """Energies as float32, if all are in the range of the detector or of the training.

    The range of a geometry that is not built in is often a guess, so nothing is refused there.
    """
    energies = np.asarray(energies, np.float32)
    if detector not in DETECTORS.values() or detector.energy_range is None:
        return energies
    low, high = detector.energy_range
    if trained is not None:
        low, high = min(low, trained[0]), max(high, trained[1])
    outside = (energies < low * (1 - _ROUNDING)) | (energies > high * (1 + _ROUNDING))
    if outside.any():
        raise CalojaxError(
            f"An incident energy of {energies[outside][0]:g} MeV is outside the range of geometry "
            f"{detector.name!r}, {low:g} to {high:g} MeV; "
            + ("the model has not seen such showers." if trained else "choose energies within it.")
        )
    return energies


def energy_range(detector: Detector) -> tuple[float, float]:
    """The incident energies of a detector, lowest and highest, in MeV."""
    if detector.energy_range is None:
        raise CalojaxError(
            f"Geometry {detector.name!r} has no energy range; choose the energies, such as "
            "--energies log-uniform:1GeV:100GeV, or give energy_min and energy_max in its XML file."
        )
    return detector.energy_range


def draw_energies(keys: jax.Array, detector: Detector) -> jax.Array:
    """Incident energies in MeV [n], one for each of keys [n].

    Log-uniform in ``detector.energy_range``; if the detector has discrete energies, one of these,
    as often as in dataset 1.
    """
    keys = rng.streams(keys, "energy")
    if not detector.energies:
        return _log_uniform(keys, *energy_range(detector))
    below = np.cumsum(_multiplicities(detector))
    levels = jnp.asarray(below / below[-1], jnp.float32)
    position = jnp.searchsorted(levels, rng.uniform(keys), side="right")
    return jnp.asarray(detector.energies, jnp.float32)[position]


def _multiplicities(detector: Detector) -> np.ndarray:
    """Number of showers of each of ``detector.energies`` in a file of CaloChallenge dataset 1.

    10,000 up to 262 GeV (pions there: 9,800), then 5,000, 3,000, 2,000 and 1,000.
    """
    numbers = {2**19: 5000, 2**20: 3000, 2**21: 2000, 2**22: 1000}
    if detector.particle == "pion":
        numbers[2**18] = 9800
    return np.array([numbers.get(round(energy), 10_000) for energy in detector.energies])


def _uniform(keys: jax.Array, low: float, high: float) -> jax.Array:
    return jnp.clip(low + (high - low) * rng.uniform(keys), low, high)


def _log_uniform(keys: jax.Array, low: float, high: float) -> jax.Array:
    # The exponential of a logarithm may round to just outside the range.
    return jnp.clip(low * jnp.exp(rng.uniform(keys) * math.log(high / low)), low, high)


_DISTRIBUTIONS = {"uniform": _uniform, "log-uniform": _log_uniform}


def _host() -> Any:
    """The device to draw on: a CPU, if possible, so as not to wait for an accelerator's showers."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
