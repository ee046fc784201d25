"""With its output held at 0, MetaLR trains any model as plain Keras does.

One table: whatever Keras can compile. A new `Controller` has a last layer of
zeros, so that a run with it must end with the weights of a run without it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import backend
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import NUM_CLASSES
from tests.fit_checks import NUM_INPUTS
from tests.fit_checks import QUICK
from tests.fit_checks import all_finite
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import constant_controller
from tests.fit_checks import cross_entropy
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data
from tests.fit_checks import make_model
from tests.fit_checks import needs_optimizer

BACKEND = keras.backend.backend()
RATE = 0.01
EPOCHS = 2

# -- Models that `make_model` has not. --------------------------------------


@dataclass
class Setting:
    """A model that is not compiled, and its data."""

    model: keras.Model
    x: Any
    y: Any
    loss: Any = field(default_factory=cross_entropy)


def _standard(kind: str = "functional", normalize: bool = True) -> Setting:
    x, y = make_data()
    return Setting(make_model(kind, normalize=normalize), x, y)


def _frozen_layer() -> Setting:
    setting = _standard()
    setting.model.layers[1].trainable = False
    return setting


def _several_outputs(names: bool) -> Setting:
    keras.utils.set_random_seed(7)
    x, y = make_data()
    inputs = keras.Input((NUM_INPUTS,))
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    labels = keras.layers.Dense(NUM_CLASSES, name="labels")(hidden)
    total = keras.layers.Dense(1, name="total")(hidden)
    sums = x.sum(axis=1, keepdims=True)
    if not names:
        model = keras.Model(inputs, [labels, total])
        return Setting(model, x, [y, sums], [cross_entropy(), "mse"])
    model = keras.Model(inputs, {"labels": labels, "total": total})
    losses = {"labels": cross_entropy(), "total": "mse"}
    return Setting(model, x, {"labels": y, "total": sums}, losses)


def _several_inputs() -> Setting:
    keras.utils.set_random_seed(7)
    x, y = make_data()
    left, right = (
        keras.Input((4,), name="left"),
        keras.Input((2,), name="right"),
    )
    joined = keras.layers.Concatenate()([left, right])
    model = keras.Model(
        {"left": left, "right": right}, keras.layers.Dense(NUM_CLASSES)(joined)
    )
    return Setting(model, {"left": x[:, :4], "right": x[:, 4:]}, y)


class ActivityPenalty(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


def _added_losses() -> Setting:
    keras.utils.set_random_seed(7)
    x, y = make_data()
    inputs = keras.Input((NUM_INPUTS,))
    hidden = keras.layers.Dense(
        8,
        activation="relu",
        kernel_regularizer=keras.regularizers.L2(0.01),
        activity_regularizer=keras.regularizers.L1(0.01),
    )(inputs)
    outputs = keras.layers.Dense(NUM_CLASSES)(ActivityPenalty()(hidden))
    return Setting(keras.Model(inputs, outputs), x, y)


def _embedding() -> Setting:
    keras.utils.set_random_seed(7)
    x, y = make_data()
    inputs = keras.Input((NUM_INPUTS,), dtype="int32")
    vectors = keras.layers.Embedding(40, 4)(inputs)
    outputs = keras.layers.Dense(NUM_CLASSES)(keras.layers.Flatten()(vectors))
    # Only part of the rows is used, some of them twice in a batch.
    tokens = np.clip(x * 4 + 12, 0, 30).astype("int32")
    return Setting(keras.Model(inputs, outputs), tokens, y)


class TorchDropout(keras.layers.Layer):
    """Draws from torch's own generator, whose state no variable holds."""

    def call(self, x, training=False):
        import torch

        return torch.nn.functional.dropout(x, 0.2, training=bool(training))

    def compute_output_shape(self, input_shape):
        return input_shape


def _torch_dropout() -> Setting:
    keras.utils.set_random_seed(7)
    x, y = make_data()
    inputs = keras.Input((NUM_INPUTS,))
    hidden = TorchDropout()(keras.layers.Dense(8)(inputs))
    outputs = keras.layers.Dense(NUM_CLASSES)(hidden)
    return Setting(keras.Model(inputs, outputs), x, y)


