"""SGD-HD and Adam-HD against steps worked out by hand."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip(
        "hypergradient descent is an optax transformation: it needs JAX.",
        allow_module_level=True,
    )

import jax.numpy as jnp

from keras_metalr.benchmark.competitors import hypergradient


def trajectory(transformation, gradients):
    weights = [jnp.zeros(2)]
    state = transformation.init(weights)
    updates, rates = [], []
    for gradient in gradients:
        update, state = transformation.update([jnp.array(gradient)], state)
        updates.append(np.asarray(update[0]))
        rates.append(float(state.rate))
    return updates, rates


def test_sgd_hd_by_hand():
    # rate += 0.1 g . (g before): 1, then + 0.1 (2*1 + 0*1), then - 0.1 * 2.
    gradients = [[1.0, 1.0], [2.0, 0.0], [-1.0, 5.0]]
    updates, rates = trajectory(hypergradient.sgd_hd(1.0, 0.1), gradients)
    np.testing.assert_allclose(rates, [1.0, 1.2, 1.0], rtol=1e-6)
    np.testing.assert_allclose(updates[1], [-2.4, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates[2], [1.0, -5.0], rtol=1e-6)


def test_adam_hd_by_hand():
    # Adam's first direction is the gradient's sign, so the second rate is
    # 0.5 + 0.01 (3*1 + 1*(-1)); a constant gradient keeps the direction.
    gradients = [[2.0, -4.0], [3.0, 1.0]]
    updates, rates = trajectory(hypergradient.adam_hd(0.5, 0.01), gradients)
    np.testing.assert_allclose(updates[0], [-0.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose(rates, [0.5, 0.52], rtol=1e-6)
    # Second direction of the first weight: mean and mean square, corrected.
    mean = (0.9 * 0.1 * 2.0 + 0.1 * 3.0) / (1 - 0.9**2)
    square = (0.999 * 0.001 * 4.0 + 0.001 * 9.0) / (1 - 0.999**2)
    expected = -0.52 * mean / np.sqrt(square)
    np.testing.assert_allclose(updates[1][0], expected, rtol=1e-4)


def test_a_rate_of_the_rate_of_0_keeps_it():
    gradients = [[1.0, 1.0], [2.0, 0.0]]
    _, rates = trajectory(hypergradient.sgd_hd(0.3, 0.0), gradients)
    np.testing.assert_allclose(rates, [0.3, 0.3], rtol=1e-6)
