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
    optimizer: keras.optimizers.Ftrl, old: Tensor, new: Tensor
) -> None:
    """Have a change of the rate leave the weights where they are.

    Args:
        optimizer: `keras.optimizers.Ftrl`, built.
        old: Scalar, its rate so far. Where it is the new one nothing changes.
        new: Scalar, its rate from now on.
    """
    same = ops.equal(new, ops.convert_to_tensor(old))
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
        rate = ops.cast(new, weights.dtype)
        # What `Ftrl.update_step` divides by; weights that are 0 are so because
        # their sums are below the threshold, at any rate.
        slope = ops.power(squares, -optimizer.learning_rate_power)
        slope = (slope + optimizer.beta) / rate
        slope = slope + 2 * optimizer.l2_regularization_strength
        made = -weights * slope - threshold * ops.sign(weights)
        stays = ops.logical_or(ops.equal(weights, 0.0), same)
        sums.assign(ops.where(stays, kept, made))
