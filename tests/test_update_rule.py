"""The update rule: bounded, monotone, still at output 0."""

import math

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr import update_rule
from keras_metalr.run_state import TRACE_ROWS
from tests.tensors import as_numpy
from tests.tensors import tensor

any_float32 = st.floats(width=32)
steps = st.integers(1, 10**7)


# -- Decisions. -------------------------------------------------------------


@given(total=steps, accumulation=st.integers(1, 64))
@example(total=299, accumulation=1)
@example(total=300, accumulation=1)
@example(total=500, accumulation=1)
@example(total=299 * 8 + 7, accumulation=8)
def test_number_of_decisions(total, accumulation):
    interval = update_rule.decision_interval(total, accumulation)
    assert interval >= 1 and interval % accumulation == 0
    num_decisions = math.ceil(total / interval)
    assert num_decisions <= 300
    assert num_decisions <= TRACE_ROWS
    updates = total // accumulation
    # As many as there can be, up to about 200.
    assert num_decisions >= min(max(updates, 1), 150) * 2 / 3


@given(total=st.integers(1, 10**6))
def test_long_run_has_about_200_decisions(total):
    interval = update_rule.decision_interval(2000 + total)
    assert 180 <= math.ceil((2000 + total) / interval) <= 223


@pytest.mark.parametrize(
    ("total", "accumulation", "expected"),
    [
        (1, 1, 1),
        (50, 1, 1),
        (200, 1, 1),
        (400, 1, 2),
        (2000, 1, 10),
        (2000, 4, 8),
        (3, 8, 8),
    ],
)
def test_decision_interval(total, accumulation, expected):
    assert update_rule.decision_interval(total, accumulation) == expected


# -- Increments. ------------------------------------------------------------


# Nothing that would lift the rate.
QUIET = {
    "cosine": 0.0,
    "loss_share": 0.3,
    "progress": 0.2,
    "num_decisions": 200.0,
    "interval": 1.0,
    "num_examples": 64.0,
    "num_passes": 20.0,
    "sparsity": 0.0,
    "validation_gap": 10.0,
    "lost_again": 0.0,
    "training_lead": 0.0,
    "measured": 0.0,
    "pretrained": 1.0,
}


def evidence(trust, **changes):
    values = {"trust": trust, **QUIET, **changes}
    return update_rule.Evidence(**{k: tensor(v) for k, v in values.items()})


def increment(outputs, trust, **changes):
    return as_numpy(
        update_rule.increment(tensor(outputs), evidence(trust, **changes))
    )


@given(
    outputs=st.lists(any_float32, min_size=16, max_size=16),
    trust=st.lists(any_float32, min_size=16, max_size=16),
)
def test_increment_is_bounded_for_any_output(outputs, trust):
    moved = increment(outputs, trust)
    # Trust is limited to [-2, 2], so always a number.
    trusted = ~np.isnan(np.asarray(trust, "float32"))
    assert np.all(np.abs(moved[trusted]) <= 0.5)


@given(trust=st.lists(any_float32, min_size=8, max_size=8))
def test_output_of_zero_moves_nothing(trust):
    for zero in (0.0, -0.0):
        moved = increment([zero] * 8, trust)
        np.testing.assert_array_equal(moved, 0.0)


@pytest.mark.parametrize("trust", [1.0, 0.7, -2.0])
@pytest.mark.parametrize("output", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_moves_nothing(output, trust):
    assert float(increment(output, trust)) == 0.0


# "Hands off" is the one exception, so an output of exactly 0 is left out.
# TensorFlow takes numbers below 1e-38 for 0.
some_output = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).filter(bool)


@given(
    outputs=st.lists(some_output, min_size=2, max_size=16).map(sorted),
    trust=st.floats(-2.0, 2.0, width=32),
)
def test_increment_is_monotone_in_the_output(outputs, trust):
    moved = increment(outputs, [trust] * len(outputs))
    assert np.all(np.diff(moved) >= 0.0)


@given(
    output=some_output,
    trust=st.lists(st.floats(-2.0, 2.0, width=32), min_size=2, max_size=16).map(
        sorted
    ),
)
def test_increment_is_monotone_in_the_trust(output, trust):
    moved = increment([output] * len(trust), trust)
    assert np.all(np.diff(moved) >= 0.0)


def test_increment_is_strictly_monotone_near_zero():
    moved = increment(np.linspace(-2.0, 2.0, 101), np.ones(101))
    assert np.all(np.diff(moved) > 0.0)


