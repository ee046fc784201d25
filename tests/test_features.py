"""Features: in range for any input, right by the table, free of scale."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_metalr.features import FEATURE_LIMIT
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import FEATURES
from keras_metalr.features import NUM_FEATURES
from keras_metalr.features import SUMMARY_INITIAL
from keras_metalr.features import features
from keras_metalr.features import lost_again
from keras_metalr.features import measured
from keras_metalr.features import record_validation
from keras_metalr.features import training_lead
from keras_metalr.features import trust
from keras_metalr.features import update_summary
from keras_metalr.features import validation_gap
from keras_metalr.signals import shortfall
from tests import reference
from tests.tensors import as_numpy
from tests.tensors import tensor
from tests.tensors import tensors

any_float32 = st.floats(width=32)
INTERVAL_KEYS = (
    "loss",
    "log_gradient_norm",
    "cosine",
    "log_update_ratio",
    "log_rate",
    "promised_drop",
    "shortfall",
)
# Progress, decisions in the run, and whether the weights were pretrained.
HALFWAY = (0.5, 200.0, 0.0)
VALIDATION_FEATURES = (
    "validated",
    "validation_trend",
    "validation_rise",
    "validation_gap",
)
VALIDATION_KEYS = tuple(k for k in SUMMARY_INITIAL if "validation" in k)


# Lists of eight values, as the functions take them all at once.
def columns(keys):
    return st.fixed_dictionaries(
        {key: st.lists(any_float32, min_size=8, max_size=8) for key in keys}
    )


@settings(max_examples=60)
@given(
    summary=columns(SUMMARY_INITIAL),
    progress=st.lists(any_float32, min_size=8, max_size=8),
    num_decisions=st.lists(any_float32, min_size=8, max_size=8),
)
def test_finite_and_in_range_for_any_summary(summary, progress, num_decisions):
    vector = as_numpy(
        features(
            tensors(summary),
            tensor(progress),
            tensor(num_decisions),
            tensor([0.0, 1.0] * 4),
        )
    )
    assert vector.shape == (NUM_FEATURES, 8)
    assert np.all(np.isfinite(vector))
    assert np.all(np.abs(vector) <= FEATURE_LIMIT)


@settings(max_examples=40)
@given(intervals=st.lists(columns(INTERVAL_KEYS), min_size=1, max_size=4))
def test_finite_and_in_range_after_any_intervals(intervals):
    summary = tensors({key: [v] * 8 for key, v in SUMMARY_INITIAL.items()})
    for interval in intervals:
        summary = update_summary(summary, tensors(interval))
    arguments = tensor([0.5] * 8), tensor([200.0] * 8), tensor([0.0] * 8)
    vector = as_numpy(features(summary, *arguments))
    assert np.all(np.isfinite(vector))
    assert np.all(np.abs(vector) <= FEATURE_LIMIT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.0])
@pytest.mark.parametrize("key", SUMMARY_INITIAL)
def test_one_bad_number(key, bad):
    summary = {**scenario_summary(), key: bad}
    vector = as_numpy(features(tensors(summary), *map(tensor, HALFWAY)))
    assert np.all(np.isfinite(vector))
    assert np.all(np.abs(vector) <= FEATURE_LIMIT)


def test_what_is_not_finite_reads_as_zero():
    summary = {**scenario_summary(), "loss_fast": -1.0}
    vector = as_numpy(features(tensors(summary), *map(tensor, HALFWAY)))
    assert vector[FEATURE_NAMES.index("loss_trend")] == 0.0


def test_table_is_whole():
    assert NUM_FEATURES == len(FEATURES) == 22
    assert len(set(FEATURE_NAMES)) == NUM_FEATURES
    assert all(f.formula and f.meaning for f in FEATURES)


# -- Golden values. ---------------------------------------------------------


def signals_of_a_run(num_steps, seed):
    """Made up signals that look like a run's."""
    generator = np.random.default_rng(seed)
    age = np.arange(num_steps)
    noise = generator.normal(size=(9, num_steps))
    loss = 0.5 + 2.0 * np.exp(-age / 20.0) * np.exp(0.1 * noise[0])
    # Uphill at times, too short to be measured at others, and once far off.
    promised = 0.05 * (0.5 + noise[6]) * (generator.random(num_steps) < 0.8)
    promised[::11] *= 100.0
    return {
        "loss": loss,
        "loss_after": loss - promised * (0.8 + noise[7]),
        "promised_drop": promised,
        "gradient_norm": 3.0 * np.exp(0.3 * noise[1] - age / 50.0),
        "cosine": np.tanh(0.3 + 0.3 * noise[2]),
        "update_norm": 0.01 * np.exp(0.3 * noise[3]),
        "weight_norm": 5.0 + 0.02 * age,
        "distance": 0.05 * np.sqrt(age + 1.0) * np.exp(0.2 * noise[4]),
        "learning_rate": 1e-3 * np.exp(np.cumsum(0.2 * noise[5])),
    }


