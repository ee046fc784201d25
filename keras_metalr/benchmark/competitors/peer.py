"""What a method of the side-by-side benchmark declares of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Setting:
    """What a method is told of a training task.

    Args:
        make_optimizer: Callable from a learning rate to a new
            `keras.optimizers.Optimizer`, the task's own.
        num_steps: Integer (>= 1), steps of the whole run.
    """

    make_optimizer: Callable[[float], keras.optimizers.Optimizer]
    num_steps: int


def _no_callbacks(setting: Setting) -> tuple[keras.callbacks.Callback, ...]:
    del setting
    return ()


@dataclass(frozen=True)
class Peer:
    """A method of the side-by-side benchmark.

    Every method starts from one number, its `start`: its learning rate or,
    where it has none, its own first guess. The optimizer holds it in the
    variable `learning_rate`, so that one compiled step serves every start.

    Args:
        name: String, the key in the table.
        source: String, the paper (arXiv number) or the library.
        start: String, what the start is, in words.
        make_optimizer: Callable `(setting, start) -> optimizer`.
        default_start: Float (> 0), the start where nothing was tuned. Defaults
            to `None`: the best constant rate of the task's own optimizer.
        is_tuned: Boolean, whether the start is chosen by trials on each task
            before anything is compared. Defaults to `False`.
        callbacks: Callable `(setting) -> callbacks` for one `fit`. Defaults
            to none.
        evaluation_weights: Callable `(optimizer, weights) -> weights`, from
            those that are trained to those that count, both lists of arrays.
            Defaults to `None`, they are the same.
        find_start: Callable `(trainee, batches) -> start`, run before each
            training. Defaults to `None`, nothing is run.
        extra_steps: Integer, steps that `find_start` takes. Defaults to `0`.
        needs_jax: Boolean, whether it runs on the JAX backend alone. Defaults
            to `False`.
        recovers: Boolean, whether training may come back after a loss that is
            not finite. Defaults to `False`.
        note: String, what a reader of its row must know. Defaults to `""`.

    Raises:
        ValueError: If `default_start` is not positive, or is given for a
            method that is tuned.
    """

    name: str
    source: str
    start: str
    make_optimizer: Callable[[Setting, float], keras.optimizers.Optimizer]
    default_start: float | None = None
    is_tuned: bool = False
    callbacks: Callable[[Setting], tuple[keras.callbacks.Callback, ...]] = (
        _no_callbacks
    )
    evaluation_weights: Callable[[Any, list[Any]], list[Any]] | None = None
    find_start: Callable[[Any, Any], float] | None = None
    extra_steps: int = 0
    needs_jax: bool = False
    recovers: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        start = self.default_start
        if start is not None and not start > 0:
            raise ValueError(
                "`default_start` must be positive. "
                f"Received: default_start={start} of {self.name!r}."
            )
        if self.is_tuned and start is not None:
            raise ValueError(
                "A method that is tuned takes its start from its trials. "
                f"Received: default_start={start} of {self.name!r}. Leave "
                "out one of `is_tuned` and `default_start`."
            )
