"""A small convnet on scikit-learn's 8x8 digits: trains in seconds."""

import keras
import numpy as np

from keras_metalr.workloads import sklearn_source
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

_NUM_TRAIN = 1437
_SPLIT_SEED = 0


def digits(optimizer: str = "adam") -> Workload:
    """Return the digits workload: 1,437 images to train on, 360 to validate.

    Args:
        optimizer: String, `"sgd"`, `"momentum"`, `"adam"` or `"adamw"`.
            Defaults to `"adam"`.

    Returns:
        A `Workload`.
    """
    return Workload(
        name="digits",
        load_data=load_digits_data,
        build_model=build_digits_model,
        make_optimizer=optimizer_factory(optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=64,
        epochs=20,
        learning_rate=1e-3,
        target_accuracy=0.95,
        options={"optimizer": optimizer},
    )


def load_digits_data() -> Data:
    """Load the digits; the split is fixed, whatever the seed of the run."""
    digits_set = sklearn_source.datasets().load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(
        len(digits_set.target)
    )
    # Pixels run from 0 to 16.
    x = (digits_set.images[order, :, :, None] / 16.0).astype("float32")
    y = digits_set.target[order].astype("int32")
    return Data(
        x_train=x[:_NUM_TRAIN],
        y_train=y[:_NUM_TRAIN],
        x_validation=x[_NUM_TRAIN:],
        y_validation=y[_NUM_TRAIN:],
    )


def build_digits_model() -> keras.Model:
    """Return an uncompiled convnet of 38,282 weights for 8x8 images."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    outputs = keras.layers.Dense(10, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="digits_convnet")
