"""The update rule: bounded, monotone, within limits, still at output 0."""

import math

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_metalr import update_rule
from keras_metalr.run_state import TRACE_ROWS

any_float32 = st.floats(width=32)
steps = st.integers(1, 10**7)


def tensor(value):
    return ops.convert_to_tensor(np.asarray(value, "float32"))


def as_numpy(value):
    return ops.convert_to_numpy(value)


# -- Decisions. -------------------------------------------------------------


@given(total=steps, accumulation=st.integers(1, 64))
@example(total=299, accumulation=1)
@example(total=300, accumulation=1)
@example(total=500, accumulation=1)
@example(total=299 * 8 + 7, accumulation=8)
def test_number_of_decisions(total, accumulation):
    interval, num_decisions = update_rule.decision_interval(total, accumulation)
    assert interval >= 1 and interval % accumulation == 0
    assert 1 <= num_decisions <= 300
    assert num_decisions == max(1, math.ceil(total / interval))
    assert num_decisions <= TRACE_ROWS
    updates = total // accumulation
    # As many as there can be, up to about 200.
    assert num_decisions >= min(max(updates, 1), 150) * 2 / 3


@given(total=st.integers(1, 10**6))
def test_long_run_has_about_200_decisions(total):
    _, num_decisions = update_rule.decision_interval(2000 + total)
    assert 180 <= num_decisions <= 223


@pytest.mark.parametrize(
    ("total", "accumulation", "expected"),
    [
        (1, 1, (1, 1)),
        (50, 1, (1, 50)),
        (200, 1, (1, 200)),
        (400, 1, (2, 200)),
        (2000, 1, (10, 200)),
        (2000, 4, (8, 250)),
        (3, 8, (8, 1)),
    ],
)
def test_decision_interval(total, accumulation, expected):
    assert update_rule.decision_interval(total, accumulation) == expected


# -- Increments. ------------------------------------------------------------


@given(
    outputs=st.lists(any_float32, min_size=16, max_size=16),
    trust=st.lists(any_float32, min_size=16, max_size=16),
)
def test_increment_is_bounded_for_any_output(outputs, trust):
    moved = as_numpy(update_rule.increment(tensor(outputs), tensor(trust)))
    trusted = np.isfinite(np.asarray(trust, "float32"))
    assert np.all(np.abs(moved[trusted]) <= 0.5)


@given(trust=st.lists(st.floats(-2.0, 2.0, width=32), min_size=8, max_size=8))
def test_output_of_zero_moves_nothing(trust):
    moved = as_numpy(update_rule.increment(tensor([0.0] * 8), tensor(trust)))
    np.testing.assert_array_equal(moved, 0.0)


