"""One decision: from the sums of an interval to the next rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_metalr.decision import EVENT_ROLLBACK
from keras_metalr.decision import EVENT_SAFE_START
from keras_metalr.decision import EVENT_SKIPPED
from keras_metalr.decision import INITIAL
from keras_metalr.decision import INTERVAL_INITIAL
from keras_metalr.decision import TRACE_COLUMNS
from keras_metalr.decision import Clock
from keras_metalr.decision import LastBatch
from keras_metalr.decision import Settings
from keras_metalr.decision import bounded
from keras_metalr.decision import count_step
from keras_metalr.decision import decide
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import trust
from keras_metalr.guard import GUARD_INITIAL
from keras_metalr.update_rule import HURRIED_TRUST_FLOOR
from keras_metalr.update_rule import TRUST_FLOOR
from tests.tensors import MEASURED
from tests.tensors import tensor
from tests.tensors import tensors


def floats(values):
    return {key: float(value) for key, value in values.items()}


def start(**changes):
    assert set(changes) <= set(INITIAL)
    return tensors({**INITIAL, "ramping": 0.0, **changes})


def count(scalars, finite=1.0, is_update=1.0, **changes):
    assert set(changes) <= set(MEASURED)
    measured = tensors({**MEASURED, **changes})
    return count_step(
        scalars,
        measured,
        tensor(finite),
        tensor(is_update),
        tensor(1.0 - finite),
    )


def decided(
    scalars,
    output=0.0,
    loss_after=1.9,
    promised_drop=0.16,
    step=1,
    total_steps=100,
    interval=1,
    settings=Settings(),  # noqa: B008
    epoch_steps=None,
):
    seen = []

    def controller(features):
        seen.append(ops.convert_to_numpy(features))
        return tensor(output)

    times = (step, total_steps, interval, epoch_steps or total_steps)
    clock = Clock(*map(tensor, times))
    new, row = decide(
        scalars,
        LastBatch(*map(tensor, (loss_after, promised_drop, 32.0, 0.0))),
        clock,
        controller,
        settings,
    )
    assert set(new) == set(INITIAL) and len(seen) == 1
    row = ops.convert_to_numpy(row)
    assert row.dtype == np.float32
    row = dict(zip(TRACE_COLUMNS, row.tolist(), strict=True))
    for name, value in zip(FEATURE_NAMES, seen[0], strict=True):
        assert row[name] == value
    return floats(new), row


# -- Counting. --------------------------------------------------------------


def test_sums_of_an_interval():
    scalars = count(start())
    scalars = count(scalars, loss=4.0, gradient_norm=1.0, cosine=-0.1)
    new = floats(scalars)
    assert new["interval_steps"] == new["interval_updates"] == 2.0
    assert new["interval_loss"] == 6.0
    assert new["interval_log_gradient_norm"] == pytest.approx(math.log(4.0))
    assert new["interval_cosine"] == pytest.approx(0.4)
    assert new["interval_log_update_ratio"] == pytest.approx(
        2.0 * math.log(0.04 / 8.0)
    )
    # The optimizer's direction is the update at rate 1: 4.
    assert new["sum_direction_squared"] == pytest.approx(32.0)


def test_largest_distance_is_kept():
    scalars = count(count(start(), distance=0.5), distance=0.2)
    assert float(scalars["max_distance"]) == 0.5
    assert float(scalars["distance"]) == pytest.approx(0.2)


def test_last_step_is_kept_as_it_was():
    new = floats(count(count(start()), loss=3.0, learning_rate=0.5))
    assert new["step_loss"] == 3.0 and new["learning_rate"] == 0.5
    assert new["gradient_norm"] == 4.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_step_that_is_not_finite_counts_as_skipped_alone(bad):
    before = count(start())
    after = floats(
        count(before, finite=0.0, loss=bad, gradient_norm=bad, cosine=bad)
    )
    before = floats(before)
    assert after["interval_skipped"] == after["skipped_steps"] == 1.0
    assert after["consecutive_bad"] == 1.0 and after["finite"] == 0.0
    for key in (*INTERVAL_INITIAL, "sum_direction_squared", "good_steps"):
        if key != "interval_skipped":
            assert after[key] == before[key], key


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_beyond_all_numbers_are_not_kept_in_the_books(bad):
    # An update may bring them there though its gradient was finite.
    before = count(start())
    after = count(before, weight_norm=bad, distance=bad)
    for key in ("weight_norm", "distance", "max_distance"):
        assert float(after[key]) == float(before[key]), key


def test_step_that_accumulates_is_no_update():
    new = floats(count(start(), is_update=0.0, update_norm=0.0))
    assert new["interval_steps"] == 1.0 and new["interval_loss"] == 2.0
    assert new["interval_updates"] == new["interval_log_update_ratio"] == 0.0
    assert new["sum_direction_squared"] == 0.0


# -- Deciding. --------------------------------------------------------------


def test_row_of_the_trace():
    scalars = count(count(start()), loss=4.0)
    _, row = decided(scalars, output=-0.3, loss_after=3.86, step=2, interval=2)
    assert row["step"] == 2.0
    assert row["loss"] == 3.0
    assert row["learning_rate"] == pytest.approx(0.01)
    assert row["grad_norm"] == 4.0
    assert row["progress"] == pytest.approx(-0.48)
    assert row["horizon"] == pytest.approx(math.log(0.5))
    assert row["update_size"] == pytest.approx((math.log(0.005) + 7.0) / 4.0)
    assert row["travel"] == pytest.approx(0.04 / 8.0 - 0.5)
    # (4 - 3.86) / 0.16; and 0.2 * (0.16 - 0.14) over 0.2 * 0.16 + 0.001 * 3.
    assert row["trust_ratio"] == pytest.approx(0.875, abs=1e-5)
    distrust = 0.004 / 0.035
    assert row["trust"] == pytest.approx(
        (math.log(distrust) + 2.5) / 1.5, abs=1e-4
    )
    assert row["output"] == pytest.approx(-0.3)
    assert row["increment"] == pytest.approx(0.5 * math.tanh(-0.3))
    assert row["event"] == 0.0


def test_progress_stays_at_the_end_after_the_horizon():
    _, row = decided(count(start()), step=500, total_steps=100)
    assert row["progress"] == 0.5


def test_interval_begins_anew():
    new, _ = decided(count(start()))
    for key in INTERVAL_INITIAL:
        assert new[key] == 0.0


@settings(max_examples=50)
@given(
    log_multiplier=st.floats(-30.0, 10.0, width=32, allow_subnormal=False),
    learning_rate=st.floats(2.0**-30, 10.0, width=32),
    guard=st.booleans(),
)
def test_output_of_zero_leaves_the_rate_bit_equal(
    log_multiplier, learning_rate, guard
):
    scalars = count(
        start(log_multiplier=log_multiplier), learning_rate=learning_rate
    )
    new, _ = decided(scalars, settings=Settings(guard=guard))
    assert new["log_multiplier"] == np.float32(log_multiplier)


@pytest.mark.parametrize("output", [-20.0, -1.0, 0.4, 20.0])
def test_output_moves_the_log_of_the_multiplier(output):
    # Pretrained: new weights would be lifted where nothing was learned yet.
    scalars = count(start(log_multiplier=0.25, pretrained=1.0), cosine=0.1)
    new, row = decided(scalars, output=output, loss_after=1.84)
    moved = 0.5 * math.tanh(output)
    assert row["increment"] == pytest.approx(moved)
    assert new["log_multiplier"] == pytest.approx(0.25 + moved, abs=1e-5)
    assert row["output"] == pytest.approx(output)


@pytest.mark.parametrize(
    ("pretrained", "floor", "loss_after", "lost"),
    [
        # Promised 0.16, came 0.11: a fifth of the shortfall counts at first.
        (1.0, TRUST_FLOOR, 1.89, 0.01),
        # Nothing of it came, and a little more was lost. (A run of 100 steps.)
        (0.0, HURRIED_TRUST_FLOOR, 2.01, 0.034),
    ],
)
def test_increment_is_capped_by_the_trust_of_this_very_step(
    pretrained, floor, loss_after, lost
):
    scalars = count(start(pretrained=pretrained))
    new, row = decided(scalars, output=5.0, loss_after=loss_after)
    ratio = (2.0 - loss_after) / 0.16
    assert row["trust_ratio"] == pytest.approx(ratio, abs=1e-4)
    assert row["increment"] == pytest.approx(
        math.log((1.0 - floor) / (lost / 0.034)), abs=1e-3
    )
    assert -0.5 < row["increment"] < -0.3
    assert new["log_multiplier"] == pytest.approx(row["increment"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "loss_after", "least"),
    [
        # Nothing has been learned, and all that was promised has come.
        ({}, 1.84, 0.2),
        ({"loss_slow": 0.5}, 1.84, 0.2),
        # Nothing was measured.
        ({}, np.nan, -0.5),
        # Less than half of what was promised.
        ({}, 1.94, -0.5),
        ({"pretrained": 1.0}, 1.84, -0.5),
        ({"pretrained": 1.0, "cosine_slow": 0.9}, 1.84, 0.5),
    ],
)
def test_rate_grows_where_steps_are_too_short(changes, loss_after, least):
    known = {"decisions": 9.0, "loss_first": 2.0, "loss_slow": 2.0, **changes}
    new, row = decided(
        count(start(**known)),
        output=-20.0,
        loss_after=loss_after,
        step=20,
    )
    assert row["increment"] == pytest.approx(least, abs=1e-3)
    assert new["log_multiplier"] == pytest.approx(row["increment"], abs=1e-5)


def test_rate_need_not_grow_at_once_or_late_or_where_something_was_learned():
    # So little was promised that it says nothing of the steps' length.
    for step, loss_slow, least in (
        (20, 2.0, 0.2),
        (2, 2.0, -0.5),
        (90, 2.0, -0.5),
        (20, 0.5, -0.5),
    ):
        scalars = start(decisions=9.0, loss_first=2.0, loss_slow=loss_slow)
        _, row = decided(
            count(scalars, loss=loss_slow),
            output=-20.0,
            promised_drop=4e-4,
            loss_after=loss_slow - 4e-4,
            step=step,
        )
        assert row["increment"] == pytest.approx(least)


def test_a_loss_below_0_that_has_fallen_has_been_learned_from():
    scalars = start(decisions=9.0, loss_first=-2.0, loss_slow=-6.0)
    _, row = decided(
        count(scalars, loss=-6.0),
        output=-20.0,
        promised_drop=4e-4,
        loss_after=-6.0 - 4e-4,
        step=20,
    )
    assert row["increment"] == pytest.approx(-0.5)


def test_new_weights_bear_less_trust_than_pretrained_ones():
    moved = {
        pretrained: decided(
            count(start(pretrained=pretrained)), output=5.0, loss_after=1.89
        )[1]["increment"]
        for pretrained in (0.0, 1.0)
    }
    assert moved[0.0] == pytest.approx(0.5 * math.tanh(5.0), abs=1e-5)
    assert moved[1.0] < 0.0


@pytest.mark.parametrize("pretrained", [0.0, 1.0])
def test_output_of_zero_moves_nothing_whatever_the_trust(pretrained):
    scalars = start(log_multiplier=0.25, pretrained=pretrained)
    new, row = decided(count(scalars), loss_after=np.inf)
    assert row["output"] == row["increment"] == 0.0
    assert float(trust(tensors(new))) < 0.0
    assert new["log_multiplier"] == 0.25


@settings(max_examples=50)
@given(
    output=st.floats(width=32),
    log_multiplier=st.floats(-20.0, 20.0, width=32),
    log_base=st.floats(-10.0, 5.0, width=32),
    loss_after=st.floats(width=32),
)
def test_rate_that_moves_stays_within_the_limits(
    output, log_multiplier, log_base, loss_after
):
    rate = math.exp(log_base + log_multiplier)
    scalars = count(start(log_multiplier=log_multiplier), learning_rate=rate)
    new, row = decided(
        scalars,
        output=output,
        loss_after=loss_after,
        settings=Settings(min_learning_rate=1e-5, max_learning_rate=0.1),
    )
    if row["increment"] != 0.0:
        log_rate = log_base + new["log_multiplier"]
        assert math.log(1e-5) - 1e-3 <= log_rate <= math.log(0.1) + 1e-3


def test_loss_after_that_was_not_measured():
    known = {"promised_mean": 0.5, "shortfall_mean": 0.1, "log_rate": -1.0}
    new, row = decided(
        count(start(decisions=3.0, **known), learning_rate=math.exp(-1.0)),
        loss_after=np.nan,
    )
    assert math.isnan(row["trust_ratio"])
    assert new["promised_mean"] == pytest.approx(0.8 * 0.5)
    assert new["shortfall_mean"] == pytest.approx(0.8 * 0.1)


def test_loss_after_that_overflowed_is_the_worst_there_is():
    new, row = decided(count(start()), loss_after=np.inf)
    assert row["trust_ratio"] == -2.0
    assert new["shortfall_mean"] == pytest.approx(3.0 * new["promised_mean"])
    assert float(trust(tensors(new))) < -1.5


def test_trust_of_a_skipped_step_counts_for_nothing():
    scalars = count(count(start()), finite=0.0, loss=np.nan)
    new, row = decided(scalars)
    assert math.isnan(row["trust_ratio"]) and float(trust(tensors(new))) == 1.0


def test_interval_without_a_finite_step_moves_nothing():
    scalars = count(start(log_multiplier=0.5))
    before, _ = decided(scalars, output=-1.0)
    scalars = count(tensors(before), finite=0.0, loss=np.nan)
    after, row = decided(scalars, output=-1.0)
    assert row["event"] == EVENT_SKIPPED
    assert row["increment"] == 0.0
    assert after["log_multiplier"] == before["log_multiplier"]
    for key in ("decisions", "loss", "loss_slow", "cosine_fast"):
        assert after[key] == before[key], key


def test_safe_start_holds_the_rate():
    new, row = decided(count(start(ramping=1.0)), output=-1.0)
    assert row["event"] == EVENT_SAFE_START
    assert row["increment"] == new["log_multiplier"] == 0.0


# -- Limits. ----------------------------------------------------------------


def limited(log_multiplier, log_base, log_min, log_max):
    limits = Settings(math.exp(log_min), math.exp(log_max))
    return float(bounded(tensor(log_multiplier), tensor(log_base), limits))


@given(
    log_multiplier=st.floats(-1e3, 1e3),
    log_base=st.floats(-20.0, 10.0),
    limits=st.tuples(st.floats(-20.0, 5.0), st.floats(-20.0, 5.0)).map(sorted),
)
def test_rate_stays_within_the_limits(log_multiplier, log_base, limits):
    log_rate = limited(log_multiplier, log_base, *limits) + log_base
    assert limits[0] - 1e-4 <= log_rate <= limits[1] + 1e-4


@given(
    # TensorFlow takes numbers below 1e-38 for 0.
    log_multiplier=st.floats(-5.0, 5.0, width=32, allow_subnormal=False)
)
def test_rate_within_the_limits_is_left_alone(log_multiplier):
    assert limited(log_multiplier, -3.0, -10.0, 4.0) == log_multiplier


# -- The guard's part. ------------------------------------------------------


def ruined(**changes):
    """A run whose loss has stood far above its best for five decisions."""
    return count(
        start(
            **{
                "decisions": 50.0,
                "loss_first": 2.3,
                "loss_fast": 2.3,
                "loss_slow": 2.3,
                "best_loss": 0.5,
                "best_log_multiplier": 0.0,
                "high_decisions": 5.0,
                **changes,
            }
        )
    )


def test_a_decision_without_an_update_does_not_judge_the_loss_again():
    for updates, high_decisions in ((1.0, 3.0), (0.0, 2.0)):
        scalars = ruined(high_decisions=2.0)
        scalars["interval_updates"] = tensor(updates)
        new, _ = decided(scalars)
        assert new["high_decisions"] == high_decisions


def test_rollback_cuts_the_rate():
    new, row = decided(ruined(), output=1.0)
    assert row["event"] == EVENT_ROLLBACK and new["rollbacks"] == 1.0
    assert new["log_multiplier"] == pytest.approx(math.log(0.2), abs=1e-5)
    assert new["loss_slow"] == new["best_loss"] == 0.5
    # The trace shows what was, not what was forgiven.
    assert row["loss"] == 2.0


@pytest.mark.parametrize("rate_at_best", [0.01, 0.0])
def test_rollback_cuts_what_a_schedule_is_multiplied_by(rate_at_best):
    """The loss may have been at its best where the schedule was at 0."""
    name = "best_log_multiplier"
    scalars = start(decisions=50.0, loss_slow=2.0, **{name: 9.0})
    best, _ = decided(count(scalars, learning_rate=rate_at_best))
    assert best["best_loss"] == pytest.approx(2.0)
    new, row = decided(ruined(**{name: float(best[name])}))
    assert row["event"] == EVENT_ROLLBACK
    assert new["log_multiplier"] == pytest.approx(math.log(0.2), abs=1e-5)
    assert new["log_ceiling"] == pytest.approx(math.log(0.5), abs=1e-5)


def test_guard_that_is_off_leaves_the_run_alone():
    new, row = decided(ruined(), settings=Settings(guard=False))
    assert row["event"] == 0.0 and new["rollbacks"] == 0.0
    assert new["log_multiplier"] == 0.0
    assert new["loss_fast"] > 2.0


def test_a_run_without_a_finite_step_so_far_has_no_best_loss():
    new, _ = decided(count(start(), finite=0.0, loss=np.nan))
    assert new["best_loss"] == np.float32(1e30)


def test_rate_stays_below_the_ceiling():
    ceiling = math.log(1.2)
    scalars = count(start(log_ceiling=ceiling))
    new, _ = decided(scalars, output=9.0, loss_after=1.84)
    assert new["log_multiplier"] == pytest.approx(
        math.log(1.2) + 0.02, abs=1e-5
    )


@pytest.mark.parametrize(("cooldown", "moves"), [(5.0, False), (4.0, True)])
def test_rate_waits_for_the_weights_to_have_gone_back(cooldown, moves):
    new, _ = decided(count(start(cooldown=cooldown)), output=-1.0)
    assert (new["log_multiplier"] < 0.0) == moves


def test_events_are_added_up():
    scalars = count(ruined(ramping=1.0), finite=0.0, loss=np.nan)
    _, row = decided(scalars)
    total = EVENT_SKIPPED + EVENT_ROLLBACK + EVENT_SAFE_START
    assert row["event"] == total == 7.0


def test_names_of_the_scalars_are_one_of_a_kind():
    assert set(GUARD_INITIAL) < set(INITIAL)
    assert len(TRACE_COLUMNS) == len(set(TRACE_COLUMNS))
    assert len(TRACE_COLUMNS) == 4 + len(FEATURE_NAMES) + 4


# -- Feedback within a run. -------------------------------------------------


def test_feedback_moves_the_output_with_the_cosine():
    on = Settings(feedback=True)
    # A controller at rest, and steps that could all have been longer.
    scalars, row = decided(count(start(), cosine=0.5), output=0.1, settings=on)
    assert row["output"] == pytest.approx(0.1)
    bias = float(scalars["feedback_bias"])
    slope = 1.0 - math.tanh(0.1) ** 2
    assert bias == pytest.approx(0.05 * slope * 0.5, rel=1e-4)
    scalars, row = decided(
        count(tensors(scalars), cosine=0.5), output=0.1, settings=on
    )
    assert row["output"] == pytest.approx(0.1 + bias, rel=1e-4)
    assert float(scalars["feedback_bias"]) > bias


@pytest.mark.parametrize(
    ("changes", "on"),
    [({}, False), ({"ramping": 1.0}, True)],
    ids=["off", "in the safe start"],
)
def test_feedback_learns_nothing(changes, on):
    scalars, _ = decided(
        count(start(**changes), cosine=0.5),
        output=0.1,
        settings=Settings(feedback=on),
    )
    assert float(scalars["feedback_bias"]) == 0.0


@pytest.mark.parametrize("epoch_steps", [100, 5])
def test_a_short_run_is_held_where_its_passes_are_few(epoch_steps):
    learned = {"decisions": 40.0, "loss_first": 8.0, "loss_slow": 2.0}
    means = {"promised_mean": 0.16, "shortfall_mean": 0.0096}
    means["log_rate"] = math.log(MEASURED["learning_rate"])
    scalars = count(start(**learned, **means), cosine=0.0)
    _, row = decided(
        scalars,
        output=-0.1,
        loss_after=1.8496,
        step=100,
        total_steps=300,
        epoch_steps=epoch_steps,
    )
    # Three passes, or sixty.
    held = pytest.approx(0.2, abs=1e-4)
    assert (row["increment"] == held) == (epoch_steps == 100)
    assert (row["increment"] < 0.0) == (epoch_steps == 5)


def test_cosines_without_a_promise_say_nothing():
    scalars = count(start(decisions=40.0, loss_first=2.0, cosine_slow=0.9))
    _, row = decided(scalars, output=-0.1, loss_after=2.0, promised_drop=0.0)
    assert row["increment"] < 0.0


def test_trust_is_measured_where_losses_begin_at_0():
    scalars = start()
    for number, loss in enumerate((0.0, -0.02, -0.03, -0.02), 1):
        scalars = count(scalars, loss=loss)
        new, _ = decided(scalars, loss_after=loss + 0.1, step=number)
        scalars = tensors(new)
    # What comes is the opposite of what was promised, and worse.
    assert float(trust(scalars)) < 0.0


@pytest.mark.parametrize(
    ("promised_drop", "loss_after", "batches", "low", "high"),
    [
        # Nearly all of the promise is kept: a long run takes longer steps.
        (0.16, 1.852, 1, 0.0999, 0.1001),
        # Nothing was promised, or nothing could be measured.
        (0.0, 2.0, 1, -0.5, 0.0),
        (math.nan, math.nan, 1, -0.5, 0.0),
        # Of ten batches one update is made: not so long a run.
        (0.16, 1.852, 10, -0.5, 0.0),
    ],
)
def test_a_long_run_without_promises_is_left_alone(
    promised_drop, loss_after, batches, low, high
):
    learned = {"decisions": 40.0, "loss_first": 8.0, "loss_slow": 2.0}
    scalars = start(validations=1.0, validation_loss=2.0, **learned)
    for step in range(1, 11):
        is_update = float(step % batches == 0)
        scalars = count(scalars, is_update=is_update, cosine=0.0)
    _, row = decided(
        scalars,
        output=-0.1,
        loss_after=loss_after,
        promised_drop=promised_drop,
        step=400,
        total_steps=2000,
        interval=10,
    )
    assert low <= row["increment"] <= high
