"""Hypergradient descent: the rate follows the gradient of the loss in it.

Baydin, Cornish, Martinez Rubio, Schmidt and Wood, "Online Learning Rate
Adaptation with Hypergradient Descent", ICLR 2018, arXiv 1703.04782. With `g`
the gradient, `d` the direction (`weights -= rate * d`) and `beta` the rate of
the rate:

    rate_t = rate_(t-1) + beta * g_t . d_(t-1)
    weights -= rate_t * d_t

SGD-HD has `d = g`; Adam-HD has Adam's direction at rate 1, bias corrected.
Both are optax transformations. JAX is imported where it is needed.
"""

from typing import Any
from typing import NamedTuple

# The authors' own for logistic regression and dense nets (the results stored in
# https://github.com/gbaydin/hypergradient-descent).
SGD_BETA = 1e-3
ADAM_BETA = 1e-7


class HypergradientState(NamedTuple):
    """`rate` scalar; `direction` as the weights; `inner` state of Adam."""

    rate: Any
    direction: Any
    inner: Any


def hypergradient(direction: Any, rate: Any, beta: float) -> Any:
    """Hypergradient descent on any transformation of the gradient.

    Args:
        direction: `optax.GradientTransformation` from the gradient to the
            direction at rate 1.
        rate: Float or scalar array, the first rate.
        beta: Float (>= 0), rate of the rate. 0 keeps the rate as it is.

    Returns:
        An `optax.GradientTransformation`.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def init(weights: Any) -> HypergradientState:
        zeros = jax.tree.map(jnp.zeros_like, weights)
        first = jnp.asarray(rate, "float32")
        return HypergradientState(first, zeros, direction.init(weights))

    def update(
        gradient: Any, state: HypergradientState, weights: Any = None
    ) -> tuple[Any, HypergradientState]:
        # The first direction before is zero, and the rate stays.
        slope = optax.tree.vdot(gradient, state.direction)
        new_rate = state.rate + beta * slope
        step, inner = direction.update(gradient, state.inner, weights)
        updates = jax.tree.map(lambda d: -new_rate * d, step)
        return updates, HypergradientState(new_rate, step, inner)

    return optax.GradientTransformation(init, update)


def sgd_hd(rate: Any, beta: float = SGD_BETA) -> Any:
    """SGD-HD (algorithm 4 of the paper).

    Args:
        rate: Float, the first rate.
        beta: Float, rate of the rate. Defaults to `1e-3`.
    """
    import optax

    return hypergradient(optax.identity(), rate, beta)


def adam_hd(rate: Any, beta: float = ADAM_BETA) -> Any:
    """Adam-HD (algorithm 6 of the paper).

    Args:
        rate: Float, the first rate.
        beta: Float, rate of the rate. Defaults to `1e-7`.
    """
    import optax

    return hypergradient(optax.scale_by_adam(), rate, beta)
