"""Nothing is lost: absurd rates, broken batches, and runs that go wrong."""

import itertools
import math
from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr.decision import EVENT_ROLLBACK
from keras_metalr.decision import EVENT_SKIPPED
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import all_finite
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import cross_entropy
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data
from tests.fit_checks import make_layers

O = keras.optimizers  # noqa: E741
NUM_STEPS = 20
BACKEND = keras.backend.backend()


def _fit(
    model: keras.Model, metalr: MetaLR, data: Any = None, **kwargs
) -> dict:
    x, y = make_data(NUM_STEPS * BATCH_SIZE) if data is None else data
    arguments = {**FIT, "epochs": 4, **kwargs}
    return model.fit(x, y, callbacks=[metalr], **arguments).history


def _has(trace: Any, event: float) -> np.ndarray:
    return (trace["event"].astype(int) & int(event)) > 0


def _count_warnings(caught: Any) -> int:
    """How often MetaLR warned, among all that was caught."""
    return sum("MetaLR" in str(warning.message) for warning in caught)


# -- The first rate. --------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        "Adam",
        pytest.param("Lion", marks=pytest.mark.large),
        pytest.param("RMSprop", marks=pytest.mark.large),
    ],
)
def test_any_first_rate_ends_at_the_same(name):
    rates, losses = [], []
    for first in (1e-9, 1e9):
        model = compiled(getattr(O, name)(first), **QUICK)
        metalr = MetaLR()
        history = _fit(model, metalr)
        assert all_finite(model)
        assert np.isfinite(metalr.trace["loss"]).all()
        rates.append(metalr.trace["learning_rate"])
        losses.append(history["loss"][-1])
    ends = [rate[-1] for rate in rates]
    # The same but for rounding, which the controller in the loop amplifies: the
    # rates are kept as factors on firsts that lie 18 decades apart.
    assert max(ends) / min(ends) < 1.1
    assert max(losses) / min(losses) < 1.01
    # The run lowers and raises it from there: this is no constant.
    assert rates[0].max() / rates[0].min() > 2


def test_the_first_update_is_small_beside_the_weights():
    x, y = make_data()
    for first in (1e-9, 1e9):
        model = compiled(O.Adam(first), normalize=False, **QUICK)
        before = model.get_weights()
        _fit(model, MetaLR(total_steps=100), (x[:8], y[:8]), epochs=1)
        moved = largest_difference(before, model.get_weights())
        assert 0 < moved < 1e-3


@pytest.mark.parametrize("broken", [1, 3])
def test_the_safe_start_begins_with_the_first_step_that_can_be_taken(broken):
    """The first update must not be made at the user's own rate of 10."""
    x, y = make_data((broken + 1) * BATCH_SIZE)
    x[: broken * BATCH_SIZE] = np.nan
    model = compiled(O.Adam(10.0), normalize=False, **QUICK)
    before = model.get_weights()
    metalr = MetaLR(Controller(), total_steps=100)
    with pytest.warns(UserWarning, match="skipped"):
        _fit(model, metalr, (x, y), epochs=1)
    assert metalr.trace["learning_rate"][-1] < 0.1
    assert 0 < largest_difference(before, model.get_weights()) < 1e-2


def test_the_safe_start_outlasts_the_search_for_a_loss_scale():
    keras.config.set_dtype_policy("mixed_float16")
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    # About twenty steps overflow: more than the safe start has.
    optimizer = O.LossScaleOptimizer(O.Adam(10.0), initial_scale=2.0**32)
    model = compiled(optimizer, normalize=False, **QUICK)
    metalr = MetaLR(Controller(), total_steps=100)
    _fit(model, metalr, (x * 30, y), epochs=2)
    starting = (metalr.trace["event"].astype(int) & 4) > 0
    assert starting[:17].all() and not starting[-1]
    assert metalr.trace["learning_rate"][-1] < 0.1
    assert all_finite(model)


def test_the_safe_start_counts_updates_and_not_batches():
    """Batches that gather leave the weights alone, and ask for no more."""
    optimizer = O.Adam(0.01, gradient_accumulation_steps=4)
    model = compiled(optimizer, normalize=False, **QUICK)
    metalr = MetaLR(Controller())
    _fit(model, metalr, make_data(24 * BATCH_SIZE), epochs=1)
    assert metalr.trace["learning_rate"].max() < 0.1
    assert np.all(metalr.trace["update_size"] < 1.0)