@pytest.mark.parametrize("output", [-3.0, -0.7, -1e-3, 1e-3, 0.7, 3.0])
def test_increment_is_half_of_tanh(output):
    moved = float(increment(output, 1.0))
    assert moved == pytest.approx(0.5 * math.tanh(output), rel=1e-5)


FLOORS = [
    (1.0, update_rule.TRUST_FLOOR),
    (0.0, update_rule.NEW_TRUST_FLOOR),
]
# Times the distrust of the floor, and the cap that goes with it.
CAPS = [
    (-2.0, 0.5),
    (0.0, 0.5),
    # By as much as brings the distrust to that of the floor.
    (1.0 / 1.3, math.log(1.3)),
    (1.0, 0.0),
    (1.3, -math.log(1.3)),
    (2.0, -0.5),
    (3.0, -0.5),
]


@pytest.mark.parametrize(("pretrained", "floor"), FLOORS)
@pytest.mark.parametrize(("distrust", "cap"), CAPS)
def test_trust_caps_the_increment(distrust, cap, pretrained, floor):
    trust = 1.0 - distrust * (1.0 - floor)
    for output in (9.0, 1.0, 1e-3, -1e-3, -0.3, -1.0, -9.0):
        moved = float(increment(output, trust, pretrained=pretrained))
        wanted = 0.5 * math.tanh(output)
        assert moved == pytest.approx(min(wanted, cap), abs=1e-6), output


@pytest.mark.parametrize(("pretrained", "floor"), FLOORS)
def test_low_trust_forces_the_rate_down(pretrained, floor):
    # However sure the controller is, and where it hardly says a thing.
    outputs = [9.0, 1e-3, 1e-30, -1e-30, -1e-3]
    for distrust, cap in CAPS[-3:-1]:
        trust = 1.0 - distrust * (1.0 - floor)
        moved = increment(outputs, [trust] * 5, pretrained=pretrained)
        np.testing.assert_allclose(moved, cap, atol=1e-6)


@pytest.mark.parametrize(("pretrained", "floor"), FLOORS)
@pytest.mark.parametrize(
    ("progress", "left"),
    [
        (0.0, 1.0),
        (0.4, 1.0),
        (0.55, 0.75),
        (0.7, 0.5),
        (0.999, 0.01),
        (1, 0.01),
    ],
)
def test_distrust_that_a_run_may_have_falls_to_its_end(
    progress, left, pretrained, floor
):
    most = update_rule.most_distrust(
        evidence(0.0, progress=progress, pretrained=pretrained)
    )
    assert float(most) == pytest.approx(left * (1.0 - floor), rel=1e-4)


@pytest.mark.parametrize(
    ("num_decisions", "most"),
    [(1, 0.7), (100, 0.7), (125, 0.6), (150, 0.5), (200, 0.5), (400, 0.5)],
)
def test_new_weights_may_have_more_distrust_in_a_short_run(num_decisions, most):
    def allowed(pretrained):
        told = {"num_decisions": num_decisions, "pretrained": pretrained}
        return float(update_rule.most_distrust(evidence(0.0, **told)))

    assert allowed(0.0) == pytest.approx(most, rel=1e-5)
    assert allowed(1.0) == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize(("pretrained", "floor"), FLOORS)
def test_the_rate_falls_on_a_quadratic_whatever_the_output(pretrained, floor):
    # There, distrust is in proportion to the rate: here it is the rate.
    log_rate, rates = math.log(1e-3), []
    for decision in range(1, 201):
        moved = increment(
            9.0,
            1.0 - math.exp(log_rate),
            progress=decision / 200,
            pretrained=pretrained,
        )
        log_rate += float(moved)
        rates.append(math.exp(log_rate))
    assert rates[79] == pytest.approx(1.0 - floor, rel=1e-3)
    assert rates[139] == pytest.approx(0.5 * (1.0 - floor), rel=1e-3)
    assert rates[199] == pytest.approx(0.01 * (1.0 - floor), rel=1e-3)


# Wherever the evidence lies, and however far out of its range.
any_evidence = st.fixed_dictionaries(
    {
        "trust": st.floats(-2.0, 2.0, width=32),
        "cosine": st.floats(-1.0, 1.0, width=32),
        "loss_share": st.floats(-1e6, 1e6, width=32),
        "progress": st.floats(0.0, 1.0, width=32),
        "interval": st.floats(1.0, 1e6, width=32),
        "num_decisions": st.floats(1.0, 400.0, width=32),
        "num_examples": st.floats(1.0, 1e6, width=32),
        "num_passes": st.floats(0.0, 20.0, width=32),
        "sparsity": st.floats(0.0, 1.0, width=32),
        "validation_gap": st.sampled_from([-1.0, 0.0, 0.2, 1.0, 10.0, 1e6]),
        "lost_again": st.floats(0.0, 1e6, width=32),
        "training_lead": st.floats(-1e6, 1e6, width=32),
        "measured": st.floats(0.0, 1.0, width=32),
        "pretrained": st.sampled_from([0.0, 1.0]),
    }
)


