"""GreedyLR: up while the loss gets better, down while it does not.

Subramanian, Krishnamoorthy and Murthy, "Dynamic Learning Rate Scheduling based
on Loss Changes Leads to Faster Convergence", arXiv 2512.14527. Written from the
paper's rule and its public description:

    loss    mean of the last `window` batch losses
    better  loss < best - 1e-6
    more than `patience` better ones in a row:      rate := rate / factor
    more than `patience` not better ones in a row:  rate := rate * factor

Left out is what the reference implementation (Hugging Face's transformers, pull
request 44271) has beyond that: cooldown and warmup, off by default there, and a
restart (`reset_start=500`), on by default. The mean of the losses is off there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_metalr.benchmark.competitors.rate_rules import RateRule

Tensor = Any

# How much better is better.
_THRESHOLD = 1e-6


def greedy(
    factor: float = 0.95,
    patience: int = 10,
    window: int = 50,
    min_rate: float = 1e-7,
    max_rate: float = 1.0,
) -> RateRule:
    """The rule, to steer any optimizer with.

    The rate changes after the step whose loss said so. A start outside the
    limits stays where it is until it moves inwards.

    Args:
        factor: Float in (0, 1). Defaults to `0.95`.
        patience: Integer (>= 0), steps. Defaults to `10`.
        window: Integer (>= 1), losses in the mean. Defaults to `50`.
        min_rate: Float, lower limit. Defaults to `1e-7`, as in the authors'
            examples.
        max_rate: Float, upper limit. Defaults to `1.0`.

    Returns:
        A `RateRule`. Its memory: the factor on the start, the best mean, the
        two counts, the number of losses seen, and the last `window` of them.

    Raises:
        ValueError: If `factor` is outside (0, 1).
    """
    if not 0 < factor < 1:
        raise ValueError(
            f"`factor` must be between 0 and 1. Received: factor={factor}."
        )

    def init() -> list[np.ndarray]:
        scalars = (1.0, np.inf, 0.0, 0.0, 0.0)
        memory = [np.float32(value) for value in scalars]
        return [*map(np.asarray, memory), np.zeros(window, "float32")]

    def update(
        memory: Sequence[Tensor], start: Tensor, step: Tensor, loss: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        del step
        multiplier, best, good, bad, seen, losses = memory
        place = ops.arange(window, dtype="float32")
        is_place = ops.equal(place, ops.mod(seen, float(window)))
        losses = ops.where(is_place, loss, losses)
        seen = seen + 1.0
        # What was not seen yet is 0 and adds nothing.
        mean = ops.sum(losses) / ops.minimum(seen, float(window))
        better = mean < best - _THRESHOLD
        best = ops.where(better, mean, best)
        good = ops.where(better, good + 1.0, 0.0)
        bad = ops.where(better, 0.0, bad + 1.0)
        rate = start * multiplier
        is_up, is_down = good > patience, bad > patience
        up = ops.maximum(rate, ops.minimum(rate / factor, max_rate))
        down = ops.minimum(rate, ops.maximum(rate * factor, min_rate))
        new = ops.where(is_up, up, ops.where(is_down, down, rate))
        good = ops.where(is_up, 0.0, good)
        bad = ops.where(is_down, 0.0, bad)
        return rate, [new / start, best, good, bad, seen, losses]

    return RateRule(init, update, needs_loss=True)
