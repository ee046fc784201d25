"""Runs with a schedule, as somebody would tune them by hand: the rivals."""

from typing import Any

import jax
import jax.numpy as jnp

from keras_metalr.meta_training import optimizers
from keras_metalr.meta_training.tasks import Task
from keras_metalr.meta_training.tasks import bounded_loss
from keras_metalr.meta_training.unroll import Result
from keras_metalr.meta_training.unroll import Unroll

WARMUP_SHARE = 0.05
SCHEDULES = ("constant", "cosine", "linear")


def scheduled(
    unroll: Unroll, rate: jnp.ndarray, schedule: jnp.ndarray, task: Task
) -> Result:
    """A run with a peak rate and a schedule, as it would be tuned by hand.

    Args:
        unroll: `Unroll`, which gives the family, the data and the steps.
        rate: Scalar, the peak rate.
        schedule: Scalar integer, index into `SCHEDULES`: constant; 5 %
            warmup and then a cosine, or a line, to 0.
        task: `Task`, a single one.
    """
    start = (task.start, optimizers.empty_slots(task.start), jnp.zeros(()))
    num_steps = unroll.num_steps
    warmup = max(1.0, WARMUP_SHARE * num_steps)

    def step(carry: Any, index: jnp.ndarray) -> tuple[Any, None]:
        weights, slots, loss_sum = carry
        batch = unroll.batch(task, index)
        loss, gradient = jax.value_and_grad(
            lambda w: unroll.loss(task, w, batch)
        )(weights)
        over = jnp.maximum(index - warmup, 0.0) / (num_steps - warmup)
        shapes = jnp.stack(
            [jnp.ones(()), 0.5 + 0.5 * jnp.cos(jnp.pi * over), 1.0 - over]
        )
        grown = jnp.minimum((index + 1) / warmup, 1.0)
        grown = jnp.where(schedule == 0, 1.0, grown)
        weights, slots = optimizers.update(
            weights,
            gradient,
            slots,
            rate * grown * shapes[schedule],
            task.optimizer,
        )
        loss = bounded_loss(task, loss, jnp.isfinite(loss))
        return (weights, slots, loss_sum + loss), None

    (weights, _, loss_sum), _ = jax.lax.scan(step, start, jnp.arange(num_steps))
    return Result(
        unroll.validate(task, task.start),
        unroll.validate(task, weights),
        loss_sum / num_steps,
        jnp.zeros((0,)),
    )
