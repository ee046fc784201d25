"""Pure functions, compiled by the backend's own means."""

import keras


def jit(function):
    """The function of tensors, traced once a shape; on torch, as it is."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function
