"""What a controller reaches on the tasks of an arena."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from keras_metalr.controller import Controller
from keras_metalr.meta_training.arenas import Arena
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import regret
from keras_metalr.meta_training.bank import score

# Tasks that are run side by side.
CHUNK = 64


class ControllerVector:
    """A `Controller`'s weights as one vector, and the function they make.

    Args:
        controller: Built `Controller`; it gives the architecture.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        values = [jnp.asarray(w) for w in controller.get_weights()]
        self.start, self._unravel = ravel_pytree(values)

    def function(
        self, vector: jnp.ndarray
    ) -> Callable[[jnp.ndarray], jnp.ndarray]:
        """From features `(NUM_FEATURES,)` to the output, a scalar."""
        weights = self._unravel(vector)

        def call(features: jnp.ndarray) -> jnp.ndarray:
            outputs, _ = self.controller.stateless_call(
                weights, [], features[None, :]
            )
            return outputs.reshape(())

        return call

    def to_controller(self, vector: jnp.ndarray) -> Controller:
        """A new `Controller` with these weights."""
        controller = Controller.from_config(self.controller.get_config())
        weights = [np.asarray(w) for w in self._unravel(vector)]
        controller.set_weights(weights)
        return controller


def evaluate(
    arena: Arena,
    controller: Controller,
    mask: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Run a controller on every task of an arena.

    Args:
        arena: `Arena`, with tasks that nothing was trained on.
        controller: `Controller`.
        mask: Array `(NUM_FEATURES,)`, factors on the features. Defaults to
            `None`, all 1.

    Returns:
        Dict of arrays with one row a task: `regret`, `score` and `trace`.
    """
    vector = ControllerVector(controller)
    call = vector.function(vector.start)
    factors = 1.0 if mask is None else jnp.asarray(mask)

    def one(bank: Bank) -> dict[str, jnp.ndarray]:
        result = arena.unroll.controlled(
            lambda features: call(features * factors), bank.tasks
        )
        final = regret(result.final_loss, bank.best_loss, bank.initial_loss)
        return {
            "regret": final,
            "score": score(result, bank),
            "trace": result.trace,
        }

    count = arena.bank.best_loss.shape[0]
    size = min(CHUNK, count)
    rows = jax.jit(lambda b: jax.lax.map(one, b, batch_size=size))(arena.bank)
    return {name: np.asarray(value) for name, value in rows.items()}


def summarize(regrets: np.ndarray) -> dict[str, float]:
    """Mean with its 95 % interval (bootstrap), median and worst.

    Args:
        regrets: Array `(num_tasks,)`.
    """
    draws = np.random.default_rng(0).integers(
        0, len(regrets), (2000, len(regrets))
    )
    low, high = np.percentile(regrets[draws].mean(1), [2.5, 97.5])
    values = {
        "mean": regrets.mean(),
        "low": low,
        "high": high,
        "median": np.median(regrets),
        "worst": regrets.max(),
    }
    return {name: round(float(value), 4) for name, value in values.items()}
