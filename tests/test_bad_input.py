"""What cannot work is refused before the first step, and nothing is touched."""

import json
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr.features import NUM_FEATURES
from keras_metalr.update_rule import MAX_RATE
from keras_metalr.update_rule import MIN_RATE
from tests.fit_checks import FIT
from tests.fit_checks import HOOKS
from tests.fit_checks import NUM_CLASSES
from tests.fit_checks import NUM_INPUTS
from tests.fit_checks import QUICK
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import cross_entropy
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data
from tests.fit_checks import needs_optimizer

BACKEND = keras.backend.backend()
NAN, INFINITE = float("nan"), float("inf")

# -- The constructor's arguments. -------------------------------------------

BAD_ARGUMENTS: list[tuple[str, Any]] = [
    *(("total_steps", value) for value in (0, -1, 1.5, True, "10", [10])),
    *(
        (name, value)
        for name in ("min_learning_rate", "max_learning_rate")
        for value in (0, 0.0, -1e-3, NAN, INFINITE, True, "0.1", [0.1])
    ),
    *(
        (name, value)
        for name in ("safe_start", "guard", "feedback")
        for value in (1, 0, None, "yes")
    ),
    *(("pretrained", value) for value in (1, 0, "yes")),
    *(("verbose", value) for value in (2, -1, True, "1", None, "auto")),
    *(("controller", value) for value in (None, 3, Controller, lambda x: x)),
]


@pytest.mark.parametrize(
    ("name", "value"),
    BAD_ARGUMENTS,
    ids=[f"{name} {str(value)[:20]}" for name, value in BAD_ARGUMENTS],
)
def test_an_argument_of_a_wrong_type_or_size(name, value):
    arguments = {"controller": Controller(), name: value}
    with pytest.raises(ValueError) as caught:
        MetaLR(**arguments)
    message = str(caught.value)
    assert f"`{name}`" in message, "names the argument"
    assert repr(value) in message, "says what came"
    assert "must be" in message, "says what was expected"


@pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param(0.1, 0.01, id="crossed"),
        pytest.param(10 * MAX_RATE, None, id="above the largest there is"),
        pytest.param(None, MIN_RATE / 10, id="below the smallest there is"),
    ],
)
def test_limits_that_leave_no_room(low, high):
    with pytest.raises(ValueError, match="_learning_rate`") as caught:
        MetaLR(Controller(), min_learning_rate=low, max_learning_rate=high)
    assert str(low if high is None else high) in str(caught.value)


def test_limits_may_leave_one_rate_alone():
    metalr = MetaLR(Controller(), min_learning_rate=0.1, max_learning_rate=0.1)
    assert metalr.min_learning_rate == metalr.max_learning_rate == 0.1


def test_numbers_of_numpy_are_numbers():
    metalr = MetaLR(
        Controller(),
        total_steps=np.int64(10),
        min_learning_rate=np.float32(0.1),
        max_learning_rate=np.float64(0.2),
    )
    json.dumps(metalr.get_config())


def test_all_but_the_controller_go_by_name():
    with pytest.raises(TypeError, match="positional"):
        MetaLR(Controller(), 10)


def _dense(num_inputs: int, *units: int) -> keras.Model:
    layers = [keras.layers.Dense(width) for width in units]
    return keras.Sequential([keras.Input((num_inputs,)), *layers])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: _dense(NUM_FEATURES - 1, 1), id="inputs"),
        pytest.param(lambda: _dense(NUM_FEATURES, 2), id="outputs"),
        pytest.param(
            lambda: keras.Sequential([keras.layers.Dense(1)]), id="not built"
        ),
    ],
)
def test_a_controller_of_the_wrong_shape(make):
    with pytest.raises(ValueError, match="`controller` must") as caught:
        MetaLR(make())
    assert str(NUM_FEATURES) in str(caught.value)


def test_any_model_of_the_right_shape_is_a_controller():
    model = compiled("adam", **QUICK)
    controller = _dense(NUM_FEATURES, 4, 1)
    x, y = make_data()
    history = model.fit(x, y, callbacks=[MetaLR(controller)], **FIT)
    assert np.isfinite(history.history["learning_rate"]).all()


