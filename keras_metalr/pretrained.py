"""Has a network something to lose? Seen in its weights, before a run."""

import keras
import numpy as np

from keras_metalr import backend


def is_pretrained(model: keras.layers.Layer) -> bool:
    """Say whether weights were trained before.

    Layers begin with biases and scales that are all alike, or zeros and ones
    (an LSTM's); only training makes them differ. So weights are new where every
    vector among them is still like that, but the scale of an
    `AdditiveAttention`, which Keras draws at random. Without a single vector
    nothing can be said, and trained weights are the ones that can be ruined:
    the answer is `True` then, as it is for biases that were drawn at random.

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
    drawn = {
        id(layer.scale)
        for layer in model._flatten_layers()
        if layer.built and isinstance(layer, keras.layers.AdditiveAttention)
    }
    vectors = [
        variable
        for variable in variables
        if len(variable.shape) == 1 and id(variable) not in drawn
    ]
    return not vectors or any(map(_differs, vectors))


def _differs(vector: keras.Variable) -> bool:
    values = np.unique(backend.eager_value(vector))
    return values.size > 1 and not set(values) <= {0.0, 1.0}
