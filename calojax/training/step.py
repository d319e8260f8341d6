"""One step of a stage, compiled once: loss, gradient, optimiser, and the model's own state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from calojax import distributed, rng
from calojax.models.base import Batch, Model, Schedule, Stage, Variables
from calojax.nn.precision import rounding


class Best(NamedTuple):
    """What a stage has trained, at its lowest loss in validation; on the host."""

    loss: np.ndarray  # that loss, float32 []; infinite before the first validation
    # Entries of the variables' ``params`` and ``state`` that the stage changes.
    trained: dict[str, Variables]


class State(NamedTuple):
    """Everything that a step changes."""

    step: jax.Array  # number of steps done of the stage, int32 []
    # Variables of the model; trained weights may be averages of those in `Averaged`.
    variables: Variables
    optimizer: Any  # state of the stage's optimiser


class Averaged(NamedTuple):
    """State of an optimiser whose weights the model has as a moving average."""

    moments: Any  # state of AdamW
    weights: Any  # weights that AdamW moves


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
        optax.adamw(learning_rate(schedule), *schedule.betas, weight_decay=schedule.weight_decay),
    )


def start(variables: Variables, stage: Stage) -> State:
    """The state before the first step of a stage."""
    trained = {name: variables["params"][name] for name in stage.parameters}
    state: Any = optimizer(stage.schedule).init(trained)
    if stage.schedule.average:
        # A copy, because both are donated to the step.
        state = Averaged(state, jax.tree.map(jnp.array, trained))
    return State(jnp.zeros((), jnp.int32), variables, state)


def best_of(variables: Variables, stage: Stage, loss: float) -> Best:
    """What a stage has trained, with its loss in validation."""
    names = {"params": stage.parameters, "state": stage.state}
    trained = {home: {name: variables[home][name] for name in names[home]} for home in names}
    # A copy, because on a CPU the next step overwrites the arrays that it is given.
    return Best(np.asarray(loss, np.float32), jax.tree.map(np.array, jax.device_get(trained)))


def restored(variables: Variables, best: Best) -> Variables:
    """The variables with what was best; unchanged if no validation had a finite loss."""
    if not np.isfinite(best.loss):
        return variables
    return variables | {home: variables[home] | part for home, part in best.trained.items()}


def update(
    schedule: Schedule, step: jax.Array, gradient: Any, state: Any, weights: Any
) -> tuple[Any, Any]:
    """The weights of the model and the state of the optimiser after ``step`` + 1 steps.

    The gradient is that at the weights that AdamW moves, which `Averaged` has.
    """
    if not isinstance(state, Averaged):
        updates, state = optimizer(schedule).update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state
    updates, moments = optimizer(schedule).update(gradient, state.moments, state.weights)
    moved = optax.apply_updates(state.weights, updates)
    # The first weights, far from the last ones, are forgotten soon.
    decay = jnp.minimum(schedule.average, (1 + step) / (10 + step))
    average = optax.incremental_update(moved, weights, 1 - decay)
    return average, Averaged(moments, moved)


def make(
    model: Model, stage: Stage, seed: int, mesh: Mesh
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """The compiled step (state, batch) -> (state, metrics); the state is donated.

    Random numbers depend on seed, stage and step alone. The batch is sharded and the state
    replicated, so sums over the batch (in the loss, and in a codebook's averages) are over all
    devices.
    """
    rate = learning_rate(stage.schedule)
    root = rng.root(seed)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = rng.stream(root, f"train/{stage.name}", state.step)
        params = state.variables["params"]
        trained = {name: params[name] for name in stage.parameters}

        def loss(trained):
            variables = state.variables | {"params": params | trained}
            return model.loss(stage.name, variables, key, batch, training=True)

        before = state.optimizer
        moving = before.weights if isinstance(before, Averaged) else trained
        with rounding(stage.schedule.precision):
            (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
        trained, after = update(stage.schedule, state.step, gradient, before, trained)
        variables = state.variables | {"params": params | trained, "state": outcome.state}
        metrics = outcome.metrics | {
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(rate(state.step)),
        }
        return State(state.step + 1, variables, after), metrics

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