def test_a_preset_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no preset 'nosuch'") as caught:
        MetaLR("nosuch")
    assert "general" in str(caught.value), "says which there are"
    with pytest.raises(ValueError, match="no preset"):
        MetaLR(str(tmp_path))


def _cut(path, to=100):
    path.write_bytes(path.read_bytes()[:to])


@pytest.mark.parametrize(
    "file", ["config.json", "controller.weights.h5"], ids=str
)
@pytest.mark.parametrize("missing", [False, True], ids=["cut short", "missing"])
def test_a_damaged_preset(tmp_path, file, missing):
    Controller().save_to_preset(str(tmp_path / "mine"))
    damaged = tmp_path / "mine" / file
    damaged.unlink() if missing else _cut(damaged)
    with pytest.raises(ValueError, match=r"[Pp]reset") as caught:
        MetaLR(str(tmp_path / "mine"))
    assert str(tmp_path / "mine") in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"hidden_units": [8]}, {"width": 3}], ids=str
)
def test_a_preset_whose_parts_do_not_fit(tmp_path, change):
    Controller().save_to_preset(str(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["config"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"damaged.*does not describe"):
        MetaLR(str(tmp_path))


# -- Models and data. -------------------------------------------------------


def _assert_refused(
    model: keras.Model,
    metalr: MetaLR,
    match: str,
    data: Any = None,
    learning_rate: float | None = None,
) -> str:
    """`fit` raises, and leaves the model as it was; returns the message."""
    optimizer, before = model.optimizer, model.get_weights()
    config = optimizer.get_config()
    x, y = make_data()
    arguments: dict = {"x": x, "y": y, **FIT}
    if data is not None:
        arguments = {"x": data, "verbose": 0}
    with pytest.raises(ValueError, match=match) as caught:
        model.fit(callbacks=[metalr], **arguments)
    assert_clean(model, optimizer, learning_rate)
    assert optimizer.get_config() == config or learning_rate is None
    if optimizer.built:
        assert int(optimizer.iterations) == 0
    if before:
        assert largest_difference(before, model.get_weights()) == 0.0
    return str(caught.value)


def test_a_model_that_is_not_compiled():
    x, y = make_data()
    model = keras.Sequential([keras.layers.Dense(NUM_CLASSES)])
    with pytest.raises(ValueError, match="compile"):
        model.fit(x, y, callbacks=[MetaLR(Controller())], **FIT)
    with pytest.raises(ValueError, match="compile"):
        MetaLR(Controller()).set_model(model)
    assert not [name for name in HOOKS if name in vars(model)]


# Keras says so as well, in the trace, and trains on.
@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
@pytest.mark.parametrize("kind", ["functional", "unbuilt"])
def test_a_model_without_trainable_weights(kind):
    layers = [keras.layers.Rescaling(2.0), keras.layers.Flatten()]
    if kind == "functional":
        frozen = keras.layers.Dense(NUM_CLASSES, trainable=False)
        layers = [keras.Input((NUM_INPUTS,)), *layers, frozen]
    model = keras.Sequential(layers)
    model.compile("sgd", loss=cross_entropy(), **QUICK)
    message = _assert_refused(model, MetaLR(Controller()), "no trainable")
    assert model.name in message


def _batches() -> Any:
    x, y = make_data()
    while True:
        yield x[:8], y[:8]


def test_data_without_a_length():
    message = _assert_refused(
        compiled("sgd", **QUICK),
        MetaLR(Controller()),
        "how long the run is",
        data=_batches(),
    )
    assert "total_steps" in message and "steps_per_epoch" in message


# Keras says so of every generator that ends, when no number of steps is given.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_data_without_a_length_and_total_steps():
    x, y = make_data()
    model = compiled("sgd", **QUICK)
    metalr = MetaLR(Controller(), total_steps=6)

    def batches():
        for first in range(0, 48, 8):
            yield x[first : first + 8], y[first : first + 8]

    model.fit(batches(), verbose=0, callbacks=[metalr])
    assert len(metalr.trace) == 6
    # Its features go from the beginning to the end of the run.
    shares = metalr.trace["progress"] + 0.5
    np.testing.assert_allclose(shares, np.arange(1, 7) / 6, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, -0.25, NAN, INFINITE], ids=str)
@pytest.mark.parametrize("kind", ["functional", "unbuilt"])
def test_a_learning_rate_that_cannot_be_scaled(kind, rate):
    model = compiled(keras.optimizers.SGD(rate), kind, **QUICK)
    metalr = MetaLR(Controller())
    message = _assert_refused(model, metalr, "must be a positive, finite")
    assert str(rate) in message
    value = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    np.testing.assert_equal(value, np.float32(rate))


@needs_optimizer("MultiOptimizer")
def test_a_part_of_a_multi_optimizer_without_a_rate():
    parts = {".*/bias": keras.optimizers.SGD(0.0)}
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01), parts)
    )
    message = _assert_refused(
        compiled(optimizer, **QUICK), MetaLR(Controller()), "positive"
    )
    assert "0.0" in message