def validations_of_a_run(every, seed, num_steps=60):
    """Made up validations: the loss falls, rises again, and fails at times."""
    generator = np.random.default_rng([seed, every])
    steps = np.arange(every, num_steps, every)
    losses = 0.5 + 2.0 * (steps / num_steps - 0.6) ** 2
    losses *= np.exp(0.1 * generator.normal(size=len(steps)))
    losses[1::4], losses[2::8] = np.nan, np.inf
    return list(zip(steps.tolist(), losses.tolist(), strict=True))


def recorded(losses, summary):
    """The summary after these losses on validation data."""
    for loss in losses:
        summary = record_validation(summary, tensor(loss))
    return summary


def summaries_of(signals, interval, validations=()):
    """The same, through `update_summary`, one a decision."""
    summary = dict(SUMMARY_INITIAL)
    direction = signals["update_norm"] / signals["learning_rate"]
    summaries = []
    for end in range(interval, len(signals["loss"]) + 1, interval):
        part = slice(end - interval, end)
        # Kept step by step, outside `update_summary`.
        summary["distance"] = signals["distance"][end - 1]
        summary["max_distance"] = signals["distance"][:end].max()
        summary["weight_norm"] = signals["weight_norm"][end - 1]
        summary["sum_direction_squared"] = np.sum(direction[:end] ** 2)
        promised, lost = shortfall(
            *(
                tensor(signals[key][end - 1])
                for key in ("loss", "loss_after", "promised_drop")
            ),
            tensor(signals["loss"][:interval].mean()),
        )
        sizes = signals["update_norm"] / signals["weight_norm"]
        new = update_summary(
            tensors(summary),
            tensors(
                {
                    "loss": signals["loss"][part].mean(),
                    "log_gradient_norm": np.log(
                        signals["gradient_norm"][part]
                    ).mean(),
                    "cosine": signals["cosine"][part].mean(),
                    "log_update_ratio": np.log(sizes[part]).mean(),
                    "log_rate": np.log(signals["learning_rate"][end - 1]),
                    "promised_drop": float(promised),
                    "shortfall": float(lost),
                }
            ),
        )
        summaries.append({key: float(value) for key, value in new.items()})
        # What comes after this decision and before the next.
        losses = [v for step, v in validations if end <= step < end + interval]
        new = recorded(losses, new)
        summary = {key: float(value) for key, value in new.items()}
    return summaries


def scenario_summary():
    signals = signals_of_a_run(12, seed=0)
    return summaries_of(signals, 1, [(4, 1.5), (8, 1.2), (10, 1.3)])[-1]


@pytest.mark.parametrize(
    ("interval", "total_steps", "seed", "every", "pretrained"),
    [
        (1, 60, 0, 0, 0.0),
        (1, 60, 0, 1, 1.0),
        (1, 90, 1, 7, 0.0),
        (3, 600, 2, 4, 1.0),
    ],
)
def test_golden_values(interval, total_steps, seed, every, pretrained):
    signals = signals_of_a_run(60, seed)
    validations = validations_of_a_run(every, seed) if every else []
    expected = reference.features(
        signals, interval, total_steps, validations, pretrained
    )
    # Both of a run before its first validation, or without, and of one after.
    assert np.any(expected[:, -4] == 0.0)
    assert np.any(expected[:, -4] == 1.0) == (every > 0)
    num_decisions = math.ceil(total_steps / interval)
    summaries = summaries_of(signals, interval, validations)
    for i, summary in enumerate(summaries):
        vector = features(
            tensors(summary),
            tensor((i + 1) * interval / total_steps),
            tensor(num_decisions),
            tensor(pretrained),
        )
        np.testing.assert_allclose(
            as_numpy(vector),
            np.clip(expected[i], -4.0, 4.0),
            atol=2e-4,
            err_msg=f"decision {i}",
        )


