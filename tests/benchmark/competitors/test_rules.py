"""Rates and rules, against values worked out by hand."""

import math
import types

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.competitors import averaging
from keras_metalr.benchmark.competitors import greedy as greedy_module
from keras_metalr.benchmark.competitors import rate_finder
from keras_metalr.benchmark.competitors import rate_rules
from keras_metalr.benchmark.competitors.steered_optimizer import (
    SteeredOptimizer,
)
from tests.benchmark.competitors import objectives


def rates_of(rule, start, losses):
    memory = [ops.convert_to_tensor(value) for value in rule.init()]
    rates = []
    for step, loss in enumerate(losses):
        rate, memory = rule.update(
            memory,
            ops.convert_to_tensor(np.float32(start)),
            ops.convert_to_tensor(np.float32(step)),
            ops.convert_to_tensor(np.float32(loss)),
        )
        rates.append(float(ops.convert_to_numpy(rate)))
    return rates


def test_warmup_cosine_by_hand():
    # 2 steps of warmup, then half a cosine over 8 steps, from its top.
    rates = rates_of(rate_rules.warmup_cosine(10, 0.2), 2.0, [0.0] * 11)
    cosine = [1.0 + math.cos(math.pi * k / 8) for k in range(9)]
    np.testing.assert_allclose(rates, [1.0, 2.0, *cosine], atol=1e-6)


def test_warmup_linear_by_hand():
    rates = rates_of(rate_rules.warmup_linear(20), 3.0, [0.0] * 21)
    expected = [1.5, 3.0, *np.linspace(3.0, 0.0, 19)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_one_cycle_peaks_at_the_start_and_ends_at_nothing():
    num_steps = 40
    rates = rates_of(rate_rules.one_cycle(num_steps), 1.0, [0.0] * 41)
    assert rates[0] == pytest.approx(1 / 25)
    assert int(np.argmax(rates)) == rate_rules.one_cycle_peak(num_steps) == 10
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)
    assert np.all(np.diff(rates[:11]) > 0) and np.all(np.diff(rates[10:]) < 0)


def test_greedy_by_hand():
    # A window of 2, patience 1, factor 1/2; means: 8, 6, 3, 3, 4, 5, ...
    # better, better (> 1: up), better, not, not (> 1: down), not, not (down).
    rule = greedy_module.greedy(
        factor=0.5, patience=1, window=2, min_rate=0.001, max_rate=8.0
    )
    losses = [8.0, 4.0, 2.0, 4.0, 4.0, 6.0, 6.0, 6.0]
    rates = rates_of(rule, 1.0, losses)
    assert rates == [1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.5]


def test_greedy_keeps_to_its_limits():
    rule = greedy_module.greedy(
        factor=0.5, patience=0, window=1, min_rate=0.2, max_rate=3.0
    )
    falling = rates_of(rule, 1.0, [5.0, 4.0, 3.0, 2.0, 1.0])
    assert falling == [1.0, 2.0, 3.0, 3.0, 3.0]
    rising = rates_of(rule, 1.0, [5.0, 6.0, 7.0, 8.0, 9.0])
    # The first loss is better than none.
    np.testing.assert_allclose(rising, [1.0, 2.0, 1.0, 0.5, 0.25])
    assert rates_of(rule, 10.0, [5.0, 4.0, 3.0]) == [10.0, 10.0, 10.0]


def test_greedy_has_the_defaults_that_it_is_described_with():
    # One better loss after another: up after the eleventh and the next eleven.
    rates = rates_of(greedy_module.greedy(), 0.1, -np.arange(23.0))
    up = [0.1, 0.1 / 0.95, 0.1 / 0.95**2]
    np.testing.assert_allclose(
        rates, [*[up[0]] * 11, *[up[1]] * 11, up[2]], rtol=1e-5
    )


def test_greedy_refuses_a_factor_that_is_none():
    with pytest.raises(ValueError, match=r"factor=1\.0"):
        greedy_module.greedy(factor=1.0)


def test_suggested_rate_is_a_tenth_of_the_best():
    rates = rate_finder.sweep_rates(1e-7)
    np.testing.assert_allclose(rates, np.geomspace(1e-7, 10, 100), rtol=1e-9)
    rates = list(10.0 ** np.arange(-7, 2))
    # The mean is lowest at the sixth loss, which the fifth rate (1e-3) led to.
    losses = [4.0, 4.0, 4.0, 3.0, 2.0, 0.1, 9.0, 90.0, 900.0]
    assert rate_finder.suggest_rate(rates, losses) == pytest.approx(1e-4)
    assert rate_finder.suggest_rate(rates, [math.nan]) == rates[0]


