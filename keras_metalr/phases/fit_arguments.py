"""What phases 1 and 3 take from the arguments that a user has for `fit`."""

from typing import Any

import keras


def callbacks_of(arguments: dict[str, Any]) -> list[keras.callbacks.Callback]:
    """Take the callbacks out: a list, a single one, or `None`, as in Keras.

    Args:
        arguments: Dict of keyword arguments of `fit`, changed in place.
    """
    return keras.tree.flatten(arguments.pop("callbacks", None) or [])  # type: ignore[no-any-return]
