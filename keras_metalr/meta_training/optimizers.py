"""Keras's optimizers on one flat vector, the kind being data, not code.

A batch of tasks holds different optimizers, and one compiled unroll must serve
them all: every kind is an instance of three formulas, and the task's numbers
say which one counts. Tested equal to Keras's own.
"""

from typing import NamedTuple

import jax.numpy as jnp

# Of Keras's optimizers: Adam adds it to the root of the mean square before that
# is corrected for its start at zero, RMSprop to the mean square itself.
EPSILON = 1e-7


class OptimizerSpec(NamedTuple):
    """One optimizer, as numbers.

    `formula` is 0 for momentum, 1 for adaptive, 2 for sign; `debias` is 1 where
    running means are corrected for their start at zero.
    """

    formula: float
    beta_1: float
    beta_2: float
    debias: float
    weight_decay: float


KINDS = {
    "sgd": OptimizerSpec(0.0, 0.0, 0.0, 0.0, 0.0),
    "momentum": OptimizerSpec(0.0, 0.9, 0.0, 0.0, 0.0),
    "adam": OptimizerSpec(1.0, 0.9, 0.999, 1.0, 0.0),
    "adamw": OptimizerSpec(1.0, 0.9, 0.999, 1.0, 0.01),
    "rmsprop": OptimizerSpec(1.0, 0.0, 0.9, 0.0, 0.0),
    "lion": OptimizerSpec(2.0, 0.9, 0.99, 0.0, 0.0),
}


class Slots(NamedTuple):
    """What an optimizer remembers: two vectors and the count of its steps."""

    first: jnp.ndarray
    second: jnp.ndarray
    count: jnp.ndarray


def empty_slots(weights: jnp.ndarray) -> Slots:
    """Slots before the first step."""
    zeros = jnp.zeros_like(weights)
    return Slots(zeros, zeros, jnp.zeros((), "float32"))


def update(
    weights: jnp.ndarray,
    gradient: jnp.ndarray,
    slots: Slots,
    rate: jnp.ndarray,
    spec: OptimizerSpec,
) -> tuple[jnp.ndarray, Slots]:
    """One step.

    Args:
        weights: Array `(n,)`.
        gradient: Array `(n,)`.
        slots: `Slots`.
        rate: Scalar learning rate.
        spec: `OptimizerSpec` of scalars.

    Returns:
        Tuple of the new weights and slots.
    """
    count = slots.count + 1.0
    is_momentum, is_sign = spec.formula == 0.0, spec.formula == 2.0
    # Momentum: the velocity holds the rate, as in Keras.
    velocity = spec.beta_1 * slots.first - rate * gradient
    mixed = spec.beta_1 * slots.first + (1.0 - spec.beta_1) * gradient
    # Lion steps by beta_1 and remembers by beta_2.
    remembered = spec.beta_2 * slots.first + (1.0 - spec.beta_2) * gradient
    second = spec.beta_2 * slots.second + (1.0 - spec.beta_2) * gradient**2
    first_share = jnp.where(spec.debias > 0.5, 1.0 - spec.beta_1**count, 1.0)
    second_share = jnp.where(spec.debias > 0.5, 1.0 - spec.beta_2**count, 1.0)
    inside = jnp.where(spec.debias > 0.5, 0.0, EPSILON)
    divisor = jnp.sqrt(second + inside) + (EPSILON - inside)
    scaled = (mixed / first_share) * jnp.sqrt(second_share) / divisor
    moved = jnp.where(
        is_momentum,
        velocity,
        -rate * jnp.where(is_sign, jnp.sign(mixed), scaled),
    )
    first = jnp.where(
        is_momentum, velocity, jnp.where(is_sign, remembered, mixed)
    )
    decayed = weights * (1.0 - rate * spec.weight_decay)
    return decayed + moved, Slots(first, second, count)
