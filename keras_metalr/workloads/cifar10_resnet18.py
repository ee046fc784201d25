"""ResNet-18 with the CIFAR stem on CIFAR-10.

The network is written here because the usual library ResNets have the
ImageNet stem (7x7 stride 2 and a max-pool), which throws away most of a 32x32
image: it is another network.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.images import block_means
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

_NUM_TRAIN = 45_000
_NUM_VALIDATION = 5_000
# Per channel, over the training images in [0, 1].
_MEAN = np.array([0.4914, 0.4822, 0.4465], "float32")
_STANDARD_DEVIATION = np.array([0.2470, 0.2435, 0.2616], "float32")
_PADDING = 4
_IMAGE_SIZES = (32, 16, 8)


def cifar10_resnet18(
    train_examples: int | None = None,
    validation_examples: int | None = None,
    augment: bool = False,
    optimizer: str = "sgd",
    image_size: int = 32,
    download: bool = False,
) -> Workload:
    """Return CIFAR-10 on ResNet-18: 45,000 images to train, 5,000 to validate.

    Validation images are the last 5,000 of the official training split; the
    test split is not touched.

    Args:
        train_examples: Integer, at most 45,000, to train on a slice. Defaults
            to `None`, all.
        validation_examples: Integer, at most 5,000. Defaults to `None`, all.
        augment: Boolean, whether to shift each training image by up to 4
            pixels (a random crop of the image padded by 4) and mirror half of
            them. Defaults to `False`.
        optimizer: String, `"sgd"`, `"momentum"`, `"adam"` or `"adamw"`.
            Defaults to `"sgd"`.
        image_size: Integer, 32, 16 or 8: pixels a side. Smaller images are
            means over squares of the official ones; 16 takes a fourth of the
            time. Defaults to `32`.
        download: Boolean, whether to download the data when it is not there.
            Defaults to `False`.

    Returns:
        A `Workload`.

    Raises:
        ValueError: If a number of examples is out of range, or an image size
            is not one of the three.
    """
    if image_size not in _IMAGE_SIZES:
        raise ValueError(
            f"`image_size` must be one of {_IMAGE_SIZES}. "
            f"Received: {image_size!r}."
        )
    tfds_source.check_count("train_examples", train_examples, _NUM_TRAIN)
    tfds_source.check_count(
        "validation_examples", validation_examples, _NUM_VALIDATION
    )
    return Workload(
        name="cifar10_resnet18",
        load_data=functools.partial(
            load_cifar10,
            train_examples,
            validation_examples,
            augment,
            image_size,
            download,
        ),
        build_model=functools.partial(build_resnet18, image_size),
        make_optimizer=optimizer_factory(optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=64,
        epochs=50,
        learning_rate=0.01,
        target_accuracy=0.85,
        options={
            "train_examples": train_examples,
            "validation_examples": validation_examples,
            "augment": augment,
            "optimizer": optimizer,
            "image_size": image_size,
        },
    )


def load_cifar10(
    train_examples: int | None = None,
    validation_examples: int | None = None,
    augment: bool = False,
    image_size: int = 32,
    download: bool = False,
) -> Data:
    """Read, shrink and normalize the images.

    Raises:
        DataNotAvailableError: If CIFAR-10 is not on this machine.
    """
    num_train = train_examples or _NUM_TRAIN
    num_validation = validation_examples or _NUM_VALIDATION
    load = functools.partial(
        tfds_source.load_arrays, "cifar10", download=download
    )
    x_train, y_train = _normalized(
        load(split=f"train[:{num_train}]"), image_size
    )
    x_validation, y_validation = _normalized(
        load(split=f"train[{_NUM_TRAIN}:{_NUM_TRAIN + num_validation}]"),
        image_size,
    )
    return Data(
        x_train=x_train,
        y_train=y_train,
        x_validation=x_validation,
        y_validation=y_validation,
        augment=(
            functools.partial(crop_and_flip, image_size=image_size)
            if augment
            else None
        ),
        note=tfds_source.images_note("cifar10"),
    )


def crop_and_flip(seed: int, image_size: int = 32) -> Callable[[Any], Any]:
    """Return a random crop of the padded image, then a random mirroring.

    `keras.layers.RandomCrop` draws one offset for a whole batch. Shifting
    each image by whole pixels and filling with zeros (the mean colour) is the
    same crop, with one offset an image.

    Args:
        seed: Integer. The same seed gives the same stream.
        image_size: Integer, pixels a side. The shift is up to an eighth of it.
            Defaults to `32`.

    Returns:
        A function from a batch of images, shape
        `(batch, image_size, image_size, 3)`, to a batch of the same shape.
    """
    # Half a pixel more on each side, so that after rounding to whole pixels
    # the outermost shifts come as often as the others.
    limit = (_PADDING * image_size // 32 + 0.499) / image_size
    layers = (
        keras.layers.RandomTranslation(
            height_factor=limit,
            width_factor=limit,
            fill_mode="constant",
            interpolation="nearest",
            seed=seed,
        ),
        keras.layers.RandomFlip("horizontal", seed=seed + 1),
    )

    def augment(images: Any) -> Any:
        for layer in layers:
            images = layer(images, training=True)
        return images

    return augment


def build_resnet18(image_size: int = 32) -> keras.Model:
    """Return an uncompiled ResNet-18 with the CIFAR stem, 10 logits.

    Args:
        image_size: Integer, pixels a side. Defaults to `32`.
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = _convolution(inputs, 64, 3, 1)
    x = keras.layers.Activation("relu")(x)
    for filters, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = _residual_block(x, filters, first_stride)
        x = _residual_block(x, filters, 1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(10, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="resnet18_cifar")


def _residual_block(x: Any, filters: int, stride: int) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = _convolution(x, filters, 1, stride)
    x = _convolution(x, filters, 3, stride)
    x = keras.layers.Activation("relu")(x)
    x = _convolution(x, filters, 3, 1)
    x = keras.layers.Add()([x, shortcut])
    return keras.layers.Activation("relu")(x)


def _convolution(x: Any, filters: int, size: int, stride: int) -> Any:
    x = keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _normalized(
    split: dict[str, np.ndarray], image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    images = split["image"].astype("float32") / 255.0
    images = block_means(images, images.shape[1] // image_size)
    images = (images - _MEAN) / _STANDARD_DEVIATION
    return images, np.asarray(split["label"], "int32")
