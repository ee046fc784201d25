"""What a learning-rate schedule that rises does to the rate. Pure.

The controlled rate is the user's own times a factor. While a schedule falls,
the factor may grow, and soon be a thousand; a warmup or a restart that then
rises would have it on top, in the steps between two decisions.
"""

from typing import Any

from keras_metalr import backend

ops = backend.native_ops()
Tensor = Any
Scalars = dict[str, Tensor]

# Of the user's own rate at the step before; a first step never rises.
SCHEDULE_INITIAL: dict[str, float] = {"log_base": 1e9}

# All that is a log of a factor on the user's own rate.
_FACTORS = ("log_multiplier", "best_log_multiplier", "log_ceiling")


def follow(scalars: Scalars, log_base: Tensor) -> Scalars:
    """Give back what a rise of the user's rate has made superfluous.

    The rise takes the rate no higher than the user's own, nor than the highest
    that the run has had. A factor of exactly 1 stays: so far the run is the
    user's own.

    Args:
        scalars: Dict with the keys of `decision.INITIAL`.
        log_base: Scalar, log of the user's own rate at this step.

    Returns:
        The new scalars.
    """
    multiplier, before = scalars["log_multiplier"], scalars["log_base"]
    highest = ops.maximum(
        before + multiplier, ops.minimum(scalars["log_rate_max"], log_base)
    )
    excess = ops.maximum(log_base + multiplier - highest, 0.0)
    rises = ops.logical_and(log_base > before, ops.abs(multiplier) > 0.0)
    excess = ops.where(rises, excess, 0.0)
    new = {key: scalars[key] - excess for key in _FACTORS}
    return {**scalars, **new, "log_base": log_base}
