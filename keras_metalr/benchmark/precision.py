"""Chooses the number format of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_metalr.benchmark.environment import accelerator_name

MODES = ("auto", "on", "off")


def check_mode(mode: str) -> None:
    """Raise for an unknown mode.

    Args:
        mode: String, see `policy_name`.

    Raises:
        ValueError: If it is none of `"auto"`, `"on"` and `"off"`.
    """
    if mode not in MODES:
        raise ValueError(
            f"`mixed_precision` must be one of {MODES}. "
            f"Received: mixed_precision={mode!r}."
        )


def policy_name(mode: str) -> str:
    """Return the name of the Keras dtype policy for a mode.

    Args:
        mode: String. `"off"` is float32. `"on"` is mixed_float16 on a GPU
            under TensorFlow and JAX, and mixed_bfloat16 elsewhere. `"auto"`
            is `"on"` when there is an accelerator and `"off"` when not.

    Returns:
        String, such as `"mixed_float16"`.

    Raises:
        ValueError: If `mode` is unknown.
    """
    check_mode(mode)
    accelerator = accelerator_name()
    if mode == "off" or (mode == "auto" and accelerator is None):
        return "float32"
    is_gpu = accelerator is not None and "TPU" not in accelerator
    if is_gpu and keras.backend.backend() in ("tensorflow", "jax"):
        return "mixed_float16"
    return "mixed_bfloat16"


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Make a dtype policy the global one inside a `with` block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
