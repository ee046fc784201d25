"""Images and texts, as small as the networks of the suite."""

import dataclasses
import zlib

import numpy as np

from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.digits import load_digits_data
from keras_metalr.workloads.fashion_mnist_cnn import load_fashion_mnist
from keras_metalr.workloads.images import block_means
from keras_metalr.workloads.workload import Data

NUM_WORDS = 2000
NUM_TOKENS = 16
_PADDING = 0
_OLD_CLASSES = 5


def load_cifar10_halved(
    train_examples: int = 3000, validation_examples: int = 1000
) -> Data:
    """CIFAR-10 in colour at 16x16; the first and the last training images."""
    splits = [
        tfds_source.load_arrays("cifar10", split)
        for split in (
            f"train[:{train_examples}]",
            f"train[{-validation_examples}:]",
        )
    ]
    (x, y), (x_validation, y_validation) = (
        (
            block_means(split["image"].astype("float32") / 127.5 - 1.0, 2),
            np.asarray(split["label"], "int32"),
        )
        for split in splits
    )
    note = tfds_source.images_note("cifar10")
    return Data(x, y, x_validation, y_validation, note=note)


def load_fashion_halved(
    train_examples: int = 4000, validation_examples: int = 1000
) -> Data:
    """Fashion-MNIST at 14x14."""
    data = load_fashion_mnist(train_examples, validation_examples)
    return dataclasses.replace(
        data,
        x_train=block_means(data.x_train, 2),
        x_validation=block_means(data.x_validation, 2),
    )


def load_fashion_pictures() -> Data:
    """Fashion-MNIST at 14x14, to be told from itself: the target is `x`."""
    data = load_fashion_halved()
    x, x_validation = (
        images.reshape(len(images), -1)
        for images in (data.x_train, data.x_validation)
    )
    return Data(x, x, x_validation, x_validation)


def load_old_digits() -> Data:
    """The digits 0 to 4, for pretraining."""
    return _digits_of(range(_OLD_CLASSES))


def load_new_digits() -> Data:
    """The digits 5 to 9 as classes 0 to 4, for fine-tuning."""
    return _digits_of(range(_OLD_CLASSES, 10))


def _digits_of(classes: range) -> Data:
    data = load_digits_data()
    train = np.isin(data.y_train, classes)
    validation = np.isin(data.y_validation, classes)
    return Data(
        x_train=data.x_train[train],
        y_train=data.y_train[train] - classes.start,
        x_validation=data.x_validation[validation],
        y_validation=data.y_validation[validation] - classes.start,
    )


def load_sst2_words(
    train_examples: int = 18_000, validation_examples: int = 872
) -> Data:
    """SST-2 as numbers of words: `(n, 16)`, each a hash from 1 to 1,999."""
    return Data(
        *load_words(f"train[:{train_examples}]"),
        *load_words(f"validation[:{validation_examples}]"),
    )


def load_words(split: str) -> tuple[np.ndarray, np.ndarray]:
    """A slice of SST-2: numbers of words `(n, 16)`, and labels `(n,)`.

    Args:
        split: String, as TensorFlow Datasets names slices.
    """
    arrays = tfds_source.load_arrays("glue/sst2", split)
    x = np.stack([word_numbers(text) for text in arrays["sentence"]])
    return x, np.asarray(arrays["label"], "int32")


def word_numbers(text: bytes) -> np.ndarray:
    """The first words of a text as numbers, padded with 0.

    Args:
        text: Bytes.

    Returns:
        Integer array, shape `(16,)`, from 0 to 1,999.
    """
    numbers = np.full(NUM_TOKENS, _PADDING, "int32")
    for place, word in enumerate(text.lower().split()[:NUM_TOKENS]):
        numbers[place] = 1 + zlib.crc32(word) % (NUM_WORDS - 1)
    return numbers
