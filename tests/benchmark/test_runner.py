"""Real, short runs on the digits."""

import dataclasses
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.benchmark import COMPETITORS
from keras_metalr.benchmark import Competitor
from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark import identity as benchmark_identity
from keras_metalr.benchmark import run
from keras_metalr.benchmark import runner
from keras_metalr.benchmark.curves import loss_curve
from keras_metalr.benchmark.observers import StepLosses
from keras_metalr.benchmark.records import NotSavedError
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.runner import identity
from keras_metalr.benchmark.scoring import stability
from keras_metalr.benchmark.text import results_line


@pytest.fixture(scope="module")
def digits():
    workload = workloads.get("digits")
    return workload, workload.load_data()


def _linear_model():
    # Without an activation, which may turn NaN into 0.
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs)


def test_static_run_has_every_figure(digits):
    workload, data = digits
    result = run(workload, RunConfig(epochs=2), data=data)
    figures = result.results
    for name in (
        "eval_loss",
        "eval_accuracy",
        "eval_f1",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "epoch",
    ):
        assert math.isfinite(figures[name]), name
    assert figures["eval_loss"] == pytest.approx(
        result.history["val_loss"][-1], rel=1e-4
    )
    assert figures["eval_accuracy"] > 0.5
    assert figures["eval_f1"] == pytest.approx(
        figures["eval_accuracy"], abs=0.1
    )
    assert figures["num_steps"] == 44
    assert figures["num_weights"] == 38_282
    assert figures["epoch"] == pytest.approx(44 * 64 / 1437)
    assert result.config["learning_rate"] == workload.learning_rate
    assert result.curves["loss"]["per"] == "epoch"
    assert result.curves["loss"]["step"] == [22, 44]
    assert not result.diverged and not result.resumed and result.path is None


@pytest.mark.backend_independent
def test_record_is_written_once_and_read_back(digits, tmp_path):
    workload, data = digits
    config = RunConfig(steps=6, learning_rate=0.01)
    first = run(workload, config, data=data, output=tmp_path)
    assert first.path.parent == tmp_path
    text = first.path.read_text()
    again = run(workload, config, output=tmp_path)
    assert again.resumed
    assert again.results == first.results
    assert again.curves == first.curves
    assert first.path.read_text() == text
    other = run(workload, RunConfig(steps=7), data=data, output=tmp_path)
    assert not other.resumed
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.backend_independent
def test_a_record_of_other_data_is_not_read_back(digits, tmp_path):
    workload, data = digits
    lossy = dataclasses.replace(data, note="lossy copy")

    def made(data):
        return run(workload, RunConfig(steps=2), data=data, output=tmp_path)

    made(data)
    other = made(lossy)
    assert not other.resumed and other.data_note == "lossy copy"
    assert made(lossy).resumed and not made(data).resumed


@pytest.mark.backend_independent
def test_a_folder_that_takes_no_record_is_found_before_training(
    digits, tmp_path, monkeypatch
):
    workload, data = digits
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(runner, "_train", None)
    with pytest.raises(OSError, match=r"folder .*file.*Name another"):
        run(workload, RunConfig(steps=2), data=data, output=file)


