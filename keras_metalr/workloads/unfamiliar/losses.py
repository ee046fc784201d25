"""Nets with losses, batches and layers that meta-training has not seen."""

import functools
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.digits import load_digits_data
from keras_metalr.workloads.fashion_mnist_cnn import load_fashion_mnist
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.unfamiliar.net import net
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

_SEED = 0
# Words apart that count as standing together.
_NEAR = 3
_HELD_BACK = 4_000
# How many letters a net reads, and how many there are.
_LETTERS = 32
_ALPHABET = 96
_COMPONENTS = 8


def load_neighbours() -> Data:
    """Pairs of words of SST-2, and the logs of how often they are near."""
    words, _ = media.load_words("train[:40000]")
    near = [
        np.stack([words[:, :-apart], words[:, apart:]], -1).reshape(-1, 2)
        for apart in range(1, _NEAR + 1)
    ]
    pairs = np.concatenate(near)
    pairs = pairs[(pairs > 0).all(1)]
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.random.default_rng(_SEED).permutation(len(pairs))
    x, y = pairs[order], np.log(counts[order, None]).astype("float32")
    return Data(x[_HELD_BACK:], y[_HELD_BACK:], x[:_HELD_BACK], y[:_HELD_BACK])


def build_products() -> keras.Model:
    """Products of two words' vectors (Pennington et al., 2014). No biases."""
    inputs = keras.Input((2,), dtype="int32")
    left = layers.Embedding(media.NUM_WORDS, 24)(inputs[:, 0])
    right = layers.Embedding(media.NUM_WORDS, 24)(inputs[:, 1])
    offsets = layers.Embedding(media.NUM_WORDS, 1)(inputs)
    product = ops.sum(left * right, -1, keepdims=True)
    return keras.Model(inputs, product + ops.sum(offsets, 1))


def load_components() -> Data:
    """The digits' first principal components, each of variance 1."""
    data = load_digits_data()
    x = data.x_train.reshape(data.num_train, -1)
    mean = x.mean(0)
    _, lengths, axes = np.linalg.svd(x - mean, full_matrices=False)
    scale = np.sqrt(len(x)) / lengths[:_COMPONENTS]

    def components(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1) - mean
        return (flat @ axes[:_COMPONENTS].T * scale).astype("float32")

    x, x_validation = map(components, (data.x_train, data.x_validation))
    # Nothing is to be told of them.
    return Data(
        x,
        np.zeros((len(x), 1), "float32"),
        x_validation,
        np.zeros((len(x_validation), 1), "float32"),
    )


class Coupling(layers.Layer):
    """Moves and stretches one half by what the other is (Dinh et al., 2017).

    Args:
        turned: Boolean, whether the first half is the one that moves.
    """

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.hidden = layers.Dense(32, activation="relu")
        self.change = layers.Dense(_COMPONENTS)

    def call(self, x: Any) -> tuple[Any, Any]:
        """The new vectors `(n, 8)`, and the logs of their stretch `(n, 1)`."""
        kept, moved = ops.split(x, 2, axis=-1)
        if self.turned:
            kept, moved = moved, kept
        stretch, offset = ops.split(self.change(self.hidden(kept)), 2, axis=-1)
        stretch = ops.tanh(stretch)
        moved = moved * ops.exp(stretch) + offset
        parts = [moved, kept] if self.turned else [kept, moved]
        return (
            ops.concatenate(parts, -1),
            ops.sum(stretch, -1, keepdims=True),
        )


def build_flow() -> keras.Model:
    """A normalizing flow: the log of a density, but for a constant."""
    inputs = x = keras.Input((_COMPONENTS,))
    stretch = 0.0
    for number in range(4):
        x, change = Coupling(number % 2 == 1)(x)
        stretch = stretch + change
    square = ops.sum(ops.square(x), -1, keepdims=True)
    return keras.Model(inputs, stretch - 0.5 * square)


def negative(_: Any, log_density: Any) -> Any:
    """The loss of a log density."""
    return -log_density


def load_next_rows() -> Data:
    """Images of Fashion-MNIST row by row; the target is the next row."""
    data = load_fashion_mnist(6_000, 1_000)
    x, x_validation = (
        images[..., 0] for images in (data.x_train, data.x_validation)
    )
    return Data(x[:, :-1], x[:, 1:], x_validation[:, :-1], x_validation[:, 1:])


def build_row_gru() -> keras.Model:
    """A GRU that says which row comes next."""
    return keras.Sequential(
        [
            keras.Input((27, 28)),
            layers.GRU(48, return_sequences=True),
            layers.Dense(28),
        ]
    )