class Valley:
    """Stands for a model: its loss is a function of the rate before."""

    def __init__(self):
        self.optimizer = types.SimpleNamespace(
            learning_rate=keras.Variable(1e-7, trainable=False),
            iterations=keras.Variable(0, dtype="int32", trainable=False),
        )
        self.losses, self.seen, self.steps = [], [], []

    def reset_metrics(self):
        self.seen = []

    def train_on_batch(self, x, y, return_dict):
        rate = float(ops.convert_to_numpy(self.optimizer.learning_rate))
        step = ops.convert_to_numpy(self.optimizer.iterations)
        self.steps.append(int(step))
        self.optimizer.iterations.assign(99)
        self.losses.append(1.0 + abs(math.log10(rate) + 2.0))
        # As Keras has it: the mean since the metrics were reset.
        self.seen.append(self.losses[-1])
        return {"loss": np.mean(self.seen)}


def test_range_test_looks_at_every_loss_by_itself_at_the_peak():
    valley = Valley()
    trainee = types.SimpleNamespace(model=valley)
    found = rate_finder.find_rate(trainee, [(0, 0), (1, 1)], peak_step=7)
    rates = rate_finder.sweep_rates(1e-7)
    expected = rate_finder.suggest_rate(rates, valley.losses)
    assert found == pytest.approx(expected, rel=1e-4)
    # A tenth of 0.01, and a few steps more that the mean takes to turn.
    assert 1e-3 < found < 5e-3
    assert valley.steps == [7] * rate_finder.NUM_STEPS


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_smoothed_losses_stay_within_what_was_seen(losses):
    means = rate_finder.smoothed(losses)
    assert means[0] == pytest.approx(losses[0])
    assert len(means) <= len(losses)
    assert min(losses) * 0.999 <= min(means)
    assert max(means) <= max(losses) * 1.001


def test_averaged_weights_by_hand():
    # 0.9 of the average 2, and 0.1 of the fast 5, is 2.3.
    assert averaging.averaged_weights(2.3, 5.0, 0.9) == pytest.approx(2.0)


def test_statistics_are_taken_from_all_batches_of_the_calibration():
    inputs = keras.Input((1,))
    kernel = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Model(inputs, norm(kernel(inputs)))
    model.compile("sgd", "mse")
    x = np.array([[-1.0], [1.0]], "float32")
    callback = averaging.EvaluationWeights(
        lambda optimizer, weights: [10.0 * weight for weight in weights],
        [0.3 * x, *[x] * 19],
    )
    callback.set_model(model)

    def variance():
        return float(ops.convert_to_numpy(norm.moving_variance)[0])

    callback.on_test_begin()
    # The mean of all batches: those of the first are a twentieth of it.
    assert variance() == pytest.approx((9 + 19 * 100.0) / 20, rel=1e-3)
    callback.on_test_end()
    assert variance() == 1.0


def test_keras_own_methods_have_the_settings_of_the_table():
    setting = objectives.setting(300)
    optimizer = PEERS["keras_schedule_free"].make_optimizer(setting, 0.1)
    assert optimizer.warmup_steps == 30
    (plateau,) = PEERS["reduce_on_plateau"].callbacks(setting)
    assert (plateau.monitor, plateau.patience) == ("val_loss", 2)


def test_steered_optimizer_takes_the_steps_of_the_rule():
    variable = keras.Variable([1.0], dtype="float32")
    rule = rate_rules.warmup_linear(4)
    optimizer = SteeredOptimizer(keras.optimizers.SGD(9.9), rule, 0.5)
    optimizer.build([variable])
    for _ in range(4):
        optimizer.apply([ops.convert_to_tensor([1.0])], [variable])
    # Rates: 0.5 (warmup of 1 step), then 3/3, 2/3 and 1/3 of it.
    moved = 0.5 * (1.0 + 1.0 + 2 / 3 + 1 / 3)
    value = ops.convert_to_numpy(variable.value)
    np.testing.assert_allclose(value, [1.0 - moved], rtol=1e-5)