@pytest.mark.backend_independent
def test_a_run_that_cannot_be_saved_is_not_lost(digits, tmp_path, monkeypatch):
    workload, data = digits

    def refuse(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(RunResult, "save", refuse)
    with pytest.raises(NotSavedError, match="No space left") as caught:
        run(workload, RunConfig(steps=2), data=data, output=tmp_path)
    assert caught.value.result.results["num_steps"] == 2
    assert caught.value.result.path is None


@pytest.mark.backend_independent
def test_further_evaluations_before_and_after(digits, tmp_path):
    workload, data = digits
    data = dataclasses.replace(data, note="a note")
    config = RunConfig(epochs=1, evaluation_examples=(100, None))
    result = run(workload, config, data=data, output=tmp_path)
    lines = result.evaluations
    assert [(line["when"], line["num_examples"]) for line in lines] == [
        ("before training", 100),
        ("before training", 360),
        ("after training", 100),
        ("after training", 360),
    ]
    assert lines[1]["eval_loss"] == pytest.approx(math.log(10), rel=0.1)
    for name in ("eval_loss", "eval_accuracy", "eval_f1"):
        assert lines[3][name] == pytest.approx(result.results[name], rel=1e-5)
        assert lines[2][name] != lines[3][name]
    assert lines[0]["epoch"] == 0.0
    assert lines[3]["epoch"] == result.results["epoch"]
    # It is another run than one without, whose record keeps its name.
    assert "evaluation_examples" not in identity(workload, RunConfig())
    again = run(workload, config, data=data, output=tmp_path)
    assert again.resumed
    assert again.evaluations == lines
    assert again.data_note == "a note"
    assert "eval_f1" in results_line(lines[0])


@pytest.mark.backend_independent
def test_under_another_rule_it_is_another_run(digits, tmp_path, monkeypatch):
    workload, data = digits

    def made(method):
        config = RunConfig(method=method, steps=3)
        return run(workload, config, data=data, output=tmp_path)

    first = made("metalr")
    assert not made("static").resumed
    assert made("metalr").resumed
    monkeypatch.setattr(benchmark_identity, "RULE_VERSION", 99)
    other = made("metalr")
    assert not other.resumed and other.path != first.path
    assert other.config["controller"].endswith("-rule99")
    assert "controller" not in made("static").config and made("static").resumed


@pytest.mark.backend_independent
def test_record_names_no_machine(digits, tmp_path):
    import getpass
    import socket

    workload, data = digits
    result = run(workload, RunConfig(steps=2), data=data, output=tmp_path)
    content = json.loads(result.path.read_text())
    assert content["environment"]["backend"] == keras.backend.backend()
    assert content["environment"]["versions"]["keras"] == keras.__version__
    for secret in (socket.gethostname(), str(tmp_path)):
        assert secret not in result.path.read_text()
    assert f'"{getpass.getuser()}"' not in result.path.read_text()


@pytest.mark.backend_independent
def test_one_seed_gives_one_run_and_every_method_the_same_start(digits):
    workload, data = digits

    def losses(**changes):
        config = RunConfig(**{"steps": 4, "record_steps": True, **changes})
        curve = run(workload, config, data=data).curves["loss"]
        assert curve["per"] == "step"
        assert curve["step"] == [1, 2, 3, 4]
        return curve["value"]

    static = losses()
    np.testing.assert_allclose(losses(), static, rtol=1e-4)
    cosine = losses(method="cosine")
    assert cosine[0] == pytest.approx(static[0], rel=1e-5)
    assert losses(seed=1)[0] != pytest.approx(static[0], rel=1e-5)


def test_step_losses_are_those_of_the_batches(digits):
    workload, data = digits
    # So small a rate that the weights stay: the losses are those of the
    # untrained model, batch by batch.
    config = RunConfig(
        learning_rate=1e-12, steps=5, epochs=1, record_steps=True, seed=4
    )
    curve = run(workload, config, data=data).curves["loss"]
    keras.utils.set_random_seed(4)
    model = workload.compiled_model()
    batches = data.train_batches(workload.batch_size, seed=4).take(5)
    expected = [
        model.test_on_batch(x, y, return_dict=True)["loss"]
        for x, y in batches.as_numpy_iterator()
        if model.reset_metrics() is None
    ]
    np.testing.assert_allclose(curve["value"], expected, rtol=1e-4)


@pytest.mark.backend_independent
def test_a_loss_below_rounding_is_told_from_one_that_is_not_finite():
    observer = StepLosses()
    # Keras's means, in float32, of 1e9, 1 (lost), 5e8 and infinity.
    for batch, mean in enumerate((1e9, 5e8, 5e8, math.inf)):
        observer.on_train_batch_end(batch, {"loss": np.float32(mean)})
    assert observer.losses == [1e9, None, 5e8, math.inf]
    assert stability(observer.losses) == math.inf
    assert stability(observer.losses[:3]) == pytest.approx(6.25e16)
    values = loss_curve([1.0], 4, observer.losses)["value"]
    assert math.isnan(values[1]) and values[2:] == [5e8, math.inf]


@pytest.mark.backend_independent
def test_epochs_count_a_batch_no_larger_than_the_data(digits):
    workload, data = digits
    few = dataclasses.replace(
        data, x_train=data.x_train[:16], y_train=data.y_train[:16]
    )
    result = run(workload, RunConfig(epochs=3), data=few)
    assert workload.batch_size > 16
    assert result.results["epoch"] == 3.0
    # Half of three losses, one an epoch, is two: not too few.
    assert math.isfinite(result.results["stability_last_half"])


def test_diverged_run_is_recorded_and_cut_short(digits, tmp_path):
    _, data = digits
    workload = workloads.get("digits", optimizer="sgd").replace(
        build_model=_linear_model
    )
    config = RunConfig(
        learning_rate=1e38, steps=12, epochs=4, record_steps=True
    )
    result = run(workload, config, data=data, output=tmp_path)
    assert result.diverged
    assert len(result.history["loss"]) == 1
    assert result.results["epochs_to_target"] == math.inf
    assert result.results["stability"] == math.inf
    assert 0.0 <= result.results["eval_f1"] < 0.5
    assert run(workload, config, output=tmp_path).diverged


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(None, 30, (2, 15)), (2, 5, (2, 3)), (50, 2, (2, 1))],
)
def test_budget(digits, epochs, steps, expected):
    workload, data = digits
    result = run(
        workload,
        RunConfig(epochs=epochs, steps=steps, learning_rate=1e-3),
        data=data,
    )
    num_epochs, steps_per_epoch = expected
    assert len(result.history["loss"]) == num_epochs
    assert result.results["num_steps"] == num_epochs * steps_per_epoch


