"""However `fit` ends, the model is as it was compiled, and goes on working.

The exception is held while that is checked, as every notebook and interactive
session holds the last one: with it live the frames of the `fit` that it ended.
"""

from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import all_finite
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import constant_controller
from tests.fit_checks import cross_entropy
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data

BACKEND = keras.backend.backend()
RATE = 0.01


class Stop(keras.callbacks.Callback):
    """Raises in one hook, at its `call`-th call."""

    def __init__(self, hook: str, error: type[BaseException], call: int = 1):
        super().__init__()
        self.calls_left = call
        self.error = error
        setattr(self, hook, self._raise)

    def _raise(self, *args: Any, **kwargs: Any) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise self.error("stop here")


def _assert_usable(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, metalr: MetaLR
) -> None:
    """The model is clean, and does all that a model does."""
    x, y = make_data()
    assert_clean(model, optimizer, RATE)
    assert all_finite(model)
    assert np.isfinite(model.evaluate(x, y, verbose=0))
    before = model.get_weights()
    history = model.fit(x, y, **FIT).history
    assert set(history) == {"loss"}
    assert largest_difference(before, model.get_weights()) > 0
    again = model.fit(x, y, callbacks=[metalr], **FIT).history
    assert set(again) == {"loss", "learning_rate", "grad_norm"}
    np.testing.assert_array_equal(metalr.trace["step"], np.arange(1, 7))
    assert metalr.trace["learning_rate"][0] == np.float32(RATE)
    assert_clean(model, optimizer, RATE, train_function=model.train_function)


LARGE = pytest.mark.large
RUNTIME, CTRL_C = RuntimeError, KeyboardInterrupt
HOOKS = [
    pytest.param("on_train_begin", RUNTIME, False, id="train begin"),
    pytest.param(
        "on_train_begin", RUNTIME, True, id="train begin, first", marks=LARGE
    ),
    pytest.param(
        "on_train_batch_end", RUNTIME, False, id="batch end", marks=LARGE
    ),
    pytest.param("on_train_batch_end", CTRL_C, True, id="Ctrl-C"),
    pytest.param("on_test_batch_end", RUNTIME, False, id="validation"),
    pytest.param("on_epoch_end", RUNTIME, False, id="epoch end"),
    pytest.param(
        "on_epoch_end", CTRL_C, True, id="Ctrl-C between", marks=LARGE
    ),
    pytest.param("on_train_end", RUNTIME, True, id="train end"),
]


@pytest.mark.parametrize(("hook", "error", "first"), HOOKS)
def test_an_exception_in_another_callback(hook, error, first):
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)
    stop = Stop(hook, error, call=3 if "batch" in hook else 1)
    with pytest.raises(error, match="stop here") as held:
        model.fit(
            x,
            y,
            epochs=2,
            validation_data=(x, y),
            callbacks=[stop, metalr] if first else [metalr, stop],
            **FIT,
        )
    _assert_usable(model, optimizer, metalr)
    del held


def test_an_exception_that_is_let_go():
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)
    stop = Stop("on_train_batch_end", KeyboardInterrupt, call=3)
    try:
        model.fit(x, y, callbacks=[metalr, stop], **FIT)
    except KeyboardInterrupt:
        pass
    _assert_usable(model, optimizer, metalr)


def test_a_new_callback_after_an_exception():
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    controller = constant_controller()
    callbacks = [
        MetaLR(controller, safe_start=False),
        Stop("on_train_batch_end", KeyboardInterrupt, call=3),
    ]
    with pytest.raises(KeyboardInterrupt) as held:
        model.fit(x, y, callbacks=callbacks, **FIT)
    # At once, with nothing in between that could clean up.
    metalr = MetaLR(controller, safe_start=False)
    model.fit(x, y, callbacks=[metalr], **FIT)
    assert metalr.trace["learning_rate"][0] == np.float32(RATE)
    assert_clean(model, optimizer, RATE)
    del held


def test_the_weights_are_those_of_a_plain_fit_interrupted_there():
    x, y = make_data()
    models = []
    for callbacks in ([], [MetaLR(Controller(), safe_start=False)]):
        model = compiled(keras.optimizers.Adam(RATE), **QUICK)
        stop = Stop("on_train_batch_end", KeyboardInterrupt, call=3)
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, callbacks=[*callbacks, stop], **FIT)
        assert int(model.optimizer.iterations) == 3
        models.append(model)
    plain, stopped = (model.get_weights() for model in models)
    assert largest_difference(plain, stopped) < 1e-6


