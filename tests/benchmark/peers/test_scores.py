"""Scores against values worked out by hand, and what must hold for any."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr.benchmark.peers import scores
from keras_metalr.benchmark.peers import summary

pytestmark = pytest.mark.backend_independent

finite = st.floats(-100.0, 100.0)
any_loss = st.floats(allow_nan=True, allow_infinity=True, width=32)
ratios = st.lists(
    st.one_of(st.floats(1.0, 10.0), st.just(math.inf)), min_size=1, max_size=20
)


def regrets_of(losses, initial, best):
    """Of one seed and one workload: shape `(1, 1, num_scales)`."""
    return np.array([[[scores.regret(v, initial, best) for v in losses]]])


def test_regret_by_hand():
    assert scores.regret(1.5, initial=2.0, best=1.0) == 0.5
    assert scores.regret(0.5, initial=2.0, best=1.0) == -0.5
    for lost in (math.nan, math.inf, 7.0):
        assert scores.regret(lost, initial=2.0, best=1.0) == 1.0


def test_a_baseline_that_did_not_train_is_refused():
    with pytest.raises(ValueError, match="best=2, initial=2"):
        scores.regret(1.0, initial=2.0, best=2.0)


def test_mean_and_worst_regret_by_hand():
    regrets = regrets_of([1.0, 1.5, math.nan, 9.0], 2.0, 1.0)
    assert summary.mean_regret(regrets) == pytest.approx(0.625)
    assert summary.mean_worst_regret(regrets) == 1.0


def test_steps_to_target_by_hand():
    steps, losses = [10, 20, 30], [3.0, math.nan, 1.0]
    assert scores.steps_to_target(steps, losses, 1.0) == 30.0
    assert scores.steps_to_target(steps, losses, 5.0) == 10.0
    assert scores.steps_to_target(steps, losses, 0.5) == math.inf


def test_profile_score_by_hand():
    # Fastest: 1. Twice as slow: 2/3. Four times, or missed: nothing.
    assert scores.profile_score([1.0]) == 1.0
    assert scores.profile_score([2.0]) == pytest.approx(2 / 3)
    assert scores.profile_score([4.0, math.inf]) == 0.0
    assert scores.profile_score([1.0, 2.0, math.inf]) == pytest.approx(5 / 9)


def test_time_ratios_by_hand():
    times = np.array([[10.0, math.inf, math.inf], [20.0, 5.0, math.inf]])
    expected = [[1.0, math.inf, math.inf], [2.0, 1.0, math.inf]]
    np.testing.assert_array_equal(scores.time_ratios(times), expected)


def test_performance_profile_by_hand():
    ratios = [1.0, 2.0, math.inf, 1.0]
    # As fast as the fastest is within one time of it.
    assert scores.performance_profile(ratios, 1.0) == 0.5
    assert scores.performance_profile(ratios, 1.9) == 0.5
    assert scores.performance_profile(ratios, 2.0) == 0.75


@given(ratios)
def test_profile_score_is_the_integral_of_the_profile(values):
    grid = np.linspace(1.0, 4.0, 3001)
    profile = [scores.performance_profile(values, limit) for limit in grid]
    integral = np.trapezoid(profile, grid) / 3.0
    assert scores.profile_score(values) == pytest.approx(integral, abs=2e-3)


@given(ratios, st.floats(0.0, 3.0))
def test_a_slower_method_has_no_better_score(values, more):
    slower = [value + more for value in values]
    assert scores.profile_score(slower) <= scores.profile_score(values) + 1e-12


@given(st.lists(any_loss, min_size=1), finite, st.floats(0.01, 100.0))
def test_mean_regret_is_at_most_1_and_below_the_worst_start(losses, best, gain):
    regrets = regrets_of(losses, best + gain, best)
    mean = summary.mean_regret(regrets)
    worst = summary.mean_worst_regret(regrets)
    assert mean <= worst + 1e-6 * abs(mean)
    assert worst <= 1.0 + 1e-9


@given(st.floats(-50, 50), st.floats(0.1, 50), st.floats(0.1, 10))
def test_regret_has_no_unit(loss, gain, unit):
    plain = scores.regret(loss, 1.0 + gain, 1.0)
    scaled = scores.regret(unit * loss, unit * (1.0 + gain), unit)
    assert scaled == pytest.approx(plain, rel=1e-6, abs=1e-6)


def test_bootstrap_interval_by_hand():
    # The median of three draws from (0, 0, 1) is 1 with probability 7/27.
    values = np.array([[0.0], [0.0], [1.0]])
    interval = scores.bootstrap_interval(values, lambda v: float(np.median(v)))
    assert interval == (0.0, 1.0)
    # Their mean is 1 with probability 1/27: more than the 2.5 % that is cut.
    interval = scores.bootstrap_interval(values, lambda v: float(v.mean()))
    assert interval == (0.0, 1.0)
    same = np.ones((5, 2, 3))
    mean = scores.bootstrap_interval(same, lambda v: float(v.mean()))
    assert mean == (1.0, 1.0)
    single = scores.bootstrap_interval(values[:1], lambda v: float(v.mean()))
    assert all(map(math.isnan, single))


def test_bootstrap_draws_whole_seeds():
    # The second workload is the negative of the first: their sum is 0 only
    # if both are drawn with the same seeds.
    first = np.arange(6.0)
    values = np.stack([first, -first], axis=1)
    interval = scores.bootstrap_interval(
        values, lambda v: float(np.median(v, 0).sum())
    )
    assert interval == (0.0, 0.0)
