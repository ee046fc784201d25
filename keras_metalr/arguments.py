"""Checks of what the user passes to `MetaLR`, before anything is touched."""

import math
import numbers
import os
import pathlib
from typing import Any

import keras

from keras_metalr.controller import Controller
from keras_metalr.experience import load as load_experiences
from keras_metalr.features import NUM_FEATURES
from keras_metalr.train_step import check_trainable
from keras_metalr.update_rule import MAX_RATE
from keras_metalr.update_rule import MIN_RATE


def check_numbers(total_steps: Any, low: Any, high: Any, verbose: Any) -> None:
    """Raise `ValueError` for a horizon, limits or a verbosity out of range."""
    if total_steps is not None and not is_positive_integer(total_steps):
        raise ValueError(
            "`total_steps` must be a positive integer (batches in the whole "
            f"run) or None. Received: total_steps={total_steps!r}. "
            "Use None to take it from `fit`."
        )
    for name, value in (
        ("min_learning_rate", low),
        ("max_learning_rate", high),
    ):
        if value is not None and not is_positive_number(value):
            raise ValueError(
                f"`{name}` must be a positive, finite number or None. "
                f"Received: {name}={value!r}."
            )
    low = MIN_RATE if low is None else low
    high = MAX_RATE if high is None else high
    if low > high:
        raise ValueError(
            "`min_learning_rate` must not exceed `max_learning_rate` (which "
            f"are {MIN_RATE} and {MAX_RATE} where they are None). "
            f"Received: {low} and {high}."
        )
    if isinstance(verbose, bool) or verbose not in (0, 1):
        raise ValueError(
            f"`verbose` must be 0 or 1. Received: verbose={verbose!r}."
        )


def is_positive_integer(value: Any) -> bool:
    """Whether a value is an integer of 1 or more, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return False
    return int(value) >= 1


def is_positive_number(value: Any) -> bool:
    """Whether a value is a finite number above 0, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value) and float(value) > 0.0


def check_boolean(name: str, value: Any) -> None:
    """Raise `ValueError` for what is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r}."
        )


def load_controller(controller: Any) -> keras.Model:
    """The controller itself, or the preset that is named."""
    if isinstance(controller, (str, os.PathLike)):
        return Controller.from_preset(controller)
    if not isinstance(controller, keras.Model):
        raise ValueError(
            "`controller` must be a preset's name, the path of a preset "
            "folder, or a keras.Model. Received: controller="
            f"{controller!r} of type {type(controller).__name__}."
        )
    try:
        shape = controller.compute_output_shape((None, NUM_FEATURES))
    except Exception as error:
        raise ValueError(
            f"`controller` must take inputs of shape (batch, {NUM_FEATURES}). "
            f"Received one that does not: {error} "
            "Use keras_metalr.Controller()."
        ) from error
    if not controller.built or shape != (None, 1):
        raise ValueError(
            f"`controller` must map inputs of shape (batch, {NUM_FEATURES}) to "
            f"outputs of shape (batch, 1). Received a model that gives {shape}."
            " Use keras_metalr.Controller()."
        )
    if controller.non_trainable_variables:
        raise ValueError(
            "`controller` must have trainable weights alone (no "
            "BatchNormalization, no Dropout, no frozen layer). Received: "
            f"{[v.path for v in controller.non_trainable_variables]}."
        )
    return controller


def check_folder(name: str, folder: Any) -> None:
    """Make a folder where it is missing.

    Args:
        name: String, the argument's.
        folder: String or path.

    Raises:
        ValueError: If it cannot be made, or not be written to.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ValueError(
            f"`{name}` must be a folder's path or None. "
            f"Received: {name}={folder!r}."
        )
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission to write to it")
    except OSError as error:
        raise ValueError(
            f"`{name}` {str(folder)!r} is no folder that can be written to "
            f"({error}). Use another one."
        ) from error


def check_experience_dir(folder: Any) -> None:
    """Make the folder where it is missing, and read what is in it.

    Raises:
        ValueError: If it cannot be made, written to or read.
    """
    check_folder("experience_dir", folder)
    load_experiences(folder)


def check_model(model: keras.Model) -> None:
    """Raise `ValueError` for a model that cannot be trained or controlled."""
    if keras.config.is_nnx_enabled():
        raise ValueError(
            "MetaLR does not work with Flax NNX: Keras's trainer goes past the "
            "hooks on the model there. Received: KERAS_NNX_ENABLED set. Unset "
            "it, and start Python anew."
        )
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(
            "MetaLR controls a compiled model's optimizer, and this model has "
            "none. Call `model.compile(optimizer=..., loss=...)` first."
        )
    if model.built:
        check_trainable(model)
