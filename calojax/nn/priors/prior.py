"""The interface of priors over sequences of codes."""

import dataclasses
from typing import Any, Literal, Protocol

import jax

from calojax.errors import CalojaxError

Variables = Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the networks of priors.

    Attributes:
      width: size of the recurrent state, or of the transformer's stream.
      embedding: size of the GRU's code and position embeddings.
      layers: blocks of the transformer.
      heads: heads of its attention; twice their number divides the width.
      passes: runs of the "masked" network for a shower.
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


class Prior(Protocol):
    """A distribution of codes [b, t] in 0..k-1 given a context [b, c], or [b, t, c] by position.

    Variables are those of the linen module inside; every sequence has a key of its own.
    """

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        """Random variables for contexts [b, c]."""
        ...

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Nats a code: keys [b], codes [b, t], context [b, c] -> [b].

        Either -log p(codes) / t or, on average over keys, an upper bound of it.
        """
        ...

    def draw(
        self, variables: Variables, keys: jax.Array, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        """Codes int32 [b, t] from one key for each sequence [b] and context [b, c].

        Logits are divided by the temperature; 1 is the distribution that was learnt.
        """
        ...