class StepOnTensorFlow(keras.Model):
    """As in Keras's guide to a custom `train_step` with TensorFlow."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        trainable_vars = self.trainable_variables
        gradients = tape.gradient(loss, trainable_vars)
        self.optimizer.apply(gradients, trainable_vars)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


class StepOnTorch(keras.Model):
    """As in Keras's guide to a custom `train_step` with PyTorch."""

    def train_step(self, data):
        import torch

        x, y = data
        self.zero_grad()
        y_pred = self(x, training=True)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        loss.backward()
        trainable_weights = list(self.trainable_weights)
        gradients = [v.value.grad for v in trainable_weights]
        with torch.no_grad():
            self.optimizer.apply(gradients, trainable_weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


class StepOnJax(keras.Model):
    """As in Keras's guide to a custom `train_step` with JAX."""

    def compute_loss_and_updates(
        self, trainable_variables, non_trainable_variables, x, y, training=False
    ):
        y_pred, non_trainable_variables = self.stateless_call(
            trainable_variables, non_trainable_variables, x, training=training
        )
        loss = self.compute_loss(x, y, y_pred)
        return loss, (y_pred, non_trainable_variables)

    def train_step(self, state, data):
        import jax

        trainable, non_trainable, slots, metrics = state
        x, y = data
        grad_fn = jax.value_and_grad(
            self.compute_loss_and_updates, has_aux=True
        )
        (loss, (y_pred, non_trainable)), grads = grad_fn(
            trainable, non_trainable, x, y, training=True
        )
        trainable, slots = self.optimizer.stateless_apply(
            slots, grads, trainable
        )
        logs, new_metrics = {}, []
        for metric in self.metrics:
            first = len(new_metrics)
            values = metrics[first : first + len(metric.variables)]
            if metric.name == "loss":
                values = metric.stateless_update_state(values, loss)
            else:
                values = metric.stateless_update_state(values, y, y_pred)
            logs[metric.name] = metric.stateless_result(values)
            new_metrics += values
        return logs, (
            trainable,
            non_trainable,
            slots,
            new_metrics,
        )


def _own_train_step() -> Setting:
    plain = _standard()
    model_class = {
        "tensorflow": StepOnTensorFlow,
        "jax": StepOnJax,
        "torch": StepOnTorch,
    }[BACKEND]
    model = model_class(plain.model.inputs, plain.model.outputs)
    return Setting(model, plain.x, plain.y)


# -- The table. -------------------------------------------------------------

O = keras.optimizers  # noqa: E741
# What Keras chooses, which is XLA for all models here, but on torch.
XLA_CHOSEN: dict[str, Any] = {}
COSINE = O.schedules.CosineDecay(0.02, 12)


@dataclass(frozen=True)
class Case:
    """One thing that `fit` must be able to do under MetaLR."""

    optimizer: Callable[[], keras.optimizers.Optimizer] = field(
        default=lambda: O.Adam(RATE)
    )
    setting: Callable[[], Setting] = _standard
    # XLA_CHOSEN where the compiler may well make a difference.
    compile: dict = field(default_factory=lambda: QUICK)
    fit: dict = field(default_factory=dict)
    policy: str = "float32"
    build_optimizer: bool = False
    # Weights and optimizer slots; TensorFlow's and JAX's compilers may add up
    # in another order when there is more to compute.
    tolerance: float = 1e-6
    # The rate that an epoch's last step used.
    rates: tuple[float, ...] = (RATE, RATE)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "SGD": lambda: O.SGD(RATE),
    "momentum": lambda: O.SGD(RATE, momentum=0.9),
    "Nesterov": lambda: O.SGD(RATE, momentum=0.9, nesterov=True),
    "RMSprop": lambda: O.RMSprop(RATE),
    "Adam": lambda: O.Adam(RATE),
    "AMSGrad": lambda: O.Adam(RATE, amsgrad=True),
    "AdamW": lambda: O.AdamW(RATE),
    "Nadam": lambda: O.Nadam(RATE),
    "Adagrad": lambda: O.Adagrad(RATE),
    "Adadelta": lambda: O.Adadelta(RATE),
    "Adamax": lambda: O.Adamax(RATE),
    "Adafactor": lambda: O.Adafactor(RATE),
    "Ftrl": lambda: O.Ftrl(RATE),
    "Lion": lambda: O.Lion(RATE),
    "Lamb": lambda: O.Lamb(RATE),
    "Muon": lambda: O.Muon(RATE),
    "ScheduleFreeAdamW": lambda: O.ScheduleFreeAdamW(RATE),
}
KINDS = ("functional", "sequential", "subclass", "unbuilt")


