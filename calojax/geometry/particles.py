"""The particles that have a name in calojax, and the kind of shower that each makes."""

import re
from typing import Literal

Shower = Literal["photon", "electron", "hadron", "none"]
"""Kinds of shower; ``none``: muons and neutrinos make no shower."""

# name -> (kind of shower, PDG numbers)
PARTICLES: dict[str, tuple[Shower, tuple[int, ...]]] = {
    "photon": ("photon", (22,)),
    "electron": ("electron", (11,)),
    "positron": ("electron", (-11,)),
    "pi0": ("photon", (111,)),
    "pion": ("hadron", (211, -211)),
    "kaon": ("hadron", (321, -321, 130, 310)),
    "proton": ("hadron", (2212,)),
    "antiproton": ("hadron", (-2212,)),
    "neutron": ("hadron", (2112,)),
    "antineutron": ("hadron", (-2112,)),
    "muon": ("none", (13, -13)),
    "neutrino": ("none", (12, -12, 14, -14, 16, -16)),
}


def named(pid: int) -> str:
    """The name of the particle with that PDG number; ``pid N`` if it is not in `PARTICLES`."""
    return next((name for name, (_, pids) in PARTICLES.items() if pid in pids), f"pid {pid}")


def number(name: str) -> int:
    """The PDG number of a particle; the first one if several have its name."""
    return PARTICLES[name][1][0] if name in PARTICLES else int(name.removeprefix("pid "))


def shower(name: str) -> Shower:
    """The kind of shower of a particle, "hadron" if ``pid N``; `ValueError` for other names."""
    if name in PARTICLES:
        return PARTICLES[name][0]
    if re.fullmatch(r"pid -?[1-9][0-9]{0,18}", name):
        return "hadron"
    raise ValueError(f"particle {name!r} is not one of {', '.join(PARTICLES)}, or 'pid NUMBER'")
