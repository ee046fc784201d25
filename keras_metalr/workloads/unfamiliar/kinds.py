"""Kinds of nets that meta-training has not seen."""

import functools

import keras
import numpy as np
from keras import layers

from keras_metalr.workloads.fashion_mnist_cnn import load_fashion_mnist
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.suite.media_models import Position
from keras_metalr.workloads.unfamiliar.net import net
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

_PHRASES = 20_000
_HELD_BACK = 3_000
_CONTEXT = 8


@functools.cache
def phrases() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of SST-2's training split: words as numbers and labels, twice."""
    x, y = media.load_words(f"train[:{_PHRASES + _HELD_BACK}]")
    return x[:_PHRASES], y[:_PHRASES], x[_PHRASES:], y[_PHRASES:]


def load_following(length: int) -> Data:
    """So many words of a phrase, and the one that follows them."""

    def pairs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        windows = np.lib.stride_tricks.sliding_window_view(x, length + 1, 1)
        rows = windows.reshape(-1, length + 1)
        # Without those that reach over the end of their phrase.
        rows = rows[(rows > 0).all(1)]
        return rows[:, :-1], rows[:, -1]

    x, _, x_validation, _ = phrases()
    return Data(*pairs(x), *pairs(x_validation))


def build_bag() -> keras.Model:
    """The mean of word vectors, and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((media.NUM_TOKENS,), dtype="int32"),
            layers.Embedding(media.NUM_WORDS, 16),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(2),
        ]
    )


def build_following(length: int, recurrent: bool) -> keras.Model:
    """Words to the next one: a table of vectors, or a GRU behind it."""
    reader = layers.GRU(64) if recurrent else layers.Flatten()
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(media.NUM_WORDS, 32),
            reader,
            layers.Dense(media.NUM_WORDS),
        ]
    )


def build_rows() -> keras.Model:
    """An LSTM that reads an image row by row."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Reshape((28, 28)),
            layers.LSTM(48),
            layers.Dense(10),
        ]
    )


def build_deep() -> keras.Model:
    """Ten layers of tanh without normalization."""
    hidden = [layers.Dense(64, activation="tanh") for _ in range(10)]
    inputs = keras.Input((28, 28, 1))
    return keras.Sequential(
        [inputs, layers.Flatten(), *hidden, layers.Dense(10)]
    )


def build_vision_transformer() -> keras.Model:
    """Two blocks over patches of 4x4 pixels (Dosovitskiy et al., 2021)."""
    width = 48
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(width, 4, strides=4)(inputs)
    x = Position()(layers.Reshape((49, width))(x))
    for _ in range(2):
        z = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 12)(z, z)])
        z = layers.LayerNormalization()(x)
        z = layers.Dense(2 * width, activation="gelu")(z)
        x = layers.Add()([x, layers.Dense(width)(z)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def build_group_normalized() -> keras.Model:
    """A convnet with group normalization (Wu and He, 2018)."""
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = layers.Activation("swish")(layers.GroupNormalization(8)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def build_convnet() -> keras.Model:
    """Two convolutions and two dense layers."""
    inputs = keras.Input((28, 28, 1))
    x = inputs
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def kind_nets() -> dict[str, Workload]:
    """Nets of unfamiliar kinds by their titles."""
    fashion = functools.partial(load_fashion_mnist, 6_000, 1_000)
    optimizers = keras.optimizers
    return {
        "mean of word vectors, Adam; SST-2": net(
            "word_bag", lambda: Data(*phrases()), build_bag, optimizers.Adam
        ),
        "next word from one, Adam; SST-2": net(
            "skip_gram",
            functools.partial(load_following, 1),
            functools.partial(build_following, 1, recurrent=False),
            optimizers.Adam,
            batch_size=256,
        ),
        f"next word from {_CONTEXT} by a GRU, Adam; SST-2": net(
            "word_gru",
            functools.partial(load_following, _CONTEXT),
            functools.partial(build_following, _CONTEXT, recurrent=True),
            optimizers.Adam,
        ),
        "LSTM over rows, RMSprop; Fashion-MNIST": net(
            "row_lstm", fashion, build_rows, optimizers.RMSprop
        ),
        "ten layers of tanh, momentum; Fashion-MNIST": net(
            "deep_tanh",
            fashion,
            build_deep,
            functools.partial(optimizers.SGD, momentum=0.9),
        ),
        "vision transformer, AdamW; Fashion-MNIST": net(
            "vision_transformer",
            fashion,
            build_vision_transformer,
            optimizers.AdamW,
        ),
        "convnet, group normalization, Lion; CIFAR-10": net(
            "group_normalized",
            functools.partial(media.load_cifar10_halved, 6_000, 1_000),
            build_group_normalized,
            optimizers.Lion,
        ),
        "convnet, Muon; Fashion-MNIST": net(
            "convnet_muon", fashion, build_convnet, optimizers.Muon
        ),
    }