def _optimizer_case(name: str, kind: str) -> Case:
    return Case(
        OPTIMIZERS[name],
        # Plain Adafactor makes NaN of a BatchNormalization's offset.
        lambda: _standard(kind, normalize=name != "Adafactor"),
        # Plain Keras on TensorFlow builds it inside a trace, which leaves its
        # momentum at zero: built before `fit` it works.
        build_optimizer=name == "ScheduleFreeAdamW",
        compile=XLA_CHOSEN,
    )


def _multi_by_callable() -> keras.optimizers.Optimizer:
    parts: dict[str, Any] = {}

    def choose(variable):
        kind = "kernel" if "kernel" in variable.path else "other"
        if kind not in parts:
            parts[kind] = O.Adam(RATE) if kind == "kernel" else O.SGD(0.1)
        return parts[kind]

    return O.MultiOptimizer(choose)


def _multi_by_map() -> keras.optimizers.Optimizer:
    return O.MultiOptimizer(
        O.OptimizerMap(O.Adam(RATE), {".*/bias": O.SGD(0.1)})
    )


def _own_rate() -> float:
    return RATE


def _weights_of_examples() -> dict:
    return {"sample_weight": np.linspace(0.1, 2.0, 48).astype("float32")}


SPECIAL: dict[str, Case] = {
    # Optimizers in optimizers.
    "MultiOptimizer of a map": Case(
        _multi_by_map, compile=XLA_CHOSEN, rates=(0.1, 0.1)
    ),
    "MultiOptimizer of a callable": Case(_multi_by_callable, rates=(0.1, 0.1)),
    "LossScaleOptimizer": Case(
        lambda: O.LossScaleOptimizer(O.Adam(RATE)), compile=XLA_CHOSEN
    ),
    # The forward pass is rounded to 11 and to 8 bits; where the compiler fuses
    # it otherwise, a rounding goes the other way and its gradient with it.
    "mixed_float16": Case(
        policy="mixed_float16", compile=XLA_CHOSEN, tolerance=2e-3
    ),
    "mixed_bfloat16": Case(policy="mixed_bfloat16", tolerance=2e-2),
    "loss_scale_factor": Case(lambda: O.Adam(RATE, loss_scale_factor=8.0)),
    # What an optimizer does to gradients and weights.
    "clipnorm": Case(lambda: O.SGD(RATE, clipnorm=0.05)),
    "clipvalue": Case(lambda: O.SGD(RATE, clipvalue=0.01)),
    "global_clipnorm": Case(lambda: O.SGD(RATE, global_clipnorm=0.1)),
    "weight_decay": Case(lambda: O.SGD(RATE, weight_decay=0.1)),
    "EMA": Case(lambda: O.Adam(RATE, use_ema=True)),
    "EMA, overwriting": Case(
        lambda: O.Adam(RATE, use_ema=True, ema_overwrite_frequency=4)
    ),
    "gradient accumulation": Case(
        lambda: O.Adam(RATE, gradient_accumulation_steps=3),
        compile=XLA_CHOSEN,
    ),
    # Rates that are not a number.
    "LearningRateSchedule": Case(
        lambda: O.Adam(COSINE),
        compile=XLA_CHOSEN,
        rates=(float(COSINE(5)), float(COSINE(11))),
    ),
    "LearningRateSchedule in a LossScaleOptimizer": Case(
        lambda: O.LossScaleOptimizer(O.SGD(COSINE)),
        rates=(float(COSINE(5)), float(COSINE(11))),
    ),
    "callable rate": Case(lambda: O.Adam(_own_rate)),
    # Ways to run the step.
    "jit_compile": Case(compile={"jit_compile": True}),
    "no jit_compile": Case(compile={"jit_compile": False}),
    "run_eagerly": Case(compile={"run_eagerly": True}),
    "steps_per_execution of 1": Case(compile={"steps_per_execution": 1}),
    # Sixteen steps in one program: roundings add up.
    "steps_per_execution of 8": Case(
        compile={"steps_per_execution": 8},
        fit={"batch_size": 3},
        tolerance=5e-6,
    ),
    "last execution shorter": Case(compile={"steps_per_execution": 4}),
    "last batch smaller": Case(fit={"batch_size": 9}),
    # Models and data.
    "frozen layer": Case(setting=_frozen_layer),
    "own train_step": Case(setting=_own_train_step, compile=XLA_CHOSEN),
    "sample_weight": Case(fit=_weights_of_examples()),
    "class_weight": Case(fit={"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}),
    "outputs in a dict": Case(setting=lambda: _several_outputs(True)),
    "outputs in a list": Case(setting=lambda: _several_outputs(False)),
    "inputs in a dict": Case(setting=_several_inputs),
    "add_loss and regularizers": Case(setting=_added_losses),
    "Embedding": Case(setting=_embedding, compile=XLA_CHOSEN),
}
if BACKEND == "torch":
    SPECIAL["torch.nn.Dropout"] = Case(setting=_torch_dropout)

# Much like another of the table.
ALIKE = {
    "MultiOptimizer of a callable",
    "mixed_bfloat16",
    "clipnorm",
    "clipvalue",
    "EMA, overwriting",
    "LearningRateSchedule in a LossScaleOptimizer",
    "no jit_compile",
    "steps_per_execution of 1",
    "last execution shorter",
    "outputs in a list",
}
CASES = {
    **{
        f"{name}, {kind}": _optimizer_case(name, kind)
        for name in OPTIMIZERS
        for kind in KINDS
    },
    **SPECIAL,
}
# Every optimizer once, every kind of model several times.
DEFAULT = (SPECIAL.keys() - ALIKE) | {
    f"{name}, {KINDS[i % len(KINDS)]}" for i, name in enumerate(OPTIMIZERS)
}

# Keras 3.14 and 3.15 brought them.
RECENT = ("ScheduleFreeAdamW", "MultiOptimizer")
NO_MUON = pytest.mark.skipif(
    keras.__version__.startswith("3.12."),
    reason="Keras 3.12 itself cannot train with Muon on TensorFlow",
)


def _marks(name: str) -> list[pytest.MarkDecorator]:
    # On torch, torch.compile takes a minute.
    slow = name == "jit_compile" and BACKEND == "torch"
    marks = [pytest.mark.large] if slow or name not in DEFAULT else []
    marks += [needs_optimizer(kind) for kind in RECENT if name.startswith(kind)]
    if name.startswith("Muon") and BACKEND == "tensorflow":
        marks.append(NO_MUON)
    return marks


@dataclass
class Run:
    """A `fit` that has ended."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    history: dict

    @property
    def weights(self) -> list[np.ndarray]:
        """The model's weights."""
        return self.model.get_weights()

    @property
    def slots(self) -> list[np.ndarray]:
        """The optimizer's."""
        return [keras.ops.convert_to_numpy(v) for v in self.optimizer.variables]


def _run(case: Case, callbacks: list) -> Run:
    keras.config.set_dtype_policy(case.policy)
    setting = case.setting()
    model = setting.model
    model.compile(case.optimizer(), loss=setting.loss, **case.compile)
    if case.build_optimizer and model.built:
        model.optimizer.build(model.trainable_variables)
    config, optimizer = model.optimizer.get_config(), model.optimizer
    history = model.fit(
        setting.x,
        setting.y,
        epochs=EPOCHS,
        callbacks=callbacks,
        **{**FIT, **case.fit},
    )
    assert model.optimizer.get_config() == config
    return Run(model, optimizer, history.history)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=_marks(name))
        for name, case in CASES.items()
    ],
)
def test_an_output_of_zero_is_plain_training(case):
    if BACKEND == "torch" and case.compile.get("steps_per_execution", 1) > 1:
        pytest.skip("torch: Keras refuses steps_per_execution > 1")
    plain = _run(case, [])
    metalr = MetaLR(Controller(), safe_start=False)
    run = _run(case, [metalr])

    assert all_finite(plain.model)
    assert largest_difference(plain.weights, run.weights) <= case.tolerance
    # Sums of squares, say, are rounded by their size.
    sizes = [np.maximum(1.0, np.abs(slot)) for slot in plain.slots]
    slots, others = (
        [slot / size for slot, size in zip(found, sizes, strict=True)]
        for found in (plain.slots, run.slots)
    )
    assert largest_difference(slots, others) <= case.tolerance
    assert_clean(run.model, run.optimizer)
    assert set(run.history) - set(plain.history) == {
        "learning_rate",
        "grad_norm",
    }
    assert run.history["learning_rate"] == pytest.approx(case.rates, rel=1e-5)
    assert all(norm > 0 for norm in run.history["grad_norm"])
    assert len(metalr.trace) > 0
    norms = metalr.trace["grad_norm"]
    if case.policy == "mixed_float16":
        # The first gradient overflows: that is how the loss scale is found.
        norms = norms[1:]
    assert np.isfinite(norms).all()


