"""Has a network something to lose? Seen in its weights, before a run."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_metalr import backend

# In the paths of vectors that Keras itself draws at random.
_DRAWN = "additive_attention"


def is_pretrained(variables: Sequence[keras.Variable]) -> bool:
    """Say whether weights were trained before.

    Layers begin with biases and scales that are all alike, or zeros and ones
    (an LSTM's); only training makes them differ. So weights are new where every
    vector among them is still like that, but the scale of an
    `AdditiveAttention`, which Keras draws at random. Without a single vector
    nothing can be said, and trained weights are the ones that can be ruined:
    the answer is `True` then, as it is for biases that were drawn at random.

    Args:
        variables: Sequence of `keras.Variable`, the trainable ones of a model
            as the run finds them; empty for a model that is not built.

    Returns:
        Boolean.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> is_pretrained(model.trainable_variables)
    False
    >>> model.layers[0].bias.assign([0.1, -0.3, 0.2])
    >>> is_pretrained(model.trainable_variables)
    True
    """
    if not variables:
        return False
    vectors = [
        variable
        for variable in variables
        if len(variable.shape) == 1 and _DRAWN not in variable.path
    ]
    return not vectors or any(map(_differs, vectors))


def _differs(vector: keras.Variable) -> bool:
    values = np.unique(backend.eager_value(vector))
    return values.size > 1 and not set(values) <= {0.0, 1.0}
