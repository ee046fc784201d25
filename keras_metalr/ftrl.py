"""Ftrl under a rate that moves: its sums belong to the rate they were made at.

Ftrl (McMahan et al., 2013, https://doi.org/10.1145/2487575.2488200) has no
weights of its own to step from. It makes them anew at each step, out of what it
has summed up, and in Keras out of the present rate: weights of a rate that
doubles are twice as long, without any gradient. So where the rate changes, the
sums become those that give the present weights at the new one.
"""

from typing import Any

import keras
from keras import ops

Tensor = Any


def keep_weights(
    optimizer: keras.optimizers.Ftrl, rate: Tensor, untouched: Tensor | bool
) -> None:
    """Have the weights stay where they are at another rate.

    The sums are made out of the weights, not of what they were: these may have
    gone back to earlier ones, whose rate nobody knows any more.

    Args:
        optimizer: `keras.optimizers.Ftrl`, built.
        rate: Scalar, its rate from now on.
        untouched: Scalar boolean, whether the rate was the user's own so far
            and still is. Nothing changes then.
    """
    threshold = optimizer.l1_regularization_strength
    for weights, squares, sums in zip(
        optimizer._trainable_variables,
        optimizer._accumulators,
        optimizer._linears,
        strict=True,
    ):
        weights, squares, kept = map(
            ops.convert_to_tensor, (weights, squares, sums)
        )
        divisor = ops.cast(rate, weights.dtype)
        # What `Ftrl.update_step` divides by; weights that are 0 are so because
        # their sums are below the threshold, at any rate.
        slope = ops.power(squares, -optimizer.learning_rate_power)
        slope = (slope + optimizer.beta) / divisor
        slope = slope + 2 * optimizer.l2_regularization_strength
        made = -weights * slope - threshold * ops.sign(weights)
        stays = ops.logical_or(ops.equal(weights, 0.0), untouched)
        # A schedule may begin at 0.
        stays = ops.logical_or(stays, divisor <= 0.0)
        sums.assign(ops.where(stays, kept, made))
