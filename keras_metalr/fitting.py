"""A supervised fit of the controller: states in, wanted outputs out."""

from typing import Any

import keras
import numpy as np

from keras_metalr.controller import Controller

# Features are of order one; what varies less than this in all the runs holds no
# information, and dividing by its spread would only blow up its rounding.
MIN_SPREAD = 0.01


def fit_on_states(
    controller: Controller,
    features: np.ndarray,
    targets: np.ndarray,
    *,
    fresh: bool,
    learning_rate: float = 0.001,
    batch_size: int = 64,
    epochs: int = 10,
    verbose: int = 0,
    **kwargs: Any,
) -> None:
    """Fit a controller in place: Adam, mean squared error.

    Features that never vary get no say in a fresh controller: their weights are
    zero, not what the initializer happened to draw.

    Args:
        controller: `Controller`, changed in place.
        features: Array `(num_states, NUM_FEATURES)`, float32.
        targets: Array `(num_states, 1)`, float32.
        fresh: Boolean, whether its weights are as the initializer drew them.
        learning_rate: Float (> 0), Adam's. Defaults to `0.001`.
        batch_size: Integer (>= 1). Defaults to `64`.
        epochs: Integer (>= 1). Defaults to `10`.
        verbose: Integer, as in `fit`. Defaults to `0`.
        **kwargs: More arguments of `fit`.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    varies = scale > MIN_SPREAD
    scale = np.where(varies, scale, 1.0)
    kernel, bias = controller.hidden[0].get_weights()
    # Work on standardized features; fold the scaling into the first layer.
    kernel, bias = kernel * scale[:, None], bias + mean @ kernel
    if fresh:
        kernel = kernel / np.where(varies, scale, np.inf)[:, None]
        bias = np.zeros_like(bias)
    controller.hidden[0].set_weights([kernel, bias])
    controller.compile(keras.optimizers.Adam(learning_rate), loss="mse")
    controller.fit(
        np.where(varies, (features - mean) / scale, 0.0),
        targets,
        batch_size=batch_size,
        epochs=epochs,
        verbose=verbose,
        **kwargs,
    )
    kernel, bias = controller.hidden[0].get_weights()
    kernel = kernel / scale[:, None]
    controller.hidden[0].set_weights([kernel, bias - mean @ kernel])