@given(output=some_output, values=any_evidence)
def test_cap_and_least_change_hold_the_output(output, values):
    """The output, lifted to the least change, lowered to the cap."""
    trust = values.pop("trust")
    moved = float(increment(output, trust, **values))
    low = float(as_numpy(update_rule.least(evidence(trust, **values))))
    assert -0.5 <= low <= 0.5
    allowed = update_rule.most_distrust(evidence(trust, **values))
    distrust = max(1.0 - trust, 1e-6)
    cap = np.clip(math.log(float(allowed) / distrust), -0.5, 0.5)
    most = float(as_numpy(update_rule.most(evidence(trust, **values))))
    assert -0.2 - 1e-6 <= most <= 0.5
    wanted = max(0.5 * math.tanh(output), low)
    assert moved == pytest.approx(min(wanted, cap, most), abs=1e-5)


@pytest.mark.parametrize("pretrained", [0.0, 1.0])
@pytest.mark.parametrize(
    ("cosine", "distrust", "low"),
    [
        (0.9, 0.0, 0.5),
        (0.7, 0.05, 0.5),
        # Halfway, the rate may not fall.
        (0.55, 0.0, 0.0),
        (0.9, 0.075, 0.0),
        (0.4, 0.0, -0.5),
        (0.9, 0.1, -0.5),
        (-0.9, 0.0, -0.5),
    ],
)
def test_steps_that_go_one_way_are_too_short(cosine, distrust, low, pretrained):
    found = update_rule.least(
        evidence(1.0 - distrust, cosine=cosine, pretrained=pretrained)
    )
    assert float(as_numpy(found)) == pytest.approx(low, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "distrust", "low"),
    [
        ({}, 0.0, 0.2),
        ({"progress": 0.4, "loss_share": 0.7}, 0.01, 0.2),
        ({"progress": 0.08}, 0.0, 0.2),
        ({"progress": 0.055}, 0.0, -0.15),
        ({"progress": 0.03}, 0.0, -0.5),
        ({"loss_share": 0.5}, 0.0, -0.5),
        ({"loss_share": 0.6}, 0.0, -0.15),
        ({"progress": 0.6}, 0.0, -0.5),
        ({}, 0.02, -0.5),
        # What has been learned before the run does not show in the loss.
        ({"pretrained": 1.0}, 0.0, -0.5),
    ],
)
def test_a_run_that_learns_nothing_takes_longer_steps(changes, distrust, low):
    values = {"loss_share": 1.0, "pretrained": 0.0, **changes}
    found = update_rule.least(evidence(1.0 - distrust, **values))
    assert float(as_numpy(found)) == pytest.approx(low, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "distrust", "low"),
    [
        # 0.05 of what is left, to the power of 1.5: 0.0358 after a fifth.
        ({}, 0.0358, 0.0),
        ({}, 0.03, 0.1757),
        ({}, 0.01, 0.2),
        ({}, 0.0, 0.2),
        ({}, 0.05, -0.3353),
        ({}, 0.2, -0.5),
        ({"progress": 0.5}, 0.01768, 0.0),
        ({"progress": 0.1}, 0.0, 0.2),
        # Half of what binds, and nothing.
        ({"progress": 0.075}, 0.0, -0.15),
        ({"progress": 0.05}, 0.0, -0.5),
        ({"progress": 0.8}, 0.0, -0.15),
        ({"progress": 0.9}, 0.0, -0.5),
        ({"measured": 0.15}, 0.0, 0.2),
        ({"measured": 0.1}, 0.0, -0.15),
        ({"measured": 0.05}, 0.0, -0.5),
        ({"num_examples": 20.0}, 0.0, -0.15),
        ({"num_examples": 8.0}, 0.0, -0.5),
        # With validation data the net must not overfit.
        ({"validation_gap": 0.1}, 0.0, 0.2),
        ({"validation_gap": 0.25}, 0.0, -0.15),
        ({"validation_gap": 0.4}, 0.0, -0.5),
        ({"validation_gap": -3.0}, 0.0, 0.2),
        ({"pretrained": 1.0}, 0.0, -0.5),
    ],
)
def test_steps_that_give_all_they_promise_are_too_short(changes, distrust, low):
    told = {"measured": 1.0, "pretrained": 0.0, **changes}
    known = evidence(1.0 - distrust, **told)
    found = float(as_numpy(update_rule.least(known)))
    assert found == pytest.approx(low, abs=1e-3)