@pytest.mark.backend_independent
def test_cosine_warms_up_and_ends_at_zero(digits):
    workload, data = digits
    config = RunConfig(method="cosine", learning_rate=0.02, steps=20)
    curve = run(workload, config, data=data).curves["learning_rate"]
    assert curve["step"] == list(range(1, 21))
    assert np.argmax(curve["value"]) == 2
    assert max(curve["value"]) == pytest.approx(0.02, rel=1e-5)
    assert curve["value"][-1] < 1e-3


def test_metalr_run_has_curves(
    digits, controller_folder, tmp_path, monkeypatch
):
    workload, data = digits
    config = RunConfig(
        method="metalr",
        learning_rate=10.0,
        steps=10,
        epochs=2,
        method_options={"controller": controller_folder},
    )
    result = run(workload, config, data=data, output=tmp_path)
    assert math.isfinite(result.results["eval_loss"])
    for name in ("loss", "learning_rate"):
        curve = result.curves[name]
        assert curve["per"] == "decision"
        assert len(curve["value"]) == len(curve["step"]) > 0
        assert np.all(np.isfinite(curve["value"]))
    last = result.curves["learning_rate"]["value"][-1]
    assert last == pytest.approx(result.history["learning_rate"][-1])
    assert len(result.history["learning_rate"]) == 2
    # It is the same run from wherever its controller is called.
    folder = Path(controller_folder)
    assert result.config["method_options"] == {"controller": folder.name}
    monkeypatch.chdir(folder.parent)
    for name in (controller_folder, folder.name):
        options = {"controller": name}
        same = dataclasses.replace(config, method_options=options)
        again = run(workload, same, output=tmp_path)
        assert again.resumed and again.results == result.results


@pytest.mark.backend_independent
def test_a_new_method_needs_a_function_and_a_name(digits, monkeypatch):
    workload, data = digits

    def halved(learning_rate, num_steps, by=2.0):
        return Competitor(learning_rate / by)

    monkeypatch.setitem(COMPETITORS, "halved", halved)
    config = RunConfig(
        method="halved",
        learning_rate=0.01,
        steps=2,
        method_options={"by": 4.0},
    )
    curve = run(workload, config, data=data).curves["learning_rate"]
    assert curve["value"] == [0.0025, 0.0025]


def test_mixed_precision_is_on_inside_the_run_alone(digits):
    workload, data = digits
    config = RunConfig(steps=3, mixed_precision="on")
    before = keras.config.dtype_policy().name
    inside = []

    def build_model():
        inside.append(keras.config.dtype_policy().name)
        return workload.build_model()

    watched = workload.replace(build_model=build_model)
    result = run(watched, config, data=data)
    assert inside == [result.config["mixed_precision"]]
    assert inside[0].startswith("mixed_")
    assert math.isfinite(result.results["eval_loss"])
    assert keras.config.dtype_policy().name == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "method='magic'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"epochs": 0}, "epochs=0"),
        ({"steps": -1}, "steps=-1"),
        ({"mixed_precision": "half"}, "mixed_precision='half'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
    ],
)
def test_config_out_of_range(digits, arguments, message):
    workload, data = digits
    with pytest.raises(ValueError, match=message):
        run(workload, RunConfig(**arguments), data=data)


@pytest.mark.backend_independent
def test_a_workload_without_an_accuracy(digits):
    workload, data = digits
    plain = workload.replace(metrics=())
    config = RunConfig(learning_rate=0.01, steps=2)
    results = run(plain, config, data=data).results
    assert math.isfinite(results["eval_loss"])
    for name in ("eval_accuracy", "eval_f1", "epochs_to_target"):
        assert name not in results
