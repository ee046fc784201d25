"""The workloads of the suite, and what each shares with meta-training."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_metalr.workloads.digits import build_digits_model
from keras_metalr.workloads.digits import load_digits_data
from keras_metalr.workloads.optimizers import optimizer_factory
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.suite import media_models
from keras_metalr.workloads.suite import tabular
from keras_metalr.workloads.suite import tabular_models
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

# Those of the tasks that the shipped controller was evolved on.
META_TRAINED = ("sgd", "momentum", "adam", "adamw", "rmsprop", "lion")
_FURTHER: dict[str, Callable[[Any], keras.optimizers.Optimizer]] = {
    "adagrad": lambda rate: keras.optimizers.Adagrad(rate),
    "adamax": lambda rate: keras.optimizers.Adamax(rate),
    "nadam": lambda rate: keras.optimizers.Nadam(rate),
}


@dataclass(frozen=True)
class Entry:
    """One workload of the suite.

    What is shared is shared with the tasks that the shipped controller was
    evolved on: small copies of the same images and texts, networks of the same
    kind, an optimizer of the same formula.

    Args:
        name: String.
        kind: String, the kind of network.
        load_data: Callable without arguments that returns a `Data`.
        build_model: Callable without arguments that returns a new model.
        optimizer: String, as in `workloads.optimizers`, or `"adagrad"`,
            `"adamax"` or `"nadam"`.
        learning_rate: Float, the usual rate.
        batch_size: Integer, examples in a batch.
        epochs: Integer, the budget.
        shares_data: Boolean.
        shares_kind: Boolean.
        is_regression: Boolean, whether the loss is a squared error. Defaults
            to `False`, cross-entropy.
        was_looked_at: Boolean, whether the update rule was changed for what it
            did here. Defaults to `False`.
    """

    name: str
    kind: str
    load_data: Callable[[], Data]
    build_model: Callable[[], keras.Model]
    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    shares_data: bool
    shares_kind: bool
    is_regression: bool = False
    was_looked_at: bool = False

    @property
    def shares_optimizer(self) -> bool:
        """Whether meta-training had tasks with this optimizer."""
        return self.optimizer in META_TRAINED

    @property
    def shares_nothing(self) -> bool:
        """Neither data, kind of network nor optimizer was trained on."""
        return not self.shared

    @property
    def shared(self) -> str:
        """What is shared, for a column of a table."""
        parts = {
            "data": self.shares_data,
            "kind of net": self.shares_kind,
            "optimizer": self.shares_optimizer,
        }
        return ", ".join(name for name, is_shared in parts.items() if is_shared)

    def workload(self) -> Workload:
        """Return it as a `Workload`."""
        return Workload(
            name=self.name,
            load_data=self.load_data,
            build_model=self.build_model,
            make_optimizer=_FURTHER.get(self.optimizer)
            or optimizer_factory(self.optimizer),
            loss=self._loss(),
            metrics=() if self.is_regression else ("accuracy",),
            batch_size=self.batch_size,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            # The suite's target is a loss, and comes from a tuned baseline.
            target_accuracy=0.0,
            options={"optimizer": self.optimizer},
        )

    def _loss(self) -> Any:
        if self.is_regression:
            return keras.losses.MeanSquaredError()
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


_TABULAR = (
    Entry(
        "wine_linear",
        "linear",
        tabular.load_wine_data,
        functools.partial(tabular_models.build_linear, 13, 3),
        "adagrad",
        0.1,
        32,
        50,
        shares_data=False,
        shares_kind=False,
        was_looked_at=True,
    ),
    Entry(
        "cancer_gated",
        "gated, layer normalization",
        tabular.load_breast_cancer_data,
        functools.partial(tabular_models.build_gated, 30, 2),
        "nadam",
        1e-3,
        32,
        15,
        shares_data=False,
        shares_kind=False,
    ),
    Entry(
        "cancer_experts",
        "mixture of experts",
        tabular.load_breast_cancer_data,
        functools.partial(tabular_models.build_experts, 30, 2),
        "adamax",
        1e-3,
        32,
        15,
        shares_data=False,
        shares_kind=False,
        was_looked_at=True,
    ),
    Entry(
        "diabetes_cross",
        "deep and cross, regression",
        tabular.load_diabetes_data,
        functools.partial(tabular_models.build_cross, 10, 1),
        "adagrad",
        0.1,
        32,
        20,
        shares_data=False,
        shares_kind=False,
        is_regression=True,
    ),
    Entry(
        "diabetes_radial",
        "radial basis functions, regression",
        tabular.load_diabetes_data,
        functools.partial(tabular_models.build_radial, 10, 1),
        "nadam",
        1e-2,
        32,
        20,
        shares_data=False,
        shares_kind=False,
        is_regression=True,
    ),
)

_IMAGES = (
    Entry(
        "digits_dense",
        "dense",
        load_digits_data,
        media_models.build_dense,
        "adam",
        1e-3,
        64,
        10,
        shares_data=True,
        shares_kind=True,
    ),
    Entry(
        "digits_conv",
        "convnet",
        load_digits_data,
        build_digits_model,
        "sgd",
        0.1,
        64,
        10,
        shares_data=True,
        shares_kind=True,
    ),
    Entry(
        "fashion_batchnorm",
        "convnet, batch normalization",
        media.load_fashion_halved,
        media_models.build_batchnorm,
        "momentum",
        0.01,
        64,
        4,
        shares_data=True,
        shares_kind=True,
    ),
    Entry(
        "cifar10_residual",
        "residual convnet, batch normalization",
        media.load_cifar10_halved,
        media_models.build_residual,
        "adamw",
        3e-3,
        64,
        5,
        shares_data=True,
        shares_kind=True,
    ),
    Entry(
        "fashion_autoencoder",
        "autoencoder",
        media.load_fashion_pictures,
        media_models.build_autoencoder,
        "adam",
        1e-3,
        64,
        4,
        shares_data=True,
        shares_kind=True,
        is_regression=True,
    ),
    Entry(
        "digits_finetune",
        "fine-tuned convnet",
        media.load_new_digits,
        media_models.build_pretrained,
        "adam",
        1e-3,
        32,
        10,
        shares_data=True,
        shares_kind=True,
    ),
)

_TEXTS = (
    Entry(
        "sst2_transformer",
        "transformer",
        media.load_sst2_words,
        media_models.build_transformer,
        "adam",
        1e-3,
        64,
        1,
        shares_data=True,
        shares_kind=True,
    ),
    Entry(
        "sst2_recurrent",
        "recurrent (LSTM)",
        media.load_sst2_words,
        media_models.build_recurrent,
        "adam",
        3e-3,
        64,
        1,
        shares_data=True,
        shares_kind=True,
    ),
    Entry(
        "sst2_bag",
        "mean of word vectors",
        media.load_sst2_words,
        media_models.build_bag,
        "nadam",
        1e-2,
        64,
        1,
        shares_data=True,
        shares_kind=False,
        was_looked_at=True,
    ),
)

SUITE: dict[str, Entry] = {
    entry.name: entry for entry in (*_TABULAR, *_IMAGES, *_TEXTS)
}
