"""Within `fit` the controller reads the loss on validation data, and no other.

Every epoch has six steps, and every step a decision.
"""

from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from keras_metalr import update_rule
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.features import NUM_FEATURES
from tests import reference
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import compiled
from tests.fit_checks import constant_controller
from tests.fit_checks import make_data

EPOCHS = 5
STEPS = 6
COLUMNS = (
    "validated",
    "validation_trend",
    "validation_rise",
    "validation_gap",
)


def _other_data(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Examples with labels of their own: what is learned by heart is wrong."""
    x, _ = make_data(24)
    labels = np.random.default_rng(seed).integers(0, 3, len(x))
    return x + 0.5, labels.astype("int32")


def _run(
    *callbacks: keras.callbacks.Callback,
    metalr: MetaLR | None = None,
    kind: str = "functional",
    compile_arguments: dict | None = None,
    **kwargs: Any,
) -> tuple[np.ndarray, dict]:
    """The rows of the trace, and the history, of five epochs at one rate."""
    # Without Dropout: the data loader of torch draws from its generator, and
    # draws once more for every evaluation.
    model = compiled(
        keras.optimizers.Adam(0.05),
        kind,
        drop=False,
        **{**QUICK, **(compile_arguments or {})},
    )
    metalr = metalr or MetaLR(Controller(), safe_start=False, guard=False)
    x, y = make_data()
    history = model.fit(
        x, y, epochs=EPOCHS, callbacks=[metalr, *callbacks], **FIT, **kwargs
    ).history
    np.testing.assert_array_equal(
        metalr.trace["step"], np.arange(1, EPOCHS * STEPS + 1)
    )
    return metalr.trace.rows, history


def _column(rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, Trace.columns.index(name)]


def _expected(rows: np.ndarray, losses: dict[int, float]) -> np.ndarray:
    """The four columns, from each batch's loss and the validations.

    Args:
        rows: Array, the rows of the trace.
        losses: Dict from an epoch, counted from 1, to its validation loss.
    """
    loss = _column(rows, "loss")
    expected = []
    for n in range(1, len(rows) + 1):
        # A validation comes after the last step of its epoch.
        known = [v for epoch, v in losses.items() if epoch * STEPS < n]
        slow = reference.ema(loss[:n], 0.96)
        expected.append(reference.validation_features(known, slow))
    return np.clip(expected, -4.0, 4.0)


def _check(rows: np.ndarray, losses: dict[int, float]) -> None:
    expected = _expected(rows, losses)
    for name, column in zip(COLUMNS, expected.T, strict=True):
        np.testing.assert_allclose(
            _column(rows, name), column, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(
    ("frequency", "epochs"),
    [
        pytest.param(1, (1, 2, 3, 4, 5), id="every epoch"),
        pytest.param(2, (2, 4), id="every other epoch"),
        pytest.param([3, 4], (3, 4), id="some epochs"),
    ],
)
def test_the_controller_reads_what_the_history_says(frequency, epochs):
    rows, history = _run(
        validation_data=_other_data(), validation_freq=frequency
    )
    losses = dict(zip(epochs, history["val_loss"], strict=True))
    # It is worth reading: it falls or rises, and is not the training loss.
    assert np.ptp(np.log(history["val_loss"])) > 0.02
    assert abs(np.log(history["val_loss"][0] / history["loss"][0])) > 0.05
    _check(rows, losses)
    told = np.arange(1, EPOCHS * STEPS + 1) > epochs[0] * STEPS
    np.testing.assert_array_equal(_column(rows, "validated"), told)
    for name in COLUMNS:
        column = _column(rows, name)
        assert not np.any(column[:STEPS])
        assert np.any(column), name


def test_a_part_of_the_data_held_back():
    x, y = make_data(80)
    metalr = MetaLR(Controller(), safe_start=False, guard=False)
    model = compiled(keras.optimizers.Adam(0.05), drop=False, **QUICK)
    history = model.fit(
        x, y, validation_split=0.4, epochs=3, callbacks=[metalr], **FIT
    ).history
    _check(metalr.trace.rows, dict(enumerate(history["val_loss"], 1)))


@pytest.mark.parametrize(
    "arguments",
    [
        # Its state does not exist before the first step.
        pytest.param({"kind": "unbuilt"}, id="unbuilt"),
        pytest.param(
            {"compile_arguments": {"steps_per_execution": 3}},
            id="three steps",
            marks=pytest.mark.skipif(
                keras.backend.backend() == "torch",
                reason="Keras takes steps_per_execution=1 alone on PyTorch",
            ),
        ),
        pytest.param(
            {"compile_arguments": {"run_eagerly": True, "jit_compile": False}},
            id="eager",
        ),
    ],
)
def test_in_other_ways_to_train(arguments):
    rows, history = _run(validation_data=_other_data(), **arguments)
    _check(rows, dict(enumerate(history["val_loss"], 1)))


def test_without_validation_data_all_are_0():
    rows, _ = _run()
    for name in COLUMNS:
        np.testing.assert_array_equal(_column(rows, name), 0.0)


def test_a_loss_that_is_not_finite_tells_nothing():
    weights = np.ones(24, "float32")
    weights[3] = np.nan
    rows, history = _run(validation_data=(*_other_data(), weights))
    assert not np.any(np.isfinite(history["val_loss"]))
    for name in COLUMNS:
        np.testing.assert_array_equal(_column(rows, name), 0.0)


class _Evaluate(keras.callbacks.Callback):
    """A user's own look at other data, in the middle of `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def _evaluate(self) -> None:
        x, y = _other_data(seed=2)
        self.losses.append(self.model.evaluate(x, y, verbose=0))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._evaluate()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._evaluate()


@pytest.mark.parametrize("validated", [True, False])
def test_an_evaluation_of_the_users_own_changes_nothing(validated):
    data = {"validation_data": _other_data()} if validated else {}
    alone, history = _run(**data)
    evaluate = _Evaluate()
    beside, other = _run(evaluate, **data)
    assert len(evaluate.losses) == 2 * EPOCHS
    assert np.all(np.isfinite(evaluate.losses))
    np.testing.assert_allclose(beside, alone, rtol=1e-5, atol=1e-5)
    assert np.any(_column(beside, "validated")) == validated
    if validated:
        assert other["val_loss"] == pytest.approx(history["val_loss"], rel=1e-5)
        assert abs(evaluate.losses[-1] - other["val_loss"][-1]) > 0.01


def test_the_rate_can_follow_it():
    # An output of -1 from the first validation on, and of 0 before.
    controller = keras.Sequential(
        [keras.Input((NUM_FEATURES,)), keras.layers.Dense(1)]
    )
    kernel = np.zeros((NUM_FEATURES, 1), "float32")
    kernel[FEATURE_NAMES.index("validated")] = -1.0
    controller.set_weights([kernel, np.zeros(1, "float32")])
    for data, falls in (
        ({"validation_data": _other_data()}, True),
        ({}, False),
    ):
        metalr = MetaLR(controller, safe_start=False, guard=False)
        rows, _ = _run(metalr=metalr, **data)
        moved = _column(rows, "increment")
        np.testing.assert_array_equal(moved[:STEPS], 0.0)
        # Later the rate is so low that it need not fall any further.
        assert np.all((moved[STEPS : STEPS + 4] < -0.3) == falls)
        rates = _column(rows, "learning_rate")
        # The first decision after a validation sets the rate of the next step.
        np.testing.assert_allclose(rates[: STEPS + 1], 0.05, rtol=1e-6)
        assert (rates[STEPS + 1] < 0.04) == falls


def _growth(
    monkeypatch, accumulation: int | None = None, **kwargs: Any
) -> float:
    """Log of the largest rate over the first, at steps far too short."""
    # Runs of a decision a step count as long, batches of 8 as small, and
    # nothing else lifts the rate.
    monkeypatch.setattr(update_rule, "LONG", (0.0, 1.0))
    monkeypatch.setattr(update_rule, "ENOUGH_EXAMPLES", (8.0, 16.0))
    monkeypatch.setattr(update_rule, "STRAIGHT", (2.0, 3.0))
    monkeypatch.setattr(update_rule, "NOTHING_LEARNED", (5.0, 6.0))
    optimizer = keras.optimizers.SGD(
        1e-5, gradient_accumulation_steps=accumulation
    )
    model = compiled(optimizer, drop=False, **QUICK)
    # It asks for a fall throughout.
    metalr = MetaLR(
        constant_controller(-0.001), safe_start=False, pretrained=False
    )
    x, y = make_data()
    model.fit(x, y, epochs=EPOCHS, callbacks=[metalr], **{**FIT, **kwargs})
    rates = metalr.trace["learning_rate"]
    return float(np.log(rates.max() / 1e-5))


def test_a_long_run_with_validation_data_keeps_some_distrust(monkeypatch):
    data = {"validation_data": make_data()}
    grown = _growth(monkeypatch, batch_size=16, **data)
    # Growth of a tenth a decision, from the second epoch to the fourth.
    assert grown > 0.3
    assert _growth(monkeypatch, batch_size=8, **data) <= 0.0
    assert _growth(monkeypatch, batch_size=16) <= 0.0
    # An update of two batches of 8.
    assert _growth(monkeypatch, batch_size=8, accumulation=2, **data) > 0.3


@pytest.mark.parametrize("validated", [True, False])
def test_the_rate_falls_where_examples_are_learned_by_heart(validated):
    model = compiled(keras.optimizers.Adam(0.02), drop=False, **QUICK)
    # It asks for hardly any growth, so that nothing else moves the rate far.
    metalr = MetaLR(constant_controller(0.001), safe_start=False)
    data = {"validation_data": _other_data()} if validated else {}
    x, y = make_data()
    history = model.fit(
        x, y, epochs=20, callbacks=[metalr], **data, **FIT
    ).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    last = metalr.trace["learning_rate"][-1]
    if validated:
        # Labels that are wrong: the loss on them has risen.
        losses = history["val_loss"]
        assert losses[-1] > 1.1 * min(losses)
        assert np.isclose(metalr.trace["increment"], -0.2, atol=1e-3).sum() > 60
        assert last < 1e-6
    else:
        assert last > 1e-3
