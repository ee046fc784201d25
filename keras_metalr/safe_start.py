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


def begin(
    scalars: Scalars,
    first: Tensor,
    weight_norm: Tensor,
    gradient_norm: Tensor,
    log_base: Tensor,
    num_coordinates: int,
) -> Scalars:
    """At the first step of a run, forget the user's rate.

    Args:
        scalars: Dict with the keys of `decision.INITIAL`.
        first: Scalar boolean, whether this is the first step.
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
    usable = ops.logical_and(first, ops.isfinite(log_rate))
    multiplier = ops.where(
        usable, log_rate - log_base, scalars["log_multiplier"]
    )
    return {**scalars, "log_multiplier": multiplier}


def advance(
    scalars: Scalars,
    measured: Scalars,
    moved: Tensor,
    accumulation_steps: int = 1,
) -> Scalars:
    """After a step, bring the update nearer to the length it should have.

    Args:
        scalars: Dict with the keys of `decision.INITIAL`.
        measured: Dict of scalars, `update_norm` and `weight_norm` of the step.
        moved: Scalar float32, 1 where the step moved the weights, else 0.
        accumulation_steps: Integer (>= 1), batches to one weight update.
            Defaults to `1`.

    Returns:
        The new scalars; nothing changes once the safe start is over.
    """
    factor, done = ramp(
        measured["update_norm"],
        measured["weight_norm"],
        start_ratio(scalars["pretrained"]),
    )
    limit = START_STEPS * accumulation_steps
    active = scalars["ramping"] * moved
    steps = scalars["ramp_steps"] + scalars["ramping"]
    over = ops.maximum(done * moved, ops.cast(steps >= limit, "float32"))
    before = scalars["log_multiplier"]
    return {
        **scalars,
        "log_multiplier": ops.where(active > 0.5, before + factor, before),
        "ramp_steps": steps,
        "ramping": scalars["ramping"] * (1.0 - over),
    }
