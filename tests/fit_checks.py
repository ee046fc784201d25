"""What the tests of `fit` share: tiny models, tiny data, and what clean is.

And controllers. Nothing here imports keras_metalr before one is asked for, so
that a process that must do without it can use these too.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

# Attributes that MetaLR lays over the model's class while `fit` runs.
HOOKS = (
    "train_step",
    "compute_loss",
    "make_train_function",
    "evaluate",
    "_get_metrics_result_or_logs",
)

NUM_INPUTS = 6
NUM_CLASSES = 3
# With 48 examples: 6 batches an epoch, all of one shape.
BATCH_SIZE = 8
FIT = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
# The way to run a step that starts soonest, for tests of other things than it.
QUICK = {"jit_compile": keras.backend.backend() == "jax"}

if keras.backend.backend() == "jax":
    import jax

    # Most of a short `fit` is compiling, and the models here are few: each is
    # compiled once for all the tests of a process.
    _CACHE = tempfile.TemporaryDirectory(prefix="jax_cache_")
    jax.config.update("jax_compilation_cache_dir", _CACHE.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def needs_optimizer(name: str) -> pytest.MarkDecorator:
    """Skips a test where this Keras is too old for one of its optimizers."""
    return pytest.mark.skipif(
        not hasattr(keras.optimizers, name),
        reason=f"Keras {keras.__version__} has no keras.optimizers.{name}",
    )


def make_data(num_examples: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(num_examples, 6)`, float32, and labels `(num_examples,)`."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(num_examples, NUM_INPUTS)).astype("float32")
    return x, x[:, :NUM_CLASSES].argmax(axis=1).astype("int32")


def make_layers(
    normalize: bool = True, drop: bool = True
) -> list[keras.layers.Layer]:
    """Layers with weights, running statistics and a random seed."""
    layers = [keras.layers.Dense(8, activation="relu")]
    if normalize:
        layers.append(keras.layers.BatchNormalization())
    if drop:
        layers.append(keras.layers.Dropout(0.2, seed=3))
    return [*layers, keras.layers.Dense(NUM_CLASSES)]


class Subclass(keras.Model):
    def __init__(self, layers: list[keras.layers.Layer]) -> None:
        super().__init__()
        self.parts = layers

    def call(self, x: Any, training: bool = False) -> Any:
        for part in self.parts:
            random = isinstance(part, keras.layers.Dropout)
            if random or isinstance(part, keras.layers.BatchNormalization):
                x = part(x, training=training)
            else:
                x = part(x)
        return x


def make_model(
    kind: str = "functional", *, normalize: bool = True, drop: bool = True
) -> keras.Model:
    """A model that is not compiled, the same weights at every call.

    Args:
        kind: String, "functional", "sequential", "subclass" (built) or
            "unbuilt" (sequential).
        normalize: Boolean, whether it has a BatchNormalization layer.
            Defaults to `True`.
        drop: Boolean, whether it has a Dropout layer. Defaults to `True`.
    """
    keras.utils.set_random_seed(7)
    layers = make_layers(normalize, drop)
    if kind == "functional":
        inputs = outputs = keras.Input((NUM_INPUTS,))
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(inputs, outputs)
    if kind == "subclass":
        model = Subclass(layers)
        model(np.zeros((1, NUM_INPUTS), "float32"))
        return model
    inputs = [keras.Input((NUM_INPUTS,))] if kind == "sequential" else []
    return keras.Sequential([*inputs, *layers])


def cross_entropy() -> keras.losses.Loss:
    """The loss of logits and labels, as of the models of `make_model`."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(
    optimizer: Any = "sgd", kind: str = "functional", **kwargs: Any
) -> keras.Model:
    """A compiled model of `make_model`; other `kwargs` are `compile`'s."""
    model = make_model(
        kind,
        normalize=kwargs.pop("normalize", True),
        drop=kwargs.pop("drop", True),
    )
    kwargs = {"loss": cross_entropy(), **kwargs}
    model.compile(optimizer, **kwargs)
    return model


def largest_difference(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray]
) -> float:
    """The largest difference of two lists of weights, element by element."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_equal(np.shape(a), np.shape(b))
    return max(
        float(np.abs(np.asarray(a, "float64") - np.asarray(b)).max(initial=0.0))
        for a, b in zip(left, right, strict=True)
    )


def all_finite(model: keras.Model) -> bool:
    """Whether every weight and running statistic of the model is finite."""
    return all(
        np.isfinite(keras.ops.convert_to_numpy(v)).all()
        for v in model.variables
    )


def assert_clean(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    learning_rate: float | None = None,
    train_function: Any = None,
) -> None:
    """Assert that nothing of MetaLR is on the model.

    Args:
        model: The `keras.Model`.
        optimizer: The optimizer that it was compiled with.
        learning_rate: Float, the optimizer's own rate; `None`: not checked.
        train_function: The model's train function before `fit`.
    """
    assert model.optimizer is optimizer
    assert not [name for name in HOOKS if name in vars(model)]
    assert model.train_function is train_function
    assert not [
        name
        for name, value in vars(model).items()
        if type(value).__module__.startswith("keras_metalr")
    ]
    if learning_rate is not None:
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        assert rate == np.float32(learning_rate)


def constant_controller(output: float = -1.0) -> keras.Model:
    """A controller whose output is this, whatever it is shown."""
    from keras_metalr import Controller

    controller = Controller()
    controller.head.bias.assign([output])
    return controller


def random_controller(seed: int = 0, scale: float = 0.5) -> keras.Model:
    """A controller that answers something else in every state."""
    from keras_metalr import Controller

    controller = Controller()
    generator = np.random.default_rng(seed)
    controller.set_weights(
        [
            scale * generator.normal(size=w.shape) / np.sqrt(w.shape[0])
            for w in controller.get_weights()
        ]
    )
    return controller