def test_torch_refuses_several_steps_per_execution():
    if BACKEND != "torch":
        pytest.skip("the other backends have steps_per_execution")
    x, y = make_data(16 * BATCH_SIZE)
    model = compiled("adam", steps_per_execution=8)
    optimizer, before = model.optimizer, model.get_weights()
    with pytest.raises(ValueError, match="steps_per_execution"):
        model.fit(x, y, callbacks=[MetaLR(Controller())], **FIT)
    assert_clean(model, optimizer, 0.001)
    assert largest_difference(before, model.get_weights()) == 0.0


def test_epochs_of_whole_executions_are_longer_than_they_were_to_be():
    if BACKEND == "torch":
        pytest.skip("torch: Keras refuses steps_per_execution > 1")

    def forever():
        x, y = make_data()
        while True:
            yield x[:BATCH_SIZE], y[:BATCH_SIZE]

    model = compiled("sgd", steps_per_execution=2, **QUICK)
    metalr = MetaLR(Controller())
    arguments = {"steps_per_epoch": 3, "epochs": 4, "verbose": 0}
    model.fit(forever(), callbacks=[metalr], **arguments)
    # Four in an epoch: known from the second one on.
    np.testing.assert_array_equal(metalr.trace["step"], np.arange(1, 17))
    share = np.arange(1, 17) / np.repeat([12, 16], [4, 12])
    np.testing.assert_allclose(metalr.trace["progress"], share - 0.5, atol=1e-6)