def test_values_worked_out_by_hand():
    # The first decision of a run of 100, at loss 2, rate 0.01, with one update
    # of length 0.1 on weights of length 10. It promised 0.04 and gave 0.03.
    summary = tensors(
        {
            **SUMMARY_INITIAL,
            "distance": 0.1,
            "max_distance": 0.1,
            "weight_norm": 10.0,
            "sum_direction_squared": 100.0,
        }
    )
    interval = {
        "loss": 2.0,
        "log_gradient_norm": 1.0,
        "cosine": 0.25,
        "log_update_ratio": math.log(0.01),
        "log_rate": math.log(0.01),
        "promised_drop": 0.04,
        "shortfall": 0.01,
    }
    summary = update_summary(summary, tensors(interval))
    vector = as_numpy(
        features(summary, tensor(0.01), tensor(100.0), tensor(1.0))
    )
    expected = {
        "progress": -0.49,
        "time_left": 0.0,  # 0.5 log(0.99 + 0.01)
        "loss_trend": 0.0,
        "loss_gain": 0.0,
        "loss_surprise": 0.0,
        "cosine_fast": 0.25,
        "cosine_slow": 0.75,
        "gradient_trend": 0.0,
        "coherence": 0.0,  # one step: 0.1 / 10 / 0.01
        "update_size": (math.log(0.01) + 7.0) / 4.0,
        "rate_trend": 0.0,
        "rate_drop": 0.0,
        "loss_jump": 0.0,
        "age": -1.0,
        "horizon": 0.0,
        "travel": -0.49,
        # 0.2 of each, and a thousandth of the first loss.
        "trust": (math.log(0.002 / (0.008 + 0.002)) + 2.5) / 1.5,
        "pretrained": 1.0,
        **dict.fromkeys(VALIDATION_FEATURES, 0.0),
    }
    np.testing.assert_allclose(
        vector, [expected[name] for name in FEATURE_NAMES], atol=1e-5
    )


# -- Trust. -----------------------------------------------------------------


def after(steps, **known):
    """The summary after steps `(rate, promised drop, shortfall)`."""
    summary = {**SUMMARY_INITIAL, **known}
    for rate, promised, lost in steps:
        interval = dict.fromkeys(INTERVAL_KEYS, 1.0)
        interval["log_rate"] = math.log(rate)
        interval |= {"promised_drop": promised, "shortfall": lost}
        new = update_summary(tensors(summary), tensors(interval))
        summary = {key: float(value) for key, value in new.items()}
    return summary


def trust_after(steps, **known):
    return float(trust(tensors(after(steps, **known))))


@pytest.mark.parametrize(
    ("shortfall_mean", "expected"), [(0.0, 0.003), (-9.0, 0.003), (9.0, 2.0)]
)
def test_curvature_is_clipped(shortfall_mean, expected):
    summary = {
        **scenario_summary(),
        "promised_mean": 1.0,
        "shortfall_mean": shortfall_mean,
    }
    vector = features(tensors(summary), *map(tensor, HALFWAY))
    value = as_numpy(vector)[FEATURE_NAMES.index("trust")]
    assert value == pytest.approx((math.log(expected) + 2.5) / 1.5, abs=1e-5)


def test_trust_is_whole_before_anything_was_measured():
    assert float(trust(tensors(SUMMARY_INITIAL))) == 1.0
    assert trust_after([(0.1, 0.0, 0.0)] * 5) == 1.0


@pytest.mark.parametrize(
    ("promised_mean", "shortfall_mean"),
    [(0.1, math.inf), (math.inf, math.inf), (0.1, math.nan)],
)
def test_a_shortfall_beyond_all_numbers_is_no_trust(
    promised_mean, shortfall_mean
):
    known = {"promised_mean": promised_mean, "shortfall_mean": shortfall_mean}
    assert float(trust(tensors({**SUMMARY_INITIAL, **known}))) == -2.0


def test_trust_bears_a_rate_that_rests_at_zero():
    # Whose log is that of 1e-30, whatever it was before.
    steps = [(1e10, 1.0, 0.5)] * 20
    rested = [*steps, (1e-30, 0.0, 0.0), *steps]
    assert trust_after(rested) == pytest.approx(0.5, abs=0.01)


def test_trust_comes_back_where_it_cannot_be_measured():
    # Else a rate that low trust has brought down would never rise again.
    bad = [(0.1, 0.5, 1.5)] * 5
    assert trust_after(bad) == pytest.approx(-2.0, abs=0.02)
    assert trust_after(bad + [(0.1, 0.0, 0.0)] * 50) > 0.9


