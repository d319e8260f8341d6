"""The detectors of the CaloChallenge and a tiny one for tests.

Bin edges, energies and thresholds: CaloChallenge (arXiv:2410.21611, section 2, and its README).
Layer thicknesses of dataset 1 are nominal values of the ATLAS barrel at |eta| = 0.2 (ATLAS
detector paper, JINST 3 S08003, chapter 5); only the shower generator and figures use them.
"""

from collections.abc import Iterable

from calojax.errors import CalojaxError
from calojax.geometry.detector import Detector, Layer, Medium

# Datasets 2 and 3 divide deposits in silicon by this sampling fraction; 0.5 keV is the readout cut.
SAMPLING_FRACTION = 0.033
_SILICON_THRESHOLD = 0.5e-3 / SAMPLING_FRACTION  # MeV, 15.15 keV

# 2 x (1.4 mm W + 0.3 mm Si) a layer: 0.8 X0 in 3.4 mm; R_M from the choice of r bins of 0.5 R_M.
_SIW = Medium(
    radiation_length=4.25,
    moliere_radius=9.3,
    interaction_length=121.0,
    critical_energy=8.1,
    resolution=0.133,
    response=0.955,
)
# Lead and liquid argon, ATLAS barrel accordion.
_LAR = Medium(
    radiation_length=20.4,
    moliere_radius=41.0,
    interaction_length=280.0,
    critical_energy=9.7,
    resolution=0.10,
    response=0.98,
)

_ATLAS_ENERGIES = tuple(float(2**n) for n in range(8, 23))  # 256 MeV to 4.2 TeV


def _silicon_tungsten(name: str, layers: Iterable[Layer], highest: float = 1e6) -> Detector:
    return Detector(
        name=name,
        particle="electron",
        layers=tuple(layers),
        energy_range=(1e3, highest),
        readout_threshold=_SILICON_THRESHOLD,
        evaluation_threshold=_SILICON_THRESHOLD,
        medium=_SIW,
    )


def _atlas(name: str, particle: str, layers: tuple[Layer, ...]) -> Detector:
    return Detector(
        name=name,
        particle=particle,
        layers=layers,
        energy_range=(_ATLAS_ENERGIES[0], _ATLAS_ENERGIES[-1]),
        energies=_ATLAS_ENERGIES,
        readout_threshold=0.0,
        evaluation_threshold=1.0,
        medium=_LAR,
    )


# Rounded so that 3 * 4.65 prints as the 13.95 of the published binning.
_DS2_EDGES = tuple(round(4.65 * i, 6) for i in range(10))
_DS3_EDGES = tuple(round(2.325 * i, 6) for i in range(19))
_PRESAMPLER = (0, 5, 10, 30, 50, 100, 200, 400, 600)
_BACK = (0, 50, 100, 200, 400, 600)
_TILE = (0, 10, 20, 30, 50, 80, 100, 130, 160, 200, 250, 300, 350, 400)

_PHOTONS = (
    Layer(0, _PRESAMPLER, 1, 11.0),
    Layer(1, (0, 2, 4, 6, 8, 10, 12, 15, 20, 30, 40, 50, 70, 90, 120, 150, 200), 10, 90.0),
    Layer(
        2,
        (0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 350, 400),
        10,
        337.0,
    ),
    Layer(3, _BACK, 1, 42.0),
    Layer(12, (0, 100, 200, 400, 1000, 2000), 1, 300.0),
)
_PIONS = (
    Layer(0, _PRESAMPLER, 1, 11.0),
    Layer(1, (0, 1, 4, 7, 10, 15, 30, 50, 90, 150, 200), 10, 90.0),
    Layer(2, (0, 5, 10, 20, 30, 50, 80, 130, 200, 300, 400), 10, 337.0),
    Layer(3, _BACK, 1, 42.0),
    Layer(12, (*_TILE, 1000, 2000), 10, 300.0),
    Layer(13, (*_TILE, 600, 1000, 2000), 10, 840.0),
    Layer(14, (0, 50, 100, 150, 200, 250, 300, 400, 600, 1000, 2000), 1, 370.0),
)

DETECTORS = {
    "ds1-photons": _atlas("ds1-photons", "photon", _PHOTONS),
    "ds1-pions": _atlas("ds1-pions", "pion", _PIONS),
    "ds2": _silicon_tungsten("ds2", (Layer(z, _DS2_EDGES, 16, 3.4) for z in range(45))),
    "ds3": _silicon_tungsten("ds3", (Layer(z, _DS3_EDGES, 50, 3.4) for z in range(45))),
    # Ten layers of dataset 2's absorber, four times as thick, in a 10 x 4 x 3 grid.
    "tiny": _silicon_tungsten(
        "tiny", (Layer(z, (0.0, 4.65, 13.95, 41.85), 4, 13.6) for z in range(10)), highest=1e5
    ),
}


def detector(name: str) -> Detector:
    """The built-in detector of that name."""
    try:
        return DETECTORS[name]
    except KeyError:
        raise CalojaxError(
            f"There is no built-in geometry {name!r}; choose one of {', '.join(DETECTORS)}, "
            "or name a binning file that ends in .xml."
        ) from None
