"""The safe start: short first updates, whatever the optimizer's direction."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr import safe_start
from keras_metalr.decision import INITIAL
from tests.tensors import tensor
from tests.tensors import tensors


def test_new_weights_start_with_longer_updates():
    ratio = safe_start.start_ratio
    assert float(ratio(tensor(1.0))) == pytest.approx(1e-4)
    assert float(ratio(tensor(0.0))) == pytest.approx(3e-3)


@given(
    weight_norm=st.floats(1.0, 1e3),
    gradient_norm=st.floats(1e-6, 1e6),
    num_coordinates=st.integers(1, 10_000),
)
def test_first_update_is_short_for_any_direction(
    weight_norm, gradient_norm, num_coordinates
):
    log_rate = safe_start.first_log_rate(
        tensor(weight_norm), tensor(gradient_norm), num_coordinates, 1e-4
    )
    rate = math.exp(float(log_rate))
    for direction in (gradient_norm, 4.0 * math.sqrt(num_coordinates)):
        assert rate * direction <= 1e-4 * weight_norm * 1.001


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_first_batch_that_is_not_finite_has_a_safe_rate(bad):
    # Weight decay goes by it.
    scalars = tensors({**INITIAL, "pretrained": 1.0})
    known = tensor(10.0), tensor(bad), tensor(math.log(1e3)), 100
    begun = safe_start.begin(scalars, *known)
    rate = 1e3 * math.exp(float(begun["log_multiplier"]))
    assert rate == pytest.approx(1e-4 * 10.0 / 40.0, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0, 1e3])
def test_first_rate_scales_with_the_weights(scale):
    def log_rate(weight, gradient, count=100):
        return float(
            safe_start.first_log_rate(
                tensor(weight), tensor(gradient), count, 1e-4
            )
        )

    # SGD with a long gradient: loss x c wants rate / c, weights x b rate x b.
    first = log_rate(10.0, 1e7)
    assert log_rate(1e4 * 10.0, 1e7) == pytest.approx(first + math.log(1e4))
    longer = log_rate(10.0, scale * 1e7)
    assert longer == pytest.approx(first - math.log(scale), abs=1e-4)
    # A short gradient tells nothing of what Adam makes of it.
    assert log_rate(10.0, 1.0) == pytest.approx(log_rate(10.0, 1e-5))
    assert math.exp(log_rate(10.0, 1.0)) == pytest.approx(1e-4 * 10.0 / 40.0)


@given(
    update_ratio=st.floats(1e-12, 1e3),
    weight_norm=st.floats(1.0, 1e3),
)
def test_ramp_leads_to_updates_of_the_wanted_length(update_ratio, weight_norm):
    factor, done = safe_start.ramp(
        tensor(update_ratio * weight_norm), tensor(weight_norm), 1e-4
    )
    wanted = math.log(1e-4 / update_ratio)
    clipped = max(-math.log(100.0), min(math.log(100.0), wanted))
    assert float(factor) == pytest.approx(clipped, abs=1e-3)
    if abs(abs(wanted) - math.log(1.5)) > 1e-3:
        assert float(done) == float(abs(wanted) < math.log(1.5))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_ramp_does_not_depend_on_scale(scale):
    factor, done = safe_start.ramp(
        tensor(2e-4 * scale), tensor(1.0 * scale), 1e-4
    )
    assert float(factor) == pytest.approx(-math.log(2.0), rel=1e-4)
    assert float(done) == 0.0


@pytest.mark.parametrize("update", [np.nan, np.inf])
def test_ramp_shrinks_after_an_update_that_is_not_finite(update):
    factor, done = safe_start.ramp(tensor(update), tensor(1.0), 1e-4)
    assert float(factor) == pytest.approx(-math.log(100.0))
    assert float(done) == 0.0


def test_ramp_grows_where_nothing_moved():
    factor, done = safe_start.ramp(tensor(0.0), tensor(1.0), 1e-4)
    assert float(factor) == pytest.approx(math.log(100.0))
    assert float(done) == 0.0


def test_ramp_ends_from_any_direction_within_its_steps():
    # A direction of length up to 1e9 times less than was allowed for.
    for direction in (1e-9, 1e-5, 1e-2, 1.0):
        log_rate, done = math.log(1e-4), 0.0
        for _ in range(safe_start.START_STEPS):
            update = math.exp(log_rate) * direction
            factor, done = safe_start.ramp(tensor(update), tensor(1.0), 1e-4)
            log_rate += float(factor)
            if float(done):
                break
        assert float(done) == 1.0
        assert math.exp(log_rate) * direction == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("before", "update", "moved", "expired", "after", "ramping"),
    [
        # The sixteenth update is the last, though none was long enough.
        (14.0, 1e-9, 1.0, 0.0, 15.0, 1.0),
        (15.0, 1e-9, 1.0, 0.0, 16.0, 0.0),
        # A step that moves nothing is no update.
        (15.0, 1e-9, 0.0, 0.0, 15.0, 1.0),
        # One that is as long as it should be.
        (0.0, 1e-4, 1.0, 0.0, 1.0, 0.0),
        (0.0, 1e-4, 0.0, 0.0, 0.0, 1.0),
        # There were too many steps that moved nothing.
        (0.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    ],
)
def test_when_the_safe_start_is_over(
    before, update, moved, expired, after, ramping
):
    scalars = tensors({**INITIAL, "pretrained": 1.0, "ramp_steps": before})
    measured = tensors({"update_norm": update, "weight_norm": 1.0})
    new = safe_start.advance(scalars, measured, tensor(moved), tensor(expired))
    assert float(new["ramp_steps"]) == after
    assert float(new["ramping"]) == ramping


@pytest.mark.parametrize("accumulation_steps", [1, 4, 32])
def test_there_is_time_for_all_updates_and_for_a_loss_scale_to_be_found(
    accumulation_steps,
):
    # Found by halving, from the largest that float32 has.
    steps = accumulation_steps * safe_start.START_STEPS + 64
    assert safe_start.longest(accumulation_steps) >= steps
