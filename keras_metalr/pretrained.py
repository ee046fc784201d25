"""Has a network something to lose? Seen in its weights, before a run."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_metalr import backend

# What an element of a multiple may be off by its rounding, as a share of the
# largest one.
ROUNDING = 1e-6
HALF_ROUNDING = 2.0**-6


def is_pretrained(model: keras.layers.Layer) -> bool:
    """Say whether weights were trained before.

    Layers begin with biases and scales that are all alike, or zeros and ones
    (an LSTM's); only training makes them differ. So weights are new where every
    vector among them is still like that, or still what its layer's initializer
    drew: those of Keras draw the same when they are asked again. The scale of
    an `AdditiveAttention`, which Keras draws at random, does not count.

    Without a single vector, matrices tell in the same way, and so they do where
    vectors that were trained are frozen: a body of convolutions is often tuned
    below a new head with its batch normalization left as it is. Where a matrix
    cannot be drawn again (layers or initializers of one's own, a `Constant`
    that holds vectors, models that were loaded) the answer is `True`: trained
    weights are the ones that can be ruined.

    Args:
        model: `keras.Model`, or another layer, as the run finds it. A body
            that is frozen as a whole, or not built yet, does not count.

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
    frozen = [
        variable
        for layer in layers
        for variable in layer._trainable_variables
        if not variable.trainable and len(variable.shape) == 1
    ]
    initializers = _initializers(layers)

    def any_trained(variables: Sequence[keras.Variable]) -> bool:
        return any(
            _is_trained(variable, initializers.get(id(variable), ()))
            for variable in variables
        )

    if not vectors:
        return not matrices or any_trained(matrices)
    return any_trained(vectors) or (
        any_trained(frozen) and any_trained(matrices)
    )


class _Asked(NamedTuple):
    """An initializer, and whether its layer sets another scale for it."""

    initializer: keras.initializers.Initializer
    scaled: bool


def _initializers(
    layers: Sequence[keras.layers.Layer],
) -> dict[int, list[_Asked]]:
    """By the ids of variables, the initializers that may be asked again.

    Of tied weights those of all layers that have them.
    """
    found: dict[int, list[_Asked]] = {}
    for layer in layers:
        scaled = isinstance(layer, keras.layers.EinsumDense)
        own = [
            _Asked(value, scaled)
            for value in vars(layer).values()
            if _may_be_asked(value)
        ]
        for variable in layer._trainable_variables:
            found.setdefault(id(variable), []).extend(own)
    return found


def _may_be_asked(value: Any) -> bool:
    """Whether it is an initializer of Keras that draws the same once more.

    A generator as its seed would move on. One of the user's may do anything,
    load trained vectors for one, and so does a `Constant` of an array.
    """
    return (
        isinstance(value, keras.initializers.Initializer)
        and type(value).__module__.partition(".")[0] == "keras"
        and isinstance(getattr(value, "seed", None), int)
    )


def _is_trained(
    variable: keras.Variable,
    asked: Sequence[_Asked],
) -> bool:
    values = backend.eager_value(variable)
    if np.isin(values, (0.0, 1.0)).all() or (values == values.flat[0]).all():
        return False
    dtype = str(variable.dtype)
    return not any(_gives(*each, values, dtype) for each in asked)


def _gives(
    initializer: keras.initializers.Initializer,
    scaled: bool,
    values: np.ndarray,
    dtype: str,
) -> bool:
    """Whether an initializer gives these values when it is asked again."""
    try:
        again = ops.convert_to_numpy(initializer(values.shape, dtype=dtype))
    except (TypeError, ValueError):
        # It is that of another of the layer's variables, of another shape.
        return False
    if np.array_equal(again, values):
        return True
    if not scaled:
        return False
    drawn, found = (array.astype("float64") for array in (again, values))
    size = np.vdot(drawn, drawn)
    if not 0.0 < size < np.inf:
        return False
    # Each element is rounded, twice in half precision.
    multiple = np.vdot(found, drawn) / size * drawn
    largest = np.abs(multiple).max()
    near = ROUNDING if dtype in ("float32", "float64") else HALF_ROUNDING
    return bool(np.abs(found - multiple).max() <= near * largest)
