"""When is a run broken or being ruined, and what becomes of its rate. Pure.

The guard has three parts, of which this module is the second:

1. every step: a loss or a gradient that is not finite moves nothing (its
   gradient is taken as zero, and running statistics keep their values);
2. every decision: `assess` says whether the run must go back;
3. a snapshot of the weights, refreshed rarely, to go back to (`snapshot.py`).
"""

import math
from typing import Any

from keras_metalr import backend

ops = backend.native_ops()
Tensor = Any

# Consecutive steps without a finite loss that call for the snapshot.
BROKEN_STEPS = 5.0
# Consecutive decisions with the loss high above its best that call for it.
RUINED_DECISIONS = 6.0
# Decisions before the loss is known well enough to be called ruined.
MIN_DECISIONS = 10.0
# How far, in its own size, a loss must rise before that to have exploded.
EARLY_EXPLOSION = 100.0
# Decisions in which the run settles after it went back.
COOLDOWN_DECISIONS = 4.0
# What is all 0 where a run is well, and a copy of its weights may be kept.
TROUBLES = ("high_decisions", "cooldown", "consecutive_bad")
# At most once in so many steps does the host look at what was decided.
WATCH_STEPS = 8
# A run goes back this often at the most: a loss that keeps rising after that is
# the task's own way (a curriculum, say), not the rate's doing.
MAX_ROLLBACKS = 8.0
BROKEN_CUT = math.log(0.01)
RUINED_CUT = math.log(0.2)
# After a rollback the rate stays below the one that did the harm, and may come
# back to it by this much a decision.
CEILING_CUT = math.log(0.5)
CEILING_RELAX = 0.02

GUARD_INITIAL: dict[str, float] = {
    "good_steps": 0.0,
    "skipped_steps": 0.0,
    "consecutive_bad": 0.0,
    "good_since_rollback": 0.0,
    "best_loss": 1e30,
    "best_log_multiplier": 0.0,
    "calm_deviation": 0.0,
    "high_decisions": 0.0,
    "cooldown": 0.0,
    "rollbacks": 0.0,
    "log_ceiling": 1e9,
}


