"""Priors over sequences of codes.

A new prior is one file here, whose ``build`` makes a `Prior` of settings, the number of codes and
their positions, and one line in `PRIORS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from calojax.nn.priors import gru, masked, transformer
from calojax.nn.priors.positions import Positions
from calojax.nn.priors.prior import Prior, Settings

PRIORS: dict[str, Callable[[Settings, int, Positions], Prior]] = {
    "gru": gru.build,
    "transformer": transformer.build,
    "masked": masked.build,
}

if TYPE_CHECKING:
    PriorName = str
else:
    PriorName = Literal[tuple(PRIORS)]
