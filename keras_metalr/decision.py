"""One decision, from the signals of an interval to the new rate. Pure.

    interval signals -> summary -> features -> controller -> update rule, guard

Everything a run remembers about itself is one flat dict of float32 scalars
(`INITIAL`), so that a run's memory is one small vector on the device.
"""

import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from keras_metalr import backend
from keras_metalr import guard as guard_rule
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import SUMMARY_INITIAL
from keras_metalr.features import UNKNOWN_GAP
from keras_metalr.features import features
from keras_metalr.features import lost_again
from keras_metalr.features import measured
from keras_metalr.features import training_lead
from keras_metalr.features import trust
from keras_metalr.features import update_summary
from keras_metalr.features import validation_gap
from keras_metalr.guard import GUARD_INITIAL
from keras_metalr.schedule import SCHEDULE_INITIAL
from keras_metalr.signals import RESOLUTION
from keras_metalr.signals import TINY
from keras_metalr.signals import shortfall
from keras_metalr.signals import trust_ratio
from keras_metalr.update_rule import MAX_RATE
from keras_metalr.update_rule import MIN_RATE
from keras_metalr.update_rule import Evidence
from keras_metalr.update_rule import corrected_bias
from keras_metalr.update_rule import increment

ops = backend.native_ops()
Tensor = Any
Scalars = dict[str, Tensor]

# Sums over the steps since the last decision.
INTERVAL_INITIAL: dict[str, float] = {
    "interval_steps": 0.0,
    "interval_updates": 0.0,
    "interval_skipped": 0.0,
    "interval_loss": 0.0,
    "interval_log_gradient_norm": 0.0,
    "interval_cosine": 0.0,
    "interval_log_update_ratio": 0.0,
}

# Of the last step, and of the control itself.
CONTROL_INITIAL: dict[str, float] = {
    "log_multiplier": 0.0,
    "ramping": 1.0,
    "ramp_steps": 0.0,
    "finite": 1.0,
    "bad": 0.0,
    "step_loss": 0.0,
    "gradient_norm": 0.0,
    "learning_rate": 0.0,
    "feedback_bias": 0.0,
    "pretrained": 0.0,
    "output_shift": 0.0,
}

# What every step adds to, and what it replaces. Stored side by side, so that a
# step is a few operations on vectors: one at a time, each costs a few
# microseconds, on JAX and on torch, which a small network's step feels.
_STEP_MEANS = (
    "interval_loss",
    "interval_log_gradient_norm",
    "interval_cosine",
    "interval_log_update_ratio",
    "sum_direction_squared",
)
_STEP_COUNTS = (
    "good_steps",
    "good_since_rollback",
    "interval_steps",
    "interval_updates",
    "skipped_steps",
    "interval_skipped",
)
_STEP_SUMS = _STEP_MEANS + _STEP_COUNTS
_STEP_LAST = ("weight_norm", "distance")

_ALL_INITIAL: dict[str, float] = {
    **SUMMARY_INITIAL,
    **GUARD_INITIAL,
    **INTERVAL_INITIAL,
    **CONTROL_INITIAL,
    **SCHEDULE_INITIAL,
}
INITIAL: dict[str, float] = {
    **{
        key: value
        for key, value in _ALL_INITIAL.items()
        if key not in _STEP_SUMS + _STEP_LAST
    },
    **{key: _ALL_INITIAL[key] for key in _STEP_SUMS + _STEP_LAST},
}

_BEFORE_FEATURES = ("step", "loss", "learning_rate", "grad_norm")
_AFTER_FEATURES = ("trust_ratio", "output", "increment", "event")
TRACE_COLUMNS = (*_BEFORE_FEATURES, *FEATURE_NAMES, *_AFTER_FEATURES)

# Values of the trace's `event` column, added up.
EVENT_SKIPPED = 1.0
EVENT_ROLLBACK = 2.0
EVENT_SAFE_START = 4.0


class Settings(NamedTuple):
    """What is fixed for the whole run.

    All are the user's choice but `output_shift`, which experience tells: what
    the run begins with, and keeps when it is resumed.
    """

    min_learning_rate: float = MIN_RATE
    max_learning_rate: float = MAX_RATE
    safe_start: bool = True
    guard: bool = True
    feedback: bool = False
    pretrained: bool | None = None
    output_shift: float = 0.0


