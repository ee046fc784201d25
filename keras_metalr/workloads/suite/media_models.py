"""Small networks for images and texts."""

import functools

import keras
import numpy as np
from keras import layers

from keras_metalr.workloads.suite.media import NUM_TOKENS
from keras_metalr.workloads.suite.media import NUM_WORDS
from keras_metalr.workloads.suite.media import load_old_digits

_PRETRAINING_SEED = 0
_PRETRAINING_EPOCHS = 12
_TRANSFORMER_WIDTH = 24
# Of the LSTM and of the mean of word vectors.
_WORD_WIDTH = 16


def build_dense() -> keras.Model:
    """A dense net on 8x8 images, two hidden layers of 32."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    for _ in range(2):
        x = layers.Dense(32, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="dense")


def build_wide_dense() -> keras.Model:
    """A dense net of a million weights on 28x28 images, to time steps with."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(640, activation="relu"),
            layers.Dense(768, activation="relu"),
            layers.Dense(10),
        ]
    )


def build_batchnorm() -> keras.Model:
    """A convnet with batch normalization on 14x14 images."""
    inputs = keras.Input((14, 14, 1))
    x = inputs
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
        x = layers.ReLU()(_normalized(x))
    x = layers.Dense(32, use_bias=False)(layers.Flatten()(x))
    x = layers.ReLU()(_normalized(x))
    return keras.Model(inputs, layers.Dense(10)(x), name="batchnorm")


def build_residual() -> keras.Model:
    """A residual convnet with batch normalization on 16x16 images."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    for filters, strides in ((8, 1), (16, 2)):
        z = layers.ReLU()(_normalized(x))
        z = layers.Conv2D(filters, 3, strides, "same", use_bias=False)(z)
        z = layers.ReLU()(_normalized(z))
        z = layers.Conv2D(filters, 3, padding="same")(z)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides)(x)
        x = layers.Add()([x, z])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(_normalized(x)))
    return keras.Model(inputs, layers.Dense(10)(x), name="residual")


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    # Runs are short: the usual momentum of 0.99 would not arrive.
    return layers.BatchNormalization(momentum=0.9)(x)


def build_autoencoder() -> keras.Model:
    """196 pixels through 16 numbers and back."""
    inputs = keras.Input((196,))
    x = layers.Dense(64, activation="relu")(inputs)
    x = layers.Dense(16)(x)
    x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(196)(x), name="autoencoder")


def build_transformer() -> keras.Model:
    """One pre-norm block of self-attention over 16 words."""
    width = _TRANSFORMER_WIDTH
    inputs = keras.Input((NUM_TOKENS,), dtype="int32")
    x = layers.Embedding(NUM_WORDS, width)(inputs)
    x = Position()(x)
    z = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, width // 2)(z, z)])
    z = layers.LayerNormalization()(x)
    z = layers.Dense(2 * width, activation="gelu")(z)
    x = layers.Add()([x, layers.Dense(width)(z)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(2)(x), name="transformer")


@keras.saving.register_keras_serializable("keras_metalr")
class Position(layers.Layer):
    """Adds a trained vector to each place of a sequence."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """One vector a place."""
        self.position = self.add_weight(
            shape=input_shape[1:],
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="position",
        )

    def call(self, inputs: object) -> object:
        """`(batch, places, width)` to the same shape."""
        return inputs + self.position


def build_recurrent() -> keras.Model:
    """An LSTM over 16 words."""
    inputs = keras.Input((NUM_TOKENS,), dtype="int32")
    x = layers.Embedding(NUM_WORDS, _WORD_WIDTH)(inputs)
    x = layers.LSTM(_WORD_WIDTH)(x)
    return keras.Model(inputs, layers.Dense(2)(x), name="recurrent")


def build_bag() -> keras.Model:
    """The mean of word vectors, and a dense layer (fastText)."""
    inputs = keras.Input((NUM_TOKENS,), dtype="int32")
    x = layers.Embedding(NUM_WORDS, _WORD_WIDTH)(inputs)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2)(x), name="bag")


def build_pretrained() -> keras.Model:
    """A convnet that knows the digits 0 to 4, with a new head for 5 to 9.

    It is pretrained once a process, always alike; the head is drawn anew.
    """
    model = _small_convnet()
    body = pretrained_body()
    for variable, value in zip(model.variables, body, strict=False):
        variable.assign(value)
    return model


@functools.cache
def pretrained_body() -> tuple[np.ndarray, ...]:
    """Weights of all layers but the last, after pretraining."""
    data = load_old_digits()
    # A generator of its own: the seed of the run stays what it is.
    model = _small_convnet(keras.random.SeedGenerator(_PRETRAINING_SEED))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        data.train_batches(32, _PRETRAINING_SEED),
        epochs=_PRETRAINING_EPOCHS,
        steps_per_epoch=data.steps_per_epoch(32),
        shuffle=False,
        verbose=0,
    )
    head = len(model.layers[-1].weights)
    return tuple(model.get_weights()[:-head])


def _small_convnet(
    seed: keras.random.SeedGenerator | None = None,
) -> keras.Model:
    def drawn() -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=seed)

    inputs = keras.Input((8, 8, 1))
    x = inputs
    for filters in (8, 16):
        x = layers.Conv2D(
            filters,
            3,
            strides=2,
            padding="same",
            activation="relu",
            kernel_initializer=drawn(),
        )(x)
    x = layers.Flatten()(x)
    x = layers.Dense(32, activation="relu", kernel_initializer=drawn())(x)
    outputs = layers.Dense(5, kernel_initializer=drawn())(x)
    return keras.Model(inputs, outputs, name="small_convnet")