def load_noisy_digits() -> Data:
    """Digits with noise of random strength; the noise is the target."""
    data = load_digits_data()
    generator = np.random.default_rng(_SEED)

    def noisy(images: np.ndarray, copies: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.repeat(2.0 * images.reshape(len(images), -1) - 1.0, copies, 0)
        noise = generator.normal(size=x.shape)
        angle = generator.uniform(0.0, np.pi / 2, (len(x), 1))
        x = np.cos(angle) * x + np.sin(angle) * noise
        x = np.concatenate([x, angle, np.cos(angle)], 1)
        return x.astype("float32"), noise.astype("float32")

    return Data(*noisy(data.x_train, 6), *noisy(data.x_validation, 3))


def build_denoiser() -> keras.Model:
    """Residual dense blocks that tell noise (Ho et al., 2020)."""
    inputs = keras.Input((66,))
    x = layers.Dense(128, activation="swish")(inputs)
    for _ in range(2):
        z = layers.LayerNormalization()(x)
        z = layers.Dense(128, activation="swish")(z)
        x = layers.Add()([x, layers.Dense(128)(z)])
    return keras.Model(inputs, layers.Dense(64)(x))


def load_letters() -> Data:
    """Letters of SST-2, 32 in a row, and the ones that follow them."""

    def rows(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        texts = tfds_source.load_arrays("glue/sst2", split)["sentence"]
        letters = np.frombuffer(b" ".join(texts), "uint8").astype("int32")
        letters = np.clip(letters - 32, 0, _ALPHABET - 1)
        letters = letters[: count * (_LETTERS + 1)]
        letters = letters.reshape(count, _LETTERS + 1)
        return letters[:, :-1], letters[:, 1:]

    return Data(*rows("train[:12000]", 8_000), *rows("train[-3000:]", 1_000))


def build_dilated() -> keras.Model:
    """Gated convolutions, each twice as wide (van den Oord et al., 2016)."""
    inputs = keras.Input((_LETTERS,), dtype="int32")
    x = layers.Embedding(_ALPHABET, 32)(inputs)
    for dilation in (1, 2, 4, 8):
        signal, gate = (
            layers.Conv1D(
                32,
                2,
                dilation_rate=dilation,
                padding="causal",
                activation=activation,
            )(x)
            for activation in ("tanh", "sigmoid")
        )
        x = layers.Add()([x, layers.Dense(32)(signal * gate)])
    return keras.Model(inputs, layers.Dense(_ALPHABET)(x))


def build_pyramid() -> keras.Model:
    """A dense net, each layer smaller than the one before."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def load_couples() -> Data:
    """Two images of Fashion-MNIST; the target: are they of one class?"""
    data = load_fashion_mnist(4_000, 1_000)
    generator = np.random.default_rng(_SEED)

    def couples(
        images: np.ndarray, classes: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        left = generator.integers(0, len(images), count)
        alike = generator.random(count) < 0.5
        right = [
            generator.choice(np.flatnonzero((classes == classes[i]) == same))
            for i, same in zip(left, alike, strict=True)
        ]
        pairs = np.stack([images[left], images[right]], 1)
        return pairs, alike.astype("float32")[:, None]

    return Data(
        *couples(data.x_train, data.y_train, 6_000),
        *couples(data.x_validation, data.y_validation, 1_000),
    )


def build_twins() -> keras.Model:
    """One convnet on two images (Bromley et al., 1993)."""
    body = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, 2, activation="relu"),
            layers.Conv2D(16, 3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(32),
        ]
    )
    inputs = keras.Input((2, 28, 28, 1))
    difference = ops.abs(body(inputs[:, 0]) - body(inputs[:, 1]))
    return keras.Model(inputs, layers.Dense(1)(difference))


def build_separable() -> keras.Model:
    """A separable convolution, a penalty on its kernel, and much dropout."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, 2, activation="relu"),
            layers.SeparableConv2D(
                32,
                3,
                strides=2,
                activation="relu",
                depthwise_regularizer="l2",
            ),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )


def loss_nets() -> dict[str, Workload]:
    """Nets with unfamiliar losses, batches and layers, by their titles."""
    optimizers, losses = keras.optimizers, keras.losses
    return {
        "products of word vectors, squared error, Adam; SST-2": net(
            "products",
            load_neighbours,
            build_products,
            optimizers.Adam,
            batch_size=128,
            loss=losses.MeanSquaredError(),
        ),
        "normalizing flow, likelihood, Adam; digits": net(
            "flow", load_components, build_flow, optimizers.Adam, loss=negative
        ),
        "next row by a GRU, Huber's loss, Adam; Fashion-MNIST": net(
            "row_gru",
            load_next_rows,
            build_row_gru,
            optimizers.Adam,
            loss=losses.Huber(0.3),
        ),
        "noise told from digits, squared error, Adam; digits": net(
            "denoiser",
            load_noisy_digits,
            build_denoiser,
            optimizers.Adam,
            loss=losses.MeanSquaredError(),
        ),
        "next letter by dilated convolutions, Adam; SST-2": net(
            "dilated",
            load_letters,
            build_dilated,
            optimizers.Adam,
            batch_size=32,
        ),
        "dense, batches of 512, Nesterov's momentum; Fashion-MNIST": net(
            "pyramid",
            functools.partial(load_fashion_mnist, 20_000, 1_000),
            build_pyramid,
            functools.partial(optimizers.SGD, momentum=0.9, nesterov=True),
            batch_size=512,
        ),
        "alike or not by twin convnets, AdamW; Fashion-MNIST": net(
            "twins",
            load_couples,
            build_twins,
            optimizers.AdamW,
            loss=losses.BinaryCrossentropy(from_logits=True),
        ),
        "separable convolution, dropout, Adamax; Fashion-MNIST": net(
            "separable",
            functools.partial(load_fashion_mnist, 6_000, 1_000),
            build_separable,
            optimizers.Adamax,
        ),
    }
