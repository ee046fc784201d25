"""Phase 2: the controller learns to predict the optimal rate from metrics."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_metalr.arguments import is_positive_integer
from keras_metalr.arguments import is_positive_number
from keras_metalr.controller import Controller
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.phases.collect import Run

# The rate that is right at progress p is the one that won, times the annealing
# left: 1 - p, and never less than this.
ANNEAL_FLOOR = 0.01
# Labels are e-folds of the rate; beyond this the increment is at its limit.
LABEL_LIMIT = 3.0
# Features are of order one; what varies less than this in all the runs holds no
# information, and dividing by its spread would only blow up its rounding.
MIN_SPREAD = 0.01


def labels(run: Run, best_rate: float) -> np.ndarray:
    """What the controller should have answered in each state of a run.

    `log(best rate * annealing left) - log(rate)`, in e-folds, clipped to
    [-3, 3]. The best rate is the one that won by the end of the run: labels
    from the next few steps come out too small by orders of magnitude
    (Wu et al., 2018, https://arxiv.org/abs/1803.02021).

    Args:
        run: `Run` whose states are labelled.
        best_rate: Float (> 0), the rate with the best outcome.

    Returns:
        Array of shape `(num_decisions,)`, float32.
    """
    progress = run.trace["progress"] + 0.5
    annealing = np.maximum(1.0 - progress, ANNEAL_FLOOR)
    gap = np.log(best_rate * annealing) - np.log(run.trace["learning_rate"])
    return np.clip(gap, -LABEL_LIMIT, LABEL_LIMIT).astype("float32")


def best_rates(runs: Sequence[Run]) -> dict[tuple[str, int], float]:
    """The rate with the lowest outcome, of each workload and seed.

    Args:
        runs: Sequence of `Run`.

    Raises:
        ValueError: if all runs of a workload and seed diverged, or if they
            cannot be compared: two of one rate, or of different monitors.
    """
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.workload, run.seed].append(run)
    best = {}
    for key, group in groups.items():
        _check_comparable(*key, group)
        winner = min(group, key=lambda run: run.outcome)
        if not np.isfinite(winner.outcome):
            raise ValueError(
                f"All runs of {key[0]!r} with seed {key[1]} diverged, so none "
                "of their rates is known to be good. Collect runs at smaller "
                "rates too."
            )
        best[key] = winner.learning_rate
    return best


def _check_comparable(workload: str, seed: int, group: Sequence[Run]) -> None:
    rates = [run.learning_rate for run in group]
    twice = sorted({rate for rate in rates if rates.count(rate) > 1})
    if twice:
        raise ValueError(
            f"There must be one run of {workload!r} with seed {seed} for each "
            f"rate. Received: more than one at {twice}. Give every task a "
            "name of its own: `collect(..., workload=...)`."
        )
    monitors = sorted({run.monitor for run in group})
    if len(monitors) > 1:
        raise ValueError(
            f"The outcomes of {workload!r} with seed {seed} must be of one "
            f"kind to be compared. Received: {monitors}."
        )


def dataset(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """States and labels of all runs.

    Args:
        runs: Sequence of `Run`, at several rates for each seed.

    Returns:
        Tuple of float32 arrays: features `(num_states, num_features)` and
        labels `(num_states, 1)`.
    """
    best = best_rates(runs)
    states, answers = [], []
    for run in runs:
        rows = run.trace.rows
        columns = [run.trace.columns.index(name) for name in FEATURE_NAMES]
        states.append(rows[:, columns])
        answers.append(labels(run, best[run.workload, run.seed]))
    features = np.concatenate(states).astype("float32")
    targets = np.concatenate(answers)[:, None]
    known = np.isfinite(features).all(axis=1) & np.isfinite(targets[:, 0])
    return features[known], targets[known]


def fit_controller(
    runs: Sequence[Run],
    *,
    controller: Controller | None = None,
    learning_rate: float = 0.001,
    batch_size: int = 64,
    epochs: int = 10,
    seed: int = 0,
    verbose: int = 0,
) -> Controller:
    """Fit a controller on static runs: Adam, mean squared error.

    Features that never vary in the runs (how the rate moved lately, where no
    rate moved) get no say: their weights are zero, not what the initializer
    happened to draw.

    Seeds Python's, NumPy's and the backend's global generators
    (`keras.utils.set_random_seed`).

    Args:
        runs: Sequence of `Run`, as `collect` returns it.
        controller: `Controller` to go on from, changed in place once the fit
            is over. Defaults to `None`, a new one.
        learning_rate: Float (> 0), Adam's. Defaults to `0.001`.
        batch_size: Integer (>= 1). Defaults to `64`.
        epochs: Integer (>= 1). Defaults to `10`.
        seed: Integer. Defaults to `0`.
        verbose: Integer, as in `fit`. Defaults to `0`.

    Returns:
        The controller.

    Raises:
        ValueError: if there are no runs or no states in them, if all of a
            workload and seed diverged, if some cannot be compared, or for a
            rate, batch size or number of epochs out of range. The controller is
            what it was then.

    Example:

    >>> import keras, numpy as np
    >>> from keras_metalr.phases import collect
    >>> def make_model():
    ...     model = keras.Sequential([keras.layers.Dense(1)])
    ...     model.compile("sgd", loss="mse")
    ...     return model
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> runs = collect(
    ...     make_model,
    ...     lambda seed: {"x": x, "y": 2 * x, "epochs": 2, "verbose": 0},
    ...     learning_rates=(0.01, 0.1),
    ...     monitor="loss",
    ... )
    >>> fit_controller(runs, epochs=1).hidden_units
    (64, 32)
    """
    _check_numbers(learning_rate, batch_size, epochs)
    if not runs:
        raise ValueError(
            "`runs` is empty. Pass what `collect` or `load_runs` returns."
        )
    features, targets = dataset(runs)
    if not len(features):
        raise ValueError(
            "The traces of `runs` hold no state to learn from. Received: "
            f"{len(runs)} runs of {sum(len(run.trace) for run in runs)} "
            "decisions, none of them finite. Collect longer runs."
        )
    keras.utils.set_random_seed(seed)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    varies = scale > MIN_SPREAD
    scale = np.where(varies, scale, 1.0)
    # The user's own stays what it is until the fit is over.
    fitted = Controller() if controller is None else _copy(controller)
    # Work on standardized features; fold the scaling into the first layer.
    kernel, bias = fitted.hidden[0].get_weights()
    kernel, bias = kernel * scale[:, None], bias + mean @ kernel
    if controller is None:
        kernel = kernel / np.where(varies, scale, np.inf)[:, None]
        bias = np.zeros_like(bias)
    fitted.hidden[0].set_weights([kernel, bias])
    fitted.compile(keras.optimizers.Adam(learning_rate), loss="mse")
    fitted.fit(
        np.where(varies, (features - mean) / scale, 0.0),
        targets,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=True,
        verbose=verbose,
    )
    kernel, bias = fitted.hidden[0].get_weights()
    kernel = kernel / scale[:, None]
    fitted.hidden[0].set_weights([kernel, bias - mean @ kernel])
    if controller is None:
        return fitted
    controller.set_weights(fitted.get_weights())
    return controller


def _copy(controller: Controller) -> Controller:
    copy = type(controller).from_config(controller.get_config())
    copy.set_weights(controller.get_weights())
    return copy


def _check_numbers(learning_rate: Any, batch_size: Any, epochs: Any) -> None:
    if not is_positive_number(learning_rate):
        raise ValueError(
            "`learning_rate` must be a positive, finite number. "
            f"Received: learning_rate={learning_rate!r}."
        )
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if not is_positive_integer(value):
            raise ValueError(
                f"`{name}` must be a positive integer. "
                f"Received: {name}={value!r}."
            )
