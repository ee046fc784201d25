"""One compiled model that one method trains again and again."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metalr.benchmark.competitors.averaging import EvaluationWeights
from keras_metalr.benchmark.competitors.peer import Peer
from keras_metalr.benchmark.competitors.peer import Setting

# What a model is built with; every run sets its own.
_ANY_START = 1e-3


class Trainee:
    """A model under one method; compiled once, trained from any start.

    A run begins with `reset`, which gives every variable of the model and of
    the optimizer its first value. The compiled step is kept. (With MetaLR,
    Keras compiles it anew in each `fit`, because the callback changes it.)

    Args:
        peer: `Peer`.
        setting: `Setting`.
        model: Built, uncompiled `keras.Model`.
        loss: Keras loss.
        metrics: Sequence of names of metrics. Defaults to `()`.
        calibration: Sequence of batches of `x` from which a method that is
            evaluated at other weights than it trains takes its running
            statistics. Defaults to `()`, they stay as they are.

    Raises:
        ValueError: If the model is not built, or if the method does not run on
            this backend.
    """

    def __init__(
        self,
        peer: Peer,
        setting: Setting,
        model: keras.Model,
        loss: Any,
        metrics: Sequence[str] = (),
        calibration: Sequence[Any] = (),
    ) -> None:
        backend = keras.backend.backend()
        if peer.needs_jax and backend != "jax":
            raise ValueError(
                f"{peer.name!r} runs on the JAX backend alone. Received: "
                f"backend={backend!r}. Set KERAS_BACKEND=jax."
            )
        if not model.built:
            raise ValueError(
                "`model` must be built. Received one that is not: call it "
                "once, or begin it with `keras.Input`."
            )
        self.peer = peer
        self.setting = setting
        self.model = model
        self.state_bytes = 0
        optimizer = peer.make_optimizer(setting, _ANY_START)
        # Before the first trace: ScheduleFreeAdamW keeps no weights that it
        # is built with inside one on TensorFlow.
        optimizer.build(model.trainable_variables)
        if getattr(optimizer, "needs_loss", False):
            model.compute_loss = _tapped(model.compute_loss, optimizer)
        model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
        self._watchers: list[keras.callbacks.Callback] = [_StateSize(self)]
        if peer.evaluation_weights is not None:
            change = EvaluationWeights(peer.evaluation_weights, calibration)
            self._watchers.append(change)

    def reset(self, start: float, values: Sequence[Any] | None = None) -> None:
        """Begin again.

        Args:
            start: Float, what the method starts from.
            values: Sequence of arrays as `first_values` gives them. Defaults
                to `None`, the model stays as it is.
        """
        if values is not None:
            for variable, value in zip(
                _state_of(self.model), values, strict=True
            ):
                variable.assign(value)
        fresh = self.peer.make_optimizer(self.setting, start)
        fresh.build(self.model.trainable_variables)
        for variable, first in zip(
            self.model.optimizer.variables, fresh.variables, strict=True
        ):
            variable.assign(ops.copy(first))

    def fit(
        self,
        start: float,
        values: Sequence[Any] | None = None,
        batches: Iterable[Any] = (),
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **arguments: Any,
    ) -> dict[str, list[float]]:
        """Train once, from the beginning.

        Args:
            start: Float, what the method starts from.
            values: As in `reset`.
            batches: Iterable of `(x, y)`, for a method that looks for its rate
                first. Defaults to none.
            callbacks: Sequence of further callbacks. Defaults to `()`.
            **arguments: Passed to `fit`.

        Returns:
            Dict from the name of a log to a list of floats, one per epoch.
        """
        self.reset(start, values)
        if self.peer.find_start is not None:
            values = first_values(self.model)
            self.reset(self.peer.find_start(self, batches), values)
        history = self.model.fit(
            callbacks=[
                *self.peer.callbacks(self.setting),
                *self._watchers,
                *callbacks,
            ],
            **arguments,
        )
        return {
            name: [float(value) for value in values]
            for name, values in history.history.items()
        }

    @property
    def bytes_per_weight(self) -> float:
        """State of the optimizer, as seen in `fit`, over the trained weights.

        In bytes. What is kept outside of variables (MetaLR's copies of the last
        good weights) is not in it.
        """
        return self.state_bytes / self.num_weights

    @property
    def num_weights(self) -> int:
        """Trained weights of the model."""
        weights = self.model.trainable_variables
        return sum(int(np.prod(weight.shape)) for weight in weights)


def first_values(model: keras.Model) -> list[np.ndarray]:
    """Weights, running statistics and random states of a model, as arrays."""
    return [
        np.array(ops.convert_to_numpy(variable))
        for variable in _state_of(model)
    ]


def _state_of(model: keras.Model) -> list[keras.Variable]:
    return [*model.trainable_variables, *model.non_trainable_variables]


def _tapped(
    compute_loss: Callable[..., Any], optimizer: Any
) -> Callable[..., Any]:
    """The model's loss, shown to the optimizer in passing.

    `compute_loss` is the one public place that has the true loss of the batch.
    """

    def tapped(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        # Stopping the gradient takes JAX's tracer of the gradient off.
        optimizer.see_loss(ops.stop_gradient(loss))
        return loss

    return tapped


class _StateSize(keras.callbacks.Callback):
    """Notes the bytes of the optimizer's variables, at their largest."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__()
        self._trainee = trainee

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add up."""
        size = sum(
            int(np.prod(variable.shape)) * _itemsize(variable.dtype)
            for variable in self.model.optimizer.variables
        )
        self._trainee.state_bytes = max(self._trainee.state_bytes, size)


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
