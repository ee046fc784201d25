"""Ftrl makes its weights out of the rate; a rate that moves must not move them.

What a step then does is still Ftrl's own.
"""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import ftrl
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import compiled
from tests.fit_checks import cross_entropy
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data

OPTIONS = [
    {},
    {"l1_regularization_strength": 0.05},
    {"l2_regularization_strength": 0.3, "beta": 0.2},
    {
        "l1_regularization_strength": 0.02,
        "l2_regularization_strength": 0.1,
        "learning_rate_power": -0.7,
        "initial_accumulator_value": 0.0,
    },
]
RATE = 0.5


def trained(options):
    """A weight matrix after some steps, and its Ftrl."""
    generator = np.random.default_rng(0)
    weights = keras.Variable(generator.normal(size=(4, 3)).astype("float32"))
    optimizer = keras.optimizers.Ftrl(RATE, **options)
    optimizer.build([weights])
    for _ in range(5):
        gradient = generator.normal(size=(4, 3)).astype("float32")
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return weights, optimizer


def change(optimizer, rate, untouched=False):
    ftrl.keep_weights(optimizer, rate, untouched)
    optimizer.learning_rate = rate


def step_without_gradient(optimizer, weights):
    optimizer.apply([keras.ops.zeros(weights.shape)])
    return keras.ops.convert_to_numpy(weights)


@pytest.mark.parametrize("options", OPTIONS)
@settings(deadline=None, max_examples=20)
@given(log_rate=st.floats(-6.0, 6.0))
def test_weights_stay_where_the_rate_changes(options, log_rate):
    weights, optimizer = trained(options)
    before = keras.ops.convert_to_numpy(weights)
    change(optimizer, float(np.exp(log_rate)))
    after = step_without_gradient(optimizer, weights)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_without_it_they_would_not():
    weights, optimizer = trained({})
    before = keras.ops.convert_to_numpy(weights)
    optimizer.learning_rate = 2 * RATE
    after = step_without_gradient(optimizer, weights)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rate", "untouched"), [(RATE, True), (0.0, False)])
def test_the_users_own_rate_changes_not_a_bit(options, rate, untouched):
    _, optimizer = trained(options)
    before = [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
    ftrl.keep_weights(optimizer, rate, untouched)
    for variable, value in zip(optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable), value
        )


def test_weights_that_went_back_stay_at_any_rate():
    """Those of an earlier rate, with the sums of that time."""
    weights, optimizer = trained({})
    kept = [weights, *optimizer._accumulators, *optimizer._linears]
    values = [keras.ops.convert_to_numpy(variable) for variable in kept]
    change(optimizer, 0.05)
    step_without_gradient(optimizer, weights)
    for variable, value in zip(kept, values, strict=True):
        variable.assign(value)
    # The rate was lowered before they went back.
    change(optimizer, 0.05)
    after = step_without_gradient(optimizer, weights)
    np.testing.assert_allclose(after, values[0], rtol=1e-4, atol=1e-5)


def test_weights_that_are_held_at_zero_stay_held():
    weights, optimizer = trained({"l1_regularization_strength": 3.0})
    held = keras.ops.convert_to_numpy(weights) == 0.0
    assert 0 < held.sum() < held.size
    change(optimizer, 100.0)
    after = step_without_gradient(optimizer, weights)
    np.testing.assert_array_equal(after == 0.0, held)


def test_hands_off_a_schedule_is_the_users():
    x, y = make_data()
    ends = []
    for callbacks in ([], [MetaLR(Controller(), safe_start=False)]):
        schedule = keras.optimizers.schedules.CosineDecay(0.3, 12)
        optimizer = keras.optimizers.Ftrl(schedule)
        model = compiled(optimizer, drop=False, **QUICK)
        model.fit(x, y, epochs=2, callbacks=callbacks, **FIT)
        ends.append(model.get_weights())
    assert largest_difference(*ends) < 1e-6


@pytest.mark.parametrize(
    "rate",
    [1e-6, 1e-2, 10.0, keras.optimizers.schedules.CosineDecay(1e-2, 120, 0.1)],
)
def test_a_run_learns_from_any_rate(rate):
    x, y = make_data(480)
    model = compiled(keras.optimizers.Ftrl(rate), drop=False, **QUICK)
    first = model.evaluate(x, y, verbose=0)
    metalr = MetaLR()
    model.fit(x, y, epochs=2, callbacks=[metalr], **FIT)
    assert not (np.asarray(metalr.trace["event"]) == 2.0).any()
    assert model.evaluate(x, y, verbose=0) < 0.5 * first
    # Nor do the weights move when the optimizer has the user's rate again.
    before = model.get_weights()
    nothing = np.zeros(len(y), "float32")
    model.compile(model.optimizer, loss=cross_entropy(), **QUICK)
    model.fit(x, y, sample_weight=nothing, **FIT)
    for left, right, variable in zip(
        model.get_weights(), before, model.weights, strict=True
    ):
        if variable.trainable:
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