class Clock(NamedTuple):
    """Where the run stands: scalars, float32.

    `step` counts from 1 at the end of the first step; `epoch_steps` (>= 1) make
    one pass over the data.
    """

    step: Tensor
    total_steps: Tensor
    interval: Tensor
    epoch_steps: Tensor


class LastBatch(NamedTuple):
    """What a decision is told of the batch of the step before it.

    Args:
        loss_after: Scalar, its loss after the update; not a number where it was
            not measured.
        promised_drop: Scalar, see `signals.trust_ratio`.
        num_examples: Scalar, examples that an update is made of.
        sparsity: Scalar in [0, 1], see `CoordinateSample.sparsity`.
        resolution: Float, see `signals.trust_ratio`. Defaults to `1.2e-5`.
    """

    loss_after: Tensor
    promised_drop: Tensor
    num_examples: Tensor
    sparsity: Tensor
    resolution: float = RESOLUTION


def count_step(
    scalars: Scalars,
    measured: Scalars,
    finite: Tensor,
    is_update: Tensor,
    bad: Tensor,
) -> Scalars:
    """Add one step's signals to the interval.

    Args:
        scalars: Dict with the keys of `INITIAL`.
        measured: Dict of scalars: `loss`, `gradient_norm`, `learning_rate`
            and what `signals.step_signals` returns.
        finite: Scalar float32, 1 where loss and gradient were finite, else 0.
        is_update: Scalar float32, 1 where the weights were due to move (not so
            while gradients accumulate, nor where they or the rate are 0), else
            0.
        bad: Scalar float32, 1 where a step that is not finite is a fault, else
            0: a gradient that overflows while a loss scale is being sought is
            none.

    Returns:
        The new scalars.
    """
    new = dict(scalars)
    moved = finite * is_update
    direction = measured["update_norm"] / (measured["learning_rate"] + TINY)
    ratio = measured["update_norm"] / (measured["weight_norm"] + TINY)
    logs = ops.log(ops.stack([measured["gradient_norm"], ratio]) + 1e-12)
    means = {
        "interval_loss": (measured["loss"], finite),
        "interval_log_gradient_norm": (logs[0], finite),
        "interval_cosine": (measured["cosine"], finite),
        "interval_log_update_ratio": (logs[1], moved),
        "sum_direction_squared": (direction * direction, moved),
    }
    values = ops.stack([means[key][0] for key in _STEP_MEANS])
    weights = ops.stack([means[key][1] for key in _STEP_MEANS])
    values = weights * ops.where(ops.isfinite(values), values, 0.0)
    counts = {
        "good_steps": finite,
        "good_since_rollback": finite,
        "interval_steps": finite,
        "interval_updates": moved,
        "skipped_steps": bad,
        "interval_skipped": bad,
    }
    counted = ops.stack([counts[key] for key in _STEP_COUNTS])
    sums = ops.stack([scalars[key] for key in _STEP_SUMS])
    sums = sums + ops.concatenate([values, counted])
    parts = ops.unstack(sums, len(_STEP_SUMS))
    new.update(zip(_STEP_SUMS, parts, strict=True))
    new["consecutive_bad"] = (scalars["consecutive_bad"] + bad) * (1.0 - finite)
    values = ops.stack([measured[key] for key in _STEP_LAST])
    known = ops.isfinite(values) & (finite > 0.5)
    values = ops.where(
        known, values, ops.stack([scalars[key] for key in _STEP_LAST])
    )
    parts = ops.unstack(values, len(_STEP_LAST))
    new.update(zip(_STEP_LAST, parts, strict=True))
    new["max_distance"] = ops.where(
        new["distance"] > scalars["max_distance"],
        new["distance"],
        scalars["max_distance"],
    )
    new["finite"], new["bad"] = finite, bad
    new["step_loss"] = measured["loss"]
    for key in ("gradient_norm", "learning_rate"):
        new[key] = measured[key]
    return new


