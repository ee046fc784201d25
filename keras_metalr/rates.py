"""The learning rates of an optimizer, whatever it is wrapped in.

`model.optimizer.learning_rate` is not always the rate that is used, nor is it
always settable: a `LossScaleOptimizer` passes it on, a `MultiOptimizer` has one
for each part, and a `LearningRateSchedule` refuses to be set (keras raises
TypeError). A `Rate` hides that: it reads the user's own rate and scales it.
"""

from typing import Any

import keras
from keras import ops

from keras_metalr import backend
from keras_metalr import ftrl

Tensor = Any


class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The user's schedule, but for a rate that is set in the train step.

    Args:
        schedule: A `LearningRateSchedule`, or a callable without arguments.
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule
        self.rate: Tensor | None = None

    def base(self, step: Tensor) -> Tensor:
        """The user's own rate at this step, scalar float32."""
        if isinstance(
            self.schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            return ops.cast(self.schedule(step), "float32")
        return ops.cast(self.schedule(), "float32")

    def __call__(self, step: Tensor) -> Tensor:
        """The rate in use at this step, scalar float32."""
        return self.base(step) if self.rate is None else self.rate

    def get_config(self) -> dict[str, Any]:
        """Not to be saved: it is in the optimizer during a step alone.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("A ScaledSchedule lasts for one step.")


class Rate:
    """The learning rate of one innermost optimizer.

    Args:
        optimizer: A Keras optimizer that wraps no other.

    Raises:
        ValueError: if the rate is not a positive, finite number, or if the
            optimizer wraps another after all.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        for name, part in vars(optimizer).items():
            if isinstance(part, keras.optimizers.Optimizer):
                raise ValueError(
                    f"{optimizer.name!r} ({type(optimizer).__name__}) holds "
                    f"another optimizer, `{name}`, and MetaLR cannot know "
                    "whose learning rate counts. Compile the model with an "
                    "optimizer that wraps none, or with Keras's own "
                    "LossScaleOptimizer or MultiOptimizer."
                )
        self.optimizer = optimizer
        self.is_ftrl = (
            type(optimizer).update_step is keras.optimizers.Ftrl.update_step
        )
        self.original = optimizer._learning_rate
        self.scheduled = not isinstance(self.original, keras.Variable)
        if self.scheduled:
            self._scaled = ScaledSchedule(self.original)
            self.initial = 1.0
            return
        value = backend.eager_value(self.original)
        if getattr(value, "shape", ()) != ():
            raise ValueError(
                f"The learning rate of {optimizer.name!r} cannot be read yet, "
                "because it is being made inside TensorFlow's first trace. "
                "Build the model before `fit` (call it on a batch)."
            )
        self.initial = float(value)
        if not 0.0 < self.initial < float("inf"):
            raise ValueError(
                "The optimizer's learning rate must be a positive, finite "
                f"number. Received: learning_rate={self.initial}. MetaLR "
                "scales it; any value from 1e-9 to 1e9 will do."
            )

    def base(self, initial: Tensor) -> Tensor:
        """The user's own rate at this step, scalar float32.

        Args:
            initial: Scalar, the rate that the run started from. It is passed
                in because a resumed run must go on from the saved one.
        """
        if self.scheduled:
            return self._scaled.base(self.optimizer._iterations)
        return initial

    def assign(self, rate: Tensor, untouched: Tensor | bool) -> None:
        """Set the rate, inside the train step.

        Args:
            rate: Scalar.
            untouched: Scalar boolean, whether all of the run's rates have been
                the user's own, as this one is. Ftrl alone asks for it.
        """
        if self.is_ftrl:
            ftrl.keep_weights(self.optimizer, rate, untouched)
        if self.scheduled:
            # For this step alone, so that a checkpoint has the user's own.
            self._scaled.rate = backend.native(rate)
            self.optimizer._learning_rate = self._scaled
        else:
            backend.assign(self.original, rate)

    def release(self) -> None:
        """After the step: a traced rate must not be read outside it."""
        if self.scheduled:
            self._scaled.rate = None
            self.optimizer._learning_rate = self.original

    def restore(self, value: float | None, untouched: bool) -> None:
        """Give the optimizer back the user's own rate.

        Args:
            value: Float, the rate that the run started from; `None` for the
                one found at first.
            untouched: Boolean, whether all of the run's rates have been that.
        """
        self.release()
        rate = self.initial if value is None else value
        if self.is_ftrl and not untouched:
            own = self.base(ops.convert_to_tensor(rate, dtype="float32"))
            ftrl.keep_weights(self.optimizer, own, untouched)
        if not self.scheduled:
            self.original.assign(rate)


def innermost(
    optimizer: keras.optimizers.Optimizer,
) -> list[keras.optimizers.Optimizer]:
    """The optimizers that hold a rate of their own, in a fixed order."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return innermost(optimizer.inner_optimizer)
    parts = getattr(optimizer, "optimizers", None)
    if parts is not None:
        return [leaf for part in parts for leaf in innermost(part)]
    return [optimizer]


def is_loss_scaled(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether steps with non-finite gradients are the optimizer's business."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def gradient_scale(optimizer: keras.optimizers.Optimizer) -> Tensor:
    """What the gradients of a step were multiplied with, scalar."""
    if is_loss_scaled(optimizer):
        if optimizer.built:
            scale = ops.cast(optimizer.dynamic_scale, "float32")
            return backend.noted(scale)
        return float(optimizer.initial_scale)
    return float(optimizer.loss_scale_factor or 1.0)


def gathered(taken: Any, step: Any, accumulation: int) -> Any:
    """Batches that the optimizer had gathered when the run began.

    Args:
        taken: Integer, or a scalar of the backend: batches it has counted.
        step: The same, batches of the run so far.
        accumulation: Integer (>= 1), `accumulation_steps`.
    """
    return (taken - step) % accumulation


def accumulation_steps(optimizer: keras.optimizers.Optimizer) -> int:
    """Batches to one update of the weights."""
    leaves = innermost(optimizer)
    return max(
        (leaf.gradient_accumulation_steps or 1 for leaf in leaves), default=1
    )