@needs_optimizer("MultiOptimizer")
def test_a_part_without_a_rate_that_is_only_found_when_it_is_built():
    """The model's optimizer must not stay wrapped."""

    def part_of(variable):
        rate = 0.0 if "bias" in variable.path else 0.01
        return parts.setdefault(rate, keras.optimizers.SGD(rate))

    parts = {}
    optimizer = keras.optimizers.MultiOptimizer(part_of)
    _assert_refused(
        compiled(optimizer, **QUICK), MetaLR(Controller()), "positive"
    )


# -- Train steps that MetaLR cannot measure. --------------------------------


class OwnLoss(keras.Model):
    """Computes its loss without `compute_loss`."""

    def _own_loss(self, y, y_pred):
        return keras.ops.mean(cross_entropy()(y, y_pred))

    def train_step(self, *arguments):
        return _STEPS[BACKEND](self, *arguments, updates=1)


class NoUpdate(keras.Model):
    """Computes a loss and goes no further."""

    def _own_loss(self, y, y_pred):
        return self.compute_loss(y=y, y_pred=y_pred)

    def train_step(self, *arguments):
        return _STEPS[BACKEND](self, *arguments, updates=0)


class TwoUpdates(NoUpdate):
    """Applies what it has computed, and applies it again."""

    def train_step(self, *arguments):
        return _STEPS[BACKEND](self, *arguments, updates=2)