LONG_RUN = {
    "pretrained": 0.0,
    "interval": 10.0,
    "num_examples": 32.0,
    "validation_gap": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "distrust", "low"),
    [
        # 0.15 of what is left, to the power of 1.5: 0.1073 after a fifth.
        ({}, 0.1073, 0.0),
        ({}, 0.1, 0.0707),
        ({}, 0.05, 0.1),
        ({}, 0.15, -0.3348),
        ({}, 0.5, -0.5),
        ({"progress": 0.5}, 0.053, 0.0),
        # Half of what binds, and nothing.
        ({"interval": 7.5}, 0.0, -0.2),
        ({"interval": 5.0}, 0.0, -0.5),
        ({"progress": 0.8}, 0.0, -0.2),
        ({"progress": 0.9}, 0.0, -0.5),
        ({"num_examples": 20.0}, 0.0, -0.2),
        ({"num_examples": 8.0}, 0.0, -0.5),
        ({"validation_gap": 0.25}, 0.0, -0.2),
        ({"validation_gap": 0.4}, 0.0, -0.5),
        ({"validation_gap": -3.0}, 0.0, 0.1),
        ({"pretrained": 1.0}, 0.0, -0.5),
    ],
)
def test_a_long_run_keeps_some_distrust(changes, distrust, low):
    known = evidence(1.0 - distrust, **{**LONG_RUN, **changes})
    found = float(as_numpy(update_rule.least(known)))
    assert found == pytest.approx(low, abs=1e-3)


SHORT_RUN = {
    "pretrained": 0.0,
    "num_examples": 32.0,
    "validation_gap": 0.1,
    "num_passes": 10.0,
    "measured": 0.15,
}


@pytest.mark.parametrize(
    ("changes", "distrust", "low"),
    [
        # 0.4 of what is left, to the power of 1.5: 0.2862 after a fifth.
        ({}, 0.2862, 0.0),
        ({}, 0.27, 0.0583),
        ({}, 0.05, 0.2),
        ({}, 0.4, -0.3347),
        ({}, 0.7, -0.5),
        ({"progress": 0.5}, 0.1414, 0.0),
        # Half of what binds, and nothing.
        ({"progress": 0.075}, 0.0, -0.15),
        ({"progress": 0.05}, 0.0, -0.5),
        ({"progress": 0.8}, 0.0, -0.15),
        ({"progress": 0.9}, 0.0, -0.5),
        ({"num_examples": 20.0}, 0.0, -0.15),
        ({"num_examples": 8.0}, 0.0, -0.5),
        ({"validation_gap": 0.25}, 0.0, -0.15),
        ({"validation_gap": 0.4}, 0.0, -0.5),
        ({"lost_again": 0.06}, 0.0, -0.15),
        ({"lost_again": 0.1}, 0.0, -0.5),
        ({"num_passes": 12.5}, 0.0, -0.15),
        ({"sparsity": 0.15}, 0.0, -0.15),
        ({"sparsity": 0.2}, 0.0, -0.5),
        ({"measured": 0.1}, 0.0, -0.15),
        ({"measured": 0.05}, 0.0, -0.5),
        ({"num_passes": 15.0}, 0.0, -0.5),
        ({"pretrained": 1.0}, 0.0, -0.5),
        # Without validation data, fewer passes are enough.
        ({"validation_gap": 10.0, "num_passes": 5.0}, 0.0, 0.2),
        ({"validation_gap": 10.0, "num_passes": 6.5}, 0.0, -0.15),
        ({"validation_gap": 10.0, "num_passes": 8.0}, 0.0, -0.5),
        # As it becomes long, the one fades into the other.
        ({"interval": 7.5}, 0.0, -0.15),
        ({"interval": 7.5}, 0.3, -0.2735),
        ({"interval": 10.0}, 0.0, 0.1),
    ],
)
def test_a_short_run_keeps_more_distrust(changes, distrust, low):
    known = evidence(1.0 - distrust, **{**SHORT_RUN, **changes})
    found = float(as_numpy(update_rule.kept_distrust(known)))
    assert found == pytest.approx(low, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"progress": 0.0}, 0.2),
        ({"progress": 0.25}, 0.17071),
        ({"progress": 0.5}, 0.1),
        ({"progress": 0.75}, 0.02929),
        ({"progress": 1.0}, 0.002),
        # Half of that, and half of the line that shorter runs have.
        ({"progress": 0.75, "interval": 7.5}, (0.02929 + 0.08333) / 2),
        ({"progress": 0.75, "interval": 5.0}, 0.08333),
        ({"progress": 0.75, "pretrained": 0.0}, 0.20833),
        # Less by the root of how much longer the run is.
        ({"progress": 0.0, "interval": 40.0}, 0.1),
        ({"progress": 0.25, "interval": 32.0}, 0.09543),
        ({"progress": 0.0, "interval": 40.0, "pretrained": 0.0}, 0.5),
    ],
)
def test_in_a_long_run_pretrained_weights_are_held_to_a_cosine(changes, most):
    known = evidence(1.0, **{"interval": 10.0, **changes})
    found = float(as_numpy(update_rule.most_distrust(known)))
    assert found == pytest.approx(most, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 0.15),
        ({"interval": 7.5}, 0.325),
        ({"interval": 5.0}, 0.5),
        ({"pretrained": 0.0}, 0.5),
        # Updates that all go one way lift it no further.
        ({"cosine": 1.0}, 0.15),
    ],
)
def test_in_a_long_run_the_rate_of_pretrained_weights_grows_slowly(
    changes, most
):
    known = {"interval": 10.0, **changes}
    assert float(increment(30.0, 1.0, **known)) == pytest.approx(most)
    # And falls as it has to.
    assert float(increment(30.0, -2.0, **known)) == pytest.approx(-0.5)


