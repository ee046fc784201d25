"""What a training task is: data, model, optimizer, loss, budget and target.

Everything that compares two ways of training goes through these two classes,
so that every method sees the same examples in the same order.
"""

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any

import keras
import numpy as np

_TENSORFLOW_MISSING = (
    "The workloads read their batches through `tf.data`, on every Keras "
    "backend. TensorFlow is not installed. Install it with "
    "`pip install tensorflow`."
)
# Batches that are sorted by length together, and what a batch is cut to.
_POOL = 16
_MULTIPLE = 8


class DataNotAvailableError(RuntimeError):
    """Raised when a data set or a pretrained model is not on this machine.

    The message says what was looked for, where, and how to get it.
    """


@dataclass(frozen=True, eq=False)
class Data:
    """Training and validation examples held in memory.

    Args:
        x_train: Array, or dict of arrays, of shape `(num_train, ...)`.
        y_train: Integer array of class numbers, shape `(num_train,)`; for a
            regression, float array of shape `(num_train, ...)`.
        x_validation: Like `x_train`, shape `(num_validation, ...)`.
        y_validation: Like `y_train`, shape `(num_validation,)`.
        augment: Callable or `None`. Takes a seed and returns a function from
            a batch of `x` to a batch of `x`, which runs inside `tf.data`.
            Applied to training batches alone. Defaults to `None`.
        note: String, how the examples or the pretrained model differ from what
            the task's name promises, such as `"lossy JPEG copy of the
            images"`. It goes into the record of every run, and stands wherever
            a figure of theirs does. Defaults to `""`, not at all.
        lengths: Integer array or `None`, shape `(num_train,)`: how much of the
            second axis of each training example is not padding. Where given,
            a training batch is of examples of a like length and cut to the
            longest of them. Defaults to `None`.
    """

    x_train: Any
    y_train: np.ndarray
    x_validation: Any
    y_validation: np.ndarray
    augment: Callable[[int], Callable[[Any], Any]] | None = None
    note: str = ""
    lengths: np.ndarray | None = None

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return len(self.y_train)

    @property
    def num_validation(self) -> int:
        """Number of validation examples."""
        return len(self.y_validation)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches in one pass over the training examples."""
        return max(1, self.num_train // batch_size)

    def train_batches(self, batch_size: int, seed: int) -> Any:
        """Return an endless `tf.data.Dataset` of shuffled training batches.

        The order depends on `seed` alone: not on the backend, and not on how
        many random numbers the model or a callback has drawn. Every batch is
        full, so that no backend compiles a second step for a short one; what
        is left over at the end of a pass is seen in another pass.

        With `lengths`, the examples of a pass are shuffled, sorted by length in
        pools of 16 batches, and the batches shuffled. A batch is cut to a
        multiple of 8, so that no backend compiles a step for every length.

        Args:
            batch_size: Integer, examples in a batch.
            seed: Integer. Fixes the order and the augmentation.

        Returns:
            A `tf.data.Dataset` of `(x, y)`. Pass `steps_per_epoch` to `fit`.
        """
        tf = _import_tensorflow()
        # Tensors once, outside the map: a NumPy array captured inside would
        # be copied into the graph as a constant.
        tensors = tf.nest.map_structure(
            tf.convert_to_tensor, (self.x_train, self.y_train)
        )
        batch_size = min(batch_size, self.num_train)
        lengths = None
        if self.lengths is not None:
            lengths = tf.convert_to_tensor(self.lengths, "int32")

        def shuffled_pass(number: Any) -> Any:
            # Stateless: `Dataset.shuffle` mixes in TensorFlow's global seed.
            order = tf.random.experimental.stateless_shuffle(
                tf.range(self.num_train), seed=tf.stack([seed, number])
            )
            if lengths is not None:
                order = by_length(order, tf.stack([seed, number]))
            order = tf.data.Dataset.from_tensor_slices(order)
            return order.batch(batch_size, drop_remainder=True)

        def by_length(order: Any, stateless_seed: Any) -> Any:
            order = order[: self.num_train // batch_size * batch_size]
            pool = tf.range(len(order)) // (_POOL * batch_size)
            # Every length is below the longest, so that pools stay apart.
            place = pool * (tf.reduce_max(lengths) + 1)
            order = tf.gather(
                order, tf.argsort(place + tf.gather(lengths, order))
            )
            batches = tf.random.experimental.stateless_shuffle(
                tf.reshape(order, (-1, batch_size)), seed=stateless_seed
            )
            return tf.reshape(batches, (-1,))

        def examples(index: Any) -> Any:
            x, y = tf.nest.map_structure(
                lambda tensor: tf.gather(tensor, index), tensors
            )
            if lengths is not None:
                longest = tf.reduce_max(tf.gather(lengths, index))
                cut = (longest + _MULTIPLE - 1) // _MULTIPLE * _MULTIPLE
                x = tf.nest.map_structure(lambda tensor: tensor[:, :cut], x)
            return x, y

        passes = tf.data.Dataset.counter()
        batches = passes.flat_map(shuffled_pass).map(examples)
        if self.augment is not None:
            augment = self.augment(seed)
            # One call at a time: parallel calls would draw their random
            # numbers in an order that differs from run to run.
            batches = batches.map(lambda x, y: (augment(x), y))
        return batches.prefetch(tf.data.AUTOTUNE)

    def first_validation_examples(self, count: int | None) -> "Data":
        """Return the same data with fewer validation examples.

        Args:
            count: Integer (>= 1), or `None` for all.
        """
        return replace(
            self,
            x_validation=keras.tree.map_structure(
                lambda array: array[:count], self.x_validation
            ),
            y_validation=self.y_validation[:count],
        )

    def validation_batches(self, batch_size: int) -> Any:
        """Return a `tf.data.Dataset` of the validation examples in order.

        Args:
            batch_size: Integer, examples in a batch. The last batch may be
                smaller.

        Returns:
            A finite `tf.data.Dataset` of `(x, y)`.
        """
        tf = _import_tensorflow()
        return (
            tf.data.Dataset.from_tensor_slices(
                (self.x_validation, self.y_validation)
            )
            .batch(batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )


@dataclass(frozen=True)
class Workload:
    """A training task: data, model, optimizer, loss, budget and target.

    Args:
        name: String, the name in the registry.
        load_data: Callable without arguments that returns a `Data`. Raises
            `DataNotAvailableError` when the data is not on this machine.
        build_model: Callable without arguments that returns a new, uncompiled
            `keras.Model` whose output is logits, shape `(batch, classes)`, or
            for a regression like `y`.
        make_optimizer: Callable from a learning rate (a float or a
            `keras.optimizers.schedules.LearningRateSchedule`) to a new
            `keras.optimizers.Optimizer`.
        loss: Keras loss. Must take logits where there are classes.
        metrics: Tuple of metric names. Defaults to `("accuracy",)`.
        batch_size: Integer, examples in a batch.
        epochs: Integer, the budget.
        learning_rate: Float, the usual rate for this task.
        target_accuracy: Float in [0, 1], the validation accuracy that counts
            as trained; 0 where there is no such target.
        options: Mapping of what this workload was made with, kept in the
            record of a run. Defaults to an empty mapping.

    Raises:
        ValueError: If `batch_size` or `epochs` is below 1.

    Example:

        from keras_metalr import workloads

        workload = workloads.get("digits")
        data = workload.load_data()
        model = workload.compiled_model(learning_rate=1e-3)
        model.fit(**workload.fit_arguments(data, epochs=5)(seed=0))
    """

    name: str
    load_data: Callable[[], Data]
    build_model: Callable[[], keras.Model]
    make_optimizer: Callable[[Any], keras.optimizers.Optimizer]
    loss: Any
    batch_size: int
    epochs: int
    learning_rate: float
    target_accuracy: float
    metrics: tuple[str, ...] = ("accuracy",)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. "
                    f"Received: {name}={getattr(self, name)}."
                )

    def compiled_model(self, learning_rate: Any = None) -> keras.Model:
        """Return a new model, compiled with this workload's optimizer.

        Args:
            learning_rate: Float or a learning rate schedule. Defaults to
                `None`, the workload's own rate.

        Returns:
            A compiled `keras.Model` with fresh weights.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        model = self.build_model()
        self.compile(model, rate)
        return model

    def compile(self, model: keras.Model, learning_rate: Any) -> None:
        """Compile a model that `build_model` returned.

        Args:
            model: `keras.Model`.
            learning_rate: Float or a learning rate schedule.
        """
        model.compile(
            optimizer=self.make_optimizer(learning_rate),
            loss=self.loss,
            metrics=list(self.metrics),
        )

    def fit_arguments(
        self,
        data: Data,
        epochs: int,
        *,
        steps_per_epoch: int | None = None,
        validation_freq: int = 1,
        validation_batch_size: int | None = None,
    ) -> Callable[[int], dict[str, Any]]:
        """Return a function from a seed to the arguments of `fit`.

        Args:
            data: `Data`.
            epochs: Integer.
            steps_per_epoch: Integer. Defaults to `None`, one pass.
            validation_freq: Integer, epochs from one validation to the next.
                Defaults to `1`.
            validation_batch_size: Integer. Defaults to `None`, that of the
                training.
        """

        def fit_arguments(seed: int) -> dict[str, Any]:
            return {
                "x": data.train_batches(self.batch_size, seed),
                "epochs": epochs,
                "steps_per_epoch": steps_per_epoch
                or data.steps_per_epoch(self.batch_size),
                # The batches come shuffled.
                "shuffle": False,
                "validation_data": data.validation_batches(
                    validation_batch_size or self.batch_size
                ),
                "validation_freq": validation_freq,
                "verbose": 0,
            }

        return fit_arguments

    def replace(self, **changes: Any) -> "Workload":
        """Return a copy with some fields changed, such as `batch_size`."""
        return replace(self, **changes)


def _import_tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(_TENSORFLOW_MISSING) from error
    return tf
