"""A dense net on flattened Fashion-MNIST, and four usual changes to it.

The changes are those that a run without MetaLR would be improved by: a wider
and deeper net, dropout, a lower rate, a larger batch. Each is there alone and
on top of the ones before it, so that what MetaLR adds can be told from what
they add.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace

import keras

from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.fashion_mnist_cnn import load_fashion_mnist
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

_NUM_TRAIN = 48_000
_NUM_VALIDATION = 12_000
_NUM_PIXELS = 28 * 28


@dataclass(frozen=True)
class Variant:
    """What the changes change. The defaults are the original.

    Args:
        hidden_sizes: Tuple of integers, units of each hidden layer.
        dropout: Float in [0, 1), the share of a hidden layer's outputs that
            is dropped. Defaults to `0.0`, no dropout layers.
        learning_rate: Float. Defaults to `0.001`.
        batch_size: Integer, examples in a batch. Defaults to `32`.
    """

    hidden_sizes: tuple[int, ...] = (64,)
    dropout: float = 0.0
    learning_rate: float = 1e-3
    batch_size: int = 32


_CHANGES: dict[str, Callable[[Variant], Variant]] = {
    "wider": lambda variant: replace(variant, hidden_sizes=(128, 64)),
    "dropout": lambda variant: replace(variant, dropout=0.5),
    "lower-rate": lambda variant: replace(variant, learning_rate=5e-4),
    "larger-batch": lambda variant: replace(variant, batch_size=64),
}


def _variants() -> dict[str, Variant]:
    original = so_far = Variant()
    variants = {"original": original}
    for name, change in _CHANGES.items():
        so_far = variants[f"+{name}"] = change(so_far)
    for name, change in _CHANGES.items():
        variants[name] = change(original)
    return variants


# `+NAME` is the change on top of all before it, `NAME` the change alone.
VARIANTS = _variants()


def report_mlp(
    variant: str = "original",
    train_examples: int | None = None,
    validation_examples: int | None = None,
    optimizer: str = "adam",
    download: bool = False,
) -> Workload:
    """Return one variant: 48,000 images to train, 12,000 to validate.

    That is `validation_split=0.2` of the official training split: training
    examples are its first ones, validation examples its last ones. The test
    split is not touched.

    Args:
        variant: String, a key of `VARIANTS`: `"original"`; `"+wider"`,
            `"+dropout"`, `"+lower-rate"` and `"+larger-batch"`, each on top
            of the ones before it; the same without `+`, each alone. Defaults
            to `"original"`.
        train_examples: Integer, at most 48,000, to train on a slice. Defaults
            to `None`, all.
        validation_examples: Integer, at most 12,000. Defaults to `None`, all.
        optimizer: String, `"sgd"`, `"momentum"`, `"adam"` or `"adamw"`.
            Defaults to `"adam"`.
        download: Boolean, whether to download the data when it is not there.
            Defaults to `False`.

    Returns:
        A `Workload`. Variants that are the same net, rate and batch size are
        the same workload: `"wider"` is `"+wider"`.

    Raises:
        ValueError: If `variant` is unknown or a number of examples is out of
            range.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"`variant` must be one of {tuple(VARIANTS)}. "
            f"Received: variant={variant!r}."
        )
    tfds_source.check_count("train_examples", train_examples, _NUM_TRAIN)
    tfds_source.check_count(
        "validation_examples", validation_examples, _NUM_VALIDATION
    )
    counts = {
        "train_examples": train_examples or _NUM_TRAIN,
        "validation_examples": validation_examples or _NUM_VALIDATION,
    }
    chosen = VARIANTS[variant]
    return Workload(
        name="report_mlp",
        load_data=functools.partial(
            load_flat_fashion_mnist, **counts, download=download
        ),
        build_model=functools.partial(
            build_report_mlp, chosen.hidden_sizes, chosen.dropout
        ),
        make_optimizer=optimizer_factory(optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=chosen.batch_size,
        epochs=10,
        learning_rate=chosen.learning_rate,
        target_accuracy=0.87,
        options={
            # The first name of the same settings, so that they are run once.
            "variant": next(n for n, v in VARIANTS.items() if v == chosen),
            **counts,
            "optimizer": optimizer,
        },
    )


def load_flat_fashion_mnist(
    train_examples: int, validation_examples: int, download: bool = False
) -> Data:
    """Read the images as rows of 784 pixels in [0, 1].

    Raises:
        DataNotAvailableError: If Fashion-MNIST is not on this machine.
    """
    data = load_fashion_mnist(train_examples, validation_examples, download)
    return replace(
        data,
        x_train=data.x_train.reshape(-1, _NUM_PIXELS),
        x_validation=data.x_validation.reshape(-1, _NUM_PIXELS),
    )


def build_report_mlp(
    hidden_sizes: tuple[int, ...], dropout: float = 0.0
) -> keras.Model:
    """Return an uncompiled dense net with 10 logits.

    Args:
        hidden_sizes: Tuple of integers, units of each hidden layer (ReLU).
        dropout: Float in [0, 1), applied after each hidden layer. Defaults to
            `0.0`, no dropout layers.
    """
    inputs = keras.Input((_NUM_PIXELS,))
    x = inputs
    for size in hidden_sizes:
        x = keras.layers.Dense(size, activation="relu")(x)
        if dropout:
            x = keras.layers.Dropout(dropout)(x)
    outputs = keras.layers.Dense(10, dtype="float32")(x)
    return keras.Model(inputs, outputs, name="report_mlp")
