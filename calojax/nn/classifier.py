"""The two classifiers of the CaloChallenge: an MLP and a 3-D ResNet-18.

Both map inputs [n, d] to logits [n, outputs]. One output is the log-odds of label 1; k > 2 outputs
are the logits of k classes. Definition: arXiv:2410.21611, section 4.3, with the widths and the
initialisation of the official evaluation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

_INITIAL_KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_HE_NORMAL_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Linear(nn.Module):
    """A dense layer whose weights and bias are initially uniform in ±1/sqrt(fan in), as in PyTorch.

    The scores after a fixed number of steps depend on the initial weights.
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
    """A fully connected classifier with leaky ReLUs of slope 0.01."""

    width: int = 2048  # nodes of every hidden layer
    hidden_layers: int = 2  # number of hidden layers beyond the first
    outputs: int = 1  # number of logits

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[n, d] -> [n, outputs]; ``train`` makes no difference."""
        del train
        # The inputs are not normalised: the fourth digit of a number may separate the classes, but
        # the ten-bit mantissas of a GPU's default precision round it off.
        x = nn.leaky_relu(Linear(self.width, precision=jax.lax.Precision.HIGHEST)(x))
        for _ in range(self.hidden_layers):
            x = nn.leaky_relu(Linear(self.width)(x))
        return Linear(self.outputs)(x)


class ResNetClassifier(nn.Module):
    """A ResNet-18 (arXiv:1512.03385) with three-dimensional convolutions over (z, alpha, r).

    Zeros pad all three axes, alpha included, as in the official network.
    """

    grid: tuple[int, int, int]  # bins of the image (z, alpha, r); inputs are [n, 1 + their product]
    planes: tuple[int, ...] = (32, 64, 64, 128)  # channels of the four stages, two blocks each
    outputs: int = 1  # number of logits

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[n, 1 + v] -> [n, outputs]; the first column is a number, the rest is one image."""
        # The textbook variance, because E[x²] - E[x]² loses digits where all numbers are alike.
        number = _norm(train, use_fast_variance=False)(x[:, :1])
        x = x[:, 1:].reshape(-1, *self.grid)
        x = nn.relu(_norm(train)(Stem(self.planes[0])(x)))
        # After a ReLU, padding by zeros does not change a maximum.
        x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (1, 1), (0, 0)])
        x = nn.max_pool(x, (3, 3, 3), strides=(2, 2, 2))
        for stage, features in enumerate(self.planes):
            x = ResidualBlock(features, stride=1 if stage == 0 else 2)(x, train=train)
            x = ResidualBlock(features, stride=1)(x, train=train)
        x = x.mean(axis=(1, 2, 3))
        return Linear(self.outputs)(jnp.concatenate([x, number], axis=-1))


class Stem(nn.Module):
    """A 7³ convolution of stride 2 over one channel, padded by zeros, without bias.

    It is computed as a 4³ convolution of stride 1 over the 2³ blocks of the image as 8 channels,
    with the kernel padded to 8³ ("space to depth"), which is four times as fast on a CPU.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, z, alpha, r] -> [n, ceil(z / 2), ceil(alpha / 2), ceil(r / 2), features]."""
        kernel = self.param("kernel", _HE_NORMAL_OUT, (7, 7, 7, 1, self.features))
        # Output i sums over 2 i - 3 ... 2 i + 3, and 2 i + 4 with weight zero: three zeros in front
        # of the image, and enough behind it to complete the last window.
        padding = [(3, 3 + n % 2) for n in x.shape[1:]]
        x = _blocks(jnp.pad(x[..., None], [(0, 0), *padding, (0, 0)]))
        kernel = jnp.pad(kernel, [(0, 1)] * 3 + [(0, 0)] * 2)
        kernel = _blocks(jnp.moveaxis(kernel, -1, 0))
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "VALID", dimension_numbers=("NDHWC", "ODHWI", "NDHWC")
        )


class ResidualBlock(nn.Module):
    """Two 3³ convolutions beside a shortcut, which is projected where the shape changes."""

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
    """Puts the 2³ bins of every block into channels: [n, 2 i, 2 j, 2 k, 1] -> [n, i, j, k, 8]."""
    n, z, alpha, r, _ = x.shape
    x = x.reshape(n, z // 2, 2, alpha // 2, 2, r // 2, 2)
    return x.transpose(0, 1, 3, 5, 2, 4, 6).reshape(n, z // 2, alpha // 2, r // 2, 8)


def _conv(features: int, *, size: int, stride: int) -> nn.Conv:
    # Explicit, because "SAME" pads an even axis on the far side only where the stride is 2.
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
