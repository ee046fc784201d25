"""The first steps of a run, before the controller drives. Pure.

The rate that the user gave may be wrong by any factor. The run starts from one
that can do no harm instead, and finds in a few steps how long an update is.
"""

from typing import Any

from keras_metalr import backend
from keras_metalr.update_rule import START_STEPS
from keras_metalr.update_rule import first_log_rate
from keras_metalr.update_rule import ramp
from keras_metalr.update_rule import start_ratio

ops = backend.native_ops()
Tensor = Any
Scalars = dict[str, Tensor]

# Steps that may be skipped, while a loss scale is being found say, before the
# safe start is given up.
MAX_SKIPPED = 64


def longest(accumulation_steps: int) -> int:
    """Steps after which the safe start is over, whatever came of it.

    Args:
        accumulation_steps: Integer (>= 1), batches to one weight update.
    """
    return START_STEPS * accumulation_steps + MAX_SKIPPED


def begin(
    scalars: Scalars,
    weight_norm: Tensor,
    gradient_norm: Tensor,
    log_base: Tensor,
    num_coordinates: int,
) -> Scalars:
    """Until the weights have moved, forget the user's rate.

    The first step may be one that moves nothing: its gradient overflows, or the
    user's schedule begins at 0.

    Args:
        scalars: Dict with the keys of `decision.INITIAL`.
        weight_norm: Scalar, see `signals.weight_norm`, before the step.
        gradient_norm: Scalar, Euclidean norm of the gradient.
        log_base: Scalar, log of the user's rate.
        num_coordinates: Integer, number of trainable weights.

    Returns:
        The new scalars.
    """
    log_rate = first_log_rate(
        weight_norm,
        gradient_norm,
        num_coordinates,
        start_ratio(scalars["pretrained"]),
    )
    waiting = scalars["ramping"] * (1.0 - scalars["ramp_steps"]) > 0.5
    usable = ops.logical_and(waiting, ops.isfinite(log_rate))
    multiplier = ops.where(
        usable, log_rate - log_base, scalars["log_multiplier"]
    )
    return {**scalars, "log_multiplier": multiplier}


def advance(
    scalars: Scalars,
    measured: Scalars,
    moved: Tensor,
    expired: Tensor | float = 0.0,
) -> Scalars:
    """After a step, bring the update nearer to the length it should have.

    Args:
        scalars: Dict with the keys of `decision.INITIAL`.
        measured: Dict of scalars, `update_norm` and `weight_norm` of the step.
        moved: Scalar float32, 1 where the step moved the weights, else 0.
        expired: Scalar float32, 1 where the safe start must be over whatever
            came of it, else 0. Defaults to `0.0`.

    Returns:
        The new scalars; nothing changes once the safe start is over.
    """
    factor, done = ramp(
        measured["update_norm"],
        measured["weight_norm"],
        start_ratio(scalars["pretrained"]),
    )
    active = scalars["ramping"] * moved
    steps = scalars["ramp_steps"] + active
    enough = ops.cast(steps >= START_STEPS, "float32")
    over = ops.maximum(ops.maximum(done * moved, enough), expired)
    before = scalars["log_multiplier"]
    return {
        **scalars,
        "log_multiplier": ops.where(active > 0.5, before + factor, before),
        "ramp_steps": steps,
        "ramping": scalars["ramping"] * (1.0 - over),
    }
