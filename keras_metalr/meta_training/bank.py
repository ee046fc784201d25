"""Tasks with what tuning reaches on each: the measure of a controller.

regret = (loss at the end - best of a grid) / (initial loss - best)

The grid is 12 rates x 3 schedules, tuned for each task by itself, on the very
batches that it is judged by. Nobody can do that who trains once, so there is
`tuned_on_other_batches`, too.
"""

import zlib
from collections.abc import Callable
from typing import Any
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
# Tasks that are tuned side by side: what a core's cache bears, or a GPU.
CPU_CHUNK = 16
GPU_CHUNK = 64
# Added to a task's seed: the same task and start, other batches.
OTHER_BATCHES = 1_000_003


class Bank(NamedTuple):
    """Tasks, and the best of the grid on each, arrays `(num_tasks,)`."""

    tasks: Task
    initial_loss: jnp.ndarray
    best_loss: jnp.ndarray
    best_mean: jnp.ndarray


def make_bank(unroll: Unroll, num_tasks: int, seed: int) -> Bank:
    """Draw tasks and tune all of them.

    Args:
        unroll: `Unroll`.
        num_tasks: Integer (>= 1).
        seed: Integer. Another kind of run has other tasks for the same seed.
    """
    tasks = draw_tasks(
        unroll.family, unroll.data, num_tasks, stage_seed(unroll, seed)
    )

    def tune(task: Task) -> tuple[jnp.ndarray, ...]:
        result = _grid(unroll, task)
        return (
            result.initial_loss[0],
            result.final_loss.min(),
            result.mean_loss.min(),
        )

    return Bank(tasks, *_for_each(tune, num_tasks)(tasks))


def stage_seed(unroll: Unroll, seed: int) -> tuple[int, int]:
    """A seed for the tasks of one family and horizon alone."""
    stage = f"{unroll.family.name}-{unroll.num_steps}"
    return seed, zlib.crc32(stage.encode())


def tuned_on_other_batches(unroll: Unroll, tasks: Task) -> jnp.ndarray:
    """What tuning is worth in the next run of the same task.

    Args:
        unroll: `Unroll`.
        tasks: `Task`, stacked.

    Returns:
        Array `(num_tasks,)`: the final loss of the grid's rate and schedule
        that was best on other batches of the task; infinite where it diverged.
    """
    others = tasks._replace(seed=tasks.seed + OTHER_BATCHES)

    def best(other: Task) -> jnp.ndarray:
        return jnp.argmin(_grid(unroll, other).final_loss)

    def again(pair: tuple[Task, jnp.ndarray]) -> jnp.ndarray:
        task, index = pair
        return _trial(unroll, task, index).final_loss

    count = tasks.seed.shape[0]
    chosen = _for_each(best, count)(others)
    return _for_each(again, count)((tasks, chosen))


def _grid(unroll: Unroll, task: Task) -> Result:
    """Every rate with every schedule."""
    return jax.vmap(lambda index: _trial(unroll, task, index))(
        jnp.arange(len(GRID_RATES) * len(SCHEDULES))
    )


def _trial(unroll: Unroll, task: Task, index: jnp.ndarray) -> Result:
    """A run of the grid; one that diverged ends at infinity."""
    rate, schedule = jnp.divmod(index, len(SCHEDULES))
    result = scheduled(unroll, jnp.asarray(GRID_RATES)[rate], schedule, task)
    final = result.final_loss
    return result._replace(
        final_loss=jnp.where(jnp.isfinite(final), final, jnp.inf)
    )


def _for_each(
    function: Callable[[Any], Any], num_tasks: int
) -> Callable[[Any], Any]:
    """The function of one task, compiled for so many that are stacked."""
    on_cpu = jax.default_backend() == "cpu"
    size = min(CPU_CHUNK if on_cpu else GPU_CHUNK, num_tasks)
    return jax.jit(lambda tasks: jax.lax.map(function, tasks, batch_size=size))


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