def decide(
    scalars: Scalars,
    batch: LastBatch,
    clock: Clock,
    controller: Callable[[Tensor], Tensor],
    settings: Settings,
    rule: Callable[[Tensor, Evidence], Tensor] = increment,
    until_restored: Tensor | float = 0.0,
) -> tuple[Scalars, Tensor]:
    """Close the interval: read the controller and move the rate.

    Args:
        scalars: Dict with the keys of `INITIAL`.
        batch: `LastBatch`, what its second pass said.
        clock: `Clock`, where the run stands.
        controller: Callable from features `(NUM_FEATURES,)` to a scalar.
        settings: `Settings` of the run.
        rule: Callable from output and `Evidence` to the change of the log
            rate. Defaults to `update_rule.increment`.
        until_restored: Scalar, decisions from the one to go back until it
            is done. Defaults to `0.0`, at once.

    Returns:
        Tuple `(scalars, row)`: the new scalars, and this decision's row of the
        trace, shape `(len(TRACE_COLUMNS),)`, float32.
    """
    known = scalars["interval_updates"] > 0.5
    summary = _choose(known, _summarize(scalars, batch), scalars)
    pretrained = scalars["pretrained"]
    evidence = _evidence(summary, clock, batch, scalars)
    vector = features(
        summary, evidence.progress, evidence.num_decisions, pretrained
    )
    output = controller(vector) + scalars["output_shift"]
    if settings.feedback:
        output = output + scalars["feedback_bias"]
    free = ops.logical_and(known, scalars["ramping"] < 0.5)
    # What ruined weights say is of no use for those that will be put back.
    free = ops.logical_and(free, guard_rule.weights_are_kept(scalars))
    moved = ops.where(free, rule(output, evidence), 0.0)

    new = {**scalars, **summary}
    if settings.feedback:
        corrected = corrected_bias(
            scalars["feedback_bias"], output, summary["cosine_slow"]
        )
        new["feedback_bias"] = ops.where(
            free, corrected, scalars["feedback_bias"]
        )
    log_multiplier = scalars["log_multiplier"]
    target, rollback = log_multiplier + moved, ops.zeros_like(moved)
    if settings.guard:
        new, target, rollback = _guarded(
            new, summary, target, until_restored, known
        )
    # Where nothing moves, the multiplier stays bit for bit what it was.
    still = ops.logical_and(
        ops.equal(moved, 0.0), ops.equal(target, log_multiplier)
    )
    new["log_multiplier"] = ops.where(
        still,
        log_multiplier,
        bounded(target, _log_rate(scalars) - log_multiplier, settings),
    )
    told = {
        "step": clock.step,
        "loss": summary["loss"],
        "learning_rate": scalars["learning_rate"],
        "grad_norm": scalars["gradient_norm"],
        "trust_ratio": _measured_ratio(scalars, batch),
        "output": output,
        "increment": moved,
        "event": _event(scalars, settings, rollback),
    }
    new.update(dict.fromkeys(INTERVAL_INITIAL, ops.zeros_like(moved)))
    return new, _row(told, vector)


def bounded(
    log_multiplier: Tensor, log_base: Tensor, settings: Settings
) -> Tensor:
    """The log of the multiplier, held where the rate is within its limits.

    Args:
        log_multiplier: Scalar, log of the factor on the user's own rate.
        log_base: Scalar, log of the user's own rate at this step.
        settings: `Settings` of the run.
    """
    return ops.clip(
        log_multiplier,
        math.log(settings.min_learning_rate) - log_base,
        math.log(settings.max_learning_rate) - log_base,
    )


def _guarded(
    scalars: Scalars,
    summary: Scalars,
    target: Tensor,
    until_restored: Tensor | float,
    has_updates: Tensor,
) -> tuple[Scalars, Tensor, Tensor]:
    """What the guard makes of a decision.

    Returns:
        Tuple of the new scalars, the log of the multiplier that the run may go
        on with, and 1.0 where the weights go back, else 0.0.
    """
    books, rollback, cut = guard_rule.assess(
        scalars, summary, scalars["log_multiplier"], until_restored, has_updates
    )
    new = guard_rule.forgive(books)
    target = ops.where(rollback > 0.5, cut, target)
    return new, ops.minimum(target, new["log_ceiling"]), rollback


def _log_rate(scalars: Scalars) -> Tensor:
    return ops.log(ops.maximum(scalars["learning_rate"], TINY))


