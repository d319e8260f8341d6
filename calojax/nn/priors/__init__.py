"""Priors: distributions of codes [b, t] in 0..k-1, given a context [b, c] or [b, t, c].

Every sequence has its own key or random numbers. Variables are those of the linen module inside;
for `loss` and `draw` also ``variables["codebook"]["vectors"]``, the vectors [k, d] of the codes.

A new prior is a file here, with a class as of `Prior` and a function ``build`` that makes it from
settings, number of codes, grid, and dimensions of the vectors of codes, and a line in `PRIORS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from calojax.nn.priors import flow, gru
from calojax.nn.priors.autoregressive import Autoregressive
from calojax.nn.priors.prior import Grid, Settings

Prior = Autoregressive | flow.Flow
PRIORS: dict[str, Callable[[Settings, int, Grid, int], Prior]] = {
    "gru": gru.build,
    "flow": flow.build,
}

if TYPE_CHECKING:
    PriorName = str
else:
    PriorName = Literal[tuple(PRIORS)]
