"""The causal transformer of the released Calo-VQ, with a key/value cache.

It differs from `calojax.nn.priors.transformer.Transformer` as follows (arXiv:2405.06605, released
configuration, without its dropout of 0.1): positions have learnt embeddings and no angles; the last
components of a token's embedding are the condition; code 0 precedes the first code; the last layer
has no bias.
"""

import flax.linen as nn
import jax.numpy as jnp

from calojax.nn.priors.transformer import Angles, Transformer


class GPT(Transformer):
    """The released transformer; see the docstring of this module.

    Attributes:
      conditions: number of components of the context c.
    """

    conditions: int = 1

    def setup(self):
        self.tokens = nn.Embed(self.size, self.width - self.conditions, dtype=self.dtype)
        self.places = nn.Embed(max(self.length, 2), self.width, dtype=self.dtype)
        self.blocks = self._blocks()
        self.norm = nn.LayerNorm(dtype=self.dtype)
        small = nn.initializers.normal(0.02)
        self.output = nn.Dense(self.size, use_bias=False, dtype=jnp.float32, kernel_init=small)

    def _angles(self) -> Angles:
        zeros = jnp.zeros((self.length, self.width // self.heads // 2))
        return Angles(zeros, zeros)

    def _embed(self, tokens, places, context):
        tokens = self.tokens(jnp.where(tokens < self.size, tokens, 0))
        context = jnp.broadcast_to(context, (*tokens.shape[:2], self.conditions))
        return jnp.concatenate([tokens, context], -1) + self.places(places)[None]
