"""Random members of a family: everything that makes one small run what it is.

A task is numbers and starting weights, no code, so that hundreds of them run
side by side in one compiled unroll.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from keras_metalr.meta_training import optimizers
from keras_metalr.meta_training.data import NUM_CLASSES
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.families import Family
from keras_metalr.meta_training.layers import dropout
from keras_metalr.meta_training.layers import keep_all
from keras_metalr.meta_training.optimizers import KINDS
from keras_metalr.meta_training.optimizers import OptimizerSpec

# Of other tasks, banks and evolutions are others. 2: dropout, larger batches,
# draws of its own for each stage, exactly a third pretrained.
TASK_VERSION = 2

# The most examples that a task trains on.
MAX_EXAMPLES = 8192
# The largest batch; a smaller one is repeated to fill it.
BATCH_SIZE = 64
SMALLEST_BATCH_SIZE = 4
PRETRAINING_BATCH_SIZE = 32
PRETRAINING_STEPS = 400
PRETRAINING_RATE = 3e-3
# Loss scales far from 1 are what a user's own loss may have.
LOG_LOSS_SCALE = 2.3
# What a step counts for at the most, in the task's scale.
WORST_LOSS = 10.0


class Task(NamedTuple):
    """One small run: scalars, but for `start`, the weights `(n,)`.

    `validation_every` counts epochs; 0 is a run without validation data.
    """

    seed: Any
    data_set: Any
    offset: Any
    num_examples: Any
    batch_size: Any
    label_noise: Any
    dropout: Any
    input_scale: Any
    loss_scale: Any
    activation: Any
    permutation: Any
    optimizer: OptimizerSpec
    pretrained: Any
    validation_every: Any
    start: Any


def template(family: Family) -> tuple[int, Any]:
    """Number of weights of a member, and the function from a vector to it."""
    vector, unravel = ravel_pytree(family.init(jax.random.key(0), jnp.ones(())))
    return int(vector.shape[0]), unravel


def draw_tasks(
    family: Family, data: Data, num_tasks: int, seed: int | tuple[int, ...]
) -> Task:
    """Random tasks of a family, stacked along a leading axis.

    A third of them, to the nearest number, start from weights trained with
    other labels, with a new head, on as many examples: those that follow the
    task's own, in part its own again where it has more than half of the data
    set. About half of all have validation data, and three in ten have dropout.

    Args:
        family: `Family`.
        data: `Data`.
        num_tasks: Integer (>= 1).
        seed: Integer, or a tuple of them; the same tasks for the same seed.
    """
    task, scale = draw_numbers(data, num_tasks, seed)
    starts = jax.jit(jax.vmap(lambda t, s: _start(family, data, t, s)))
    return task._replace(start=starts(task, scale))


def draw_numbers(
    data: Data, num_tasks: int, seed: int | tuple[int, ...]
) -> tuple[Task, jnp.ndarray]:
    """All of the tasks but where they start; and the scale of those weights.

    Args:
        data: `Data`.
        num_tasks: Integer (>= 1).
        seed: As in `draw_tasks`.
    """
    generator = np.random.default_rng(seed)
    size = (num_tasks,)
    num_sets = int(data.count.shape[0])
    data_set = generator.integers(0, num_sets, size)
    count = np.asarray(data.count)[data_set]
    low = 256 / np.minimum(count, MAX_EXAMPLES)
    share = np.exp(generator.uniform(np.log(low), 0.0, size))
    names = list(KINDS)
    picks = generator.integers(0, len(names), size)
    specs = np.array([KINDS[names[i]] for i in picks], "float32").T
    decay = 10.0 ** generator.uniform(-3, -1, size)
    specs[4] = np.where(specs[4] > 0, decay, 0.0)
    pretrained = generator.permutation(num_tasks) < round(num_tasks / 3)
    scale = np.exp(generator.normal(0.0, 0.5, size))
    # A pretrained net has sane weights, or it could not have been trained.
    scale = np.where(pretrained, 1.0, scale)
    noisy = generator.random(size) < 0.3
    dropping = generator.random(size) < 0.3
    validated = generator.random(size) < 0.5
    every = 2 ** generator.integers(0, 3, size)
    task = Task(
        seed=_integers(generator.integers(0, 2**30, size)),
        data_set=_integers(data_set),
        offset=_integers(generator.integers(0, 2**20, size)),
        num_examples=_integers(share * np.minimum(count, MAX_EXAMPLES)),
        batch_size=_integers(
            SMALLEST_BATCH_SIZE * 2 ** generator.integers(0, 5, size)
        ),
        label_noise=_floats(noisy * generator.uniform(0.0, 0.4, size)),
        dropout=_floats(dropping * generator.uniform(0.1, 0.5, size)),
        input_scale=_floats(np.exp(generator.normal(0.0, 0.5, size))),
        loss_scale=_floats(
            np.exp(generator.uniform(-LOG_LOSS_SCALE, LOG_LOSS_SCALE, size))
        ),
        activation=_integers(generator.integers(0, 3, size)),
        permutation=_integers(generator.integers(0, NUM_CLASSES, size)),
        optimizer=OptimizerSpec(*(_floats(row) for row in specs)),
        pretrained=_floats(pretrained),
        validation_every=_integers(np.where(validated, every, 0)),
        start=jnp.zeros((num_tasks, 0)),
    )
    return task, _floats(scale)


def _floats(values: Any) -> jnp.ndarray:
    return jnp.asarray(np.asarray(values, "float32"))


def _integers(values: Any) -> jnp.ndarray:
    return jnp.asarray(np.asarray(values, "int32"))


def _start(
    family: Family, data: Data, task: Task, scale: jnp.ndarray
) -> jnp.ndarray:
    """Weights to start from: drawn, or trained on something else."""
    key = jax.random.key(task.seed)
    body_key, head_key, data_key = jax.random.split(key, 3)
    _, unravel = template(family)
    new = ravel_pytree(family.init(body_key, scale))[0]
    # The examples that follow, from the first on after the last; other labels.
    elsewhere = task._replace(
        offset=task.offset + task.num_examples,
        permutation=task.permutation + 3,
        label_noise=jnp.zeros(()),
        loss_scale=jnp.ones(()),
        batch_size=jnp.asarray(PRETRAINING_BATCH_SIZE),
        dropout=jnp.zeros(()),
    )
    spec = OptimizerSpec(*(jnp.asarray(v) for v in KINDS["adam"]))

    def step(carry: Any, index: jnp.ndarray) -> tuple[Any, None]:
        weights, slots = carry
        batch = draw_batch(data, elsewhere, jax.random.fold_in(data_key, index))
        gradient = jax.grad(
            lambda w: batch_loss(family, elsewhere, unravel(w), *batch)
        )(weights)
        left = 1.0 - index / PRETRAINING_STEPS
        return optimizers.update(
            weights, gradient, slots, PRETRAINING_RATE * left, spec
        ), None

    steps = jnp.arange(PRETRAINING_STEPS)
    carry = (new, optimizers.empty_slots(new))
    (trained, _), _ = jax.lax.scan(step, carry, steps)
    head = family.init(head_key, scale)["head"]
    trained = ravel_pytree({**unravel(trained), "head": head})[0]
    return jnp.where(task.pretrained > 0.5, trained, new)


def draw_batch(
    data: Data, task: Task, key: Any
) -> tuple[jnp.ndarray, jnp.ndarray, Any]:
    """One batch: inputs `(64, 64)`, labels `(64,)`, and a key for dropout.

    A smaller batch comes several times over, so that a mean over the 64 is one
    over its examples, in batch normalization, too.
    """
    key, dropout_key = jax.random.split(key)
    drawn = jax.random.randint(key, (BATCH_SIZE,), 0, task.num_examples)
    drawn = drawn[jnp.arange(BATCH_SIZE) % task.batch_size]
    index = (task.offset + drawn) % data.count[task.data_set]
    x = data.x[task.data_set, index] * task.input_scale
    y = data.y[task.data_set, index]
    y = jnp.where(data.noise[index] < task.label_noise, data.wrong[index], y)
    return x, _permuted(y, task), dropout_key


def _permuted(y: jnp.ndarray, task: Task) -> jnp.ndarray:
    """The labels as the task has them: shifted, the last ones to the first."""
    return (y + task.permutation) % NUM_CLASSES


def batch_loss(
    family: Family,
    task: Task,
    parameters: Any,
    x: jnp.ndarray,
    y: jnp.ndarray,
    dropout_key: Any,
) -> jnp.ndarray:
    """The loss of a batch, scalar, in the task's own scale."""
    drop = dropout(dropout_key, task.dropout)
    out = family.apply(parameters, x, task.activation, drop)
    return task.loss_scale * jnp.mean(family.loss(out, x, y))


def bounded_loss(
    task: Task, loss: jnp.ndarray, finite: jnp.ndarray
) -> jnp.ndarray:
    """What a step adds to the mean loss of a run, scalar.

    A run that has lost its mind must not be worth infinitely little.

    Args:
        task: `Task`.
        loss: Scalar, the loss of the step's batch.
        finite: Scalar boolean, whether the step was finite.
    """
    worst = WORST_LOSS * task.loss_scale
    return jnp.where(finite, jnp.minimum(loss, worst), worst)


def validation_loss(
    family: Family, data: Data, task: Task, parameters: Any
) -> jnp.ndarray:
    """The mean loss on the validation examples, in the task's own scale."""
    x = data.x_validation[task.data_set] * task.input_scale
    y = _permuted(data.y_validation[task.data_set], task)
    out = family.apply(parameters, x, task.activation, keep_all)
    return task.loss_scale * jnp.mean(family.loss(out, x, y))
