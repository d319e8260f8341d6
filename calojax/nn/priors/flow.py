"""The flow prior: a few passes turn noise into codes, all positions at once.

Every code is a vector of the codebook, standardised to x1. On the path x_t = (1 - t) noise + t x1
the network gives the distribution of every code given x_t, trained by cross-entropy (as in CDCD,
arXiv:2211.15089). A pass of the sampler draws codes from these distributions, works out the noise
that they imply, and goes on to a later t with both. One pass draws codes independently of each
other; the more passes, the nearer the draws come to the joint distribution.

The network learns p(code | x_t) as a whole. With the normal density of x_t at the code's own
position as a known factor its loss was lower, but showers were less diverse (docs/results.md).

The network is a transformer over patches of neighbouring codes whose blocks are modulated by t and
the context (adaLN-zero, Peebles and Xie 2022, arXiv:2212.09748).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from calojax import rng
from calojax.errors import CalojaxError
from calojax.nn.mlp import MLP
from calojax.nn.priors import categorical
from calojax.nn.priors.prior import Grid, Noise, Settings, Variables

# Radians per unit of t of the fastest feature of t, and the number of frequencies.
_FASTEST, _FREQUENCIES = 20.0, 16
# Mean of logit(t) in training; its standard deviation is 1.
_MEAN_LOGIT = 0.3


def build(settings: Settings, size: int, grid: Grid, width: int) -> "Flow":
    """The flow prior; refuses heads that do not divide the width, and patches the grid."""
    s = settings
    if s.width % s.heads:
        raise CalojaxError(
            f"--prior.width must be a multiple of --prior.heads, got {s.width} and {s.heads}."
        )
    z, alpha, r = map(min, s.patch, grid)
    patch = z, alpha, r
    if any(n % p for n, p in zip(grid, patch, strict=True)):
        raise CalojaxError(
            f"Patches of {patch} codes (z, alpha, r) do not divide the grid of {grid} "
            "codes; change --prior.patch."
        )
    dtype = jnp.dtype(s.dtype)
    network = Trunk(size, grid, patch, width, s.layers, s.heads, s.width, dtype)
    return Flow(network, s.passes, s.spacing)


@dataclasses.dataclass(frozen=True)
class Flow:
    """A prior that draws all codes in a few passes; its variables include the codebook."""

    network: "Trunk"
    passes: int  # runs of the network per sequence
    spacing: float  # density of the sampler's times: below 1 they are closer together near t = 1

    def init(self, key: jax.Array, context: jax.Array) -> Variables:
        return self.network.init(key, context)

    def loss(
        self, variables: Variables, keys: jax.Array, codes: jax.Array, context: jax.Array
    ) -> jax.Array:
        """Cross-entropy of the codes given x_t at a random t, in nats per code."""
        vectors = standardised(variables)
        time = training_times(keys)
        noise = rng.normal(rng.streams(keys, "noise"), (codes.shape[1], vectors.shape[1]))
        noisy = _mix(time[:, None, None], vectors[codes], noise)
        logits = self.network.bind(variables).logits(noisy, time, context)
        return -categorical.log_prob(logits, codes).mean(-1)

    def noise(self, keys: jax.Array) -> Noise:
        """Quantiles of the codes of every pass, [b, passes, t], and x_0, [b, t, d]."""
        length = self.network.length
        u = rng.uniform(rng.streams(keys, "codes"), (self.passes * length,))
        return {
            "uniform": u.reshape(-1, self.passes, length),
            "normal": rng.normal(rng.streams(keys, "noise"), (length, self.network.dimensions)),
        }

    def draw(
        self, variables: Variables, noise: Noise, context: jax.Array, *, temperature: float = 1.0
    ) -> jax.Array:
        vectors, network = standardised(variables), self.network.bind(variables)
        number = context.shape[0]

        def run(state, inputs):
            noisy, _ = state
            time, later, u = inputs
            logits = network.logits(noisy, jnp.full(number, time), context)
            codes = categorical.choose(u, logits / temperature)
            chosen = vectors[codes]
            implied = (noisy - time * chosen) / (1 - time)
            return (_mix(later, chosen, implied), codes), None

        times = jnp.asarray(sampling_times(self.passes, self.spacing))
        u = noise["uniform"].swapaxes(0, 1)
        start = noise["normal"], jnp.zeros((number, self.network.length), jnp.int32)
        return jax.lax.scan(run, start, (times[:-1], times[1:], u))[0][1]


def standardised(variables: Variables) -> jax.Array:
    """Vectors of the codebook [k, d], with mean 0 and standard deviation 1 in every dimension."""
    vectors = jax.lax.stop_gradient(variables["codebook"]["vectors"])
    spread = jnp.maximum(vectors.std(0, keepdims=True), 1e-6)
    return (vectors - vectors.mean(0, keepdims=True)) / spread


def training_times(keys: jax.Array) -> jax.Array:
    """Times t of a batch, logit-normal and stratified: keys [b] -> [b].

    Each of b equal parts of the distribution has one time, so the mean loss is less noisy.
    """
    number = len(keys)
    part = jax.random.permutation(rng.stream(keys[0], "strata"), number)
    within = rng.uniform(rng.streams(keys, "time"), (1,))[:, 0]
    # Away from 0 and 1, whose normal quantiles are infinite.
    quantile = jnp.clip((part + within) / number, 1e-6, 1 - 1e-6)
    return jax.nn.sigmoid(_MEAN_LOGIT + jax.scipy.special.ndtri(quantile))


def sampling_times(passes: int, spacing: float) -> np.ndarray:
    """Times t of the passes, and 1 at the end: float32 [passes + 1]."""
    u = np.linspace(0, 1, passes + 1)
    return (u / (u + spacing * (1 - u))).astype(np.float32)


def _mix(time, vectors: jax.Array, noise: jax.Array) -> jax.Array:
    """x_t on the way from noise (t = 0) to vectors (t = 1)."""
    return time * vectors + (1 - time) * noise


# --- the network ----------------------------------------------------------------------------------


class Trunk(nn.Module):
    """A transformer over patches of codes that knows the cylinder.

    Attention has a learnt bias for each difference in z and alpha, and positions are embedded in z
    and r only. If all is turned around the axis by whole patches, so are the logits.
    """

    size: int  # number of codes k
    grid: tuple[int, int, int]  # numbers of codes (z, alpha, r); t is their product
    patch: tuple[int, int, int]  # codes (z, alpha, r) of a patch, a divisor of the grid
    dimensions: int  # dimensions of the vector of a code, d
    layers: int  # number of blocks
    heads: int  # heads of the attention, a divisor of the width
    width: int  # width of the residual stream
    dtype: jnp.dtype = jnp.float32  # type of the computation; parameters and logits are float32

    @property
    def length(self) -> int:
        """Number of positions t."""
        return int(np.prod(self.grid))

    @property
    def patches(self) -> tuple[int, int, int]:
        """Numbers of patches (z, alpha, r)."""
        z, alpha, r = (n // p for n, p in zip(self.grid, self.patch, strict=True))
        return z, alpha, r

    def setup(self):
        z, _, r = self.patches
        small = nn.initializers.normal(0.02)
        self.places = self.param("places", small, (z, 1, r, self.width))
        self.tokens = nn.Dense(self.width, dtype=self.dtype)
        self.local = MLP((self.width,), self.width)
        self.condition = MLP((self.width,), self.width)
        self.blocks = [Block(self.patches, self.heads, self.dtype) for _ in range(self.layers)]
        self.modulation = nn.Dense(2 * self.width, kernel_init=nn.initializers.zeros)
        self.output = nn.Dense(int(np.prod(self.patch)) * self.size, kernel_init=small)

    def logits(self, noisy: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        """Logits of every code: x_t [b, t, d], t [b], context [b, c] or [b, t, c] -> [b, t, k]."""
        context = context[:, None] if context.ndim == 2 else context
        whole = context.mean(1)
        if context.shape[1] > 1:
            context = self._to_patches(context).reshape(
                context.shape[0], -1, int(np.prod(self.patch)), context.shape[-1]
            )
            context = context.mean(2)
        places = jnp.broadcast_to(self.places, (*self.patches, self.width))
        x = self.tokens(self._to_patches(noisy)) + places.reshape(1, -1, self.width)
        x = (x + self.local(context)).astype(self.dtype)
        condition = nn.silu(self.condition(jnp.concatenate([time_features(time), whole], -1)))
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = jnp.split(self.modulation(condition)[:, None], 2, -1)
        return self._from_patches(self.output(_modulated(x, shift, scale)))

    def __call__(self, context: jax.Array) -> jax.Array:
        """Touches every parameter, for ``init``."""
        nothing = jnp.zeros((len(context), self.length, self.dimensions))
        return self.logits(nothing, jnp.zeros(len(context)), context)

    def _to_patches(self, x: jax.Array) -> jax.Array:
        """[b, t, n] -> [b, patches, codes of a patch x n]."""
        (z, alpha, r), (p, q, s) = self.patches, self.patch
        x = x.reshape(x.shape[0], z, p, alpha, q, r, s, x.shape[-1])
        return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(x.shape[0], z * alpha * r, -1)

    def _from_patches(self, x: jax.Array) -> jax.Array:
        """Inverse of `_to_patches`."""
        x = x.reshape(x.shape[0], *self.patches, *self.patch, -1)
        return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], self.length, -1)


class Block(nn.Module):
    """A block of attention and a GELU MLP, modulated by the condition; at first the identity."""

    patches: tuple[int, int, int]
    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """x [b, n, width], condition [b, c] -> [b, n, width]."""
        width = x.shape[-1]

        def dense(features, name):
            return nn.Dense(features, dtype=self.dtype, name=name)

        modulation = nn.Dense(6 * width, kernel_init=nn.initializers.zeros, name="modulation")
        parts = jnp.split(modulation(condition)[:, None].astype(self.dtype), 6, -1)
        projected = dense(3 * width, "projection")(_modulated(x, *parts[:2]))
        query, key, value = jnp.split(projected.reshape(*x.shape[:2], 3 * self.heads, -1), 3, 2)
        which = relative_places(self.patches)
        bias = self.param("bias", nn.initializers.zeros, (self.heads, int(which.max()) + 1))
        mixed = jax.nn.dot_product_attention(
            query, key, value, bias=bias[:, which][None].astype(self.dtype)
        )
        x = x + parts[2] * dense(width, "attention_output")(mixed.reshape(x.shape))
        hidden = nn.gelu(dense(4 * width, "mlp_input")(_modulated(x, *parts[3:5])))
        return x + parts[5] * dense(width, "mlp_output")(hidden)


def _modulated(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Normalised x [b, n, w], scaled and shifted."""
    return jax.nn.standardize(x) * (1 + scale) + shift


def time_features(time: jax.Array) -> jax.Array:
    """Sines and cosines of t at several frequencies: [b] -> [b, n]."""
    angles = time[:, None] * np.geomspace(1.0, _FASTEST, _FREQUENCIES, dtype=np.float32)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def relative_places(patches: tuple[int, int, int]) -> np.ndarray:
    """A number for how one patch lies to another, equal after turns around the axis: int [n, n].

    It counts differences in z, differences in alpha modulo a turn, and pairs of places in r.
    """
    z, alpha, r = np.unravel_index(np.arange(np.prod(patches)), patches)
    apart_z = z[:, None] - z + patches[0] - 1
    apart_alpha = (alpha[:, None] - alpha) % patches[1]
    shape = (2 * patches[0] - 1, patches[1], patches[2], patches[2])
    outward = np.broadcast_arrays(r[:, None], r)
    return np.ravel_multi_index((apart_z, apart_alpha, *outward), shape)