@pytest.mark.parametrize("output", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_moves_nothing(output):
    moved = update_rule.increment(tensor(output), tensor(1.0))
    assert float(moved) == 0.0


@given(
    outputs=st.lists(
        st.floats(-1e6, 1e6, width=32), min_size=2, max_size=16
    ).map(sorted),
    trust=st.floats(-2.0, 2.0, width=32),
)
def test_increment_is_monotone_in_the_output(outputs, trust):
    trust = [trust] * len(outputs)
    moved = as_numpy(update_rule.increment(tensor(outputs), tensor(trust)))
    assert np.all(np.diff(moved) >= 0.0)


def test_increment_is_strictly_monotone_near_zero():
    outputs = np.linspace(-2.0, 2.0, 101)
    moved = update_rule.increment(tensor(outputs), tensor(np.ones(101)))
    assert np.all(np.diff(as_numpy(moved)) > 0.0)


@pytest.mark.parametrize("output", [-3.0, -0.7, -1e-3, 1e-3, 0.7, 3.0])
def test_increment_is_half_of_tanh(output):
    moved = float(update_rule.increment(tensor(output), tensor(1.0)))
    assert moved == pytest.approx(0.5 * math.tanh(output), rel=1e-5)


@pytest.mark.parametrize(
    ("trust", "cap"),
    [(1.5, 0.5), (1.0, 0.5), (0.925, 0.25), (0.85, 0.0), (-2.0, 0.0)],
)
def test_trust_caps_growth_alone(trust, cap):
    grown = float(update_rule.increment(tensor(9.0), tensor(trust)))
    shrunk = float(update_rule.increment(tensor(-9.0), tensor(trust)))
    assert grown == pytest.approx(cap, abs=1e-6)
    assert shrunk == pytest.approx(-0.5, abs=1e-6)


# -- Limits. ----------------------------------------------------------------


@given(
    log_multiplier=st.floats(-1e3, 1e3),
    log_base=st.floats(-20.0, 10.0),
    limits=st.tuples(st.floats(-20.0, 5.0), st.floats(-20.0, 5.0)).map(sorted),
)
def test_rate_stays_within_the_limits(log_multiplier, log_base, limits):
    bounded = update_rule.bound(
        tensor(log_multiplier), tensor(log_base), *limits
    )
    log_rate = float(bounded) + log_base
    assert limits[0] - 1e-4 <= log_rate <= limits[1] + 1e-4


@given(
    # TensorFlow takes numbers below 1e-38 for 0.
    log_multiplier=st.floats(-5.0, 5.0, width=32, allow_subnormal=False)
)
def test_rate_within_the_limits_is_left_alone(log_multiplier):
    bounded = update_rule.bound(
        tensor(log_multiplier), tensor(-3.0), -10.0, 4.0
    )
    assert float(bounded) == log_multiplier


# -- Safe start. ------------------------------------------------------------


@given(
    weight_norm=st.floats(1.0, 1e3),
    gradient_norm=st.floats(1e-6, 1e6),
    num_coordinates=st.integers(1, 10_000),
)
def test_first_update_is_short_for_any_direction(
    weight_norm, gradient_norm, num_coordinates
):
    log_rate = update_rule.first_log_rate(
        tensor(weight_norm), tensor(gradient_norm), num_coordinates
    )
    rate = math.exp(float(log_rate))
    length = max(weight_norm, 0.01 * math.sqrt(num_coordinates))
    for direction in (gradient_norm, 4.0 * math.sqrt(num_coordinates)):
        assert rate * direction <= 1e-4 * length * 1.001


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0, 1e3])
def test_first_rate_scales_with_the_weights(scale):
    def log_rate(weight, gradient, count=100):
        return float(
            update_rule.first_log_rate(tensor(weight), tensor(gradient), count)
        )

    # SGD with a long gradient: loss x c wants rate / c, weights x b rate x b.
    first = log_rate(10.0, 1e7)
    assert log_rate(1e4 * 10.0, 1e7) == pytest.approx(first + math.log(1e4))
    longer = log_rate(10.0, scale * 1e7)
    assert longer == pytest.approx(first - math.log(scale), abs=1e-4)
    # A short gradient tells nothing of what Adam makes of it.
    assert log_rate(10.0, 1.0) == pytest.approx(log_rate(10.0, 1e-5))
    assert math.exp(log_rate(10.0, 1.0)) == pytest.approx(1e-4 * 10.0 / 40.0)


def test_first_rate_of_weights_that_are_zero():
    log_rate = update_rule.first_log_rate(tensor(0.0), tensor(0.0), 400)
    assert math.exp(float(log_rate)) == pytest.approx(1e-4 * 0.01 / 4.0)


@given(
    update_ratio=st.floats(1e-12, 1e3),
    weight_norm=st.floats(1.0, 1e3),
)
def test_ramp_leads_to_updates_of_the_wanted_length(update_ratio, weight_norm):
    factor, done = update_rule.ramp(
        tensor(update_ratio * weight_norm), tensor(weight_norm), 4
    )
    wanted = math.log(1e-4 / update_ratio)
    clipped = max(-math.log(100.0), min(math.log(100.0), wanted))
    assert float(factor) == pytest.approx(clipped, abs=1e-3)
    if abs(abs(wanted) - math.log(1.5)) > 1e-3:
        assert float(done) == float(abs(wanted) < math.log(1.5))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_ramp_does_not_depend_on_scale(scale):
    factor, done = update_rule.ramp(
        tensor(2e-4 * scale), tensor(1.0 * scale), 0
    )
    assert float(factor) == pytest.approx(-math.log(2.0), rel=1e-4)
    assert float(done) == 0.0


@pytest.mark.parametrize("update", [np.nan, np.inf])
def test_ramp_shrinks_after_an_update_that_is_not_finite(update):
    factor, done = update_rule.ramp(tensor(update), tensor(1.0), 4)
    assert float(factor) == pytest.approx(-math.log(100.0))
    assert float(done) == 0.0


def test_ramp_grows_where_nothing_moved():
    factor, done = update_rule.ramp(tensor(0.0), tensor(1.0), 4)
    assert float(factor) == pytest.approx(math.log(100.0))
    assert float(done) == 0.0


def test_ramp_ends_from_any_direction_within_its_steps():
    # A direction of length up to 1e9 times less than was allowed for.
    for direction in (1e-9, 1e-5, 1e-2, 1.0):
        log_rate, done = math.log(1e-4), 0.0
        for _ in range(update_rule.START_STEPS):
            update = math.exp(log_rate) * direction
            factor, done = update_rule.ramp(tensor(update), tensor(1.0), 4)
            log_rate += float(factor)
            if float(done):
                break
        assert float(done) == 1.0
        assert math.exp(log_rate) * direction == pytest.approx(1e-4, rel=1e-3)