@pytest.mark.parametrize("pretrained, length", [(False, 3e-3), (True, 1e-4)])
def test_pretrained_weights_start_with_shorter_updates(pretrained, length):
    metalr = MetaLR(Controller(), pretrained=pretrained)
    model = compiled(O.Adam(0.01), normalize=False, drop=False, **QUICK)
    _fit(model, metalr, epochs=1)
    # The feature is (log(length) + 7) / 4.
    last = np.exp(4.0 * metalr.trace["update_size"][-1] - 7.0)
    assert length / 3.0 < last < 3.0 * length


# -- Batches that are not finite. -------------------------------------------


def _with_broken_batches(value: float) -> tuple[np.ndarray, np.ndarray]:
    """1 batch of 10 has a number in it that is not finite."""
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    x[3 * BATCH_SIZE, 0] = x[13 * BATCH_SIZE + 1, 2] = value
    return x, y


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_broken_batches_are_skipped(value):
    clean = make_data()
    model = compiled(O.Adam(0.01), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="MetaLR skipped 2 step") as caught:
        history = _fit(
            model,
            metalr,
            _with_broken_batches(value),
            validation_data=clean,
        )
    assert _count_warnings(caught) == 1, "once, not once an epoch"
    assert all_finite(model), "the running statistics too"
    assert np.isfinite(history["val_loss"]).all()
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert_clean(model, optimizer, 0.01)
    skipped = np.flatnonzero(_has(metalr.trace, EVENT_SKIPPED)) % NUM_STEPS
    np.testing.assert_array_equal(skipped, [3, 13] * 4)
    # Neither weights nor statistics have moved in those steps.
    assert np.isfinite(metalr.trace["learning_rate"]).all()
    # A few bad batches are no reason to change the rate or to go back.
    np.testing.assert_array_equal(
        metalr.trace["learning_rate"], np.float32(0.01)
    )


def test_a_skipped_batch_moves_nothing():
    # Momentum would go on moving the weights by itself; plain SGD does not.
    x, y = make_data()
    x[8:16] = np.nan
    weights = []

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(self.model.get_weights())

    model = compiled(O.SGD(0.1), **QUICK)
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="skipped 1 step"):
        model.fit(x, y, callbacks=[metalr, Recorder()], **FIT)
    moved = [
        largest_difference(a, b) > 0 for a, b in itertools.pairwise(weights)
    ]
    assert moved == [False, True, True, True, True]


def test_sample_weights_that_are_not_finite():
    x, y = make_data()
    sample_weight = np.ones(len(x), "float32")
    sample_weight[20] = np.inf
    model = compiled(O.Adam(0.01), **QUICK)
    metalr = MetaLR(Controller())
    with pytest.warns(UserWarning, match="skipped 1 step"):
        _fit(model, metalr, (x, y), epochs=1, sample_weight=sample_weight)
    assert all_finite(model)


@pytest.mark.parametrize(
    "num_steps", [3, pytest.param(NUM_STEPS, marks=pytest.mark.large)]
)
def test_nothing_finite_from_the_first_step_on_is_an_error(num_steps):
    x, y = make_data(num_steps * BATCH_SIZE)
    # Without ReLU: TensorFlow's makes 0 of NaN on some processors.
    inputs = keras.Input(x.shape[1:])
    model = keras.Sequential([inputs, *make_layers()[1:]])
    model.compile(O.Adam(0.01), loss=cross_entropy(), **QUICK)
    optimizer, before = model.optimizer, model.get_weights()
    with pytest.raises(ValueError, match="not finite") as caught:
        _fit(model, MetaLR(Controller()), (x * np.nan, y))
    message = str(caught.value)
    assert "The loss of all" in message and "no step has moved" in message
    assert "inputs" in message, "says where to look"
    assert largest_difference(before, model.get_weights()) == 0.0
    assert_clean(model, optimizer, 0.01)
    # The same model learns from data that are in order.
    _fit(model, MetaLR(Controller()), epochs=1)
    assert all_finite(model)


def test_hopeless_data_are_an_error_before_the_epoch_is_over():
    begun = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            begun.append(batch)

    x, y = make_data(60 * BATCH_SIZE)
    model = keras.Sequential([keras.Input(x.shape[1:]), *make_layers()[1:]])
    model.compile(O.Adam(0.01), loss=cross_entropy(), **QUICK)
    with pytest.raises(ValueError, match="not finite"):
        model.fit(x * np.nan, y, callbacks=[MetaLR(), Count()], **FIT)
    assert len(begun) < 40


