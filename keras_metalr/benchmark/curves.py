"""Loss and learning rate against the step, from what a run has noted.

A curve is a dict of `"step"` (list of integers, from 1), `"value"` (list of
floats) and `"per"`: `"step"`, `"decision"` or `"epoch"`, what one point is
of. Curves of different kinds differ in noise, not only in length.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Points of a curve that comes from a formula and not from a measurement.
_MAX_POINTS = 500


def loss_curve(
    epoch_losses: list[float],
    steps_per_epoch: int,
    step_losses: Sequence[float | None] | None = None,
    trace: Any = None,
) -> dict[str, Any]:
    """Return the finest training loss there is.

    Args:
        epoch_losses: List of floats, one per epoch.
        steps_per_epoch: Integer.
        step_losses: Sequence of floats, one a step, `None` for one that is not
            known, which is NaN in the curve; or `None`.
        trace: `keras_metalr.Trace` or `None`.

    Returns:
        A curve.
    """
    if step_losses is not None:
        steps = list(range(1, len(step_losses) + 1))
        values = [math.nan if loss is None else loss for loss in step_losses]
        return {"per": "step", "step": steps, "value": values}
    if trace is not None and len(trace.rows):
        return _trace_curve(trace, "loss")
    steps = [
        steps_per_epoch * epoch for epoch in range(1, len(epoch_losses) + 1)
    ]
    return {"per": "epoch", "step": steps, "value": epoch_losses}


def learning_rate_curve(
    learning_rate: Any, num_steps: int, trace: Any = None
) -> dict[str, Any]:
    """Return the learning rate, from the trace or from its formula.

    Args:
        learning_rate: Float or a learning rate schedule.
        num_steps: Integer, steps of the run.
        trace: `keras_metalr.Trace` or `None`.

    Returns:
        A curve.
    """
    if trace is not None and len(trace.rows):
        return _trace_curve(trace, "learning_rate")
    if not callable(learning_rate):
        steps = [1, num_steps]
        values = [float(learning_rate)] * 2
        return {"per": "step", "step": steps, "value": values}
    count = min(num_steps, _MAX_POINTS)
    steps = np.unique(np.linspace(1, num_steps, count).astype(int)).tolist()
    # A schedule counts from 0: step 1 is made with schedule(0).
    values = [float(learning_rate(step - 1)) for step in steps]
    return {"per": "step", "step": steps, "value": values}


def _trace_curve(trace: Any, column: str) -> dict[str, Any]:
    names = list(trace.columns)
    rows = np.asarray(trace.rows, "float64")
    return {
        "per": "decision",
        "step": [int(step) for step in rows[:, names.index("step")]],
        "value": [float(value) for value in rows[:, names.index(column)]],
    }