def test_trust_is_a_ratio_of_means():
    # The batch that promises little says little: not (0 + 1) / 2.
    steps = [(0.1, 1.0, 0.0), (0.1, 0.01, 0.01)] * 40
    assert trust_after(steps) == pytest.approx(0.99, abs=0.005)


def test_steps_uphill_count():
    # Half as far up as down, and each with the same curvature.
    steps = [(0.1, 1.0, 0.1), (0.1, -0.5, 0.1)] * 60
    promised = (-0.5 + 0.8 * 1.0) / 1.8
    assert trust_after(steps) == pytest.approx(1 - 0.1 / promised, abs=0.01)


@given(
    factors=st.lists(st.floats(0.6, 1.6), min_size=1, max_size=30),
    distrust=st.floats(0.01, 1.5),
)
def test_trust_is_that_of_the_present_rate_on_a_quadratic(factors, distrust):
    # However the rate got there: promises go with it, shortfalls with its
    # square. With no first loss there is no prior.
    rates = np.cumprod([1.0, *factors])
    # The last rate has the distrust that was drawn.
    curvature = distrust / rates[-1]
    steps = [(r, r, curvature * r * r) for r in rates]
    summary = {**after(steps), "loss_first": 0.0}
    assert float(trust(tensors(summary))) == pytest.approx(
        1.0 - distrust, abs=1e-3
    )


@pytest.mark.parametrize(
    ("calm", "rate", "spike", "weight"),
    [
        # Up to ten times the mean it counts in full, from the second step on.
        (40, 0.1, 10.0, 1.0),
        (1, 0.1, 10.0, 1.0),
        (1, 0.1, 20.0, 0.5),
        (40, 0.1, 1000.0, 0.01),
        # The mean is that which trust has, at the square of the present rate.
        (40, 0.2, 5.0, 1.0),
        (40, 0.2, 20.0, 0.25),
        # With nothing before it there is no mean.
        (0, 0.1, 1000.0, 1.0),
    ],
)
def test_a_spike_counts_for_ten_times_the_mean(calm, rate, spike, weight):
    steps = [(0.1, 1.0, 0.1)] * calm
    summary = after([*steps, (rate, spike, 2.0 * spike)])
    gathered = 1.0 - 0.8**calm
    promised = 0.8 * gathered * 0.1 / rate + 0.2 * weight * spike
    lost = 0.8 * gathered * 0.1 + 0.2 * weight * 2.0 * spike
    assert summary["promised_mean"] == pytest.approx(promised, rel=1e-4)
    assert summary["shortfall_mean"] == pytest.approx(lost, rel=1e-4)


