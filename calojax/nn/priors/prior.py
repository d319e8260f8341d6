"""Interface and settings of priors over sequences of codes."""

import dataclasses
from typing import Any, Literal, Protocol

import jax

from calojax.errors import CalojaxError

Variables = Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of priors; each kind reads those that it needs.

    Attributes:
      width: size of the recurrent state, or of the transformer's stream.
      embedding: size of the GRU's code and position embeddings.
      layers: blocks of the transformer.
      heads: heads of its attention; twice their number divides the width.
      passes: runs of the "masked" network per sequence.
      dtype: type of the transformer's computation; bfloat16 is for accelerators.
    """

    width: int = 256
    embedding: int = 64
    layers: int = 3
    heads: int = 4
    passes: int = 10
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name in ("layers", "heads", "passes"):
            if getattr(self, name) < 1:
                raise CalojaxError(f"The prior's {name} are {getattr(self, name)}; take 1 or more.")


class Network(Protocol):
    """What all linen modules in priors have in common."""

    @property
    def size(self) -> int:
        """Number of codes k."""
        ...

    @property
    def length(self) -> int:
        """Number of positions t."""
        ...

    def init(self, key: jax.Array, context: jax.Array, /) -> Variables:
        """Random variables."""
        ...

    def apply(self, variables: Variables, /, *args: Any, method: str) -> Any:
        """Calls a method with the given variables."""
        ...


class Prior(Protocol):
    """A distribution of codes [b, t] in 0..k-1, given a context [b, c] or [b, t, c].

    Variables are those of the linen module inside. Every sequence has its own key.
    """

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """Random variables for contexts of this shape."""
        ...

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Loss in nats per code: keys [b], codes [b, t] -> [b].

        It is -log p(codes) / t or, on average over keys, an upper bound of it.
        """
        ...

    def draw(
        self, variables: Variables, keys: jax.Array, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """Draws codes int32 [b, t] with keys [b].

        Logits are divided by the temperature; 1 is the learnt distribution.
        """
        ...