def look_steps(interval: Any) -> Any:
    """Steps from one look of the host to the next: whole intervals.

    Args:
        interval: Integer or scalar tensor (>= 1), steps between decisions.
    """
    return interval * -(-WATCH_STEPS // interval)


def decisions_until_restored(
    interval: Tensor, steps_per_execution: int
) -> Tensor:
    """Decisions from the one to go back until `fit` has done so, at the most.

    `fit` acts on what was decided by the look before its last, and looks
    between executions alone.

    Args:
        interval: Scalar float32 (>= 1), steps from one decision to the next.
        steps_per_execution: Integer (>= 1), the model's.
    """
    steps = look_steps(interval) + (steps_per_execution - 1.0)
    return ops.ceil(2.0 * steps / interval)


def assess(
    guard: dict[str, Tensor],
    summary: dict[str, Tensor],
    log_multiplier: Tensor,
    until_restored: Tensor | float = 0.0,
    has_updates: Tensor | bool = True,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Book one decision and say whether the run must go back.

    A run is broken after `BROKEN_STEPS` steps without a finite loss, and ruined
    after `RUINED_DECISIONS` decisions in a row with the loss above its best by
    half of what had been gained, by 4 mean deviations and by 5 %. A loss above
    its best by twice its own size has exploded, and counts double. Both the
    running mean and the last interval must be that high: one wild batch is no
    ruin. The deviation is from the fast mean, which lags little behind a
    steady fall, and from before the loss rose.

    Of the rate it knows the factor on the user's own alone: a schedule may have
    been at 0 when the loss was best.

    Args:
        guard: Dict of scalars with the keys of `GUARD_INITIAL`.
        summary: Dict of scalars, `features.update_summary`'s.
        log_multiplier: Scalar, log of the factor on the user's rate.
        until_restored: Scalar, decisions until the weights have gone back:
            the run is not judged by the old ones once more. Defaults to `0.0`.
        has_updates: Boolean or boolean scalar, whether the weights were due to
            move since the last decision. Where they were not, its loss is
            not judged once more. Defaults to `True`.

    Returns:
        Tuple `(guard, rollback, log_multiplier)`: the new books; 1.0 where the
        weights must go back to the snapshot, else 0.0; and the log of the
        factor to go on with, unchanged where there is no rollback.
    """
    settled = guard["cooldown"] <= 0.0
    loss, best = summary["loss_slow"], guard["best_loss"]
    better = ops.logical_and(
        settled, ops.logical_and(summary["decisions"] > 0.5, loss < best)
    )
    best = ops.where(better, loss, best)
    best_log_multiplier = ops.where(
        better, log_multiplier, guard["best_log_multiplier"]
    )
    high, exploded = _too_high(guard, summary, best)
    high = ops.cast(ops.logical_and(settled, high), "float32")
    weight = 1.0 + ops.cast(exploded, "float32")
    high_decisions = backend.choose(
        has_updates,
        high * (guard["high_decisions"] + weight),
        guard["high_decisions"],
    )
    calm = ops.logical_and(ops.logical_and(settled, has_updates), high < 0.5)
    deviation = ops.abs(summary["loss"] - summary["loss_fast"])
    share = ops.maximum(1.0 / ops.maximum(summary["decisions"], 1.0), 0.04)
    calm_deviation = guard["calm_deviation"] + ops.where(
        calm, share * (deviation - guard["calm_deviation"]), 0.0
    )
    broken = _broken(guard)
    ruined = high_decisions >= RUINED_DECISIONS
    back = ops.logical_and(
        ops.logical_and(settled, ops.logical_or(broken, ruined)),
        guard["rollbacks"] < MAX_ROLLBACKS,
    )
    new = dict(guard)
    new["best_loss"] = best
    new["best_log_multiplier"] = best_log_multiplier
    new["calm_deviation"] = calm_deviation
    new["high_decisions"] = ops.where(back, 0.0, high_decisions)
    new["cooldown"] = ops.where(
        back,
        COOLDOWN_DECISIONS + until_restored,
        ops.maximum(guard["cooldown"] - 1.0, 0.0),
    )
    new["rollbacks"] = guard["rollbacks"] + ops.cast(back, "float32")
    new["good_since_rollback"] = ops.where(
        back, 0.0, guard["good_since_rollback"]
    )
    new["log_ceiling"] = ops.where(
        back,
        ops.minimum(log_multiplier + CEILING_CUT, guard["log_ceiling"]),
        guard["log_ceiling"] + CEILING_RELAX,
    )
    ruined_cut = ops.minimum(log_multiplier, best_log_multiplier) + RUINED_CUT
    far_off = ops.logical_or(broken, exploded)
    cut = ops.where(far_off, log_multiplier + BROKEN_CUT, ruined_cut)
    return (
        new,
        ops.cast(back, "float32"),
        ops.where(back, cut, log_multiplier),
    )


def _too_high(
    guard: dict[str, Tensor], summary: dict[str, Tensor], best: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether the loss is far above its best; and whether it has exploded."""
    level = ops.minimum(summary["loss_fast"], summary["loss"])
    rise = level - best
    early = summary["decisions"] <= MIN_DECISIONS
    noise = 4.0 * guard["calm_deviation"]
    size = ops.maximum(ops.abs(summary["loss_first"]), ops.abs(best))
    # Losses that begin at 0 and stay there have no size to rise by.
    early_rise = ops.where(size > 0.0, EARLY_EXPLOSION * size, float("inf"))
    gained = 0.5 * (summary["loss_first"] - best)
    margin = ops.maximum(ops.maximum(gained, noise), 0.05 * ops.abs(best))
    # The first losses may be lucky ones: only an enormous rise tells then.
    exploded = rise > ops.where(
        early, early_rise, ops.maximum(2.0 * size, noise)
    )
    high = ops.logical_or(
        exploded, ops.logical_and(ops.logical_not(early), rise > margin)
    )
    return high, exploded


def _broken(guard: dict[str, Tensor]) -> Tensor:
    """Whether step after step was without a finite loss."""
    # Bad steps that go on after a rollback are the data's fault: going back
    # again would change nothing.
    return ops.logical_and(
        guard["consecutive_bad"] >= BROKEN_STEPS,
        guard["good_since_rollback"] > 0.5,
    )


def weights_are_kept(guard: dict[str, Tensor]) -> Tensor:
    """Whether the run's present weights are not to be thrown away.

    Args:
        guard: Dict of scalars with the keys of `GUARD_INITIAL`.
    """
    return guard["cooldown"] <= COOLDOWN_DECISIONS


def forgive(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """After a rollback the loss means stand where the snapshot stood.

    Until the weights have gone back, too: the losses in between are those of
    weights that will be thrown away.

    Args:
        scalars: Dict of scalars, the means of the loss and the new books.

    Returns:
        The new scalars.
    """
    new = dict(scalars)
    back = scalars["cooldown"] >= COOLDOWN_DECISIONS
    for key in ("loss", "loss_fast", "loss_slow"):
        new[key] = ops.where(back, scalars["best_loss"], scalars[key])
    return new