@pytest.mark.parametrize("pretrained", [0.0, 1.0])
@pytest.mark.parametrize(
    ("lost_again", "training_lead", "most"),
    [
        (1.0, 1.0, -0.2),
        (0.2, 0.4, -0.2),
        # Half of what counts, of the one and of the other: the rate may grow
        # by less, 0.5 - 0.7 / 2.
        (0.125, 1.0, 0.15),
        (1.0, 0.3, 0.15),
        (0.125, 0.3, 0.325),
        # The validation loss has hardly risen, or it has, but the training loss
        # is not below its best: one bad validation.
        (0.05, 1.0, 0.5),
        (0.0, 1.0, 0.5),
        (1.0, 0.2, 0.5),
        (1.0, -1.0, 0.5),
    ],
)
def test_the_rate_of_a_net_that_overfits_falls(
    lost_again, training_lead, most, pretrained
):
    told = {"lost_again": lost_again, "training_lead": training_lead}
    known = {**told, "pretrained": pretrained}
    assert float(increment(30.0, 1.0, **known)) == pytest.approx(most, abs=1e-6)
    # Nor does a least change hold it up, and it may fall further.
    known = {**known, "cosine": 1.0}
    assert float(increment(30.0, 1.0, **known)) == pytest.approx(most, abs=1e-6)
    assert float(increment(-30.0, 0.8, **known)) == pytest.approx(-0.5)
    assert float(increment(0.0, 1.0, **known)) == 0.0


# -- Feedback within a run. -------------------------------------------------


def corrected(bias, output, cosine):
    return as_numpy(
        update_rule.corrected_bias(tensor(bias), tensor(output), tensor(cosine))
    )


def test_feedback_worked_out_by_hand():
    # It forgets 2 %, and a cosine of 0.5 on the slope of tanh at 0 adds 0.025.
    assert corrected(0.1, 0.0, 0.5) == pytest.approx(0.098 + 0.025, abs=1e-6)
    slope = 1.0 - math.tanh(1.0) ** 2
    expected = 0.098 - 0.05 * slope
    assert corrected(0.1, 1.0, -1.0) == pytest.approx(expected, abs=1e-6)


@given(
    bias=st.floats(-1.0, 1.0, width=32),
    output=st.floats(-5.0, 5.0, width=32),
    cosine=st.floats(-1.0, 1.0, width=32),
)
def test_feedback_is_held_near_its_start(bias, output, cosine):
    assert abs(corrected(bias, output, cosine)) <= 1.0


@pytest.mark.parametrize("start", [-1.0, 1.0])
def test_feedback_without_evidence_goes_back_to_0(start):
    bias = np.float32(start)
    for _ in range(300):
        bias = corrected(bias, 0.0, 0.0)
    assert abs(bias) < 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_feedback_on_what_is_not_finite_changes_nothing(bad):
    assert corrected(0.25, 0.0, bad) == pytest.approx(0.25)