class BrokenData(keras.utils.PyDataset):
    """Fails at its third batch."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple:
        if index == 3:
            raise RuntimeError("no batch 3")
        x, y = make_data()
        here = slice(index * BATCH_SIZE, (index + 1) * BATCH_SIZE)
        return x[here], y[here]


def _broken_generator() -> Any:
    data = BrokenData()
    for index in range(6):
        yield data[index]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(BrokenData, id="PyDataset"),
        pytest.param(_broken_generator, id="generator", marks=LARGE),
    ],
)
def test_an_exception_in_the_data(make):
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)
    # TensorFlow wraps it in an exception of its own.
    with pytest.raises(Exception, match="no batch 3") as held:
        model.fit(
            make(),
            steps_per_epoch=6,
            shuffle=False,
            verbose=0,
            callbacks=[metalr],
        )
    _assert_usable(model, optimizer, metalr)
    del held


class BrokenValidation(BrokenData):
    """No batch 3 either, and it is only asked for when its turn has come."""

    def __init__(self) -> None:
        super().__init__(max_queue_size=1)


def _misshapen() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_data()
    return x[:, :2], y


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(BrokenValidation, id="an error in the data"),
        pytest.param(_misshapen, id="a wrong shape"),
    ],
)
def test_an_exception_in_validation(make):
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)
    with pytest.raises(Exception, match=r"no batch 3|shape|incompat") as held:
        model.fit(x, y, validation_data=make(), callbacks=[metalr], **FIT)
    _assert_usable(model, optimizer, metalr)
    del held


class Brittle(keras.layers.Layer):
    """Fails when it is called in training, while it has an `error`."""

    error: type[BaseException] | None = None

    def call(self, x: Any, training: bool = False) -> Any:
        if self.error is not None and training:
            raise self.error("cannot be called")
        return x


@pytest.mark.parametrize(
    ("error", "epoch", "how"),
    [
        pytest.param(RuntimeError, 0, QUICK, id="in the trace"),
        pytest.param(
            KeyboardInterrupt, 1, {"run_eagerly": True}, id="Ctrl-C in a step"
        ),
    ],
)
def test_an_exception_in_the_models_call(error, epoch, how):
    x, y = make_data()
    brittle = Brittle()
    body = compiled(normalize=False)
    model = keras.Model(body.input, brittle(body.output))
    model.compile(keras.optimizers.Adam(RATE), loss=body.loss, **how)
    optimizer, before = model.optimizer, model.get_weights()
    metalr = MetaLR(constant_controller(), safe_start=False)

    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            brittle.error = error if number == epoch else None

    with pytest.raises(error, match="cannot be called") as held:
        model.fit(x, y, epochs=2, callbacks=[metalr, Break()], **FIT)
    brittle.error = None
    assert_clean(model, optimizer, RATE)
    moved = largest_difference(before, model.get_weights())
    assert (moved > 0) == (epoch > 0)
    _assert_usable(model, optimizer, metalr)
    del held


@pytest.mark.skipif(BACKEND != "jax", reason="Others keep their values.")
@pytest.mark.parametrize("make", [keras.optimizers.Adam, keras.optimizers.Ftrl])
def test_a_step_that_fails_on_the_device_is_what_the_user_hears_of(make):
    import jax

    class Failing(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            jax.debug.callback(self._count)
            return x

        calls = 0

        def _count(self) -> None:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("out of memory")

    x, y = make_data()
    body = compiled(normalize=False)
    model = keras.Model(body.input, Failing()(body.output))
    model.compile(make(RATE), loss=body.loss, **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)
    with pytest.raises(Exception, match="out of memory"):
        model.fit(x, y, callbacks=[metalr], **FIT)
    # The step has taken the weights along, with MetaLR or without.
    assert_clean(model, optimizer, RATE)


@pytest.mark.skipif(BACKEND != "torch", reason="The layer is PyTorch's.")
def test_an_exception_leaves_what_a_module_of_pytorch_keeps():
    import torch

    x, y = make_data()
    norm, brittle = torch.nn.BatchNorm1d(x.shape[1]), Brittle()
    wrapped = keras.layers.TorchModuleWrapper(
        norm, output_shape=(None, *x.shape[1:])
    )
    layers = [wrapped, keras.layers.Dense(3), brittle]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    model.compile(keras.optimizers.Adam(RATE), loss=cross_entropy())
    kept = []

    class Break(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                brittle.error = RuntimeError
                kept.extend(buffer.clone() for buffer in norm.buffers())

    with pytest.raises(RuntimeError, match="cannot be called"):
        model.fit(x, y, callbacks=[MetaLR(Controller()), Break()], **FIT)
    for buffer, before in zip(norm.buffers(), kept, strict=True):
        np.testing.assert_array_equal(buffer.numpy(), before.numpy())


def test_a_fit_within_a_fit_takes_a_callback_of_its_own():
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    other = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)

    class Inner(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            other.fit(x, y, callbacks=[metalr], **FIT)

    with pytest.raises(ValueError, match=r"still running.* its own") as held:
        model.fit(x, y, callbacks=[metalr, Inner()], **FIT)
    assert_clean(other, other.optimizer, RATE)
    _assert_usable(model, optimizer, metalr)
    del held


@pytest.mark.parametrize("how", ["plain", "with a MetaLR of its own"])
def test_a_fit_of_the_same_model_within_its_fit_is_refused(how):
    """The outer one would go on with what the inner one leaves behind."""
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(constant_controller(), safe_start=False)

    class Inner(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            own = [] if how == "plain" else [MetaLR(constant_controller())]
            model.fit(x, y, callbacks=own, **FIT)

    with pytest.raises(ValueError, match="another `fit` of the same") as held:
        model.fit(x, y, callbacks=[metalr, Inner()], **FIT)
    assert_clean(model, optimizer, RATE)
    _assert_usable(model, optimizer, metalr)
    del held


def test_a_model_that_is_compiled_again_in_mid_run_is_refused():
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    other = keras.optimizers.Adam(RATE)

    class Again(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.compile(other, loss=self.model.loss, **QUICK)
                self.model.make_train_function(force=True)

    metalr = MetaLR(constant_controller(), safe_start=False)
    with pytest.raises(ValueError, match="was compiled again") as held:
        model.fit(x, y, epochs=3, callbacks=[metalr, Again()], **FIT)
    assert_clean(model, other, RATE, model.train_function)
    del held


def test_a_schedule_cannot_be_taken_up_in_mid_run():
    x, y = make_data()
    model = compiled(keras.optimizers.Adam(RATE), **QUICK)
    optimizer = model.optimizer

    class Switch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                schedule = keras.optimizers.schedules.CosineDecay(RATE, 10)
                self.model.optimizer.learning_rate = schedule

    metalr = MetaLR(constant_controller(), safe_start=False)
    with pytest.raises(ValueError, match="Compile the model with it") as held:
        model.fit(x, y, epochs=3, callbacks=[metalr, Switch()], **FIT)
    assert_clean(model, optimizer, RATE)
    del held


# -- What the user has put on the model. ------------------------------------


def test_functions_on_the_instance_are_used_and_come_back():
    x, y = make_data()
    model = compiled("sgd", **QUICK)
    calls = []

    def train_step(*arguments, **kwargs):
        calls.append("train_step")
        return type(model).train_step(model, *arguments, **kwargs)

    def compute_loss(*arguments, **kwargs):
        calls.append("compute_loss")
        return type(model).compute_loss(model, *arguments, **kwargs)

    model.train_step, model.compute_loss = train_step, compute_loss
    for _ in range(2):
        calls.clear()
        model.fit(x, y, callbacks=[MetaLR(Controller())], **FIT)
        assert {"train_step", "compute_loss"} <= set(calls)
        assert vars(model)["train_step"] is train_step
        assert vars(model)["compute_loss"] is compute_loss


def test_a_train_function_of_the_users_own_is_no_leftover():
    x, y = make_data()
    model = compiled("sgd", **QUICK)

    def make_train_function(force=False):
        return type(model).make_train_function(model, force=force)

    model.make_train_function = make_train_function
    metalr = MetaLR(Controller())
    model.fit(x, y, callbacks=[metalr], **FIT)
    assert len(metalr.trace)
    assert vars(model)["make_train_function"] is make_train_function


def test_a_list_of_callbacks_that_was_made_before_fit():
    x, y = make_data()
    optimizer = keras.optimizers.SGD(0.01)
    model = compiled(optimizer, **QUICK)
    metalr = MetaLR(Controller())
    callbacks = keras.callbacks.CallbackList(
        [metalr], add_history=True, model=model, epochs=1, steps=6
    )
    history = model.fit(x, y, callbacks=callbacks, **FIT)
    assert len(metalr.trace) == 6
    assert {"learning_rate", "grad_norm"} <= set(history.history)
    assert_clean(model, optimizer, 0.01)


@pytest.mark.parametrize("first", ["fit", "evaluate"])
def test_a_list_of_callbacks_is_used_again(first):
    x, y = make_data()
    model = compiled(keras.optimizers.SGD(1000.0), **QUICK)
    metalr = MetaLR(total_steps=12)
    callbacks = keras.callbacks.CallbackList(
        [metalr], add_history=True, model=model
    )
    if first == "fit":
        model.fit(x, y, callbacks=callbacks, **FIT)
    else:
        model.evaluate(x, y, callbacks=callbacks, verbose=0)
    optimizer = model.optimizer
    model.fit(x, y, callbacks=callbacks, **FIT)
    assert all_finite(model) and len(metalr.trace)
    assert metalr.trace["learning_rate"].max() < 1000.0
    # `fit` had made a train function of its own before it called MetaLR.
    assert_clean(model, optimizer, 1000.0, model.train_function)
    assert not getattr(model.train_function, "metalr", False)


@pytest.mark.parametrize("error", [TypeError("mine"), KeyboardInterrupt()])
def test_an_exception_in_the_first_step_of_a_model_that_is_not_built(error):
    class Broken(keras.metrics.Metric):
        def update_state(self, *arguments, **kwargs):
            raise error

        def result(self):
            return 0.0

    model = keras.Sequential([keras.layers.Dense(3)])
    optimizer = keras.optimizers.SGD(0.5)
    model.compile(optimizer, cross_entropy(), metrics=[Broken()], **QUICK)
    x, y = make_data()
    with pytest.raises(type(error)) as caught:
        model.fit(x, y, callbacks=[MetaLR()], **FIT)
    assert str(caught.value) == str(error)
    assert_clean(model, optimizer, 0.5)
