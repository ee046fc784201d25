"""Pure functions from final losses and curves to the scores.

All losses are validation losses, lower is better. A run that diverged counts as
one that did nothing: its loss is that of the start.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_metalr.benchmark.scoring import CONFIDENCE

# AlgoPerf's: so many times slower than the fastest is as good as a miss.
MAX_RATIO = 4.0
_NUM_RESAMPLES = 2000


def counted_loss(loss: float, initial: float) -> float:
    """`min(loss, initial)`; a loss that is not finite counts as `initial`."""
    return min(loss, initial) if math.isfinite(loss) else initial


def regret(loss: float, initial: float, best: float) -> float:
    """How much of what the best baseline gained was missed.

    `(counted loss - best) / (initial - best)`: 0 is the best tuned baseline, 1
    a run that did nothing, below 0 better than the baseline.

    Args:
        loss: Float, may be infinite or NaN.
        initial: Float, the loss before training.
        best: Float, below `initial`.

    Raises:
        ValueError: If `best` is not below `initial`.
    """
    if not best < initial:
        raise ValueError(
            "The best baseline must have lowered the loss. Received: "
            f"best={best:g}, initial={initial:g}. Its grid of rates is too "
            "coarse, or its runs are too short."
        )
    return (counted_loss(loss, initial) - best) / (initial - best)


def steps_to_target(
    steps: Sequence[int], losses: Sequence[float], target: float
) -> float:
    """The first step at which a loss was at most the target.

    Args:
        steps: Sequence of integers, ascending, where losses were measured.
        losses: Sequence of floats; NaN has not reached it.
        target: Float.

    Returns:
        Float; infinity when the target was missed.
    """
    for step, loss in zip(steps, losses, strict=True):
        if loss <= target:
            return float(step)
    return math.inf


def performance_profile(ratios: Sequence[float], limit: float) -> float:
    """Share of workloads that took at most `limit` times the fastest method.

    Args:
        ratios: Sequence of floats, time over that of the fastest method, one a
            workload. A miss is infinite.
        limit: Float (>= 1).
    """
    return float(np.mean(np.asarray(ratios) <= limit))


def profile_score(ratios: Sequence[float]) -> float:
    """AlgoPerf's score: the mean of the profile over limits from 1 to 4.

    A workload on which a method took `r` times the time of the fastest adds
    `(4 - r) / (4 - 1)`, at least 0: the integral of its step. Dahl et al.,
    arXiv 2306.07179.

    Args:
        ratios: As in `performance_profile`, each at least 1.

    Returns:
        Float in [0, 1].
    """
    values = np.minimum(np.asarray(ratios, "float64"), MAX_RATIO)
    return float(np.mean((MAX_RATIO - values) / (MAX_RATIO - 1.0)))


def time_ratios(times: np.ndarray) -> np.ndarray:
    """Times over those of the fastest method of each workload.

    Args:
        times: Array of shape `(num_methods, num_workloads)`; a miss is
            infinite.

    Returns:
        Array of the same shape. Where every method missed, all are infinite.
    """
    missed = np.full(times.shape, np.inf)
    known = np.isfinite(times)
    return np.divide(times, np.min(times, axis=0), out=missed, where=known)


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], float]
) -> tuple[float, float]:
    """Percentile bootstrap over seeds, paired: each draw takes whole seeds.

    Args:
        values: Array of shape `(num_seeds, ...)`.
        statistic: Callable from such an array to a float.

    Returns:
        Tuple `(low, high)` of the 95 % interval, NaN for a single seed. The
        draws are the same in every call.
    """
    if len(values) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(0)
    draws = generator.integers(len(values), size=(_NUM_RESAMPLES, len(values)))
    results = [statistic(values[draw]) for draw in draws]
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(results, [tail, 100.0 - tail], method="nearest")
    return float(low), float(high)
