"""Phase 1: runs at static rates, kept, read back and gone on with."""

import dataclasses
import json
import math
import pathlib

import keras
import numpy as np
import pytest

from keras_metalr import Trace
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.phases import Run
from keras_metalr.phases import collect
from keras_metalr.phases import load_runs
from keras_metalr.phases.collect import LADDER


def make_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(123.0), "mse")
    return model


def fit_arguments(seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(32, 2)).astype("float32")
    y = x @ np.array([[1.0], [-2.0]], "float32")
    return {
        "x": x,
        "y": y,
        "validation_data": (x, y),
        "batch_size": 8,
        "epochs": 2,
        "verbose": 0,
    }


def run_of(rate=0.1, seed=0, outcome=0.5, workload="workload"):
    generator = np.random.default_rng(seed)
    size = (4, len(Trace.columns))
    rows = generator.normal(size=size).astype("float32")
    return Run(workload, rate, seed, outcome, Trace(rows))


# -- Training. --------------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    return collect(
        make_model, fit_arguments, learning_rates=(1e-3, 0.1), seeds=(0, 1)
    )


def test_a_run_for_each_seed_and_rate(runs):
    assert [(run.seed, run.learning_rate) for run in runs] == [
        (0, 1e-3),
        (0, 0.1),
        (1, 1e-3),
        (1, 0.1),
    ]


def test_rate_is_static_and_the_one_asked_for(runs):
    for run in runs:
        rate = np.float32(run.learning_rate)
        np.testing.assert_array_equal(run.trace["learning_rate"], rate)
        np.testing.assert_array_equal(run.trace["increment"], 0.0)
        np.testing.assert_array_equal(run.trace["event"], 0.0)
        np.testing.assert_array_equal(run.trace["step"], range(1, 9))


def test_outcome_is_the_last_validation_loss(runs):
    keras.utils.set_random_seed(1)
    model = make_model()
    model.optimizer.learning_rate = 0.1
    history = model.fit(**fit_arguments(1)).history
    expected = history["val_loss"][-1]
    assert runs[3].outcome == pytest.approx(expected, rel=1e-5)
    assert runs[3].outcome < runs[2].outcome


def test_outcome_of_a_run_that_gets_worse_is_its_end_and_not_its_best():
    losses = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.append(logs["val_loss"])
    )
    # Rates above 1 lead away from the minimum, here by less than to infinity.
    (run,) = collect(
        make_model,
        lambda seed: fit_arguments(seed) | {"callbacks": keep},
        learning_rates=[1.5],
    )
    assert losses[1] > losses[0]
    assert run.outcome == pytest.approx(losses[1])


def test_runs_of_a_seed_differ_in_the_rate_alone(runs):
    first = [run.trace["loss"][0] for run in runs]
    assert first[0] == first[1] and first[2] == first[3]
    assert first[0] != first[2]


def test_other_monitor_and_callbacks():
    seen = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)

    (run,) = collect(
        make_model,
        lambda seed: {**fit_arguments(seed), "callbacks": [Count()]},
        learning_rates=[0.1],
        monitor="loss",
        workload="mine",
    )
    assert seen == [0, 1]
    assert run.workload == "mine" and math.isfinite(run.outcome)


def test_callbacks_may_be_none_or_a_single_one():
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: seen.append(1)
    )
    for given in (None, count):

        def arguments(seed, given=given):
            return fit_arguments(seed) | {"callbacks": given}

        collect(make_model, arguments, learning_rates=[0.1])
    assert seen == [1]


def test_run_that_diverges_is_infinitely_bad():
    # It is what the upper end of a ladder is for, so no warning either.
    (run,) = collect(make_model, fit_arguments, learning_rates=[1e20])
    assert run.outcome == math.inf
    assert len(run.trace) >= 1


def test_ladder():
    assert len(LADDER) == 15
    assert LADDER[0] == pytest.approx(1e-6) and LADDER[-1] == pytest.approx(10)
    steps = np.diff(np.log10(LADDER))
    np.testing.assert_allclose(steps, 0.5, rtol=1e-6)


# -- Keeping and going on. --------------------------------------------------


@pytest.mark.parametrize("outcome", [0.25, math.inf])
def test_saved_run_comes_back(tmp_path, outcome):
    run = run_of(outcome=outcome)
    run.save(tmp_path / "new")
    (loaded,) = load_runs(tmp_path / "new")
    assert loaded.outcome == outcome
    assert (loaded.workload, loaded.learning_rate, loaded.seed) == (
        run.workload,
        run.learning_rate,
        run.seed,
    )
    np.testing.assert_array_equal(loaded.trace.rows, run.trace.rows)


def test_record_is_strict_json(tmp_path):
    run_of(outcome=math.inf).save(tmp_path)
    (file,) = tmp_path.glob("*.json")

    def refuse(constant):
        raise AssertionError(constant)

    record = json.loads(file.read_text(), parse_constant=refuse)
    assert record["outcome"] is None
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outcome": "x"}'])
def test_a_damaged_run_is_an_error_that_names_the_file(tmp_path, text):
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run\.json.*Delete it"):
        load_runs(tmp_path)


def test_a_run_of_another_version_of_the_features_names_both(tmp_path):
    run_of().save(tmp_path)
    (file,) = tmp_path.glob("*.json")
    record = json.loads(file.read_text())
    assert record["feature_version"] == FEATURE_VERSION
    file.write_text(json.dumps(record | {"feature_version": 1}))
    message = rf"version 1 of the features.* computes {FEATURE_VERSION}\."
    with pytest.raises(ValueError, match=message):
        load_runs(tmp_path)