def test_a_broken_batch_is_told_from_the_search_for_a_loss_scale():
    x, y = _with_broken_batches(np.nan)
    # Without ReLU: TensorFlow's makes 0 of NaN on some processors.
    model = keras.Sequential([keras.Input(x.shape[1:]), *make_layers()[1:]])
    optimizer = O.LossScaleOptimizer(O.Adam(0.01), initial_scale=8.0)
    model.compile(optimizer, loss=cross_entropy(), **QUICK)
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="skipped 2 step"):
        _fit(model, metalr, (x, y), epochs=1)
    assert all_finite(model)
    skipped = np.flatnonzero(_has(metalr.trace, EVENT_SKIPPED))
    np.testing.assert_array_equal(skipped, [3, 13])


class RootAtZero(keras.losses.Loss):
    """0, and its gradient is not a number."""

    def call(self, y_true, y_pred):
        del y_true
        return keras.ops.sqrt(keras.ops.sum(y_pred * 0.0, axis=-1))


@pytest.mark.parametrize("guard", [True, False])
def test_a_gradient_that_is_never_finite_is_told_from_a_loss(guard):
    model = compiled(O.Adam(0.01), loss=RootAtZero(), **QUICK)
    what = "gradient" if guard else "loss or the gradient"
    with pytest.raises(ValueError, match=f"The {what} of all") as caught:
        _fit(model, MetaLR(Controller(), guard=guard))
    message = str(caught.value)
    assert ("square root" in message) == guard
    assert ("no step has moved" in message) == guard


@pytest.mark.parametrize(
    ("num_steps", "epochs", "initial_scale"),
    [
        pytest.param(1, 30, 2.0**15, id="one batch an epoch"),
        pytest.param(
            NUM_STEPS, 3, 2.0**24, id="much too high", marks=pytest.mark.large
        ),
    ],
)
def test_the_search_for_a_loss_scale_is_no_fault(
    num_steps, epochs, initial_scale
):
    # Warnings are errors here: the search is how mixed precision begins.
    keras.config.set_dtype_policy("mixed_float16")
    x, y = make_data(num_steps * BATCH_SIZE)
    optimizer = O.LossScaleOptimizer(O.Adam(0.01), initial_scale=initial_scale)
    model = compiled(optimizer, **QUICK)
    # So large that gradients times 2**15 are beyond the range of float16.
    metalr = MetaLR(Controller(), safe_start=False)
    history = _fit(model, metalr, (x * 30, y), epochs=epochs)
    assert all_finite(model)
    assert history["loss"][-1] < history["loss"][0]
    assert not _has(metalr.trace, EVENT_ROLLBACK).any()


# -- Runs that go wrong. ----------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_run_that_is_ruined_goes_back(name):
    model = compiled(getattr(O, name)(1e9), **QUICK)
    optimizer = model.optimizer
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="earlier weights") as caught:
        _fit(model, metalr, epochs=8)
    assert _count_warnings(caught) == 1
    assert all_finite(model)
    trace = metalr.trace
    back = np.flatnonzero(_has(trace, EVENT_ROLLBACK))
    assert len(back) > 0
    rates = trace["learning_rate"]
    for row in back[back + 1 < len(rates)]:
        assert rates[row + 1] < rates[row]
    assert rates[-1] < rates[0]
    assert_clean(model, optimizer, 1e9)


