"""Priors over sequences of codes.

A new prior is a file here, with a function ``build`` that makes a `Prior` from settings, number of
codes and positions, and a line in `PRIORS`.
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
