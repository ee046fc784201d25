"""The first steps of a run, before the controller drives. Pure.

The rate that the user gave may be wrong by any factor. The run starts from one
that can do no harm instead, and finds in a few steps how long an update is.
"""

import math
from typing import Any

from keras_metalr import backend
from keras_metalr.signals import TINY
from keras_metalr.update_rule import either

ops = backend.native_ops()
Tensor = Any
Scalars = dict[str, Tensor]

# The first updates are this long, relative to the weights. What a pretrained
# encoder bears, and what new weights do, which have nothing to lose (the
# measurements are in docs/design.md).
START_RATIO = 1e-4
NEW_START_RATIO = 3e-3
# Steps to get there, at the most. Factors of the rate: how far one of them may
# go, and how near to that length is near enough.
START_STEPS = 16
RAMP_LIMIT = 100.0
RAMP_TOLERANCE = 1.5
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

    The first step may be one that moves nothing: its gradient overflows or is
    not a number, or the user's schedule begins at 0.

    Args:
        scalars: Dict with the keys of `decision.INITIAL`.
        weight_norm: Scalar, see `signals.weight_norm`, before the step.
        gradient_norm: Scalar, Euclidean norm of the gradient.
        log_base: Scalar, log of the user's rate.
        num_coordinates: Integer, number of trainable weights.

    Returns:
        The new scalars.
    """
    # A batch that is not finite moves nothing but weight decay, which goes by
    # the rate.
    finite = ops.isfinite(gradient_norm)
    log_rate = first_log_rate(
        weight_norm,
        ops.where(finite, gradient_norm, 0.0),
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


def start_ratio(pretrained: Tensor) -> Tensor:
    """Length of the first updates, relative to the weights.

    Args:
        pretrained: Scalar, 1 for pretrained weights, 0 for new ones.
    """
    return either(pretrained, START_RATIO, NEW_START_RATIO)


def first_log_rate(
    weight_norm: Tensor,
    gradient_norm: Tensor,
    num_coordinates: int,
    ratio: Tensor,
) -> Tensor:
    """Log of a first rate that no optimizer can do harm with.

    Unknown yet is how long the optimizer's direction is. It is at most about
    the gradient's length (SGD and its kin) or 4 per coordinate (Adam, RMSprop,
    Lion, Muon and their kin), so the larger of the two is taken; `ramp` then
    finds the rest from the updates that really come.

    Args:
        weight_norm: Scalar, see `signals.weight_norm`.
        gradient_norm: Scalar, Euclidean norm of the first gradient.
        num_coordinates: Integer, number of trainable weights.
        ratio: Scalar, `start_ratio`.
    """
    scale = math.sqrt(num_coordinates)
    direction = ops.maximum(gradient_norm, 4.0 * scale)
    return ops.log(ratio * weight_norm / direction)


def ramp(
    update_norm: Tensor, weight_norm: Tensor, ratio: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the safe start: towards updates of the right length.

    Args:
        update_norm: Scalar, Euclidean norm of the update that just came.
        weight_norm: Scalar, see `signals.weight_norm`.
        ratio: Scalar, `start_ratio`.

    Returns:
        Tuple `(log_factor, done)`: what to add to the log rate, within
        +-log(100), and 1.0 once the update is as long as it should be.
    """
    limit = math.log(RAMP_LIMIT)
    target = ops.log(ratio * weight_norm) - ops.log(update_norm + TINY)
    target = ops.where(ops.isfinite(target), target, -limit)
    done = ops.abs(target) <= math.log(RAMP_TOLERANCE)
    return ops.clip(target, -limit, limit), ops.cast(done, "float32")
