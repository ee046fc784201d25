"""Pure functions from the record of a run, or of several, to figures."""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
# Of runs that learn from those before, so many of the first are compared with
# so many of the last.
BLOCK = 5


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean over classes of the F1 score.

    `F1 = 2 * TP / (2 * TP + FP + FN)`, over the classes that occur in
    `labels` or in `predictions`; no class is weighted by its size.

    Args:
        labels: Integer array, shape `(num_examples,)`.
        predictions: Integer array, shape `(num_examples,)`.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If the shapes differ or there are no examples.
    """
    labels = np.asarray(labels)
    predictions = np.asarray(predictions)
    if labels.shape != predictions.shape or labels.size == 0:
        raise ValueError(
            "`labels` and `predictions` must have one shape, with at least "
            f"one example. Received: {labels.shape} and {predictions.shape}."
        )
    scores = []
    for number in np.union1d(labels, predictions):
        is_label = labels == number
        is_predicted = predictions == number
        num_hits = np.sum(is_label & is_predicted)
        scores.append(2 * num_hits / (np.sum(is_label) + np.sum(is_predicted)))
    return float(np.mean(scores))


def epochs_to_target(accuracies: Sequence[float], target: float) -> float:
    """Number of epochs until an accuracy reached the target for the first time.

    Args:
        accuracies: Sequence of floats, one per epoch.
        target: Float.

    Returns:
        Float, counted from 1; infinity when the target was missed.

    Example:

        epochs_to_target([0.5, 0.8, 0.9], target=0.8)  # 2.0
    """
    for epoch, accuracy in enumerate(accuracies, start=1):
        if accuracy >= target:
            return float(epoch)
    return math.inf


def block_size(num_runs: int) -> int:
    """How many of the first runs are compared with how many of the last.

    Args:
        num_runs: Integer (>= 1).

    Returns:
        Integer: 5, or half of the runs where those are fewer than 10.
    """
    return min(BLOCK, max(1, num_runs // 2))


def stability(losses: Sequence[float | None], last_half: bool = False) -> float:
    """Variance of the training loss; smaller is steadier.

    Over a whole run this is mostly how far the loss fell; over the last half
    it is how much it still moved. Compare only figures of the same kind: one
    loss a step, or one per epoch.

    Args:
        losses: Sequence of floats in order of time. One that is not known is
            `None`, and left out.
        last_half: Boolean, whether to leave out the first half. Defaults to
            `False`.

    Returns:
        Float; infinity when a loss was not finite, NaN when there are fewer
        than two, which say nothing of a variance.
    """
    if last_half:
        losses = losses[len(losses) // 2 :]
    values = [loss for loss in losses if loss is not None]
    if not np.all(np.isfinite(values)):
        return math.inf
    if len(values) < 2:
        return math.nan
    return float(np.var(values))


def mean_and_interval(
    values: Sequence[float],
) -> tuple[float, float, float]:
    """Mean over seeds, with its 95 % confidence interval from Student's t.

    Args:
        values: Sequence of floats, one a seed.

    Returns:
        Tuple `(mean, low, high)`. With a single value, or with one that is
        not finite, `low` and `high` are NaN.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("`values` must hold at least one value. Received: [].")
    array = np.asarray(values, "float64")
    mean = float(np.mean(array))
    if len(array) < 2 or not np.all(np.isfinite(array)):
        return mean, math.nan, math.nan
    spread = float(np.std(array, ddof=1)) / math.sqrt(len(array))
    if spread == 0.0:
        return mean, mean, mean
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(
            "Intervals need SciPy. Install it with `pip install scipy`."
        ) from error
    low, high = stats.t.interval(
        CONFIDENCE, len(array) - 1, loc=mean, scale=spread
    )
    return mean, float(low), float(high)