@pytest.mark.parametrize("promised", [-1.0, 0.0])
def test_what_was_promised_in_vain_is_no_mean_for_a_spike(promised):
    summary = after([(0.1, promised, 0.1)] * 5 + [(0.1, 50.0, 5.0)])
    mean = 0.8 * promised * (1.0 - 0.8**5) + 0.2 * 50.0
    assert summary["promised_mean"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize(
    ("promised_mean", "loss_first", "share"),
    [
        (0.0, 2.0, 0.0),
        (-1.0, 2.0, 0.0),
        # As much as the prior, a thousandth of the first loss.
        (0.002, 2.0, 0.5),
        (0.002, -2.0, 0.5),
        (0.018, 2.0, 0.9),
        (1.0, 0.0, 1.0),
    ],
)
def test_how_much_of_trust_is_measured(promised_mean, loss_first, share):
    known = {"promised_mean": promised_mean, "loss_first": loss_first}
    summary = tensors({**SUMMARY_INITIAL, **known})
    assert float(measured(summary)) == pytest.approx(share, abs=1e-6)


# Of losses that are as large as they can be.
promises = st.floats(-(2.0**127), 2.0**127, width=32)


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.fixed_dictionaries(
            {
                "promised_drop": st.lists(promises, min_size=8, max_size=8),
                "fall": st.lists(st.floats(0.0, 30.0), min_size=8, max_size=8),
            }
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_share_is_measured_however_far_the_rate_falls(steps):
    summary = tensors(SUMMARY_INITIAL, size=8)
    interval = dict.fromkeys(INTERVAL_KEYS, np.zeros(8))
    interval["loss"] = np.full(8, 2.0**127)
    for step in steps:
        log_rate = interval["log_rate"] - np.asarray(step["fall"])
        promised = {"promised_drop": step["promised_drop"]}
        interval = {**interval, **promised, "log_rate": log_rate}
        summary = update_summary(summary, tensors(interval))
        assert np.all(np.isfinite(as_numpy(summary["promised_mean"])))
        share = as_numpy(measured(summary))
        assert np.all((share >= 0.0) & (share <= 1.0))


@pytest.mark.parametrize(
    ("distance", "travel"), [(0.0, -0.5), (3.0, 0.1), (3.5, 0.2), (5.0, 0.2)]
)
def test_travel_is_limited(distance, travel):
    # Of weights that were drawn short, nearly all is travel soon.
    known = {"distance": distance, "weight_norm": 5.0}
    vector = features(
        tensors({**scenario_summary(), **known}), *map(tensor, HALFWAY)
    )
    value = as_numpy(vector)[FEATURE_NAMES.index("travel")]
    assert value == pytest.approx(travel, abs=1e-6)


@given(scale=st.floats(1e-3, 1e3))
def test_trust_is_free_of_the_scale_of_the_loss(scale):
    steps = [(0.1, 0.2, 0.05), (0.2, 0.3, 0.2), (0.1, -0.1, 0.01)]
    summary = after(steps)
    keys = ("promised_mean", "shortfall_mean", "loss_first")
    scaled = {**summary, **{key: scale * summary[key] for key in keys}}
    assert float(trust(tensors(scaled))) == pytest.approx(
        float(trust(tensors(summary))), abs=1e-5
    )


# -- Validation. ------------------------------------------------------------


def validation_part(summary):
    """The last four features."""
    vector = features(tensors(summary), *map(tensor, HALFWAY))
    assert FEATURE_NAMES[-4:] == VALIDATION_FEATURES
    return as_numpy(vector)[-4:]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([], [0, 0, 0, 0], id="none"),
        pytest.param([3.0], [1, 0, 0, 0], id="first"),
        pytest.param(
            [6.0, 3.0], [1, 5 * math.log(0.5), 0, 0], id="falls to the training"
        ),
        pytest.param(
            [2.0, 4.0, 3.0],
            [1, 5 * math.log(0.75), 5 * math.log(1.5), 0],
            id="falls again, but not to its best",
        ),
        pytest.param(
            [4.0, 4.0], [1, 0, 0, 0.5 * math.log(4 / 3)], id="stands still"
        ),
        pytest.param(
            [1.0, 30.0], [1, 4, 4, 0.5 * math.log(10)], id="out of range"
        ),
        pytest.param(
            [4.0, np.nan, 3.0, np.inf, -np.inf],
            [1, 5 * math.log(0.75), 0, 0],
            id="not finite at times",
        ),
        pytest.param([np.nan, np.inf], [0, 0, 0, 0], id="never finite"),
        # No logarithm: as everywhere in the table, this reads as 0.
        pytest.param([1.0, 0.0], [1, 0, 0, 0], id="perfect"),
        pytest.param([1.0, -1.0], [1, 0, 0, 0], id="changes its sign"),
        # Progress, and its ratio above 1 would say decline.
        pytest.param([-1.0, -2.0], [1, 0, 0, 0], id="negative"),
    ],
)
def test_validation_worked_out_by_hand(losses, expected):
    summary = {**tensors(SUMMARY_INITIAL), "loss_slow": tensor(3.0)}
    part = validation_part(recorded(losses, summary))
    np.testing.assert_allclose(part, expected, atol=1e-5)


@settings(max_examples=30)
# TensorFlow takes numbers below 1e-38 for 0.
@given(st.lists(st.floats(width=32, allow_subnormal=False), max_size=6))
def test_validation_is_kept_in_the_books(losses):
    before = tensors(scenario_summary())
    for key in VALIDATION_KEYS:
        before[key] = tensor(0.0)
    after = recorded(losses, before)
    assert set(after) == set(SUMMARY_INITIAL)
    known = [loss for loss in losses if math.isfinite(loss)] or [0.0]
    expected = {
        "validations": sum(map(math.isfinite, losses)),
        "validation_loss": known[-1],
        "validation_previous": [known[0], *known][-2],
        "validation_best": min(known),
    }
    for key, value in after.items():
        kept = expected[key] if key in VALIDATION_KEYS else float(before[key])
        assert float(value) == kept, key
    part = validation_part(after)
    assert np.all(np.isfinite(part)) and np.all(np.abs(part) <= FEATURE_LIMIT)


def test_a_decision_leaves_validation_alone():
    summary = scenario_summary()
    interval = dict.fromkeys(INTERVAL_KEYS, 0.5)
    after = update_summary(tensors(summary), tensors(interval))
    assert summary["validations"] == 3.0
    for key in VALIDATION_KEYS:
        assert float(after[key]) == np.float32(summary[key])


