"""Trains one classifier from several seeds at once, every seed on its own split of the same rows.

The seeds are one vmapped axis ``s``: their small matrix products become large ones. Over several
devices the rows of a batch are divided (data parallelism); parameters and rows are on every device.
Rows that do not fit there stay on the host, and each batch is sent while the one before is trained.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calojax import distributed, rng

Array = jax.Array | np.ndarray

# Share of a device's memory that the rows may fill. 100,000 + 100,000 showers of dataset 3, 32 GB,
# then stay on an 80 GB device, of which JAX takes 60 GB.
RESIDENT_FRACTION = 0.6


class Rows(NamedTuple):
    """What is classified.

    Attributes:
      inputs: [n, d] float32, on device or (NumPy, possibly memory-mapped) on the host.
      labels: class of every row, [n] int32, where the inputs are.
    """

    inputs: Array
    labels: Array


class Split(NamedTuple):
    """Row numbers of the parts, one line a seed: each [s, m] int32."""

    train: jax.Array
    test: jax.Array
    validation: jax.Array


class State(NamedTuple):
    """Training state of all seeds; every array begins with the axis s.

    Attributes:
      variables: parameters and batch statistics as Flax keeps them.
      optimizer: state of Adam.
      best: the variables after the epoch of highest accuracy on the test part.
      accuracy: that accuracy, [s].
    """

    variables: dict
    optimizer: optax.OptState
    best: dict
    accuracy: jax.Array


def place(inputs: np.ndarray, labels: np.ndarray, mesh: Mesh) -> Rows:
    """Rows on every device if they fill no more than 60 % of its memory, else on the host.

    On CPU they are always on the host: that saves a copy, and XLA's convolutions for CPU are six
    times slower within the scan over steps that trains on resident rows than outside it.
    """
    rows = Rows(inputs, np.asarray(labels, np.int32))
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    if is_cpu or inputs.nbytes > RESIDENT_FRACTION * device_memory(mesh):
        return rows
    return jax.device_put(rows, distributed.replicated(mesh))


def device_memory(mesh: Mesh) -> int:
    """Bytes of memory of one device; on CPU its share of half of the machine's.

    The other half is for the rows.
    """
    statistics = mesh.devices.flat[0].memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return statistics.get("bytes_limit", host // 2 // mesh.size)


def split_rows(key: jax.Array, n: int, classes: int, parts: tuple[int, int, int]) -> Split:
    """A random split for each seed, the same number of rows of every class in each part.

    Args:
      key: keys of the seeds, [s].
      n: rows of each class; the rows of class c are n c ... n (c + 1) - 1.
      classes: number of classes.
      parts: proportions of train, test and validation; rounding goes to the last.
    """
    ends = np.cumsum(parts)[:2] * n // sum(parts)

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = rng.per_item(rng.stream(key, "split"), jnp.arange(classes))
        rows = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)
        rows = (rows + n * jnp.arange(classes)[:, None]).astype(jnp.int32)
        return tuple(part.reshape(-1) for part in jnp.split(rows, ends, axis=1))

    return Split(*jax.jit(jax.vmap(one))(key))


def log_posteriors(logits: jax.Array) -> jax.Array:
    """Log-probabilities of the classes: [..., 1] -> [..., 2], [..., k] -> [..., k].

    A single logit z is the log-odds of label 1, which is the softmax over (0, z).
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return jax.nn.log_softmax(logits)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How an ensemble is trained; hashable, so that its methods compile once for each.

    Attributes:
      network: module of ``(inputs [n, d], train=bool) -> logits [n, outputs]``.
      learning_rate: of Adam.
      batch: rows per step and seed (at most).
      epochs: passes over the training part.
      mesh: the devices.
    """

    network: nn.Module
    learning_rate: float
    batch: int
    epochs: int
    mesh: Mesh

    def fit(
        self, rows: Rows, split: Split, key: jax.Array, report: Callable[[np.ndarray], None]
    ) -> dict:
        """Trains one member for each seed.

        Args:
          rows: see `place`.
          split: row numbers of each seed.
          key: keys of the seeds, [s]; used for the start and the order of the rows.
          report: called after each epoch with the best accuracies on the test part so far, [s].

        Returns:
          The variables of each member's best epoch, [s, ...].
        """
        split, key = jax.device_put((split, key), distributed.replicated(self.mesh))
        state = self.start(key, rows.inputs.shape[1])
        for epoch in range(self.epochs):
            if isinstance(rows.inputs, jax.Array):
                state = self._epoch(state, rows, split, key, epoch)
            else:
                order = np.asarray(self._order(split.train, key, epoch))
                for batch in self._sent(rows, order):
                    jax.block_until_ready(state)  # or batches would pile up on the device
                    state = self._step(state, *batch)
                logits = self.logits(state.variables, rows, split.test)
                state = self._keep_best(state, logits, rows.labels[np.asarray(split.test)])
            report(np.asarray(state.accuracy))
        return state.best

    def logits(self, variables: dict, rows: Rows, which: jax.Array) -> jax.Array:
        """Logits [s, m, outputs] of the rows ``which`` [s, m] by each member."""
        if isinstance(rows.inputs, jax.Array):
            return self._logits(variables, rows.inputs, which)
        n = which.shape[1]
        parts: list[jax.Array] = []
        for inputs, _ in self._sent(rows, np.asarray(_in_batches(which, self._batch(n)))):
            jax.block_until_ready(parts)
            parts.append(self._apply(variables, inputs))
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
        return max(1, int(0.9 * device_memory(self.mesh) - taken) // member)

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def start(self, key: jax.Array, width: int) -> State:
        """The state before the first step, for keys [s] and ``width`` inputs."""
        example = jnp.zeros((2, width), jnp.float32)
        keys = rng.streams(key, "start")
        variables = jax.vmap(lambda key: self.network.init(key, example, train=False))(keys)
        optimizer = jax.vmap(self._adam.init)(variables["params"])
        accuracy = jnp.full(key.shape, -1, jnp.float32)
        return State(variables, optimizer, jax.tree.map(jnp.copy, variables), accuracy)

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def _batch(self, n: int) -> int:
        """Rows a step, so that as few equal steps as possible cover n rows on all devices."""
        steps = -(-n // self.batch)
        return distributed.round_up(-(-n // steps), self.mesh)

    @functools.partial(jax.jit, static_argnums=0)
    def _order(self, train: jax.Array, key: jax.Array, epoch: jax.Array) -> jax.Array:
        """Shuffled batches of rows [steps, s, b]; the left-over ones differ in every epoch."""
        keys = jax.vmap(lambda key: rng.stream(key, "shuffle", epoch))(key)
        rows = jax.vmap(jax.random.permutation)(keys, train)
        n = rows.shape[1]
        # As many steps as the full batches and a rest would be, but equal ones, which is one shape
        # to compile for. What cannot be divided, less than a row for each step and device, is left
        # out.
        steps = -(-n // self.batch)
        batch = max(n // steps // self.mesh.size, 1) * self.mesh.size
        return _in_batches(rows[:, : max(n // batch, 1) * batch], batch)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _epoch(
        self, state: State, rows: Rows, split: Split, key: jax.Array, epoch: jax.Array
    ) -> State:
        """One pass over rows on the device, and the test after it, without leaving the device."""

        def step(state: State, batch: jax.Array) -> tuple[State, None]:
            batch = self._divided(batch)
            return self._step(state, rows.inputs[batch], rows.labels[batch]), None

        state, _ = jax.lax.scan(step, state, self._order(split.train, key, epoch))
        logits = self._logits(state.variables, rows.inputs, split.test)
        return self._keep_best(state, logits, rows.labels[split.test])

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _step(self, state: State, inputs: jax.Array, labels: jax.Array) -> State:
        """One step of every member on its batch: inputs [s, b, d], labels [s, b]."""

        def one(variables, optimizer, inputs, labels):
            def loss(params):
                logits, updated = self.network.apply(
                    variables | {"params": params}, inputs, train=True, mutable=["batch_stats"]
                )
                chosen = jnp.take_along_axis(log_posteriors(logits), labels[:, None], axis=-1)
                return -chosen.mean(), updated

            params = variables["params"]
            gradient, updated = jax.grad(loss, has_aux=True)(params)
            change, optimizer = self._adam.update(gradient, optimizer)
            return {"params": optax.apply_updates(params, change), **updated}, optimizer

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
    def _logits(self, variables: dict, inputs: jax.Array, which: jax.Array) -> jax.Array:
        """`logits` of rows on the device."""
        members, n = which.shape
        parts = jax.lax.map(
            lambda batch: self._apply(variables, inputs[self._divided(batch)]),
            _in_batches(which, self._batch(n)),
        )
        return jnp.moveaxis(parts, 0, 1).reshape(members, -1, parts.shape[-1])[:, :n]

    @functools.partial(jax.jit, static_argnums=0)
    def _apply(self, variables: dict, inputs: jax.Array) -> jax.Array:
        """Logits [s, b, outputs] of inputs [s, b, d]."""
        return jax.vmap(functools.partial(self.network.apply, train=False))(variables, inputs)

    @property
    def _sharding(self) -> NamedSharding:
        """The rows of a batch [s, b, ...] divided over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(None, distributed.AXIS))

    def _divided(self, batch: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(batch, self._sharding)

    def _sent(self, rows: Rows, order: np.ndarray) -> Iterator[Rows]:
        """Batches ``order`` [steps, s, b] of rows on the host, each sent one step ahead."""
        waiting = None
        for which in order:
            batch = jax.device_put(Rows(rows.inputs[which], rows.labels[which]), self._sharding)
            if waiting is not None:
                yield waiting
            waiting = batch
        if waiting is not None:
            yield waiting


def _in_batches(rows: jax.Array, batch: int) -> jax.Array:
    """Row numbers [s, m] as [steps, s, batch]; the last one is repeated to fill the last step."""
    rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % batch)), mode="edge")
    return jnp.moveaxis(rows.reshape(rows.shape[0], -1, batch), 1, 0)