def _tensorflow_step(model, data, updates):
    import tensorflow as tf

    x, y = data
    with tf.GradientTape() as tape:
        loss = model._own_loss(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    for _ in range(updates):
        model.optimizer.apply(gradients, model.trainable_variables)
    return {"loss": loss}


def _torch_step(model, data, updates):
    import torch

    x, y = data
    model.zero_grad()
    loss = model._own_loss(y, model(x, training=True))
    loss.backward()
    variables = list(model.trainable_weights)
    with torch.no_grad():
        gradients = [v.value.grad for v in variables]
        for _ in range(updates):
            model.optimizer.apply(gradients, variables)
    return {"loss": loss}


def _jax_step(model, state, data, updates):
    import jax

    trainable, others, slots, metrics = state
    x, y = data

    def loss_and_state(trainable):
        y_pred, new = model.stateless_call(trainable, others, x, training=True)
        return model._own_loss(y, y_pred), new

    step = jax.value_and_grad(loss_and_state, has_aux=True)
    (loss, others), gradients = step(trainable)
    for _ in range(updates):
        trainable, slots = model.optimizer.stateless_apply(
            slots, gradients, trainable
        )
    return {"loss": loss}, (trainable, others, slots, metrics)


_STEPS: dict[str, Callable] = {
    "tensorflow": _tensorflow_step,
    "jax": _jax_step,
    "torch": _torch_step,
}


@pytest.mark.parametrize(
    ("model_class", "match", "advice"),
    [
        (OwnLoss, "without calling", "compute_loss"),
        (NoUpdate, "did not apply gradients", "self.optimizer"),
    ],
    ids=["no compute_loss", "no update"],
)
def test_a_train_step_that_cannot_be_measured(model_class, match, advice):
    body = compiled("sgd")
    model = model_class(body.input, body.output)
    model.compile(keras.optimizers.SGD(0.01), loss=cross_entropy(), **QUICK)
    metalr = MetaLR(Controller())
    message = _assert_refused(model, metalr, match, learning_rate=0.01)
    assert advice in message
    # Plain Keras has no objection.
    x, y = make_data()
    assert np.isfinite(model.fit(x, y, **FIT).history["loss"]).all()


def test_a_train_step_that_updates_twice():
    body = compiled("sgd")
    model = TwoUpdates(body.input, body.output)
    optimizer = keras.optimizers.SGD(0.01)
    model.compile(optimizer, loss=cross_entropy(), **QUICK)
    before = model.get_weights()
    x, y = make_data()
    with pytest.raises(ValueError, match=r"more than once.* in one call"):
        model.fit(x, y, callbacks=[MetaLR(Controller())], **FIT)
    assert_clean(model, optimizer, 0.01)
    # On PyTorch the first of the two is made before the second is seen.
    if BACKEND != "torch":
        assert largest_difference(before, model.get_weights()) == 0.0


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere Keras says what is new")
def test_a_layer_that_is_thawed_without_compiling_again():
    model = compiled("sgd", **QUICK)
    model.layers[1].trainable = False
    model.compile("sgd", loss=cross_entropy(), **QUICK)
    x, y = make_data()
    model.fit(x, y, callbacks=[MetaLR(Controller())], **FIT)
    model.layers[1].trainable = True
    with pytest.raises(ValueError, match="Compile the model again"):
        model.fit(x, y, callbacks=[MetaLR(Controller())], **FIT)
    assert_clean(model, model.optimizer)


# -- Files that are no checkpoint of a run. ---------------------------------


def _plain_checkpoint(tmp_path):
    path = tmp_path / "plain.keras"
    compiled("sgd").save(path)
    return path


def _plain_weights(tmp_path):
    path = tmp_path / "plain.weights.h5"
    compiled("sgd").save_weights(path)
    return path


def _text(tmp_path, name="text.keras"):
    path = tmp_path / name
    path.write_text("no checkpoint")
    return path


def _other_zip(tmp_path):
    path = tmp_path / "other.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    return path


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: folder / "none.keras", id="missing"),
        pytest.param(lambda folder: folder, id="a folder"),
        pytest.param(_plain_checkpoint, id="plain .keras"),
        pytest.param(_plain_weights, id="plain .weights.h5"),
        pytest.param(_text, id="text as .keras"),
        pytest.param(lambda f: _text(f, "a.weights.h5"), id="text as .h5"),
        pytest.param(_other_zip, id="another zip"),
    ],
)
def test_restoring_from_a_foreign_file(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError) as caught:
        MetaLR(Controller()).restore(str(path))
    assert str(path) in str(caught.value)
    assert "Expected a .keras or .weights.h5 file" in str(caught.value)


def _checkpoint(path, model):
    x, y = make_data()
    saver = keras.callbacks.ModelCheckpoint(path)
    model.fit(x, y, callbacks=[MetaLR(Controller()), saver], **FIT)


def test_restoring_a_run_of_another_model(tmp_path):
    path = str(tmp_path / "run.keras")
    theirs = keras.optimizers.SGD(0.5)
    _checkpoint(path, compiled(theirs, normalize=False, **QUICK))
    metalr = MetaLR(Controller()).restore(path)
    model = compiled(keras.optimizers.SGD(0.01), **QUICK)
    message = _assert_refused(model, metalr, "shape", learning_rate=0.01)
    assert "another model" in message


def test_restoring_into_a_model_that_is_not_built(tmp_path):
    path = str(tmp_path / "run.keras")
    _checkpoint(path, compiled("sgd", **QUICK))
    metalr = MetaLR(Controller()).restore(path)
    model = compiled(keras.optimizers.SGD(0.01), "unbuilt", **QUICK)
    if BACKEND == "tensorflow":
        message = _assert_refused(model, metalr, "built", learning_rate=0.01)
        assert "load_model" in message
        return
    # On the others `fit` builds the model before it begins.
    x, y = make_data()
    model.fit(x, y, epochs=2, initial_epoch=1, callbacks=[metalr], **FIT)
    np.testing.assert_array_equal(metalr.trace["step"], np.arange(1, 13))


def test_nnx_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "is_nnx_enabled", lambda: True)
    model = compiled("sgd")
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="NNX"):
        model.fit(*make_data(), callbacks=[MetaLR()], **FIT)
    assert_clean(model, optimizer)
