"""The geometry of a shower file: kept in it, named by it, or guessed from the number of voxels."""

import h5py
import msgspec
import numpy as np

from calojax.errors import CalojaxError, warn
from calojax.geometry import DETECTORS, Detector
from calojax.io.hdf5 import InputFile

# Where files keep a geometry that is not built in, as JSON.
GEOMETRY = "calojax_geometry"
_LARGEST = 2**28


def store_detector(file: h5py.File, detector: Detector) -> None:
    """Writes a geometry that is not built in; the attribute ``geometry`` names the others."""
    if detector not in DETECTORS.values():
        # A dataset, since an attribute has at most 64 KB.
        text = np.bytes_(msgspec.json.encode(detector))
        file.create_dataset(GEOMETRY, data=text, track_times=False)


def guess_detector(n_voxels: int | None) -> Detector | None:
    """The built-in detector whose showers have that many voxels, or None."""
    return next((d for d in DETECTORS.values() if d.n_voxels == n_voxels), None)


def resolved_detector(file: InputFile, n_voxels: int | None, detector: Detector | None) -> Detector:
    """The detector of a file's showers of ``n_voxels``, None if it holds points.

    The geometry that the file keeps may replace the user's choice, ``detector``. Raises
    `CalojaxError` if it is damaged, none is known, or the voxels do not fit.
    """
    stored = _stored_detector(file)
    # A user's own binning file may change thresholds or lengths, but not what the voxels are.
    own = None if detector in DETECTORS.values() else detector
    if stored and not (own and own.binning == stored.binning):
        if detector and detector != stored:
            warn(
                f"{file.path}: keeps its geometry {stored.name!r}, which replaces "
                f"{detector.name!r}."
            )
        detector = stored
    guess, named = guess_detector(n_voxels), file.attributes.get("geometry")
    if detector is None and guess and named is not None and str(named) not in DETECTORS:
        warn(
            f"{file.path}: is of geometry {named!r}, which is not built in; its showers are taken "
            f"for those of {guess.name!r}, which have as many voxels. If they are not, add "
            "--geometry FILE.xml."
        )
    detector = detector or DETECTORS.get(str(named), guess)
    if detector is None and n_voxels is None:
        raise CalojaxError(
            f"{file.path}: holds points, but does not say of which geometry; add it: --geometry "
            "NAME or FILE.xml."
        )
    if detector is None:
        counts = ", ".join(f"{d.name} {d.n_voxels:,}" for d in DETECTORS.values())
        raise CalojaxError(
            f"{file.path}: no built-in geometry has {n_voxels:,} voxels ({counts}); add the "
            "binning XML of its geometry: --geometry FILE.xml."
        )
    if n_voxels is not None and detector.n_voxels != n_voxels:
        advice = (
            f"the file looks like geometry {guess.name}"
            if guess
            else "no built-in geometry has as many, so add its binning XML: --geometry FILE.xml"
        )
        raise CalojaxError(
            f"{file.path}: its showers have {n_voxels:,} voxels, but geometry {detector.name} has "
            f"{detector.n_voxels:,}; {advice}."
        )
    return detector


def _stored_detector(file: InputFile) -> Detector | None:
    item = file.find(GEOMETRY)
    if item is None:
        return None
    try:
        if not isinstance(item, h5py.Dataset) or item.shape or item.dtype.kind != "S":
            raise ValueError("it must be a text")
        if item.dtype.itemsize > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        return msgspec.json.decode(item[()], type=Detector)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise CalojaxError(
            f"{file.path}: its {GEOMETRY!r} is damaged ({error}); write the file again."
        ) from None
