"""The optimizers that a workload may be asked to use, by name."""

from collections.abc import Callable
from typing import Any

import keras

_OPTIMIZERS: dict[str, Callable[[Any], keras.optimizers.Optimizer]] = {
    "sgd": lambda rate: keras.optimizers.SGD(rate),
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adam": lambda rate: keras.optimizers.Adam(rate),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.01),
}

OPTIMIZER_NAMES = tuple(_OPTIMIZERS)


def optimizer_factory(
    name: str,
) -> Callable[[Any], keras.optimizers.Optimizer]:
    """Return a function from a learning rate to a new optimizer.

    Args:
        name: String, one of `"sgd"`, `"momentum"` (SGD, momentum 0.9),
            `"adam"` and `"adamw"` (weight decay 0.01).

    Returns:
        A function of a learning rate (float or schedule).

    Raises:
        ValueError: If `name` is unknown.
    """
    if name not in _OPTIMIZERS:
        raise ValueError(
            f"`optimizer` must be one of {OPTIMIZER_NAMES}. "
            f"Received: optimizer={name!r}."
        )
    return _OPTIMIZERS[name]