# -- Scale. -----------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    loss=st.floats(1e-3, 1e3),
    weights=st.floats(1e-2, 1e2),
)
def test_features_of_a_rescaled_run_are_the_same(seed, loss, weights):
    # Loss x c: gradient x c, rate / c. Weights x b at the same loss: gradient
    # / b, every length x b, rate x b^2.
    signals = signals_of_a_run(12, seed)
    validations = validations_of_a_run(2, seed, num_steps=12)
    scaled = {
        **signals,
        **{
            name: loss * signals[name]
            for name in ("loss", "loss_after", "promised_drop")
        },
        "gradient_norm": loss / weights * signals["gradient_norm"],
        "learning_rate": weights**2 / loss * signals["learning_rate"],
        **{
            name: weights * signals[name]
            for name in ("update_norm", "weight_norm", "distance")
        },
    }
    arguments = tensor(0.2), tensor(60.0), tensor(0.0)
    plain = summaries_of(signals, 2, validations)[-1]
    validations = [(step, loss * value) for step, value in validations]
    other = summaries_of(scaled, 2, validations)[-1]
    assert plain["validations"] == 3.0
    plain = as_numpy(features(tensors(plain), *arguments))
    other = as_numpy(features(tensors(other), *arguments))
    np.testing.assert_allclose(other, plain, atol=1e-3)


def test_reparameterized_direction_leaves_coherence_alone():
    # An optimizer whose direction is 10 times as long, at a tenth of the rate.
    signals = signals_of_a_run(12, 0)
    scaled = {**signals, "learning_rate": 0.1 * signals["learning_rate"]}
    arguments = tensor(0.2), tensor(60.0), tensor(0.0)
    plain = features(tensors(summaries_of(signals, 1)[-1]), *arguments)
    other = features(tensors(summaries_of(scaled, 1)[-1]), *arguments)
    np.testing.assert_allclose(as_numpy(other), as_numpy(plain), atol=1e-4)


@pytest.mark.parametrize(
    ("training", "validation", "gap"),
    [
        (0.5, 1.0, math.log(2.0)),
        (2.0, 1.0, -math.log(2.0)),
        # Not validated yet, and losses that are no measure of each other.
        (0.5, 0.0, 10.0),
        (-0.5, 1.0, 10.0),
        (-0.5, -1.0, 10.0),
    ],
)
def test_gap_between_validation_and_training(training, validation, gap):
    summary = tensors(SUMMARY_INITIAL)
    summary["loss_slow"] = tensor(training)
    summary["validation_loss"] = tensor(validation)
    assert float(validation_gap(summary)) == pytest.approx(gap, rel=1e-5)


@pytest.mark.parametrize(
    ("first", "best", "last", "share"),
    [
        (2.0, 1.0, 1.25, 0.25),
        (2.0, 1.0, 1.0, 0.0),
        # Weights that begin with a lower loss than they validate at.
        (0.5, 1.0, 1.25, 0.5),
        # Where nearly nothing was gained, a tenth of the first loss counts.
        (2.0, 1.99, 2.19, 1.0),
        # Losses below 0, such as those of densities.
        (-1.0, -2.0, -1.5, 0.5),
        (-2.0, -2.05, -1.95, 0.5),
        # Not validated yet.
        (2.0, 0.0, 0.0, 0.0),
    ],
)
def test_share_of_the_gain_that_is_lost_again(first, best, last, share):
    summary = tensors(SUMMARY_INITIAL)
    summary["loss_first"] = tensor(first)
    summary["validation_best"] = tensor(best)
    summary["validation_loss"] = tensor(last)
    assert float(lost_again(summary)) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize(
    ("training", "best", "lead"),
    [
        (0.5, 1.0, math.log(2.0)),
        (2.0, 1.0, -math.log(2.0)),
        # Not validated yet, and losses that are no measure of each other.
        (0.5, 0.0, 0.0),
        (-0.5, 1.0, 0.0),
        (-2.0, -1.0, 0.0),
    ],
)
def test_lead_of_the_training_loss(training, best, lead):
    summary = tensors(SUMMARY_INITIAL)
    summary["loss_slow"] = tensor(training)
    summary["validation_best"] = tensor(best)
    # The last validation does not count, however bad.
    summary["validation_loss"] = tensor(99.0)
    assert float(training_lead(summary)) == pytest.approx(lead, rel=1e-5)
