"""Has a network something to lose? Seen in its weights, before a run."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from keras.initializers import Constant

from keras_metalr import backend

# What a multiple may be off by its rounding, a share of the length: in float32
# less than what a step of training does.
ROUNDING = 1e-5
HALF_ROUNDING = 1e-2


def is_pretrained(model: keras.layers.Layer) -> bool:
    """Say whether weights were trained before.

    Layers begin with biases and scales that are all alike, or zeros and ones
    (an LSTM's); only training makes them differ. So weights are new where every
    vector among them is still like that, or still what its layer's initializer
    gives, which Keras's give again when they are asked again. The scale of an
    `AdditiveAttention`, which Keras draws at random, does not count.

    Without a single vector, matrices tell in the same way. A matrix that a
    `Constant` was given is one that somebody has trained. Where a matrix cannot
    be drawn again (layers of one's own, models that were loaded) the answer is
    `True`: trained weights are the ones that can be ruined.

    Args:
        model: `keras.Model`, or another layer, as the run finds it. What is
            frozen, or not built yet, does not count.

    Returns:
        Boolean.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> is_pretrained(model)
    False
    >>> _ = model.layers[0].bias.assign([0.1, -0.3, 0.2])
    >>> is_pretrained(model)
    True
    """
    variables = model.trainable_variables
    if not variables:
        return False
    layers = [layer for layer in model._flatten_layers() if layer.built]
    drawn = {
        id(layer.scale)
        for layer in layers
        if isinstance(layer, keras.layers.AdditiveAttention)
    }
    vectors = [
        variable
        for variable in variables
        if len(variable.shape) == 1 and id(variable) not in drawn
    ]
    matrices = [variable for variable in variables if len(variable.shape) > 1]
    initializers = _initializers(layers)
    telling = vectors or matrices
    return not telling or any(
        _is_trained(variable, initializers.get(id(variable), ()))
        for variable in telling
    )


def _initializers(
    layers: Sequence[keras.layers.Layer],
) -> dict[int, list[keras.initializers.Initializer]]:
    """By the ids of variables, the initializers that their layers have."""
    return {
        id(variable): [
            value
            for value in vars(layer).values()
            if isinstance(value, keras.initializers.Initializer)
        ]
        for layer in layers
        for variable in layer._trainable_variables
    }


def _is_trained(
    variable: keras.Variable,
    initializers: Sequence[keras.initializers.Initializer],
) -> bool:
    values = backend.eager_value(variable)
    if (values == values.flat[0]).all() or np.isin(values, (0.0, 1.0)).all():
        return False
    is_matrix = values.ndim > 1
    return not any(
        _gives(initializer, values, str(variable.dtype))
        for initializer in initializers
        if not (is_matrix and isinstance(initializer, Constant))
    )


def _gives(
    initializer: keras.initializers.Initializer, values: np.ndarray, dtype: str
) -> bool:
    """Whether an initializer gives these values when it is asked again.

    Or a multiple of them: an `EinsumDense` sets the scale of its own.
    """
    try:
        again = ops.convert_to_numpy(initializer(values.shape, dtype=dtype))
    except Exception:
        # It is that of another of the layer's variables, of another shape.
        return False
    if np.array_equal(again, values):
        return True
    drawn, found = (
        array.astype("float32", copy=False).ravel() for array in (again, values)
    )
    size = drawn @ drawn
    if not 0.0 < size < np.inf:
        return False
    rest = found - (found @ drawn) / size * drawn
    rounding = ROUNDING if dtype == "float32" else HALF_ROUNDING
    return bool(rest @ rest <= rounding**2 * (found @ found))