class Ruin(keras.callbacks.Callback):
    """Does at one step what a far too high rate does."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.steps_left = step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            weights = self.model.get_weights()
            self.model.set_weights([w * 1e4 for w in weights])


# Weights are kept once in 20 decisions, here at the steps 20, 40 and 60; ruin
# that comes right before must not be kept as the last good weights.
@pytest.mark.parametrize("step", [27, 41])
def test_a_rollback_brings_the_weights_back(step):
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    model = compiled(O.SGD(0.05), normalize=False, **QUICK)
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="earlier weights"):
        model.fit(x, y, epochs=5, callbacks=[metalr, Ruin(step)], **FIT)
    back = np.flatnonzero(_has(metalr.trace, EVENT_ROLLBACK)) + 1
    decisions_until_restored = 16
    assert back[0] > step, "no false alarm before"
    assert back[0] <= step + 10, "found at once"
    assert float(model.evaluate(x, y, verbose=0)) < 1.5
    # The losses of weights that were thrown away are in no mean of later ones.
    since = metalr.trace["loss_gain"][back[0] + decisions_until_restored :]
    assert len(since) > 20 and np.all(since < 1.0)
    # At what it was, or below, from soon after.
    losses = metalr.trace["loss"]
    assert losses[-20:].mean() < losses[: step - 1].max()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rollback_brings_back_statistics_and_slots(momentum):
    """A ruined variance or momentum would ruin the weights once more."""
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    model = compiled(O.SGD(0.05, momentum=momentum), **QUICK)
    kind = keras.layers.BatchNormalization
    (norm,) = (layer for layer in model.layers if isinstance(layer, kind))
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="earlier weights 1 time"):
        model.fit(x, y, epochs=5, callbacks=[metalr, Ruin(41)], **FIT)
    variance = keras.ops.convert_to_numpy(norm.moving_variance)
    assert variance.max() < 100.0
    assert float(model.evaluate(x, y, verbose=0)) < 1.5


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_never_holds_what_is_gone_back_from(tmp_path, first):
    """Whether MetaLR stands before the callback that saves, or after it."""
    path = str(tmp_path / "run.keras")
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    model = compiled(O.SGD(0.05), normalize=False, **QUICK)
    save = keras.callbacks.ModelCheckpoint(path)
    metalr = MetaLR(Controller(), safe_start=False)
    order = [metalr, save] if first else [save, metalr]
    ruin = Ruin(2 * NUM_STEPS - 4)
    with pytest.warns(UserWarning, match="earlier weights"):
        model.fit(x, y, epochs=2, callbacks=[*order, ruin], **FIT)
    saved = keras.models.load_model(path)
    assert largest_difference(saved.get_weights(), model.get_weights()) == 0.0


def test_a_rollback_after_weights_of_the_epoch_before_were_loaded(tmp_path):
    """They bring a count of rollbacks that is lower than what was seen."""
    path = str(tmp_path / "run.weights.h5")

    class Reload(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.save_weights(path)
            if epoch == 1:
                self.model.load_weights(path)

    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    model = compiled(O.SGD(0.05), normalize=False, **QUICK)
    metalr = MetaLR(Controller(), safe_start=False)
    ruins = [Ruin(NUM_STEPS + 7), Ruin(3 * NUM_STEPS + 10)]
    with pytest.warns(UserWarning, match="earlier weights"):
        model.fit(x, y, epochs=4, callbacks=[metalr, Reload(), *ruins], **FIT)
    assert float(model.evaluate(x, y, verbose=0)) < 1.5


def test_weights_that_were_being_ruined_are_not_gone_back_to():
    class Worsen(Ruin):
        def on_train_batch_begin(self, batch, logs=None):
            self.steps_left -= 1
            if self.steps_left == 0:
                kernel = math.sqrt(1.07) * np.ones((1, 1), "float32")
                self.model.set_weights([kernel])

    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(O.SGD(1e-6), loss="mse", **QUICK)
    metalr = MetaLR(Controller(), safe_start=False)
    x, y = np.ones((60, 1), "float32"), np.zeros((60, 1), "float32")
    # The loss is the weight squared. A copy is taken right after it rose by
    # 7 %, and would be confirmed at step 40, when the run has gone back.
    with pytest.warns(UserWarning, match="earlier weights 1 time"):
        model.fit(x, y, batch_size=1, verbose=0, callbacks=[metalr, Worsen(24)])
    np.testing.assert_allclose(model.get_weights()[0], 1.0, atol=1e-3)


@pytest.mark.skipif(BACKEND != "torch", reason="The layer is PyTorch's.")
def test_a_rollback_brings_back_what_a_module_of_pytorch_keeps():
    import torch

    class RuinStatistics(Ruin):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_begin(batch, logs)
            if self.steps_left == 0:
                norm.running_var.mul_(1e30)

    keras.utils.set_random_seed(0)
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    norm = torch.nn.BatchNorm1d(x.shape[1])
    layer = keras.layers.TorchModuleWrapper(
        norm, output_shape=(None, *x.shape[1:])
    )
    dense = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer, dense])
    model.compile(O.SGD(0.05), loss=cross_entropy())
    metalr = MetaLR(Controller(), safe_start=False)
    with pytest.warns(UserWarning, match="earlier weights"):
        model.fit(x, y, epochs=5, callbacks=[metalr, RuinStatistics(27)], **FIT)
    assert float(norm.running_var.max()) < 100.0
    assert int(norm.num_batches_tracked) == 5 * NUM_STEPS


@pytest.mark.parametrize("validate", [False, True])
def test_a_rollback_comes_before_the_end_of_the_run(validate):
    """Also where `fit` is over before it looks at what was decided."""
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    model = compiled(O.SGD(0.05), normalize=False, **QUICK)
    metalr = MetaLR(Controller(), safe_start=False)
    arguments = {"epochs": 5, **FIT}
    if validate:
        arguments["validation_data"] = (x, y)
    with pytest.warns(UserWarning, match="earlier weights 1 time"):
        history = model.fit(
            x, y, callbacks=[metalr, Ruin(5 * NUM_STEPS - 4)], **arguments
        ).history
    assert _has(metalr.trace, EVENT_ROLLBACK)[-4:].any()
    assert float(model.evaluate(x, y, verbose=0)) < 1.5
    if validate:
        assert history["val_loss"][-1] < 1.5


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_rollback_at_the_end_of_data_without_a_length_is_not_lost():
    """The state that the train function goes back to may find no taker."""
    x, y = make_data(40 * BATCH_SIZE)

    def batches():
        for i in range(40):
            part = slice(i * BATCH_SIZE, (i + 1) * BATCH_SIZE)
            yield x[part], y[part]

    model = compiled(O.SGD(0.05), normalize=False, **QUICK)
    metalr = MetaLR(Controller(), safe_start=False, total_steps=40)
    with pytest.warns(UserWarning, match="earlier weights 1 time"):
        model.fit(batches(), callbacks=[metalr, Ruin(26)], verbose=0)
    # In time for the last look, which is at the end of the data.
    assert 24 <= np.flatnonzero(_has(metalr.trace, EVENT_ROLLBACK))[0] < 32
    assert float(model.evaluate(x, y, verbose=0)) < 1.5


def test_without_guard_ruin_stays():
    x, y = make_data(NUM_STEPS * BATCH_SIZE)
    model = compiled(O.SGD(0.05), normalize=False, **QUICK)
    metalr = MetaLR(Controller(), safe_start=False, guard=False)
    model.fit(x, y, epochs=4, callbacks=[metalr, Ruin(27)], **FIT)
    assert not _has(metalr.trace, EVENT_ROLLBACK).any()
    assert not float(model.evaluate(x, y, verbose=0)) < 1.5


def test_without_guard_nothing_is_done():
    data = _with_broken_batches(np.nan)
    metalr = MetaLR(Controller(), safe_start=False, guard=False)
    model = compiled(O.Adam(0.01), **QUICK)
    optimizer = model.optimizer
    history = _fit(model, metalr, data)
    assert not _has(metalr.trace, EVENT_ROLLBACK).any()
    assert not _has(metalr.trace, EVENT_SKIPPED).any()
    assert_clean(model, optimizer, 0.01)
    # As in plain Keras, and with no warning.
    plain = compiled(O.Adam(0.01), **QUICK)
    plain_history = plain.fit(*data, epochs=4, **FIT).history
    assert not all_finite(plain)
    np.testing.assert_allclose(
        history["loss"], plain_history["loss"], rtol=1e-5, equal_nan=True
    )
    for ours, theirs in zip(
        model.get_weights(), plain.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, equal_nan=True)


def test_without_guard_a_rate_is_not_lowered():
    metalr = MetaLR(Controller(), safe_start=False, guard=False)
    model = compiled(O.SGD(1e5), **QUICK)
    _fit(model, metalr)
    np.testing.assert_array_equal(
        metalr.trace["learning_rate"], np.float32(1e5)
    )


def test_the_limits_hold():
    metalr = MetaLR(min_learning_rate=2e-3, max_learning_rate=3e-3)
    _fit(compiled(O.Adam(1e9), **QUICK), metalr)
    rates = metalr.trace["learning_rate"]
    assert rates.min() >= np.float32(2e-3) * (1 - 1e-6)
    assert rates.max() <= np.float32(3e-3) * (1 + 1e-6)
