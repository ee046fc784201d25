"""Tasks with what tuning reaches on each: the measure of a controller.

regret = (loss at the end - best of a grid) / (initial loss - best)

The grid is 12 rates x 3 schedules, tuned for each task by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from keras_metalr.meta_training.schedules import SCHEDULES
from keras_metalr.meta_training.schedules import scheduled
from keras_metalr.meta_training.tasks import Task
from keras_metalr.meta_training.tasks import draw_tasks
from keras_metalr.meta_training.unroll import Result
from keras_metalr.meta_training.unroll import Unroll

GRID_RATES = tuple(float(r) for r in np.geomspace(1e-5, 3.0, 12))
REGRET_FLOOR = -0.15
REGRET_CEILING = 5.0
REGRET_OFFSET = 0.2
MEAN_WEIGHT = 0.25
CHUNK = 16


class Bank(NamedTuple):
    """Tasks, and the best of the grid on each, arrays `(num_tasks,)`."""

    tasks: Task
    initial_loss: jnp.ndarray
    best_loss: jnp.ndarray
    best_mean: jnp.ndarray


def make_bank(unroll: Unroll, num_tasks: int, seed: int) -> Bank:
    """Draw tasks and tune all of them."""
    tasks = draw_tasks(unroll.family, unroll.data, num_tasks, seed)
    rates = jnp.repeat(jnp.asarray(GRID_RATES), len(SCHEDULES))
    schedules = jnp.tile(jnp.arange(len(SCHEDULES)), len(GRID_RATES))

    def tune(task: Task) -> tuple[jnp.ndarray, ...]:
        result = jax.vmap(lambda r, s: scheduled(unroll, r, s, task))(
            rates, schedules
        )
        final = jnp.where(
            jnp.isfinite(result.final_loss), result.final_loss, jnp.inf
        )
        return result.initial_loss[0], final.min(), result.mean_loss.min()

    tuned = jax.jit(
        lambda t: jax.lax.map(tune, t, batch_size=min(CHUNK, num_tasks))
    )(tasks)
    return Bank(tasks, *tuned)


def regret(
    loss: jnp.ndarray, best: jnp.ndarray, initial: jnp.ndarray
) -> jnp.ndarray:
    """0 is the tuned run, 1 no progress at all; within [-0.15, 5]."""
    # A task on which nothing can be gained has no scale.
    gain = jnp.maximum(initial - best, 0.02 * jnp.abs(initial) + 1e-8)
    value = (loss - best) / gain
    value = jnp.where(jnp.isfinite(value), value, REGRET_CEILING)
    return jnp.clip(value, REGRET_FLOOR, REGRET_CEILING)


def score(result: Result, bank: Bank) -> jnp.ndarray:
    """What evolution minimizes, one value a task."""
    final = regret(result.final_loss, bank.best_loss, bank.initial_loss)
    mean = regret(result.mean_loss, bank.best_mean, bank.initial_loss)
    return jnp.log(final + REGRET_OFFSET) + MEAN_WEIGHT * jnp.log(
        mean + REGRET_OFFSET
    )


def choose(bank: Bank, index: jnp.ndarray) -> Bank:
    """Some tasks of a bank."""
    return jax.tree.map(lambda value: value[index], bank)