@needs_optimizer("MultiOptimizer")
def test_a_multi_optimizer_moves_all_its_rates_alike():
    x, y = make_data()
    model = compiled(_multi_by_map(), **QUICK)
    rates = []

    class Recorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(
                [
                    float(keras.ops.convert_to_numpy(part.learning_rate))
                    for part in self.model.optimizer.optimizers
                ]
            )

    metalr = MetaLR(constant_controller(), safe_start=False)
    model.fit(x, y, callbacks=[metalr, Recorder()], **FIT)
    parts = model.optimizer.optimizers
    own = [float(keras.ops.convert_to_numpy(p.learning_rate)) for p in parts]
    assert sorted(own) == pytest.approx([0.01, 0.1])
    factors = np.divide(rates[-1], own)
    assert factors[0] == pytest.approx(factors[1], rel=1e-5)
    assert factors[0] < 0.5


# -- Several calls, on one model. -------------------------------------------


def _fit(model: keras.Model, *callbacks: keras.callbacks.Callback) -> dict:
    x, y = make_data()
    return model.fit(x, y, callbacks=list(callbacks), **FIT).history


def test_a_second_fit_starts_afresh_and_from_the_users_rate():
    model = compiled(O.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    # Weights count as pretrained from the second fit on.
    _fit(model)
    plain = model.train_function
    metalr = MetaLR(constant_controller(), safe_start=False)
    first = _fit(model, metalr)
    assert first["learning_rate"][0] < 0.5 * RATE
    assert_clean(model, optimizer, RATE, plain)
    rows = metalr.trace.rows

    # The same callback, then a new one.
    for again in (metalr, MetaLR(constant_controller(), safe_start=False)):
        second = _fit(model, again)
        assert_clean(model, optimizer, RATE, plain)
        np.testing.assert_array_equal(again.trace["step"], rows[:, 0])
        assert again.trace["learning_rate"][0] == np.float32(RATE)
        assert second["learning_rate"] == pytest.approx(first["learning_rate"])
    assert metalr.trace.rows is not rows


@pytest.mark.parametrize(
    "with_metalr",
    [
        pytest.param((True, True), id="MetaLR twice"),
        pytest.param(
            (False, True),
            id="fitted before without MetaLR",
            marks=pytest.mark.large,
        ),
        pytest.param((True, False), id="fitted after without MetaLR"),
    ],
)
def test_two_fits_are_two_plain_fits(with_metalr):
    plain = compiled(O.Adam(RATE), **QUICK)
    model = compiled(O.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    x, y = make_data()
    for with_it in with_metalr:
        before = model.train_function
        expected = _fit(plain)
        expected_loss = plain.evaluate(x, y, verbose=0)
        callbacks = [MetaLR(Controller(), safe_start=False)] if with_it else []
        history = _fit(model, *callbacks)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(expected_loss)
        assert history["loss"] == pytest.approx(expected["loss"])
        assert ("grad_norm" in history) == with_it
        if with_it:
            assert_clean(model, optimizer, RATE, train_function=before)
    weights = plain.get_weights()
    assert largest_difference(weights, model.get_weights()) < 1e-6
    assert int(optimizer.iterations) == 12


def test_train_on_batch_after_fit_is_plain():
    plain = compiled(O.Adam(RATE), **QUICK)
    model = compiled(O.Adam(RATE), **QUICK)
    x, y = make_data()
    _fit(plain)
    _fit(model, MetaLR(constant_controller(0.0), safe_start=False))
    expected = plain.train_on_batch(x[:8], y[:8], return_dict=True)
    logs = model.train_on_batch(x[:8], y[:8], return_dict=True)
    assert set(logs) == {"loss"}
    assert float(logs["loss"]) == pytest.approx(float(expected["loss"]))
    weights = plain.get_weights()
    assert largest_difference(weights, model.get_weights()) < 1e-6


@pytest.mark.parametrize("kind", ["functional", "unbuilt"])
def test_evaluate_and_predict_with_the_callback_are_plain(kind):
    x, y = make_data()
    model = compiled(O.Adam(RATE), kind, **QUICK)
    optimizer = model.optimizer
    expected = model.evaluate(x, y, verbose=0)
    outputs = model.predict(x, verbose=0)
    metalr = MetaLR(Controller())
    assert model.evaluate(x, y, verbose=0, callbacks=[metalr]) == expected
    assert_clean(model, optimizer, RATE)
    again = model.predict(x, verbose=0, callbacks=[metalr])
    np.testing.assert_array_equal(again, outputs)
    assert_clean(model, optimizer, RATE)
    # The same callback still works.
    assert "grad_norm" in _fit(model, metalr)
    assert_clean(model, optimizer, RATE)
    # What it tells of the last run stays.
    num_decisions = len(metalr.trace)
    assert num_decisions > 0
    model.evaluate(x, y, verbose=0, callbacks=[metalr])
    model.predict(x, verbose=0, callbacks=[metalr])
    assert len(metalr.trace) == num_decisions


def test_validation_inside_fit_is_plain():
    x, y = make_data()
    histories = []
    for callbacks in ([], [MetaLR(Controller(), safe_start=False)]):
        model = compiled(O.Adam(RATE), metrics=["accuracy"], **QUICK)
        histories.append(
            model.fit(
                x,
                y,
                validation_data=(x, y),
                epochs=2,
                callbacks=callbacks,
                **FIT,
            ).history
        )
    plain, metalr = histories
    assert set(metalr) == {*plain, "learning_rate", "grad_norm"}
    for key, values in plain.items():
        assert metalr[key] == pytest.approx(values, abs=1e-6), key


# -- What it costs. ---------------------------------------------------------


class Counting(keras.layers.Layer):
    """Counts how often Python runs its `call`: once a trace, when compiled."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x


class _CallsSoFar(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls: list[int] = []

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(Counting.calls)


@pytest.mark.parametrize(
    ("kind", "guard"), [("built", True), ("unbuilt", True), ("built", False)]
)
def test_no_step_is_traced_twice(kind, guard):
    if BACKEND == "torch":
        pytest.skip("torch: Keras's train step is not traced")
    x, y = make_data(num_examples=96)
    keras.utils.set_random_seed(7)
    layers = [Counting(), keras.layers.Dense(NUM_CLASSES)]
    if kind == "built":
        layers.insert(0, keras.Input((NUM_INPUTS,)))
    model = keras.Sequential(layers)
    model.compile(O.Adam(RATE), loss=cross_entropy())
    recorder = _CallsSoFar()
    # Snapshots, looks and decisions all fall within these 36 steps.
    model.fit(
        x,
        y,
        epochs=3,
        validation_data=(x[:BATCH_SIZE], y[:BATCH_SIZE]),
        callbacks=[MetaLR(constant_controller(), guard=guard), recorder],
        **FIT,
    )
    first, later = np.split(np.array(recorder.calls), [12])
    assert len(later) == 24
    assert set(first) == {first[0]}, "traced again within the first epoch"
    assert set(later) == {later[0]}, "traced again after the first epoch"


def _count_host_reads(monkeypatch) -> list[int]:
    """Count the tensors that come to the host, from here on."""
    count = [0]
    tensor = keras.ops.ones(())
    tensor_class = type(tensor)
    # On JAX and torch Keras turns the logs of a batch into numbers in a thread
    # of its own, where they hold nothing up.
    thread = threading.get_ident()

    def counted(function):
        def read(*args, **kwargs):
            mine = threading.get_ident() == thread
            count[0] += mine and isinstance(args[0], tensor_class)
            return function(*args, **kwargs)

        return read

    names = ["numpy", "item", "tolist", "cpu"]
    for name in (*names, "__bool__", "__int__", "__float__", "__index__"):
        if hasattr(tensor_class, name):
            function = counted(getattr(tensor_class, name))
            monkeypatch.setattr(tensor_class, name, function)
    # NumPy takes a tensor of a CPU by its address, and calls none of those.
    for name in ("array", "asarray"):
        monkeypatch.setattr(np, name, counted(getattr(np, name)))
    for read in (float, bool, np.asarray, keras.ops.convert_to_numpy):
        before = count[0]
        read(tensor)
        assert count[0] > before, f"{read.__name__} is not counted"
    return count


def _with_module_of_torch() -> keras.Model:
    import torch

    norm = torch.nn.BatchNorm1d(NUM_INPUTS)
    model = keras.Sequential(
        [
            keras.Input((NUM_INPUTS,)),
            keras.layers.TorchModuleWrapper(
                norm, output_shape=(None, NUM_INPUTS)
            ),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )
    model.compile(O.Adam(RATE), loss=cross_entropy(), **QUICK)
    return model


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        # Without Dropout: on torch Keras reads its seed at every call.
        pytest.param(
            lambda: compiled(O.Adam(RATE), drop=False, **QUICK), id="Keras's"
        ),
        pytest.param(
            _with_module_of_torch,
            id="with buffers",
            marks=pytest.mark.skipif(
                BACKEND != "torch", reason="The layer is PyTorch's."
            ),
        ),
    ],
)
def test_nothing_comes_to_the_host_for_a_batch(make, guard, monkeypatch):
    count = _count_host_reads(monkeypatch)
    # As on a GPU: what lies on a CPU may be looked at.
    monkeypatch.setattr(backend, "at_hand", lambda tensor: False)

    def reads(num_steps: int, callbacks: list) -> int:
        x, y = make_data(num_steps * BATCH_SIZE)
        model = make()
        before = count[0]
        model.fit(x, y, callbacks=callbacks, **FIT)
        return count[0] - before

    def reads_of_48_steps(**kwargs: Any) -> int:
        def metalr() -> list:
            return [MetaLR(Controller(), guard=guard)]

        more = reads(64, metalr()) - reads(16, metalr())
        return more - (reads(64, []) - reads(16, []))

    # On TensorFlow Keras waits for all numbers in the logs: for two more.
    allowed = 2 * 48 if BACKEND == "tensorflow" else 0
    # The guard looks at the run once in 8 steps, at what has long been there.
    # On torch that counts twice: `.cpu()`, then `.numpy()`.
    allowed += (2 if BACKEND == "torch" else 1) * 48 // 8 if guard else 0
    assert reads_of_48_steps() <= allowed
