"""The optimiser of a stage."""

import optax

from calojax.models.base import Schedule


def make(schedule: Schedule) -> optax.GradientTransformation:
    """AdamW with clipped gradients, linear warm-up and cosine decay to zero."""
    warmup = min(schedule.warmup, schedule.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, schedule.learning_rate, warmup, max(schedule.steps, 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(schedule.clip),
        optax.adamw(rate, weight_decay=schedule.weight_decay),
    )
