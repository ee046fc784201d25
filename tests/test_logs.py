"""What a run reports, through Keras's own callbacks and through the trace."""

import csv
import importlib.util
import json
import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import constant_controller
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data
from tests.fit_checks import random_controller

RATE = 0.01


def _metalr(**kwargs: Any) -> MetaLR:
    """Lowers the rate at every decision."""
    return MetaLR(constant_controller(), safe_start=False, **kwargs)


def _fit(*callbacks: keras.callbacks.Callback, **kwargs: Any) -> dict:
    """The history of a fit of three epochs, as plain data."""
    x, y = make_data()
    model = kwargs.pop("model", None) or _model()
    arguments = {**FIT, "epochs": 3, **kwargs}
    return model.fit(x, y, callbacks=list(callbacks), **arguments).history


def _model(optimizer: Any = None, **kwargs: Any) -> keras.Model:
    """With biases that differ: new weights that learn nothing are hurried."""
    optimizer = optimizer or keras.optimizers.Adam(RATE)
    model = compiled(optimizer, metrics=["accuracy"], **{**QUICK, **kwargs})
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign_add(np.linspace(-1e-3, 1e-3, variable.shape[0]))
    return model


VALIDATE = {"validation_data": make_data()}
KEYS = {"loss", "accuracy", "val_loss", "val_accuracy"}
NEW_KEYS = {"learning_rate", "grad_norm"}
IN_BOTH_ORDERS = pytest.mark.parametrize(
    "metalr_first", [pytest.param(True, marks=pytest.mark.large), False]
)


@IN_BOTH_ORDERS
def test_history_holds_the_rate_as_a_number(metalr_first):
    other = keras.callbacks.LambdaCallback()
    metalr = _metalr()
    callbacks = [metalr, other] if metalr_first else [other, metalr]
    history = _fit(*callbacks, **VALIDATE)
    assert set(history) == KEYS | NEW_KEYS
    for key in NEW_KEYS:
        assert [type(value) for value in history[key]] == [float] * 3
    json.dumps(history)
    # One value an epoch, each its own: not one tensor that moves on.
    rates = history["learning_rate"]
    assert rates[0] > rates[1] > rates[2] > 0
    last_of_epoch = metalr.trace["learning_rate"][5::6]
    np.testing.assert_allclose(rates, last_of_epoch, rtol=1e-6)
    last_norms = metalr.trace["grad_norm"][5::6]
    np.testing.assert_allclose(history["grad_norm"], last_norms, rtol=1e-6)


class _Constant(keras.metrics.Mean):
    """A metric of the user's own, whatever is predicted."""

    def update_state(self, y: Any, y_pred: Any, sample_weight: Any = None):
        return super().update_state(7.0)


def test_a_metric_of_the_users_own_keeps_its_name():
    model = _model()
    model.compile(
        keras.optimizers.Adam(RATE),
        loss=model.loss,
        metrics=["accuracy", _Constant(name="grad_norm")],
        **QUICK,
    )
    metalr = _metalr()
    history = _fit(metalr, model=model, **VALIDATE)
    assert set(history) == KEYS | NEW_KEYS | {"val_grad_norm"}
    assert history["grad_norm"] == history["val_grad_norm"] == [7.0] * 3
    # What was measured is in the trace, and the rest in the logs.
    assert np.all(metalr.trace["grad_norm"] != 7.0)
    last_of_epoch = metalr.trace["learning_rate"][5::6]
    np.testing.assert_allclose(
        history["learning_rate"], last_of_epoch, rtol=1e-6
    )


def test_batch_hooks_see_the_rate_of_their_batch():
    rates = []

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(logs["learning_rate"]))

    metalr = _metalr()
    _fit(metalr, Recorder(), epochs=1)
    np.testing.assert_allclose(rates, metalr.trace["learning_rate"], rtol=1e-6)


@IN_BOTH_ORDERS
def test_csv_logger_has_the_columns_from_the_first_epoch(
    tmp_path, metalr_first
):
    path = tmp_path / "log.csv"
    logger = keras.callbacks.CSVLogger(str(path))
    metalr = _metalr()
    callbacks = [metalr, logger] if metalr_first else [logger, metalr]
    history = _fit(*callbacks, **VALIDATE)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"epoch", *KEYS, *NEW_KEYS}
    for key in NEW_KEYS:
        values = [float(row[key]) for row in rows]
        assert values == pytest.approx(history[key], rel=1e-6)


