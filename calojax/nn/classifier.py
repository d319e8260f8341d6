"""The two networks that judge showers: the CaloChallenge's MLP and its 3-D ResNet-18.

Both map classifier inputs [n, d], incident energy first, to logits [n, outputs]; one output is the
log-odds of label 1, k > 2 outputs are unnormalised log-probabilities of k classes. Definition:
arXiv:2410.21611, section 4.3, in the official evaluation's widths and initialisation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

_INITIAL_KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_HE_NORMAL_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Linear(nn.Module):
    """A dense layer whose weights and bias start uniform in ±1/sqrt(fan in).

    That is PyTorch's default. The scores of a training of fixed length depend on where it starts.
    """

    features: int
    precision: jax.lax.Precision | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., features]."""
        limit = x.shape[-1] ** -0.5

        def initial_bias(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        return nn.Dense(
            self.features,
            precision=self.precision,
            kernel_init=_INITIAL_KERNEL,
            bias_init=initial_bias,
        )(x)


class DenseClassifier(nn.Module):
    """A fully connected classifier with leaky ReLUs of slope 0.01.

    Attributes:
      width: nodes of every hidden layer.
      hidden_layers: hidden layers beyond the first.
      outputs: logits per shower.
    """

    width: int = 2048
    hidden_layers: int = 2
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[n, d] -> [n, outputs]; ``train`` makes no difference."""
        del train
        # The inputs are not normalised: what tells showers apart may be the fourth digit of
        # log10 E_inc, which the ten-bit mantissas of a GPU's default precision would cut off.
        x = nn.leaky_relu(Linear(self.width, precision=jax.lax.Precision.HIGHEST)(x))
        for _ in range(self.hidden_layers):
            x = nn.leaky_relu(Linear(self.width)(x))
        return Linear(self.outputs)(x)


class ResNetClassifier(nn.Module):
    """A ResNet-18 (arXiv:1512.03385) with three-dimensional convolutions over (z, alpha, r).

    Zeros pad all three axes, alpha included, as in the official network.

    Attributes:
      grid: number of (z, alpha, r) bins; inputs are [n, 1 + their product].
      planes: channels of the four stages, two blocks each.
      outputs: logits per shower.
    """

    grid: tuple[int, int, int]
    planes: tuple[int, ...] = (32, 64, 64, 128)
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[n, 1 + v] -> [n, outputs]; the first column is log10 E_inc, the rest is one image."""
        # The textbook variance: E[x²] - E[x]² loses digits where all energies are alike.
        energy = _norm(train, use_fast_variance=False)(x[:, :1])
        x = x[:, 1:].reshape(-1, *self.grid)
        x = nn.relu(_norm(train)(Stem(self.planes[0])(x)))
        x = nn.max_pool(x, (3, 3, 3), strides=(2, 2, 2), padding=[(1, 1)] * 3)
        for stage, features in enumerate(self.planes):
            x = ResidualBlock(features, stride=1 if stage == 0 else 2)(x, train=train)
            x = ResidualBlock(features, stride=1)(x, train=train)
        x = x.mean(axis=(1, 2, 3))
        return Linear(self.outputs)(jnp.concatenate([x, energy], axis=-1))


class Stem(nn.Module):
    """A 7³ convolution of stride 2 over one channel, zeros around, without bias.

    It is computed as a 4³ convolution of stride 1 over the 2³ blocks of the image as 8 channels,
    with a kernel that a plane of zeros on each axis makes 8³ ("space to depth"): the same sums, but
    four times as fast on CPU, because convolutions are made for many channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, z, alpha, r] -> [n, ceil(z / 2), ceil(alpha / 2), ceil(r / 2), features]."""
        kernel = self.param("kernel", _HE_NORMAL_OUT, (7, 7, 7, 1, self.features))
        # Output i sums over 2 i - 3 ... 2 i + 3, the zeros at 2 i + 4: three before the
        # image, and after it what makes the last window whole.
        padding = [(3, 3 + n % 2) for n in x.shape[1:]]
        x = _blocks(jnp.pad(x[..., None], [(0, 0), *padding, (0, 0)]))
        kernel = jnp.pad(kernel, [(0, 1)] * 3 + [(0, 0)] * 2)
        kernel = _blocks(jnp.moveaxis(kernel, -1, 0))
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "VALID", dimension_numbers=("NDHWC", "ODHWI", "NDHWC")
        )


class ResidualBlock(nn.Module):
    """Two 3³ convolutions beside a shortcut, projected where the shape changes."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[n, z, alpha, r, c] -> [n, ceil(z / stride), ..., features]."""
        y = nn.relu(_norm(train)(_conv(self.features, size=3, stride=self.stride)(x)))
        y = _norm(train)(_conv(self.features, size=3, stride=1)(y))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = _norm(train)(_conv(self.features, size=1, stride=self.stride)(x))
        return nn.relu(x + y)


def _blocks(x: jax.Array) -> jax.Array:
    """The 2³ blocks of an image as channels: [n, 2 i, 2 j, 2 k, 1] -> [n, i, j, k, 8]."""
    n, z, alpha, r, _ = x.shape
    x = x.reshape(n, z // 2, 2, alpha // 2, 2, r // 2, 2)
    return x.transpose(0, 1, 3, 5, 2, 4, 6).reshape(n, z // 2, alpha // 2, r // 2, 8)


def _conv(features: int, *, size: int, stride: int) -> nn.Conv:
    # Explicit padding: "SAME" would pad an even axis on the far side only where the stride is 2.
    return nn.Conv(
        features,
        (size,) * 3,
        strides=(stride,) * 3,
        padding=[(size // 2, size // 2)] * 3,
        use_bias=False,
        kernel_init=_HE_NORMAL_OUT,
    )


def _norm(train: bool, *, use_fast_variance: bool = True) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=use_fast_variance,
    )
