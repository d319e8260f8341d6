"""Priors over sequences of codes.

A new prior is a file here, with a function ``build`` that makes a `Prior` from settings, number of
codes, grid, and dimensions of the vectors of codes, and a line in `PRIORS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from calojax.nn.priors import flow, gru
from calojax.nn.priors.prior import Grid, Prior, Settings

PRIORS: dict[str, Callable[[Settings, int, Grid, int], Prior]] = {
    "gru": gru.build,
    "flow": flow.build,
}

if TYPE_CHECKING:
    PriorName = str
else:
    PriorName = Literal[tuple(PRIORS)]