def test_tensorboard(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("Keras's TensorBoard callback needs TensorFlow")
    from tensorboard.backend.event_processing import event_accumulator

    board = keras.callbacks.TensorBoard(str(tmp_path), update_freq="epoch")
    history = _fit(_metalr(), board)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "train"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = events.Tags()["tensors"]
    assert {"epoch_learning_rate", "epoch_grad_norm"} <= set(tags)
    import tensorflow as tf

    for key in NEW_KEYS:
        values = [
            float(tf.make_ndarray(event.tensor_proto))
            for event in events.Tensors(f"epoch_{key}")
        ]
        assert values == pytest.approx(history[key], rel=1e-6)


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_progress_bar_shows_both(verbose, capsys):
    history = _fit(_metalr(), verbose=verbose, epochs=1)
    shown = capsys.readouterr().out
    assert "grad_norm: " in shown
    value = shown.rpartition("learning_rate: ")[2].split()[0]
    # The bar rounds to four digits.
    assert float(value) == pytest.approx(history["learning_rate"][0], abs=1e-4)


def test_a_file_name_may_hold_the_rate(tmp_path):
    pattern = str(tmp_path / "{epoch}-{learning_rate:.6f}.weights.h5")
    history = _fit(
        _metalr(),
        keras.callbacks.ModelCheckpoint(pattern, save_weights_only=True),
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"{epoch}-{rate:.6f}.weights.h5"
        for epoch, rate in enumerate(history["learning_rate"], start=1)
    }


# -- Beside Keras's callbacks that act. -------------------------------------


@IN_BOTH_ORDERS
def test_early_stopping_stops_and_restores(metalr_first):
    model = _model()
    optimizer = model.optimizer
    weights = []

    class Recorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.get_weights())

    stopping = keras.callbacks.EarlyStopping(
        # The rate falls at every epoch: never better than at first.
        monitor="learning_rate",
        mode="max",
        patience=1,
        restore_best_weights=True,
    )
    metalr = _metalr()
    callbacks = [metalr, stopping] if metalr_first else [stopping, metalr]
    history = _fit(Recorder(), *callbacks, model=model, epochs=5)
    assert len(history["loss"]) == 2
    assert len(metalr.trace) == 12
    assert_clean(model, optimizer, RATE)
    assert largest_difference(weights[0], model.get_weights()) == 0.0


def _warm(epoch: int, rate: float) -> float:
    return 0.5


def _set_the_rate() -> list[keras.callbacks.Callback]:
    return [
        keras.callbacks.LearningRateScheduler(_warm),
        keras.callbacks.ReduceLROnPlateau(
            monitor="loss", patience=1, min_delta=1e9, factor=0.1, min_lr=0
        ),
    ]


def test_callbacks_that_set_the_rate_are_overruled():
    alone, before, after = _metalr(), _metalr(), _metalr()
    expected = _fit(alone)
    for metalr, callbacks in (
        (before, [before, *_set_the_rate()]),
        (after, [*_set_the_rate(), after]),
    ):
        model = _model()
        optimizer = model.optimizer
        history = _fit(*callbacks, model=model)
        np.testing.assert_allclose(
            metalr.trace["learning_rate"],
            alone.trace["learning_rate"],
            rtol=1e-6,
        )
        rates = expected["learning_rate"]
        assert history["learning_rate"] == pytest.approx(rates)
        assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert_clean(model, optimizer, RATE)


def test_swapping_in_the_weights_averages():
    weights = []
    for callbacks in ([], [MetaLR(Controller(), safe_start=False)]):
        model = _model(keras.optimizers.Adam(RATE, use_ema=True))
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        optimizer = model.optimizer
        _fit(*callbacks, swap, model=model)
        assert_clean(model, optimizer, RATE, model.train_function)
        weights.append(model.get_weights())
    assert largest_difference(*weights) < 1e-6


def test_terminate_on_nan_agrees_with_a_healthy_run():
    history = _fit(_metalr(), keras.callbacks.TerminateOnNaN())
    assert len(history["loss"]) == 3