def _event(scalars: Scalars, settings: Settings, rollback: Tensor) -> Tensor:
    skipped = scalars["interval_skipped"] > 0.5
    return (
        EVENT_SKIPPED * settings.guard * ops.cast(skipped, "float32")
        + EVENT_ROLLBACK * rollback
        + EVENT_SAFE_START * scalars["ramping"]
    )


def _row(told: Scalars, vector: Tensor) -> Tensor:
    """A row of the trace: what was told, around the features."""
    before = ops.stack([told[name] for name in _BEFORE_FEATURES])
    after = ops.stack([told[name] for name in _AFTER_FEATURES])
    return ops.concatenate([before, vector, after])


def _choose(condition: Tensor, new: Scalars, old: Scalars) -> Scalars:
    """The new scalars, or the old ones of the same names."""
    # As vectors: a graph of two dozen choices takes long to trace and to run.
    chosen = ops.where(
        condition,
        ops.stack(list(new.values())),
        ops.stack([old[key] for key in new]),
    )
    return dict(zip(new, ops.unstack(chosen, len(new)), strict=True))


def _evidence(
    summary: Scalars, clock: Clock, batch: LastBatch, scalars: Scalars
) -> Evidence:
    first = ops.abs(summary["loss_first"]) + TINY
    # Trust is 1 where nothing was promised, too: that is no sign of anything.
    promised = ops.cast(summary["promised_mean"] > 0.0, "float32")
    return Evidence(
        trust=trust(summary),
        cosine=promised * summary["cosine_slow"],
        loss_share=promised * summary["loss_slow"] / first,
        progress=ops.minimum(clock.step / clock.total_steps, 1.0),
        num_decisions=ops.ceil(clock.total_steps / clock.interval),
        interval=scalars["interval_updates"],
        num_examples=batch.num_examples,
        num_passes=clock.total_steps / clock.epoch_steps,
        sparsity=batch.sparsity,
        validation_gap=ops.where(
            promised > 0.5, validation_gap(summary), UNKNOWN_GAP
        ),
        lost_again=lost_again(summary),
        training_lead=training_lead(summary),
        measured=measured(summary),
        pretrained=scalars["pretrained"],
    )


def _measured_ratio(scalars: Scalars, batch: LastBatch) -> Tensor:
    """The last step's trust ratio, for the trace; NaN where there is none."""
    ratio, valid = trust_ratio(
        scalars["step_loss"],
        batch.loss_after,
        batch.promised_drop,
        batch.resolution,
    )
    # Not a number means "not measured"; a loss that overflowed is infinite.
    measured = ops.logical_not(ops.isnan(batch.loss_after))
    usable = ops.logical_and(measured, scalars["finite"] > 0.5)
    known = ops.logical_and(usable, valid > 0.5)
    return ops.where(known, ratio, float("nan"))


def _loss_size(scalars: Scalars, loss: Tensor) -> Tensor:
    """The size of losses in this run, scalar: that of the first one.

    Losses that begin at exactly 0 (a policy's) have it later.
    """
    first = ops.where(scalars["decisions"] > 0.5, scalars["loss_first"], loss)
    later = ops.maximum(ops.abs(scalars["loss_slow"]), ops.abs(loss))
    return ops.where(ops.equal(first, 0.0), later, ops.abs(first))


def _summarize(scalars: Scalars, batch: LastBatch) -> Scalars:
    steps = ops.maximum(scalars["interval_steps"], 1.0)
    updates = ops.maximum(scalars["interval_updates"], 1.0)
    loss = scalars["interval_loss"] / steps
    promised, lost = shortfall(
        ops.where(scalars["finite"] > 0.5, scalars["step_loss"], float("nan")),
        batch.loss_after,
        batch.promised_drop,
        _loss_size(scalars, loss),
        batch.resolution,
    )
    interval = {
        "loss": loss,
        "log_gradient_norm": scalars["interval_log_gradient_norm"] / steps,
        "cosine": scalars["interval_cosine"] / steps,
        "log_update_ratio": scalars["interval_log_update_ratio"] / updates,
        "log_rate": _log_rate(scalars),
        "promised_drop": promised,
        "shortfall": lost,
    }
    summary = {key: scalars[key] for key in SUMMARY_INITIAL}
    return update_summary(summary, interval)
