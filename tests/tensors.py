"""What the tests of pure functions share: float32 in, float32 out."""

import numpy as np
from keras import ops

# What `count_step` is told of a step.
MEASURED = {
    "loss": 2.0,
    "gradient_norm": 4.0,
    "learning_rate": 0.01,
    "weight_norm": 8.0,
    "update_norm": 0.04,
    "distance": 0.04,
    "cosine": 0.5,
}


def tensor(value):
    """A number or an array as a float32 tensor."""
    return ops.convert_to_tensor(np.asarray(value, "float32"))


def tensors(values, size=None):
    """A tensor for each value, repeated `size` times where that is given."""
    return {
        key: tensor(value if size is None else np.full(size, value))
        for key, value in values.items()
    }


def as_numpy(vector):
    """The array of a tensor that is float32, as all results are."""
    vector = ops.convert_to_numpy(vector)
    assert vector.dtype == np.float32
    return vector