# -- The trace. -------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_steps", "epochs", "interval"),
    [
        pytest.param(6, 3, 1, id="short"),
        pytest.param(7, 46, 2, id="epochs that end between decisions"),
    ],
)
def test_the_trace_has_one_row_a_decision(num_steps, epochs, interval):
    x, y = make_data(num_steps * BATCH_SIZE)
    metalr = MetaLR(constant_controller(-0.02), safe_start=False)
    model = _model()
    history = model.fit(x, y, epochs=epochs, callbacks=[metalr], **FIT).history
    trace, total = metalr.trace, num_steps * epochs
    steps = np.arange(interval, total + 1, interval)
    assert isinstance(trace, Trace)
    np.testing.assert_array_equal(trace["step"], steps)
    assert trace.rows.shape == (len(steps), len(trace.columns))
    assert trace.rows.dtype == np.float32
    assert trace.columns[:4] == ("step", "loss", "learning_rate", "grad_norm")
    assert {"output", "event"} <= set(trace.columns)
    np.testing.assert_allclose(trace["output"], -0.02, rtol=1e-5)
    assert (np.diff(trace["learning_rate"]) < 0).all()
    # Every row but the last set the rate that its epoch ended with.
    ends = [math.ceil(n * num_steps / interval) - 1 for n in (1, epochs)]
    shown = [history["learning_rate"][0], history["learning_rate"][-1]]
    np.testing.assert_allclose(trace["learning_rate"][ends], shown, rtol=1e-5)


def test_rows_that_are_used_again_stay_in_order():
    """A run of more decisions than the trace has rows, 400: it is told ten."""
    x, y = make_data(410 * BATCH_SIZE)
    metalr = MetaLR(Controller(), total_steps=10)
    model = compiled("sgd", normalize=False, drop=False, **QUICK)
    model.fit(x, y, callbacks=[metalr], **FIT)
    np.testing.assert_array_equal(metalr.trace["step"], np.arange(11, 411))


def test_a_run_that_ends_before_its_first_decision_says_so():
    metalr = _metalr()

    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.warns(UserWarning, match=r"after 6 of 2,147,483,647 steps"):
        _fit(metalr, Enough(), epochs=10**9)
    assert len(metalr.trace) == 0


def test_the_trace_is_up_to_date_at_every_epochs_end():
    lengths = []
    metalr = _metalr()

    class Recorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            lengths.append(len(metalr.trace))

    _fit(metalr, Recorder())
    assert lengths == [6, 12, 18]


def test_the_loss_in_the_trace_is_that_of_each_batch():
    losses = []

    class Losses(keras.callbacks.Callback):
        """From the mean over the epoch so far, which is what Keras logs."""

        def on_train_batch_end(self, batch, logs=None):
            so_far = float(logs["loss"]) * (batch + 1)
            losses.append(so_far - sum(losses))

    metalr = _metalr()
    _fit(metalr, Losses(), epochs=1)
    np.testing.assert_allclose(metalr.trace["loss"], losses, rtol=1e-4)


def test_verbose_prints_one_line(capsys):
    _fit(_metalr(verbose=1))
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1
    assert "18 decisions" in lines[0]
    _fit(_metalr())
    assert capsys.readouterr().out == ""


# -- The callback's own config. ---------------------------------------------


def test_config_of_a_folder_with_the_name_of_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("general")
    random_controller().save_to_preset(folder)
    config = json.loads(json.dumps(MetaLR(folder).get_config()))
    again = MetaLR.from_config(config)._controller_model
    for found, expected in zip(
        again.get_weights(), random_controller().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_config_holds_every_argument():
    arguments = {
        "total_steps": 7,
        "min_learning_rate": 1e-5,
        "max_learning_rate": 0.5,
        "safe_start": False,
        "guard": False,
        "feedback": True,
        "experience_dir": "experience",
        "pretrained": True,
        "verbose": 1,
    }
    metalr = MetaLR("general", **arguments)
    config = metalr.get_config()
    assert config == {"controller": "general", **arguments}
    again = MetaLR.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert MetaLR.from_config(MetaLR().get_config()).get_config() == (
        MetaLR().get_config()
    )


def test_config_of_a_controller_by_path(tmp_path):
    Controller().save_to_preset(str(tmp_path))
    config = json.loads(json.dumps(MetaLR(tmp_path).get_config()))
    assert config["controller"] == str(tmp_path)
    assert MetaLR.from_config(config).get_config() == config


def test_serialization_by_keras():
    serialized = keras.saving.serialize_keras_object(MetaLR(total_steps=9))
    assert serialized["registered_name"] == "keras_metalr>MetaLR"
    text = json.dumps(serialized)
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert isinstance(again, MetaLR)
    assert again.get_config() == MetaLR(total_steps=9).get_config()


def test_config_of_an_own_controller():
    metalr = MetaLR(Controller(hidden_units=(8,)))
    config = json.loads(json.dumps(metalr.get_config()))
    again = MetaLR.from_config(config)
    assert again.controller.hidden_units == (8,)
    assert "grad_norm" in _fit(again, epochs=1)
    # The config that it was made from is not changed.
    assert json.loads(json.dumps(metalr.get_config())) == config
