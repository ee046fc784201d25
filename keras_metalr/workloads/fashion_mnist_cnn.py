"""A convnet with batch normalization on a slice of Fashion-MNIST."""

import functools

import keras
import numpy as np

from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload


def fashion_mnist_cnn(
    train_examples: int = 5000,
    validation_examples: int = 1000,
    optimizer: str = "momentum",
    download: bool = False,
) -> Workload:
    """Return the Fashion-MNIST workload, on a slice of the data.

    Training examples are the first ones of the official training split,
    validation examples the last ones; the test split is not touched.

    Args:
        train_examples: Integer, at most 50,000. Defaults to `5000`.
        validation_examples: Integer, at most 10,000. Defaults to `1000`.
        optimizer: String, `"sgd"`, `"momentum"`, `"adam"` or `"adamw"`.
            Defaults to `"momentum"`.
        download: Boolean, whether to download the data when it is not there.
            Defaults to `False`.

    Returns:
        A `Workload`.

    Raises:
        ValueError: If a number of examples is out of range.
    """
    tfds_source.check_count("train_examples", train_examples, 50_000)
    tfds_source.check_count("validation_examples", validation_examples, 10_000)
    return Workload(
        name="fashion_mnist_cnn",
        load_data=functools.partial(
            load_fashion_mnist, train_examples, validation_examples, download
        ),
        build_model=build_fashion_mnist_model,
        make_optimizer=optimizer_factory(optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=64,
        epochs=10,
        learning_rate=0.01,
        target_accuracy=0.85,
        options={
            "train_examples": train_examples,
            "validation_examples": validation_examples,
            "optimizer": optimizer,
        },
    )


def load_fashion_mnist(
    train_examples: int, validation_examples: int, download: bool = False
) -> Data:
    """Read the slice. Raises `DataNotAvailableError` when it is not there."""
    splits = [
        tfds_source.load_arrays("fashion_mnist", split, download=download)
        for split in (
            f"train[:{train_examples}]",
            f"train[{-validation_examples}:]",
        )
    ]
    (x_train, y_train), (x_validation, y_validation) = (
        (
            split["image"].astype("float32") / 255.0,
            np.asarray(split["label"], "int32"),
        )
        for split in splits
    )
    return Data(x_train, y_train, x_validation, y_validation)


def build_fashion_mnist_model() -> keras.Model:
    """Return an uncompiled convnet for 28x28 images."""
    inputs = keras.Input((28, 28, 1))
    x = inputs
    for filters in (16, 32):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        # The usual momentum of 0.99 needs several hundred steps before the
        # averages can serve in validation; runs here may be shorter.
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.Activation("relu")(x)
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    outputs = keras.layers.Dense(10, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="fashion_mnist_convnet")
