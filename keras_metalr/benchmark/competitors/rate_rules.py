"""Rates as functions of the step and of what was seen, on any optimizer.

A rule is a pair `(init, update)`, as optax has it for updates: `init()` gives
its memory, a list of arrays; `update(memory, start, step, loss)` gives the rate
of this step and the memory after it. `SteeredOptimizer` applies one. Steps
count from 0. All of it runs inside the compiled step, on every backend.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

Tensor = Any

WARMUP_FRACTION = 0.1
# fastai's one-cycle: a start at a 25th, the peak after a quarter, an end that
# is as good as 0.
ONE_CYCLE_WARMUP = 0.25
ONE_CYCLE_DIVISOR = 25.0
ONE_CYCLE_END = 1e-5


class RateRule(NamedTuple):
    """A rate that changes in the course of a run.

    `init() -> memory`; `update(memory, start, step, loss) -> (rate, memory)`.
    """

    init: Callable[[], list[np.ndarray]]
    update: Callable[..., tuple[Tensor, list[Tensor]]]
    needs_loss: bool = False


def shaped(shape: Callable[[Tensor], Tensor]) -> RateRule:
    """A rate of `start * shape(step)`, whatever the loss.

    Args:
        shape: Callable from the step (float32 scalar, from 0) to the factor.
    """

    def update(
        memory: Sequence[Tensor], start: Tensor, step: Tensor, loss: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        del loss
        return start * shape(step), list(memory)

    return RateRule(list, update)


def warmup_steps(num_steps: int, fraction: float = WARMUP_FRACTION) -> int:
    """How many steps of a run warm up; at least one.

    Args:
        num_steps: Integer, steps of the whole run.
        fraction: Float in [0, 1). Defaults to `0.1`.
    """
    return max(1, round(fraction * num_steps))


def warmup_cosine(
    num_steps: int, warmup_fraction: float = WARMUP_FRACTION
) -> RateRule:
    """A linear warmup to the start, then half a cosine down to 0.

    Args:
        num_steps: Integer, steps of the whole run.
        warmup_fraction: Float in [0, 1), the part that warms up. Defaults to
            `0.1`.
    """
    return _warmup_then(_half_cosine, num_steps, warmup_fraction)


def warmup_linear(num_steps: int) -> RateRule:
    """A linear warmup to the start, then a straight line down to 0.

    Args:
        num_steps: Integer, steps of the whole run.
    """
    return _warmup_then(lambda after: 1.0 - after, num_steps, WARMUP_FRACTION)


def one_cycle(num_steps: int) -> RateRule:
    """Half a cosine up from a 25th of the start, half a cosine down to nothing.

    Smith and Topin, arXiv 1708.07120, with fastai's shape: the peak after a
    quarter of the run.

    Args:
        num_steps: Integer, steps of the whole run.
    """
    peak = one_cycle_peak(num_steps)

    def shape(step: Tensor) -> Tensor:
        low = 1.0 / ONE_CYCLE_DIVISOR
        up = 0.5 * (1.0 - ops.cos(math.pi * ops.minimum(step / peak, 1.0)))
        after = _progress(step, peak, num_steps)
        down = _half_cosine(after)
        rising = low + (1.0 - low) * up
        falling = ONE_CYCLE_END + (1.0 - ONE_CYCLE_END) * down
        return ops.where(step < peak, rising, falling)

    return shaped(shape)


def one_cycle_peak(num_steps: int) -> int:
    """The step (from 0) at which `one_cycle` gives the start itself."""
    return warmup_steps(num_steps, ONE_CYCLE_WARMUP)


def _warmup_then(
    fall: Callable[[Tensor], Tensor], num_steps: int, warmup_fraction: float
) -> RateRule:
    """A linear warmup, then `fall` of the share of the rest that is over."""
    warmup = warmup_steps(num_steps, warmup_fraction)

    def shape(step: Tensor) -> Tensor:
        after = _progress(step, warmup, num_steps)
        return ops.minimum((step + 1.0) / warmup, 1.0) * fall(after)

    return shaped(shape)


def _half_cosine(share: Tensor) -> Tensor:
    """From 1 at 0 down to 0 at 1."""
    return 0.5 * (1.0 + ops.cos(math.pi * share))


def _progress(step: Tensor, begin: int, end: int) -> Tensor:
    """0 until `begin`, 1 at `end`."""
    length = max(1, end - begin)
    return ops.clip((step - begin) / length, 0.0, 1.0)
