"""One step of a stage, compiled once: loss, gradient, optimiser, and the model's own state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from calojax import distributed, rng
from calojax.models.base import Batch, Model, Schedule, Stage, Variables


class State(NamedTuple):
    """Everything that a step changes.

    Attributes:
      step: number of steps done of the stage, int32 [].
      variables: variables of the model.
      optimizer: state of the stage's optimiser.
    """

    step: jax.Array
    variables: Variables
    optimizer: Any


def learning_rate(schedule: Schedule) -> optax.Schedule:
    """The learning rate of each step: linear warm-up and cosine decay to zero."""
    warmup = min(schedule.warmup, schedule.steps // 2)
    return optax.warmup_cosine_decay_schedule(
        0.0, schedule.learning_rate, warmup, max(schedule.steps, 1)
    )


def optimizer(schedule: Schedule) -> optax.GradientTransformation:
    """AdamW with clipped gradients."""
    return optax.chain(
        optax.clip_by_global_norm(schedule.clip),
        optax.adamw(learning_rate(schedule), weight_decay=schedule.weight_decay),
    )


def start(variables: Variables, stage: Stage) -> State:
    """The state before the first step of a stage."""
    trained = {name: variables["params"][name] for name in stage.parameters}
    return State(jnp.zeros((), jnp.int32), variables, optimizer(stage.schedule).init(trained))


def make(
    model: Model, stage: Stage, seed: int, mesh: Mesh
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """The compiled step (state, batch) -> (state, metrics); the state is donated.

    Random numbers depend on seed, stage and step alone. The batch is sharded and the state
    replicated, so sums over the batch (in the loss, and in a codebook's averages) are over all
    devices.
    """
    update = optimizer(stage.schedule).update
    rate = learning_rate(stage.schedule)
    root = rng.root(seed)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = rng.stream(root, f"train/{stage.name}", state.step)
        params = state.variables["params"]
        trained = {name: params[name] for name in stage.parameters}

        def loss(trained):
            variables = state.variables | {"params": params | trained}
            return model.loss(stage.name, variables, key, batch, training=True)

        (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, optimizer_state = update(gradient, state.optimizer, trained)
        trained = optax.apply_updates(trained, updates)
        variables = state.variables | {"params": params | trained, "state": outcome.state}
        metrics = outcome.metrics | {
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(rate(state.step)),
        }
        return State(state.step + 1, variables, optimizer_state), metrics

    whole, parts = distributed.replicated(mesh), distributed.sharded(mesh)
    return jax.jit(
        step, donate_argnums=0, in_shardings=(whole, parts), out_shardings=(whole, whole)
    )


def make_validation(
    model: Model, stage: Stage, seed: int, mesh: Mesh
) -> Callable[[Variables, Batch, int], dict[str, jax.Array]]:
    """The compiled (variables, batch, number of the batch) -> metrics, without augmentation."""
    key = rng.stream(rng.root(seed), f"validate/{stage.name}")

    def metrics(variables: Variables, batch: Batch, number: jax.Array) -> dict[str, jax.Array]:
        step_key = jax.random.fold_in(key, number)
        _, outcome = model.loss(stage.name, variables, step_key, batch, training=False)
        return outcome.metrics

    whole, parts = distributed.replicated(mesh), distributed.sharded(mesh)
    return jax.jit(metrics, in_shardings=(whole, parts, whole), out_shardings=whole)
