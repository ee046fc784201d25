"""Phase 2: labels, standardization, and a controller that has learned."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import NUM_FEATURES
from keras_metalr.phases import Run
from keras_metalr.phases import fit_controller
from keras_metalr.phases.fit import best_rates
from keras_metalr.phases.fit import dataset
from keras_metalr.phases.fit import labels
from tests.fit_checks import random_controller

CONSTANT = ("rate_trend", "rate_drop", "horizon")


def run_of(rate, outcome, seed=0, workload="a", count=40):
    """A run whose features tell how far its rate is from 0.01."""
    generator = np.random.default_rng([seed, round(1e6 * rate)])
    rows = generator.normal(size=(count, len(Trace.columns)))
    trace = dict(zip(Trace.columns, rows.T, strict=True))
    trace["step"] = np.arange(1, count + 1)
    trace["progress"] = trace["step"] / count - 0.5
    trace["learning_rate"] = np.full(count, rate)
    trace["loss_trend"] = 0.2 * np.log(rate / 0.01) + 0.01 * rows[:, 0]
    trace["age"] = 3.0 + 0.1 * rows[:, 1]
    trace["rate_trend"] = trace["rate_drop"] = np.zeros(count)
    trace["horizon"] = np.full(count, math.log(0.4))
    rows = np.stack([trace[name] for name in Trace.columns], axis=1)
    return Run(workload, rate, seed, outcome, Trace(rows.astype("float32")))


@pytest.fixture
def runs():
    return [
        run_of(rate, abs(math.log(rate / 0.01)), seed)
        for seed in (0, 1)
        for rate in (1e-4, 1e-3, 0.01, 0.1)
    ]


def answers(controller, features):
    return keras.ops.convert_to_numpy(controller(features))


# -- Labels. ----------------------------------------------------------------


def test_labels_are_how_far_the_rate_is_from_the_best():
    run = run_of(0.01, 1.0, count=4)
    # Progress 1/4 to 1: what is left is 3/4, 1/2, 1/4, and at the end 1 %.
    expected = [math.log(2 * left) for left in (0.75, 0.5, 0.25)]
    expected.append(-3.0)
    measured = labels(run, best_rate=0.02)
    assert measured.dtype == np.float32
    np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-4)


def test_labels_at_the_end_have_a_floor():
    run = run_of(0.01, 1.0, count=4)
    measured = labels(run, best_rate=0.2)[-1]
    assert measured == pytest.approx(math.log(20 * 0.01), abs=1e-3)


@pytest.mark.parametrize(("best", "expected"), [(1e3, 3.0), (1e-9, -3.0)])
def test_labels_are_clipped(best, expected):
    np.testing.assert_array_equal(labels(run_of(0.01, 1.0), best), expected)


def test_best_rate_of_each_workload_and_seed():
    runs = [
        run_of(0.1, 2.0, seed=0, workload="a"),
        run_of(0.01, 1.0, seed=0, workload="a"),
        run_of(0.1, 1.0, seed=1, workload="a"),
        run_of(0.01, math.inf, seed=1, workload="a"),
        run_of(1.0, 0.5, seed=0, workload="b"),
    ]
    assert best_rates(runs) == {("a", 0): 0.01, ("a", 1): 0.1, ("b", 0): 1.0}


def test_runs_that_cannot_be_compared():
    run = run_of(0.1, 0.5)
    with pytest.raises(ValueError, match=r"more than one at \[0\.1\]"):
        best_rates([run, dataclasses.replace(run, outcome=7.0)])
    other = dataclasses.replace(run, learning_rate=1.0, monitor="loss")
    with pytest.raises(ValueError, match=r"\['loss', 'val_loss'\]"):
        best_rates([run, other])


def test_all_runs_of_a_seed_diverged():
    runs = [
        run_of(0.01, 1.0, seed=0),
        run_of(0.1, math.inf, seed=7),
        run_of(1.0, math.inf, seed=7),
    ]
    with pytest.raises(ValueError, match=r"seed 7 diverged") as error:
        fit_controller(runs)
    assert "smaller rates" in str(error.value)


def test_dataset(runs):
    features, targets = dataset(runs)
    assert features.shape == (8 * 40, NUM_FEATURES)
    assert targets.shape == (8 * 40, 1)
    assert features.dtype == targets.dtype == np.float32
    trace = runs[0].trace
    for i, name in enumerate(FEATURE_NAMES):
        np.testing.assert_array_equal(features[:40, i], trace[name])
    np.testing.assert_array_equal(targets[:40, 0], labels(runs[0], 0.01))


def test_states_that_are_not_finite_are_left_out(runs):
    runs[0].trace.rows[3, Trace.columns.index("coherence")] = np.nan
    runs[1].trace.rows[5, Trace.columns.index("learning_rate")] = np.nan
    # Not part of the state: it may be missing.
    runs[2].trace.rows[:, Trace.columns.index("trust_ratio")] = np.nan
    features, targets = dataset(runs)
    assert len(features) == len(targets) == 8 * 40 - 2
    assert np.all(np.isfinite(features)) and np.all(np.isfinite(targets))


# -- The fit. ---------------------------------------------------------------


def test_fit_learns_the_labels(runs):
    features, targets = dataset(runs)
    untrained = np.mean(targets**2)

    def error(**kwargs):
        controller = fit_controller(runs, **kwargs)
        return np.mean((answers(controller, features) - targets) ** 2)

    # 50 batches as it is by default, then 200 of a larger rate.
    assert error() < 0.8 * untrained
    assert error(learning_rate=0.01, epochs=40) < 0.1 * untrained


def test_fit_is_repeatable(runs):
    first, again, other = (
        fit_controller(runs, epochs=1, seed=seed).get_weights()
        for seed in (0, 0, 1)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.allclose(first[0], other[0])


def test_features_that_never_vary_have_no_say(runs):
    controller = fit_controller(runs, epochs=2)
    kernel = controller.hidden[0].get_weights()[0]
    for name, row in zip(FEATURE_NAMES, kernel, strict=True):
        assert np.any(row) == (name not in CONSTANT), name
    features, _ = dataset(runs)
    moved = features.copy()
    for name in CONSTANT:
        moved[:, FEATURE_NAMES.index(name)] += 2.0
    np.testing.assert_array_equal(
        answers(controller, moved), answers(controller, features)
    )


def test_standardization_is_folded_into_the_first_layer(runs, monkeypatch):
    # What was trained, on standardized features, and what came out of it must
    # be one function.
    seen = {}
    original = Controller.fit

    def fit(self, x, y, **kwargs):
        history = original(self, x, y, **kwargs)
        seen["x"], seen["y"] = x, y
        seen["answers"] = answers(self, np.asarray(x, "float32"))
        return history

    monkeypatch.setattr(Controller, "fit", fit)
    controller = fit_controller(runs, epochs=3)
    features, targets = dataset(runs)
    np.testing.assert_array_equal(seen["y"], targets)
    varies = np.ptp(features, axis=0) > 0
    assert varies.sum() == NUM_FEATURES - len(CONSTANT)
    np.testing.assert_allclose(seen["x"].mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(
        seen["x"].std(axis=0), varies.astype(float), atol=1e-4
    )
    np.testing.assert_allclose(
        answers(controller, features), seen["answers"], atol=1e-4
    )


def test_a_new_controller_begins_at_the_mean_of_the_states(runs):
    # As it would on standardized features: its biases are 0, its kernel drawn
    # for features of unit spread.
    controller = fit_controller(runs, learning_rate=1e-12, epochs=1)
    kernel, bias = controller.hidden[0].get_weights()
    features, _ = dataset(runs)
    at_mean = features.mean(axis=0) @ kernel + bias
    np.testing.assert_allclose(at_mean, 0.0, atol=1e-4)
    # Glorot's, for each of them: ages vary by a tenth as much as others.
    spread = (kernel * features.std(axis=0)[:, None]).std(axis=1)
    expected = math.sqrt(2.0 / sum(kernel.shape))
    for name, value in zip(FEATURE_NAMES, spread, strict=True):
        if name not in CONSTANT:
            assert value == pytest.approx(expected, rel=0.3), name


def test_going_on_begins_where_the_controller_was(runs):
    # At a rate of almost nothing the function must not move, though it is
    # taken apart for standardized features and put together again.
    generator = np.random.default_rng(0)
    controller = Controller()
    controller.set_weights(
        [
            0.3 * generator.normal(size=w.shape).astype("float32")
            for w in controller.get_weights()
        ]
    )
    features, _ = dataset(runs)
    other = generator.uniform(-4, 4, (50, NUM_FEATURES)).astype("float32")
    before = answers(controller, features), answers(controller, other)
    again = fit_controller(
        runs, controller=controller, learning_rate=1e-12, epochs=1
    )
    assert again is controller
    np.testing.assert_allclose(answers(again, features), before[0], atol=1e-3)
    np.testing.assert_allclose(answers(again, other), before[1], atol=1e-3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_fit_that_fails_leaves_the_controller_alone(runs, monkeypatch, error):
    controller = random_controller()
    before = controller.get_weights()

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Controller, "fit", fail)
    with pytest.raises(error):
        fit_controller(runs, controller=controller)
    for old, new in zip(before, controller.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_no_runs():
    with pytest.raises(ValueError, match="empty"):
        fit_controller([])


@pytest.mark.parametrize("count", [0, 3])
def test_runs_without_a_state(count):
    runs = [run_of(rate, rate) for rate in (0.01, 0.1)]
    rows = np.full((count, len(Trace.columns)), np.nan, "float32")
    runs = [dataclasses.replace(run, trace=Trace(rows)) for run in runs]
    with pytest.raises(ValueError, match=f"2 runs of {2 * count} decisions"):
        fit_controller(runs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", value) for value in (0.0, -1.0, math.inf, "a")),
        *(("batch_size", value) for value in (0, 2.5, True, None)),
        *(("epochs", value) for value in (0, -1, "3")),
    ],
)
def test_bad_numbers(runs, name, value):
    keras.utils.set_random_seed(3)
    expected = np.random.random()
    keras.utils.set_random_seed(3)
    with pytest.raises(ValueError, match=f"`{name}` must be") as error:
        fit_controller(runs, **{name: value})
    assert f"{name}={value!r}" in str(error.value)
    assert np.random.random() == expected


def test_phase_three_takes_what_phase_two_gives(runs):
    controller = fit_controller(runs, epochs=1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")
    metalr = MetaLR(controller)
    model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[metalr])
    assert np.any(metalr.trace["output"])
    np.testing.assert_allclose(
        metalr.trace["output"],
        answers(
            controller, np.stack([metalr.trace[n] for n in FEATURE_NAMES], 1)
        )[:, 0],
        atol=1e-4,
    )
