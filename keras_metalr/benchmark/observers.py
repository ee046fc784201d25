"""Callbacks that only watch a run."""

import math
import time
from typing import Any

import keras

_FLOAT32_EPSILON = 2.0**-23
_MIN_ROUNDINGS = 16


class EpochClock(keras.callbacks.Callback):
    """Notes the seconds since the start of training after every epoch.

    Validation is part of the time, as is compiling.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elapsed_seconds: list[float] = []
        self._start = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self.elapsed_seconds = []
        self._start = time.perf_counter()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Note the time."""
        self.elapsed_seconds.append(time.perf_counter() - self._start)


class StopWhenDiverged(keras.callbacks.Callback):
    """Ends a run whose epoch ended with a loss that is not finite.

    `keras.callbacks.TerminateOnNaN` looks after every batch, which makes the
    device wait for Python at every step.
    """

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Stop when the loss says so."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


class StepLosses(keras.callbacks.Callback):
    """Notes the loss of every batch. Costs a wait for the device a step.

    Keras logs the mean over the epoch so far. The loss of batch `k` is
    `k * mean_k - (k - 1) * mean_(k-1)`. The means are float32: after a batch
    whose loss is a million times larger than the others, the differences hold
    nothing but rounding. Such losses are not known, and `None`, until the epoch
    ends. From a loss that is not finite on, none in the epoch is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float | None] = []
        self._last_total = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier run."""
        self.losses = []

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Keras starts its mean again."""
        self._last_total = 0.0

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Note the loss of this batch."""
        total = (batch + 1) * float((logs or {}).get("loss", math.nan))
        loss = total - self._last_total
        rounding = _FLOAT32_EPSILON * max(abs(total), abs(self._last_total))
        # The first batch of an epoch has nothing subtracted from it.
        is_known = batch == 0 or abs(loss) > _MIN_ROUNDINGS * rounding
        # Other than one that is not known, one that is not finite says so.
        if is_known or not math.isfinite(loss):
            self.losses.append(loss)
        else:
            self.losses.append(None)
        self._last_total = total
