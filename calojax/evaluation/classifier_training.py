"""Training of a classifier on rows that are split at random into three parts.

Over several devices the rows of a batch are divided; parameters and rows are on every device. Rows
that do not fit there stay on the host, and each batch is sent while the one before is trained.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from calojax import distributed, rng

# Share of a device's memory that the rows may fill. 100,000 + 100,000 showers of dataset 3, 32 GB,
# then stay on an 80 GB device, of which JAX takes 60 GB.
_RESIDENT_FRACTION = 0.6


class Rows(NamedTuple):
    """Inputs [n, d] float32 and classes [n] int32: JAX on the device, or NumPy on the host."""

    inputs: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray


class Split(NamedTuple):
    """Row numbers of the parts, int32 [m] each."""

    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray


class State(NamedTuple):
    """Variables of the network and state of the optimiser."""

    variables: Any
    optimizer: optax.OptState


def place(inputs: np.ndarray, labels: np.ndarray, mesh: Mesh) -> Rows:
    """Rows on every device if they fill no more than 60 % of its memory, else on the host."""
    rows = Rows(inputs, np.asarray(labels, np.int32))
    is_cpu = mesh.devices.flat[0].platform == "cpu"  # Where the host's memory saves a copy.
    if is_cpu or inputs.nbytes > _RESIDENT_FRACTION * distributed.device_memory():
        return rows
    return jax.device_put(rows, distributed.replicated(mesh))


def split_rows(key: jax.Array, n: int, classes: int, parts: tuple[int, int, int]) -> Split:
    """A random split with as many rows of every class in each part.

    The rows of class c are n c ... n (c + 1) - 1. ``parts`` are the proportions of train, test and
    validation; rounding goes to the last.
    """
    keys = rng.per_item(rng.stream(key, "split"), jnp.arange(classes))
    rows = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, n))(keys))
    rows = (rows + n * np.arange(classes)[:, None]).astype(np.int32)
    ends = np.cumsum(parts)[:2] * n // sum(parts)
    return Split(*(part.reshape(-1) for part in np.split(rows, ends, axis=1)))


def log_posteriors(logits: jax.Array | np.ndarray) -> jax.Array:
    """Log-probabilities of the classes: [..., 1] -> [..., 2], [..., k] -> [..., k].

    A single logit z is the log-odds of label 1: the softmax over (0, z).
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return jax.nn.log_softmax(logits)


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained; the defaults are the CaloChallenge's for datasets 2 and 3.

    The dense network has ``hidden_layers`` after the first; a step has at most ``batch`` showers;
    the epoch of best test accuracy counts; Adam is the optimiser; ``split`` are proportions of
    training, test and validation part. Scores of ``quick`` settings are not comparable.
    """

    width: int = 2048
    hidden_layers: int = 2
    batch: int = 1000
    epochs: int = 50
    learning_rate: float = 2e-4
    split: tuple[int, int, int] = (60, 20, 20)
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Training of a classifier; hashable, so that methods compile once for each.

    The network maps ``(inputs [n, d], train=bool)`` to logits [n, outputs].
    """

    network: nn.Module
    settings: ClassifierSettings
    mesh: Mesh

    def fit(self, rows: Rows, split: Split, key: jax.Array, report: Callable[[float], None]) -> Any:
        """Trains the network; returns the variables of the epoch of highest test accuracy.

        The key gives the initial weights and the order of the rows. ``report`` is called after each
        epoch with the best accuracy so far.
        """
        labels = np.asarray(rows.labels[split.test])
        state = jax.device_put(
            self.start(key, rows.inputs.shape[1]), distributed.replicated(self.mesh)
        )
        best, highest = state.variables, -1.0
        for epoch in range(self.settings.epochs):
            for batch, which in self._batches(rows, self._order(split.train, key, epoch)):
                if which is None:
                    jax.block_until_ready(state)  # or batches would pile up on the device
                state = self._step(state, batch, which)
            logits = self.logits(state.variables, rows, split.test)
            accuracy = float(np.mean(log_posteriors(logits).argmax(-1) == labels))
            if accuracy > highest:
                # A copy, since the next step overwrites the state.
                best, highest = jax.tree.map(jnp.copy, state.variables), accuracy
            report(highest)
        return best

    def logits(self, variables: Any, rows: Rows, which: np.ndarray) -> jax.Array:
        """Logits [m, outputs] of the rows ``which`` [m]."""
        # As few equal steps as possible that cover all rows on all devices.
        steps = -(-len(which) // self.settings.batch)
        size = distributed.round_up(-(-len(which) // steps), self.mesh)
        parts: list[jax.Array] = []
        for batch, chosen in self._batches(rows, _in_batches(which, size)):
            if chosen is None:
                jax.block_until_ready(parts)
            parts.append(self._apply(variables, batch.inputs, chosen))
        return jnp.concatenate(parts)[: len(which)]

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def start(self, key: jax.Array, width: int) -> State:
        """The state before the first step, for ``width`` inputs."""
        example = jnp.zeros((2, width), jnp.float32)
        variables = self.network.init(rng.stream(key, "start"), example, train=False)
        return State(variables, optax.adam(self.settings.learning_rate).init(variables["params"]))

    def _order(self, train: np.ndarray, key: jax.Array, epoch: int) -> np.ndarray:
        """Shuffled batches of rows [steps, b]; every epoch leaves out other rows."""
        rows = np.asarray(jax.random.permutation(rng.stream(key, "shuffle", epoch), train))
        # As many steps as full batches and a remainder would take, but all of one size, so that one
        # shape is compiled. Less than a row per step and device is left out.
        steps = -(-len(rows) // self.settings.batch)
        batch = max(len(rows) // steps // self.mesh.size, 1) * self.mesh.size
        return _in_batches(rows[: max(len(rows) // batch, 1) * batch], batch)

    def _batches(self, rows: Rows, order: np.ndarray) -> Iterator[tuple[Rows, np.ndarray | None]]:
        """Batches of rows in the order [steps, b]: (rows, row numbers to take of them or None).

        Rows on the host are sent one step ahead.
        """
        if isinstance(rows.inputs, jax.Array):
            for which in order:
                yield rows, which
            return
        chosen = (Rows(rows.inputs[which], rows.labels[which]) for which in order)
        for batch in distributed.sent_ahead(chosen, distributed.sharded(self.mesh)):
            yield batch, None

    def _taken(self, array: jax.Array, which: jax.Array | None) -> jax.Array:
        """The rows ``which`` [b] of an array, divided over the devices; or the array itself."""
        if which is None:
            return array
        sharding = distributed.sharded(self.mesh)
        return array[jax.lax.with_sharding_constraint(which, sharding)]

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _step(self, state: State, rows: Rows, which: jax.Array | None) -> State:
        """One step on a batch: the rows ``which`` [b], or all of them."""
        inputs, labels = (self._taken(jnp.asarray(array), which) for array in rows)

        def loss(params):
            logits, updated = self.network.apply(
                state.variables | {"params": params}, inputs, train=True, mutable=["batch_stats"]
            )
            chosen = jnp.take_along_axis(log_posteriors(logits), labels[:, None], axis=-1)
            return -chosen.mean(), updated

        params = state.variables["params"]
        gradient, updated = jax.grad(loss, has_aux=True)(params)
        change, optimizer = optax.adam(self.settings.learning_rate).update(
            gradient, state.optimizer
        )
        return State({"params": optax.apply_updates(params, change), **updated}, optimizer)

    @functools.partial(jax.jit, static_argnums=0)
    def _apply(self, variables: Any, inputs: jax.Array, which: jax.Array | None) -> Any:
        """Logits [b, outputs] of the rows ``which`` [b] of inputs, or of all of them."""
        return self.network.apply(variables, self._taken(inputs, which), train=False)


def _in_batches(rows: np.ndarray, batch: int) -> np.ndarray:
    """Row numbers [m] as [steps, batch]; the last one is repeated to fill the last step."""
    return np.pad(rows, (0, -len(rows) % batch), mode="edge").reshape(-1, batch)
