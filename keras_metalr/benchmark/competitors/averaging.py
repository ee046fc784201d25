"""Evaluation at other weights than those that are trained.

Schedule-Free (Defazio et al., arXiv 2405.15682) takes gradients at `y`, between
the fast sequence `z` and the average `x`, and its result is `x`:

    y = (1 - beta) z + beta x    so    x = (y - (1 - beta) z) / beta

`keras.optimizers.ScheduleFreeAdamW` leaves `y` in the model, and `fit`
validates there. Running statistics belong to the weights they were taken with,
so they are taken again at `x`.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


def averaged_weights(weights: Tensor, fast: Tensor, beta: float) -> Tensor:
    """`x` of one variable.

    Args:
        weights: Array `y`, what the model holds.
        fast: Array `z` of the same shape.
        beta: Float in (0, 1].
    """
    return (weights - (1.0 - beta) * fast) / beta


def keras_schedule_free(
    optimizer: Any, weights: Sequence[Tensor]
) -> list[Tensor]:
    """`x` of every variable, under `keras.optimizers.ScheduleFreeAdamW`.

    Args:
        optimizer: The built optimizer. What it calls momentum is `z`.
        weights: Sequence of arrays `y`.
    """
    fast = [v for v in optimizer.variables if v.name.endswith("momentum")]
    return [
        averaged_weights(y, ops.convert_to_tensor(z), optimizer.beta_1)
        for y, z in zip(weights, fast, strict=True)
    ]


def optax_schedule_free(
    optimizer: Any, weights: Sequence[Tensor]
) -> list[Tensor]:
    """`x` of every variable, under `optax.contrib.schedule_free_adamw`.

    Args:
        optimizer: The built `OptaxOptimizer`.
        weights: Sequence of arrays `y`.
    """
    from optax.contrib import schedule_free_eval_params

    return list(schedule_free_eval_params(optimizer.state, list(weights)))


class EvaluationWeights(keras.callbacks.Callback):
    """Puts the weights that count in place while a model is evaluated.

    Args:
        change: Callable `(optimizer, weights) -> weights`, lists of arrays.
        calibration: Sequence of batches of `x`. The running statistics of batch
            normalization are their means over these. Defaults to `()`, they
            are left as they are.
    """

    def __init__(
        self,
        change: Callable[[Any, list[Tensor]], list[Tensor]],
        calibration: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self._change = change
        self._calibration = calibration
        self._kept: list[Tensor] = []

    def on_test_begin(self, logs: Any = None) -> None:
        """Keep what is trained, put in what counts."""
        model = self.model
        trained = _values(model.trainable_variables)
        self._kept = [*trained, *_values(model.non_trainable_variables)]
        weights = self._change(model.optimizer, trained)
        _assign(model.trainable_variables, weights)
        layers = _with_running_statistics(model)
        if not layers:
            return
        momenta = [layer.momentum for layer in layers]
        for number, x in enumerate(self._calibration):
            # A running mean that is the mean of all batches so far.
            for layer in layers:
                layer.momentum = number / (number + 1)
            model(x, training=True)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    def on_test_end(self, logs: Any = None) -> None:
        """Put back what is trained."""
        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        _assign(variables, self._kept)
        self._kept = []


def _with_running_statistics(model: keras.Model) -> list[Any]:
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def _values(variables: Sequence[keras.Variable]) -> list[Tensor]:
    return [ops.copy(variable) for variable in variables]


def _assign(
    variables: Sequence[keras.Variable], values: Sequence[Tensor]
) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
