"""Experience across runs: kept whole, weighed by rank, learned from."""

import json
import math
import random

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from keras_metalr import experience
from keras_metalr.experience import Experience
from keras_metalr.features import FEATURE_NAMES
from tests import fit_checks

NUM_DECISIONS = 40


def made_up_run(outcome, output, seed=0, monitor="val_loss"):
    """A run whose controller always gave one output, in states of its own."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((NUM_DECISIONS, len(Trace.columns)), "float32")
    for name in FEATURE_NAMES:
        column = Trace.columns.index(name)
        rows[:, column] = generator.uniform(-1, 1, NUM_DECISIONS)
    progress = np.linspace(0.0, 1.0, NUM_DECISIONS)
    rows[:, Trace.columns.index("progress")] = progress - 0.5
    rows[:, Trace.columns.index("output")] = output
    return Experience(outcome, monitor, Trace(rows))


def states_of(run):
    return np.stack([run.trace[name] for name in FEATURE_NAMES], axis=-1)


def outputs(controller, run):
    return keras.ops.convert_to_numpy(controller(states_of(run)))[:, 0]


# -- The folder. ------------------------------------------------------------


def test_runs_come_back_in_order(tmp_path):
    folder = tmp_path / "not" / "there" / "yet"
    assert experience.load(folder) == []
    runs = [made_up_run(o, 0.1 * i) for i, o in enumerate([3.0, math.inf, 1.0])]
    files = [experience.save(folder, run) for run in runs]
    assert len(set(files)) == 3
    loaded = experience.load(folder)
    assert [run.outcome for run in loaded] == [3.0, math.inf, 1.0]
    assert [run.monitor for run in loaded] == ["val_loss"] * 3
    for run, back in zip(runs, loaded, strict=True):
        np.testing.assert_array_equal(run.trace.rows, back.trace.rows)


def test_ten_thousandth_run_comes_last(tmp_path):
    experience.save(tmp_path, made_up_run(1.0, 0.0)).rename(
        tmp_path / "run-99999.json"
    )
    (tmp_path / "run-00001.npz").rename(tmp_path / "run-99999.npz")
    experience.save(tmp_path, made_up_run(2.0, 0.0))
    assert [run.outcome for run in experience.load(tmp_path)] == [1.0, 2.0]


def test_half_written_run_is_no_run(tmp_path):
    experience.save(tmp_path, made_up_run(1.0, 0.0)).unlink()
    assert experience.load(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"monitor": "loss", "outcome": "x"}']
)
def test_damaged_run_is_an_error_that_names_the_file(tmp_path, text):
    file = experience.save(tmp_path, made_up_run(1.0, 0.0))
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run-00001\.json.*Delete it"):
        experience.load(tmp_path)


def test_file_is_json_that_any_reader_takes(tmp_path):
    file = experience.save(tmp_path, made_up_run(math.inf, 0.0))

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    record = json.loads(file.read_text(), parse_constant=refuse)
    assert record == {"monitor": "val_loss", "outcome": None}


# -- Weights and offsets. ---------------------------------------------------


def test_rank_weights_worked_out_by_hand():
    # The better two of eight: log 2.5 - log 1 and log 2.5 - log 2.
    weights = experience.rank_weights([5, 1, 4, 8, 2, 7, 6, 3])
    first, second = math.log(2.5), math.log(2.5 / 2.0)
    assert weights[1] == pytest.approx(first / (first + second))
    assert weights[4] == pytest.approx(second / (first + second))
    assert np.count_nonzero(weights) == 2


@given(
    st.lists(
        st.floats(-1e3, 1e3) | st.just(math.inf), min_size=1, max_size=30
    ).filter(lambda values: any(map(math.isfinite, values)))
)
def test_rank_weights(outcomes):
    weights = experience.rank_weights(outcomes)
    assert weights.sum() == pytest.approx(1.0)
    assert np.all(weights >= 0.0)
    assert not np.any(weights[np.isinf(outcomes)])
    assert weights[int(np.argmin(outcomes))] == weights.max()
    # What counts is the order: not how far apart they lie.
    rescaled = [3.0 * value + 7.0 for value in outcomes]
    if len(set(rescaled)) == len(set(outcomes)):
        again = experience.rank_weights(rescaled)
        np.testing.assert_allclose(weights, again)


def test_offsets_differ_between_runs_and_shrink():
    progress = np.linspace(0.0, 1.0, 11)

    def spread(num_runs):
        drawn = [
            experience.offset([float(i)] * num_runs, progress)
            for i in range(300)
        ]
        return np.std(drawn, axis=0), np.mean(drawn, axis=0)

    early, mean = spread(1)
    # In the middle the tilt has no say.
    assert early[5] == pytest.approx(experience.EXPLORATION, rel=0.15)
    assert np.all(np.abs(mean) < 0.25 * experience.EXPLORATION)
    late = spread(4 * experience.EXPLORING_RUNS)[0]
    np.testing.assert_allclose(late, 0.5 * early, rtol=0.2)
    np.testing.assert_array_equal(
        experience.offset([1.0, 2.0], progress),
        experience.offset([1.0, 2.0], progress),
    )


# -- Learning. --------------------------------------------------------------


def test_controller_answers_as_the_better_runs_did():
    runs = [
        made_up_run(outcome, output, seed=i)
        for i, (outcome, output) in enumerate(
            [(9.0, -1.0), (1.0, 0.8), (8.0, -1.0), (7.0, -1.0), (2.0, 0.8)]
        )
    ]
    controller = Controller()
    experience.learn(controller, runs)
    tried = experience.offset(
        [run.outcome for run in runs], np.linspace(0.0, 1.0, NUM_DECISIONS)
    )
    for run in (runs[1], runs[4]):
        error = outputs(controller, run) - (0.8 + tried)
        assert np.sqrt(np.mean(error**2)) < 0.15


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([], id="none"),
        pytest.param([made_up_run(math.inf, 1.0)] * 3, id="all-failed"),
        pytest.param(
            [Experience(1.0, "loss", Trace())] * 2, id="without-a-trace"
        ),
    ],
)
def test_nothing_is_learned_from_nothing(runs):
    controller = Controller()
    before = controller.get_weights()
    experience.learn(controller, runs)
    for a, b in zip(before, controller.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_runs_of_another_monitor_are_left_out():
    # By the number alone the first would be the best by far.
    runs = [
        made_up_run(0.001, -1.0, monitor="loss"),
        made_up_run(2.0, 0.8),
        made_up_run(3.0, 0.8),
    ]
    controller, same = Controller(), Controller()
    same.set_weights(controller.get_weights())
    experience.learn(controller, runs)
    experience.learn(same, runs[1:])
    for a, b in zip(controller.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_learning_leaves_the_random_state_alone():
    def draws():
        keras_draw = keras.random.normal((2,))
        return [
            random.random(),
            np.random.rand(),
            *keras.ops.convert_to_numpy(keras_draw),
        ]

    controller = Controller()
    keras.utils.set_random_seed(5)
    expected = draws()
    keras.utils.set_random_seed(5)
    experience.learn(controller, [made_up_run(1.0, 0.5)])
    assert draws() == expected


# -- In `fit`. --------------------------------------------------------------


def fit(folder, seed=0, validate=True, **arguments):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(fit_checks.make_layers(normalize=False))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **fit_checks.QUICK,
    )
    x, y = fit_checks.make_data()
    if validate:
        arguments["validation_data"] = (x, y)
    metalr = MetaLR("supervised", experience_dir=folder)
    arguments = {"epochs": 2, **arguments}
    callbacks = [*arguments.pop("callbacks", []), metalr]
    history = model.fit(
        x, y, callbacks=callbacks, **arguments, **fit_checks.FIT
    )
    return history.history, metalr.trace


@pytest.mark.large
def test_every_fit_leaves_its_run_and_learns_from_those_before(tmp_path):
    histories, traces = zip(*(fit(tmp_path) for _ in range(3)), strict=True)
    runs = experience.load(tmp_path)
    assert [run.monitor for run in runs] == ["val_loss"] * 3
    for run, history, trace in zip(runs, histories, traces, strict=True):
        assert run.outcome == pytest.approx(history["val_loss"][-1], rel=1e-6)
        np.testing.assert_array_equal(run.trace.rows, trace.rows)
    # The same seed: what differs is what the controller has learned.
    base = Controller.from_preset("supervised")
    for k, run in enumerate(runs):
        own = Controller.from_preset("supervised")
        experience.learn(own, runs[:k])
        np.testing.assert_allclose(
            run.trace["output"], outputs(own, run), atol=1e-4
        )
        if k:
            change = np.abs(run.trace["output"] - outputs(base, run))
            assert change.max() > 0.01


def test_without_validation_the_outcome_is_the_training_loss(tmp_path):
    _, trace = fit(tmp_path, validate=False)
    (run,) = experience.load(tmp_path)
    assert run.monitor == "loss"
    assert run.outcome == pytest.approx(float(trace["loss"][-1]))


def test_an_interrupted_fit_leaves_nothing(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, callbacks=[Interrupt()])
    assert experience.load(tmp_path) == []


def test_first_fit_is_a_fit_without_experience(tmp_path):
    with_folder, _ = fit(tmp_path)
    without, _ = fit(None)
    np.testing.assert_allclose(with_folder["loss"], without["loss"], rtol=1e-6)


def test_bad_folders(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"experience_dir.*folder"):
        MetaLR("supervised", experience_dir=file)
    with pytest.raises(ValueError, match=r"experience_dir.*3"):
        MetaLR("supervised", experience_dir=3)
    other = keras.Sequential(
        [keras.Input((len(FEATURE_NAMES),)), keras.layers.Dense(1)]
    )
    with pytest.raises(ValueError, match=r"keras_metalr\.Controller"):
        MetaLR(other, experience_dir=tmp_path)


def test_config_holds_the_folder(tmp_path):
    metalr = MetaLR("supervised", experience_dir=tmp_path, feedback=True)
    config = json.loads(json.dumps(metalr.get_config()))
    again = MetaLR.from_config(config)
    assert again.experience_dir == str(tmp_path) and again.feedback is True