def test_load_runs_of_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no runs") as error:
        load_runs(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_interrupted_collection_goes_on(tmp_path):
    made = []

    def counted_model():
        made.append(1)
        return make_model()

    def go(rates, progress=None):
        return collect(
            counted_model,
            fit_arguments,
            learning_rates=rates,
            folder=tmp_path,
            progress=progress,
        )

    def interrupt(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go((1e-3, 0.1), interrupt)
    assert len(made) == 1
    seen = []
    runs = go((1e-3, 0.1), seen.append)
    assert len(made) == 2 and len(seen) == 2
    again = go((1e-3, 0.1))
    assert len(made) == 2
    for first, second in zip(runs, again, strict=True):
        assert first.outcome == second.outcome
        np.testing.assert_array_equal(first.trace.rows, second.trace.rows)
    assert len(load_runs(tmp_path)) == 2


def test_outcomes_of_another_monitor_are_refused_before_training(tmp_path):
    dataclasses.replace(run_of(rate=0.1), monitor="loss").save(tmp_path)
    (run,) = load_runs(tmp_path)
    assert run.monitor == "loss"

    def no_model():
        raise AssertionError("trained")

    with pytest.raises(ValueError, match=r"holds the 'loss'.*val_loss"):
        collect(
            no_model,
            fit_arguments,
            learning_rates=[0.1],
            workload=run.workload,
            seeds=[run.seed],
            folder=tmp_path,
        )


@pytest.mark.parametrize("failing", [0, 1])
def test_a_run_is_written_over_whole_or_not_at_all(
    tmp_path, monkeypatch, failing
):
    old, new = run_of(outcome=0.5), run_of(outcome=0.25)
    new.trace.rows[:] += 1.0
    old.save(tmp_path)
    replace, calls = pathlib.Path.replace, []

    def fail(self, target):
        calls.append(target)
        if len(calls) > failing:
            raise OSError("disk full")
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(pathlib.Path, "replace", fail)
        new.save(tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob("*tmp*"))
    new.save(tmp_path)
    (loaded,) = load_runs(tmp_path)
    assert loaded.outcome == 0.25
    np.testing.assert_array_equal(loaded.trace.rows, new.trace.rows)


def test_a_run_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    old = run_of(outcome=0.5)
    old.save(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(pathlib.Path, "write_text", fail)
        dataclasses.replace(run_of(seed=1), seed=0).save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_run_that_was_half_written_is_run_again(tmp_path):
    rates = {"learning_rates": [0.1], "folder": tmp_path}
    collect(make_model, fit_arguments, **rates)
    (record,) = tmp_path.glob("*.json")
    record.unlink()
    (run,) = collect(make_model, fit_arguments, **rates)
    assert math.isfinite(run.outcome) and record.is_file()


def test_rates_that_are_close_are_kept_apart(tmp_path):
    runs = [run_of(rate=0.1), run_of(rate=0.10001)]
    for run in runs:
        run.save(tmp_path)
    rates = {run.learning_rate for run in load_runs(tmp_path)}
    assert rates == {0.1, 0.10001}


def test_workloads_in_one_folder_are_kept_apart(tmp_path):
    for workload in ("a", "b"):
        run_of(workload=workload).save(tmp_path)
    assert {run.workload for run in load_runs(tmp_path)} == {"a", "b"}


# -- Bad arguments. ---------------------------------------------------------


@pytest.mark.parametrize("rates", [[], [0.0], [-1.0], [math.nan], [math.inf]])
def test_bad_rates(rates):
    with pytest.raises(ValueError, match="positive, finite") as error:
        collect(make_model, fit_arguments, learning_rates=rates)
    assert str(rates) in str(error.value)


@pytest.fixture
def epochs():
    """Those that were trained by `counted`."""
    return []


@pytest.fixture
def counted(epochs):
    def begun(epoch, logs=None):
        epochs.append(epoch)

    count = keras.callbacks.LambdaCallback(on_epoch_begin=begun)
    return lambda seed: fit_arguments(seed) | {"callbacks": count, "epochs": 9}


def test_monitor_that_fit_does_not_report(counted, epochs):
    with pytest.raises(ValueError, match="val_f1") as error:
        collect(make_model, counted, learning_rates=[0.1], monitor="val_f1")
    assert "'val_loss'" in str(error.value)
    assert epochs == [0]


@pytest.mark.parametrize("frequency", [2, 10])
def test_monitor_that_is_not_reported_by_every_epoch(
    counted, epochs, frequency
):
    def rarely(seed):
        return counted(seed) | {"validation_freq": frequency}

    if frequency == 2:
        (run,) = collect(make_model, rarely, learning_rates=[0.1])
        assert math.isfinite(run.outcome)
    else:
        with pytest.raises(ValueError, match="reports no 'val_loss'"):
            collect(make_model, rarely, learning_rates=[0.1])
    assert len(epochs) == 9


def test_what_cannot_work_is_refused_before_training(counted, epochs, tmp_path):
    def without(seed):
        arguments = counted(seed)
        del arguments["validation_data"]
        return arguments

    def given_nothing(seed):
        nothing = {"validation_data": None, "validation_split": 0.0}
        return {**counted(seed), **nothing}

    for arguments in (without, given_nothing):
        with pytest.raises(
            ValueError, match="'val_loss' without validation data"
        ):
            collect(make_model, arguments, learning_rates=[0.1])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`folder` .*can be written to"):
        collect(make_model, counted, folder=tmp_path / "file")
    for name in ("digits/adam", ""):
        with pytest.raises(ValueError, match="must be a name that files"):
            collect(make_model, counted, folder=tmp_path, workload=name)
    assert not epochs
