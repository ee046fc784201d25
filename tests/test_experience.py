"""Experience across runs: kept whole, ranked, searched for the next shift."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from keras_metalr import controller as controller_module
from keras_metalr import experience
from keras_metalr.controller import fingerprint
from keras_metalr.experience import Experience
from keras_metalr.features import FEATURE_NAMES
from tests import fit_checks

NUM_DECISIONS = 40


def made_up_run(outcome, shift=0.0, monitor="val_loss"):
    rows = np.zeros((NUM_DECISIONS, len(Trace.columns)), "float32")
    rows[:, 0] = np.arange(NUM_DECISIONS)
    return Experience(outcome, monitor, shift, Trace(rows))


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
    assert [run.shift for run in loaded] == [0.0, 0.1, 0.2]
    for run, back in zip(runs, loaded, strict=True):
        np.testing.assert_array_equal(run.trace.rows, back.trace.rows)


def test_ten_thousandth_run_comes_last(tmp_path):
    experience.save(tmp_path, made_up_run(1.0)).rename(
        tmp_path / "run-99999.json"
    )
    (tmp_path / "run-00001.npz").rename(tmp_path / "run-99999.npz")
    experience.save(tmp_path, made_up_run(2.0))
    assert [run.outcome for run in experience.load(tmp_path)] == [1.0, 2.0]


def test_half_written_run_is_no_run(tmp_path):
    experience.save(tmp_path, made_up_run(1.0)).unlink()
    assert experience.load(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"monitor": "loss", "outcome": "x", "shift": 0}',
        '{"monitor": "loss", "outcome": 1}',
        '{"monitor": "loss", "outcome": 1, "shift": 0}',
    ],
)
def test_damaged_run_is_an_error_that_names_the_file(tmp_path, text):
    file = experience.save(tmp_path, made_up_run(1.0))
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run-00001\.json.*Delete it"):
        experience.load(tmp_path)


@pytest.mark.parametrize("length", [0, 40])
def test_a_trace_that_was_cut_short_is_the_same_error(tmp_path, length):
    trace = experience.save(tmp_path, made_up_run(1.0)).with_suffix(".npz")
    trace.write_bytes(trace.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"run-00001\.json.*Delete it"):
        experience.load(tmp_path)


def test_file_is_json_that_any_reader_takes(tmp_path):
    file = experience.save(tmp_path, made_up_run(math.inf, 0.3))

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    record = json.loads(file.read_text(), parse_constant=refuse)
    assert record == {
        "monitor": "val_loss",
        "outcome": None,
        "shift": 0.3,
        "controller": "",
    }


def test_runs_that_end_at_the_same_time_have_their_own_numbers(tmp_path):
    """One is saved while the other has its trace there, and no JSON yet."""
    first = made_up_run(1.0)

    class Slow:
        def save(self, path):
            experience.save(tmp_path, made_up_run(2.0, 0.5))
            first.trace.save(path)

    slow = Experience(1.0, "val_loss", 0.0, Slow())
    assert experience.save(tmp_path, slow).name == "run-00001.json"
    runs = experience.load(tmp_path)
    assert [(run.outcome, run.shift) for run in runs] == [
        (1.0, 0.0),
        (2.0, 0.5),
    ]


def test_runs_of_another_controller_or_rule_are_left_out(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    mine, other = Controller(), Controller()
    marks = [fingerprint(each) for each in (mine, other)]
    for mark, outcome in zip(marks, (1.0, 2.0), strict=True):
        run = dataclasses.replace(made_up_run(outcome), controller=mark)
        experience.save(tmp_path, run)
    assert [run.outcome for run in experience.load(tmp_path)] == [1.0, 2.0]
    for controller, outcome in ((mine, 1.0), (other, 2.0)):
        (run,) = experience.load(tmp_path, controller)
        assert run.outcome == outcome
    mine.save_to_preset(str(tmp_path / "preset"))
    again = Controller.from_preset(str(tmp_path / "preset"))
    assert fingerprint(again) == marks[0]
    monkeypatch.setattr(controller_module, "RULE_VERSION", -1)
    assert experience.load(tmp_path, mine) == []


# -- The search. ------------------------------------------------------------


def test_normal_scores_worked_out_by_hand():
    # Shares of 1/8, 3/8, 5/8 and 7/8; the two that failed share their place.
    low, high = 1.1503493803760079, 0.31863936396437514
    scores = experience.normal_scores([5.0, 1.0, 9.0, 2.0])
    np.testing.assert_allclose(scores, [high, -low, low, -high])
    scores = experience.normal_scores([math.inf, 1.0, math.inf, 2.0])
    middle = 0.6744897501960817  # A share of 3/4.
    np.testing.assert_allclose(scores, [middle, -low, middle, -high])


@given(
    st.lists(
        st.integers(-1000, 1000) | st.just(math.inf), min_size=1, max_size=30
    )
)
def test_normal_scores(outcomes):
    scores = experience.normal_scores(outcomes)
    assert np.all(np.isfinite(scores))
    values = np.asarray(outcomes, float)
    for value, score in zip(values, scores, strict=True):
        np.testing.assert_array_equal(scores < score, values < value)
    # What counts is the order: not how far apart they lie.
    again = experience.normal_scores([3.0 * value + 7.0 for value in outcomes])
    np.testing.assert_allclose(scores, again)


def test_posterior_is_the_mean_and_spread_of_draws_that_fit():
    """Functions drawn from the prior, weighed by how well they fit."""
    tried, values = np.array([-1.0, 0.5]), np.array([0.8, -0.4])
    positions = np.array([-1.0, 0.0, 2.5])
    points = np.concatenate([tried, positions])
    distance = (points[:, None] - points[None, :]) / experience.LENGTH_SCALE
    covariance = np.exp(-(distance**2) / 2.0)
    draws = np.random.default_rng(0).multivariate_normal(
        np.zeros(5), covariance, size=400_000
    )
    error = np.sum(np.square(draws[:, :2] - values), axis=1)
    weights = np.exp(-error / (2.0 * experience.NOISE))
    weights /= weights.sum()
    expected_mean = weights @ draws[:, 2:]
    expected_variance = weights @ np.square(draws[:, 2:] - expected_mean)
    mean, deviation = experience.posterior(tried, values, positions)
    np.testing.assert_allclose(mean, expected_mean, atol=0.01)
    np.testing.assert_allclose(deviation**2, expected_variance, atol=0.01)


def gather(loss_of, num_runs=20, seed=0, noise=0.0):
    """A loop over made-up runs whose outcome depends on the shift."""
    generator = np.random.default_rng(seed)
    runs = []
    for _ in range(num_runs):
        shift = experience.next_shift(runs)
        outcome = loss_of(shift) + noise * generator.normal()
        runs.append(made_up_run(outcome, shift))
    return runs


@pytest.mark.parametrize("best", [-4.0, -0.4, 0.0, 0.4, 4.0])
def test_search_comes_to_the_best_shift(best):
    def loss_of(shift):
        return abs(np.arcsinh(2.0 * shift) - np.arcsinh(2.0 * best))

    runs = gather(loss_of)
    assert runs[0].shift == 0.0
    assert np.mean([loss_of(run.shift) for run in runs[-5:]]) < 0.5
    # From the other end of the range it would be 6 away.
    assert np.mean([loss_of(run.shift) for run in runs]) < 1.5


def test_search_bears_noise_and_runs_that_fail():
    """The loss falls up to a cliff, beyond which runs fail."""

    def loss_of(shift):
        return math.inf if shift > 2.0 else 1.0 - 0.3 * shift

    last = [
        np.median([run.outcome for run in gather(loss_of, 20, seed, 0.1)[-5:]])
        for seed in range(8)
    ]
    assert np.mean(last) < 0.75


def test_same_runs_always_give_the_same_shift():
    runs = gather(lambda shift: -shift, num_runs=4)
    assert experience.next_shift(runs) == experience.next_shift(list(runs))


@pytest.mark.parametrize("outcome", [1.0, math.inf])
def test_runs_that_are_all_alike_move_nothing_far(outcome):
    runs = [made_up_run(outcome)] * 3
    assert 0.0 < abs(experience.next_shift(runs)) < 1.5


@pytest.mark.parametrize("num_runs", [1, 5, 20])
@pytest.mark.parametrize("tried", [0.0, 1.5, 3.0])
def test_next_shift_worked_out_by_hand(num_runs, tried):
    # Runs that are alike have scores of 0, and tell as much as one with the
    # noise of a n-th: expected is 0.05 times the square of a position.
    shift = 0.5 * math.sinh(tried)
    runs = [made_up_run(1.0, shift) for _ in range(num_runs)]
    positions = np.linspace(-3.0, 3.0, 49)
    near = np.exp(-0.5 * (positions - tried) ** 2)
    known = num_runs / (num_runs + 0.5)
    mean = 0.05 * positions**2 - 0.05 * tried**2 * near * known
    deviation = np.sqrt(1.0 - near**2 * known)
    # From the fifth run on, the unknown is given less.
    doubt = min(1.0, math.sqrt(5.0 / num_runs))
    best = positions[np.argmin(mean - doubt * deviation)]
    assert experience.next_shift(runs) == pytest.approx(0.5 * math.sinh(best))


def test_runs_of_another_monitor_are_left_out():
    # By the number alone the first would be the best by far.
    runs = [
        made_up_run(0.001, 4.0, monitor="loss"),
        made_up_run(2.0, -0.4),
        made_up_run(3.0, 0.4),
    ]
    assert experience.next_shift(runs) == experience.next_shift(runs[1:])
    assert experience.next_shift(runs) < 0.0


# -- In `fit`. --------------------------------------------------------------


def fit(
    folder,
    seed=0,
    validate=True,
    verbose_metalr=0,
    guard=True,
    controller="supervised",
    **arguments,
):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(fit_checks.make_layers(normalize=False))
    model.compile(
        keras.optimizers.Adam(1e-3),
        fit_checks.cross_entropy(),
        **fit_checks.QUICK,
    )
    x, y = fit_checks.make_data()
    if validate:
        arguments["validation_data"] = (x, y)
    metalr = MetaLR(
        controller,
        experience_dir=folder,
        verbose=verbose_metalr,
        guard=guard,
    )
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
    # The same seed: what differs is what was added to the output.
    base = Controller.from_preset("supervised")
    for k, run in enumerate(runs):
        assert run.shift == np.float32(experience.next_shift(runs[:k]))
        states = np.stack([run.trace[name] for name in FEATURE_NAMES], axis=-1)
        outputs = keras.ops.convert_to_numpy(base(states))[:, 0]
        np.testing.assert_allclose(
            run.trace["output"], outputs + run.shift, atol=1e-4
        )
    assert len({run.shift for run in runs}) == 3


def test_a_run_can_say_what_it_tried(tmp_path, capsys):
    mark = fingerprint(Controller.from_preset("supervised"))
    for shift, outcome in ((0.0, 2.0), (0.5, 1.0)):
        run = dataclasses.replace(made_up_run(outcome, shift), controller=mark)
        experience.save(tmp_path, run)
    # By another controller, and not to be learned from.
    experience.save(tmp_path, made_up_run(0.1, -4.0))
    expected = experience.next_shift(experience.load(tmp_path)[:2])
    fit(tmp_path, verbose_metalr=1)
    shown = capsys.readouterr().out
    assert f"shifted the controller's output by {expected:+.2f}." in shown
    assert expected > 0.0
    assert experience.load(tmp_path)[-1].shift == np.float32(expected)


def test_a_resumed_run_keeps_its_shift(tmp_path):
    """Whatever other runs have left in the meantime."""
    folder, file = tmp_path / "runs", str(tmp_path / "run.keras")
    mark = fingerprint(Controller.from_preset("supervised"))
    for shift, outcome in ((0.0, 2.0), (0.5, 1.0)):
        run = dataclasses.replace(made_up_run(outcome, shift), controller=mark)
        experience.save(folder, run)
    expected = experience.next_shift(experience.load(folder))

    class Leave(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(file)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(folder, callbacks=[Leave()])
    better = made_up_run(0.1, -4.0)
    experience.save(folder, dataclasses.replace(better, controller=mark))
    assert experience.next_shift(experience.load(folder)) != expected
    metalr = MetaLR("supervised", experience_dir=folder).restore(file)
    x, y = fit_checks.make_data()
    keras.models.load_model(file).fit(
        x,
        y,
        initial_epoch=1,
        epochs=2,
        validation_data=(x, y),
        callbacks=[metalr],
        **fit_checks.FIT,
    )
    assert experience.load(folder)[-1].shift == np.float32(expected)


def test_a_resumed_run_keeps_its_controller(tmp_path):
    """Whatever controller the MetaLR that resumes it was given."""
    folder, file = tmp_path / "runs", str(tmp_path / "run.keras")
    keras.utils.set_random_seed(0)
    began_with, other = Controller(), Controller()

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.save(file)

    def resumed(metalr):
        x, y = fit_checks.make_data()
        keras.models.load_model(file).fit(
            x,
            y,
            initial_epoch=1,
            epochs=2,
            callbacks=[metalr.restore(file)],
            **fit_checks.FIT,
        )
        return experience.load(folder)[-1]

    fit(folder, controller=began_with, callbacks=[Save()])
    expected = resumed(MetaLR(began_with, experience_dir=folder))
    found = resumed(MetaLR(other, experience_dir=folder))
    assert found.controller == expected.controller == fingerprint(began_with)
    np.testing.assert_array_equal(
        found.trace["output"], expected.trace["output"]
    )


def test_without_validation_the_outcome_is_the_training_loss(tmp_path):
    _, trace = fit(tmp_path, validate=False)
    (run,) = experience.load(tmp_path)
    assert run.monitor == "loss"
    assert run.outcome == pytest.approx(float(trace["loss"][-1]))


class Break(keras.callbacks.Callback):
    """Makes the weights NaN as an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            # The last layer's: on some processors a ReLU makes 0 of NaN.
            kernel = self.model.trainable_variables[-2]
            kernel.assign(np.full(kernel.shape, np.nan, "float32"))


@pytest.mark.parametrize("validate", [True, False])
def test_a_run_that_broke_without_the_guard_is_the_worst(validate, tmp_path):
    fit(
        tmp_path, epochs=2, validate=validate, guard=False, callbacks=[Break(1)]
    )
    (run,) = experience.load(tmp_path)
    assert run.outcome == math.inf
    assert run.monitor == ("val_loss" if validate else "loss")


def test_an_interrupted_fit_leaves_nothing(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, callbacks=[Interrupt()])
    assert experience.load(tmp_path) == []


def test_a_folder_that_is_gone_costs_no_run(tmp_path):
    folder = tmp_path / "experience"

    class Replace(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            folder.rmdir()
            folder.write_text("a file in its place")

    with pytest.warns(UserWarning, match="could not add this run to"):
        history, trace = fit(folder, epochs=1, callbacks=[Replace()])
    assert len(history["loss"]) == 1 and len(trace) == 6


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


def test_config_holds_the_folder(tmp_path):
    metalr = MetaLR("supervised", experience_dir=tmp_path, feedback=True)
    config = json.loads(json.dumps(metalr.get_config()))
    again = MetaLR.from_config(config)
    assert again.experience_dir == str(tmp_path) and again.feedback is True
