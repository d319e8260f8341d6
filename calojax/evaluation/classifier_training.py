"""Training of classifiers: several seeds at once, each on its own split of the same rows.

The seeds are a vmapped axis ``s``: their small matrix products become large ones. Over several
devices the rows of a batch are divided; parameters and rows are on every device. Rows that do not
fit there stay on the host, and each batch is sent while the one before is trained.
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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calojax import distributed, rng

# Share of a device's memory that the rows may fill. 100,000 + 100,000 showers of dataset 3, 32 GB,
# then stay on an 80 GB device, of which JAX takes 60 GB.
_RESIDENT_FRACTION = 0.6


class Rows(NamedTuple):
    """Inputs [n, d] float32 and classes [n] int32: JAX on the device, or NumPy on the host."""

    inputs: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray


class Split(NamedTuple):
    """Row numbers of the parts, int32 [s, m] each; a line per seed."""

    train: Any
    test: Any
    validation: Any


class State(NamedTuple):
    """Training state of all seeds; every array begins with the axis s.

    ``best`` has the variables after the epoch of highest ``accuracy`` [s] on the test part.
    """

    variables: Any
    optimizer: optax.OptState
    best: Any
    accuracy: jax.Array


def place(inputs: np.ndarray, labels: np.ndarray, mesh: Mesh) -> Rows:
    """Rows on every device if they fill no more than 60 % of its memory, else on the host.

    On CPU they are always on the host, which saves a copy.
    """
    rows = Rows(inputs, np.asarray(labels, np.int32))
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    if is_cpu or inputs.nbytes > _RESIDENT_FRACTION * distributed.device_memory():
        return rows
    return jax.device_put(rows, distributed.replicated(mesh))


def split_rows(key: jax.Array, n: int, classes: int, parts: tuple[int, int, int]) -> Split:
    """A random split for each seed, whose keys are [s]: as many rows of every class in each part.

    The rows of class c are n c ... n (c + 1) - 1. ``parts`` are the proportions of train, test and
    validation; rounding goes to the last.
    """
    ends = np.cumsum(parts)[:2] * n // sum(parts)

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = rng.per_item(rng.stream(key, "split"), jnp.arange(classes))
        rows = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)
        rows = (rows + n * jnp.arange(classes)[:, None]).astype(jnp.int32)
        return tuple(part.reshape(-1) for part in jnp.split(rows, ends, axis=1))

    return Split(*jax.jit(jax.vmap(one))(key))


def log_posteriors(logits: jax.Array | np.ndarray) -> jax.Array:
    """Log-probabilities of the classes: [..., 1] -> [..., 2], [..., k] -> [..., k].

    A single logit z is the log-odds of label 1: the softmax over (0, z).
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return jax.nn.log_softmax(logits)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """How the classifiers of several seeds are trained.

    Hashable, so that its methods compile once for each.

    Attributes:
      network: module of ``(inputs [n, d], train=bool) -> logits [n, outputs]``.
      learning_rate: learning rate of Adam.
      batch: largest number of rows per step and seed.
      epochs: passes over the training part.
      mesh: devices.
    """

    network: nn.Module
    learning_rate: float
    batch: int
    epochs: int
    mesh: Mesh

    def fit(
        self, rows: Rows, split: Split, key: jax.Array, report: Callable[[np.ndarray], None]
    ) -> Any:
        """Trains one member for each seed; returns the variables of its best epoch, [s, ...].

        The keys [s] give the initial weights and the order of the rows. ``report`` is called after
        each epoch with the best accuracies on the test part so far, [s].
        """
        labels = rows.labels[np.asarray(split.test)]
        split, key = jax.device_put((split, key), distributed.replicated(self.mesh))
        state = self.start(key, rows.inputs.shape[1])
        for epoch in range(self.epochs):
            for batch, which in self._batches(rows, self._order(split.train, key, epoch)):
                if which is None:
                    jax.block_until_ready(state)  # or batches would pile up on the device
                state = self._step(state, batch, which)
            logits = self.logits(state.variables, rows, split.test)
            state = self._keep_best(state, logits, labels)
            report(np.asarray(state.accuracy))
        return state.best

    def logits(self, variables: Any, rows: Rows, which: jax.Array | np.ndarray) -> jax.Array:
        """Logits [s, m, outputs] of the rows ``which`` [s, m] by each member."""
        n = which.shape[1]
        # As few equal steps as possible that cover n rows on all devices.
        steps = -(-n // self.batch)
        size = distributed.round_up(-(-n // steps), self.mesh)
        parts: list[jax.Array] = []
        for batch, chosen in self._batches(rows, _in_batches(jnp.asarray(which), size)):
            if chosen is None:
                jax.block_until_ready(parts)
            parts.append(self._apply(variables, batch.inputs, chosen))
        return jnp.concatenate(parts, axis=1)[:, :n]

    def members_at_once(self, rows: Rows) -> int:
        """How many members fit into the memory that the rows leave."""
        n_inputs = rows.inputs.shape[1]
        variables = jax.eval_shape(
            lambda: self.network.init(rng.root(0), jnp.zeros((2, n_inputs)), train=False)
        )
        # Parameters, their best, their gradient and Adam's two moments; a batch and two copies.
        member = 5 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables))
        member += 3 * self.batch * n_inputs * 4
        taken = rows.inputs.nbytes if isinstance(rows.inputs, jax.Array) else 0
        # A CPU's memory also has the rows and all else of the host.
        share = 0.45 if self.mesh.devices.flat[0].platform == "cpu" else 0.9
        return max(1, int(share * distributed.device_memory() - taken) // member)

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def start(self, key: jax.Array, width: int) -> State:
        """The state before the first step, for keys [s] and ``width`` inputs."""
        example = jnp.zeros((2, width), jnp.float32)
        keys = rng.streams(key, "start")
        variables = jax.vmap(lambda key: self.network.init(key, example, train=False))(keys)
        optimizer = jax.vmap(optax.adam(self.learning_rate).init)(variables["params"])
        accuracy = jnp.full(key.shape, -1, jnp.float32)
        return State(variables, optimizer, jax.tree.map(jnp.copy, variables), accuracy)

    @functools.partial(jax.jit, static_argnums=0)
    def _order(self, train: jax.Array, key: jax.Array, epoch: jax.Array | int) -> jax.Array:
        """Shuffled batches of rows [steps, s, b]; other rows are left over in every epoch."""
        keys = jax.vmap(lambda key: rng.stream(key, "shuffle", epoch))(key)
        rows = jax.vmap(jax.random.permutation)(keys, train)
        n = rows.shape[1]
        # As many steps as the full batches and a rest would be, but equal ones, for which one shape
        # is compiled. What cannot be divided, less than a row per step and device, is left over.
        steps = -(-n // self.batch)
        batch = max(n // steps // self.mesh.size, 1) * self.mesh.size
        return _in_batches(rows[:, : max(n // batch, 1) * batch], batch)

    def _batches(self, rows: Rows, order: jax.Array) -> Iterator[tuple[Rows, np.ndarray | None]]:
        """Batches of rows in the order [steps, s, b]: (rows, row numbers to take of them or None).

        Rows on the host are sent one step ahead.
        """
        if isinstance(rows.inputs, jax.Array):
            for which in np.asarray(order):
                yield rows, which
            return
        sharding = NamedSharding(self.mesh, PartitionSpec(None, distributed.AXIS))
        chosen = (Rows(rows.inputs[which], rows.labels[which]) for which in np.asarray(order))
        for batch in distributed.sent_ahead(chosen, sharding):
            yield batch, None

    def _taken(self, array: jax.Array, which: jax.Array | None) -> jax.Array:
        """The rows ``which`` [s, b] of an array, divided over the devices; or the array itself."""
        if which is None:
            return array
        sharding = NamedSharding(self.mesh, PartitionSpec(None, distributed.AXIS))
        return array[jax.lax.with_sharding_constraint(which, sharding)]

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _step(self, state: State, rows: Rows, which: jax.Array | None) -> State:
        """One step of every member on its batch: the rows ``which`` [s, b], or rows [s, b, ...]."""

        def one(variables, optimizer, inputs, labels):
            def loss(params):
                logits, updated = self.network.apply(
                    variables | {"params": params}, inputs, train=True, mutable=["batch_stats"]
                )
                chosen = jnp.take_along_axis(log_posteriors(logits), labels[:, None], axis=-1)
                return -chosen.mean(), updated

            params = variables["params"]
            gradient, updated = jax.grad(loss, has_aux=True)(params)
            change, optimizer = optax.adam(self.learning_rate).update(gradient, optimizer)
            return {"params": optax.apply_updates(params, change), **updated}, optimizer

        inputs, labels = (self._taken(jnp.asarray(array), which) for array in rows)
        variables, optimizer = jax.vmap(one)(state.variables, state.optimizer, inputs, labels)
        return state._replace(variables=variables, optimizer=optimizer)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _keep_best(self, state: State, logits: jax.Array, labels: jax.Array) -> State:
        """Takes over the members whose accuracy on logits [s, m, k], labels [s, m] has risen."""
        right = jnp.argmax(log_posteriors(logits), axis=-1) == labels
        accuracy = right.mean(axis=1, dtype=jnp.float32)
        better = accuracy > state.accuracy

        def choose(new, old):
            return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return state._replace(
            best=jax.tree.map(choose, state.variables, state.best),
            accuracy=jnp.maximum(accuracy, state.accuracy),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def _apply(self, variables: Any, inputs: jax.Array, which: jax.Array | None) -> jax.Array:
        """Logits [s, b, outputs] of the rows ``which`` [s, b] of inputs, or of inputs [s, b, d]."""

        def apply(variables: Any, inputs: jax.Array) -> Any:
            return self.network.apply(variables, inputs, train=False)

        return jax.vmap(apply)(variables, self._taken(inputs, which))


def _in_batches(rows: jax.Array, batch: int) -> jax.Array:
    """Row numbers [s, m] as [steps, s, batch]; the last one is repeated to fill the last step."""
    rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % batch)), mode="edge")
    return jnp.moveaxis(rows.reshape(rows.shape[0], -1, batch), 1, 0)
