"""The learning-rate range test, for methods that need a rate and have none.

Smith, arXiv 1506.01186: train for some steps with a rate that grows
exponentially, and look at the loss. The rule is the one that fastai made known:
a tenth of the rate at which the smoothed loss was lowest.
"""

import itertools
import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

NUM_STEPS = 100
# The sweep ends this many times above where it begins: 1e-7 to 10.
SPAN = 1e8
_SMOOTHING = 0.9
_STOP_FACTOR = 4.0
_BACKWARD = 10.0


def sweep_rates(lowest: float) -> list[float]:
    """Rates from `lowest` to `SPAN` times that, evenly on a log scale.

    Args:
        lowest: Float (> 0).
    """
    ratio = SPAN ** (1.0 / (NUM_STEPS - 1))
    return [lowest * ratio**step for step in range(NUM_STEPS)]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential mean of 0.9 with its bias taken off.

    Ends before a loss that is not finite, or that exceeds four times the lowest
    mean so far.
    """
    means: list[float] = []
    total = 0.0
    for number, loss in enumerate(losses, start=1):
        total = _SMOOTHING * total + (1.0 - _SMOOTHING) * loss
        mean = total / (1.0 - _SMOOTHING**number)
        if not math.isfinite(mean):
            break
        if means and mean > _STOP_FACTOR * min(means):
            break
        means.append(mean)
    return means


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate at which the smoothed loss was lowest.

    Args:
        rates: Sequence of floats, ascending.
        losses: Sequence of floats, of the same length or shorter: the loss of
            each step before its update.

    Returns:
        Float. The first rate when no loss was finite.
    """
    means = smoothed(losses)
    if not means:
        return rates[0]
    # The loss of a step is what the rates before it led to.
    best = max(0, min(range(len(means)), key=means.__getitem__) - 1)
    return rates[best] / _BACKWARD


def find_rate(trainee: Any, batches: Iterable[Any], peak_step: int) -> float:
    """Run the test on a model, with the compiled step of the training itself.

    The model is left changed: reset it.

    Args:
        trainee: `Trainee` whose optimizer is a `SteeredOptimizer` that was
            reset to the lowest rate of the sweep.
        batches: Iterable of `(x, y)`.
        peak_step: Integer, a step at which the rule gives the start itself.

    Returns:
        Float, the rate.
    """
    optimizer = trainee.model.optimizer
    rates = sweep_rates(float(optimizer.learning_rate))
    losses = []
    lowest = math.inf
    for rate, (x, y) in zip(rates, itertools.cycle(batches), strict=False):
        trainee.model.optimizer.learning_rate.assign(rate)
        trainee.model.optimizer.iterations.assign(peak_step)
        trainee.model.reset_metrics()
        logs = trainee.model.train_on_batch(x, y, return_dict=True)
        losses.append(float(logs["loss"]))
        lowest = min(lowest, losses[-1])
        if not losses[-1] < 10.0 * _STOP_FACTOR * abs(lowest):
            break
    return suggest_rate(rates, losses)
