"""The ways of setting the learning rate that a run can be made with.

A competitor is a function from the learning rate and the number of steps to
what goes into the optimizer and what goes into `fit`. To add one, write such
a function and register it in `COMPETITORS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_metalr.benchmark.competitors.rate_rules import warmup_steps
from keras_metalr.callback import MetaLR


@dataclass(frozen=True)
class Competitor:
    """What a method puts into the optimizer and into `fit`.

    Args:
        learning_rate: Float or a
            `keras.optimizers.schedules.LearningRateSchedule`, for the
            optimizer.
        callbacks: Tuple of Keras callbacks, for `fit`. Defaults to `()`.
        recovers: Boolean, whether training may come back after a loss that
            is not finite. When `False`, such a run is stopped. Defaults to
            `False`.
    """

    learning_rate: Any
    callbacks: tuple[keras.callbacks.Callback, ...] = ()
    recovers: bool = False


def static(learning_rate: float, num_steps: int) -> Competitor:
    """The same rate at every step."""
    del num_steps
    return Competitor(learning_rate)


def cosine(learning_rate: float, num_steps: int) -> Competitor:
    """A linear warmup to `learning_rate`, then a cosine down to 0.

    A tenth of the steps warms up. It is Keras's own schedule: its first step
    has the highest rate over the steps of the warmup, as that of
    `rate_rules.warmup_cosine` has, and it is at its highest a step later.

    Args:
        learning_rate: Float, the highest rate.
        num_steps: Integer, steps of the whole run.
    """
    warmup = warmup_steps(num_steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate / warmup,
        decay_steps=max(1, num_steps - warmup),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    return Competitor(schedule)


def metalr(
    learning_rate: float, num_steps: int, **arguments: Any
) -> Competitor:
    """`keras_metalr.MetaLR`, started from `learning_rate`.

    Args:
        learning_rate: Float, the rate in the optimizer at the start.
        num_steps: Integer, steps of the whole run.
        **arguments: Passed to `MetaLR`.
    """
    arguments.setdefault("total_steps", num_steps)
    return Competitor(
        learning_rate, callbacks=(MetaLR(**arguments),), recovers=True
    )


COMPETITORS: dict[str, Callable[..., Competitor]] = {
    "static": static,
    "cosine": cosine,
    "metalr": metalr,
}
