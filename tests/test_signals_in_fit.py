"""What MetaLR measures in a compiled `fit`, against training by hand."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from keras_metalr import control
from keras_metalr.decision import INITIAL
from keras_metalr.decision import TRACE_COLUMNS
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.signals import CoordinateSample
from tests import reference
from tests.fit_checks import cross_entropy

NUM_STEPS = 12
BATCH = 16


class StateRecorder(keras.callbacks.Callback):
    """Keeps what the run remembers after every step."""

    def __init__(self):
        super().__init__()
        self.scalars: list[dict[str, float]] = []
        self.last_updates: list[np.ndarray] = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            # The data loader of torch draws from the generator of Dropout.
            keras.utils.set_random_seed(4)

    def on_train_batch_end(self, batch, logs=None):
        # Reading `self.model` brings JAX's values back to the variables.
        state = self.model.optimizer.metalr_state
        vector = keras.ops.convert_to_numpy(state.scalars)
        self.scalars.append(dict(zip(INITIAL, vector.tolist(), strict=True)))
        update = keras.ops.convert_to_numpy(state.last_update)
        self.last_updates.append(update.astype("float64"))

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array([scalars[name] for scalars in self.scalars])


@dataclass
class Measured:
    """One run of `fit` with MetaLR, and the same run by hand."""

    metalr: MetaLR
    recorder: StateRecorder
    history: dict
    steps: list[reference.Step] = field(repr=False)

    @property
    def promised_drop(self) -> np.ndarray:
        return self.metalr.trace["output"]

    @property
    def expected(self) -> dict[str, np.ndarray]:
        return reference.signals(self.steps)


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """The trace has that of `LastBatch` in place of the output, which is 0."""
    decide = control.decide
    place = np.array(TRACE_COLUMNS) == "output"

    def telling(scalars, batch, *arguments, **kwargs):
        new, row = decide(scalars, batch, *arguments, **kwargs)
        return new, keras.ops.where(place, getattr(batch, name), row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "decide", telling)
        yield


def data(num_steps: int = NUM_STEPS, weighted: bool = False) -> tuple:
    generator = np.random.default_rng(7)
    count = num_steps * BATCH
    x = generator.normal(size=(count, 8)).astype("float32")
    y = (x[:, :3] @ generator.normal(size=(3, 4))).argmax(axis=1)
    arrays = (x, y.astype("int32"))
    if weighted:
        weights = generator.uniform(0.5, 1.5, size=count).astype("float32")
        arrays += (weights,)
    return arrays


def batches(arrays: tuple) -> list[tuple]:
    return [
        tuple(array[start : start + BATCH] for array in arrays)
        for start in range(0, len(arrays[0]), BATCH)
    ]


def full_model() -> keras.Model:
    """Dropout, batch normalization, penalties on weights and activations."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            # A bias before the normalization has a gradient of pure rounding
            # error, which Adam would blow up.
            keras.layers.Dense(16, kernel_regularizer="l2", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(
                12, activation="relu", activity_regularizer="l2"
            ),
            keras.layers.Dropout(0.2, seed=5),
            keras.layers.Dense(4),
        ]
    )


def compiled(model: keras.Model, optimizer) -> keras.Model:
    model.compile(optimizer=optimizer, loss=cross_entropy())
    return model


def measure(
    make_model: Callable[[], keras.Model],
    arrays: tuple,
    *,
    total_steps: int = NUM_STEPS,
    guard: bool = False,
    seen_by_reference: Callable[[tuple], tuple] = lambda batch: batch,
) -> Measured:
    """The same training twice, from the same seed."""
    keras.utils.set_random_seed(3)
    model = make_model()
    metalr = MetaLR(
        Controller(), total_steps=total_steps, safe_start=False, guard=guard
    )
    recorder = StateRecorder()
    x, y, *sample_weight = arrays
    with told("promised_drop"):
        history = model.fit(
            x,
            y,
            sample_weight=sample_weight[0] if sample_weight else None,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[metalr, recorder],
        ).history
    keras.utils.set_random_seed(3)
    model = make_model()
    keras.utils.set_random_seed(4)
    steps = reference.train(
        model, [seen_by_reference(batch) for batch in batches(arrays)]
    )
    return Measured(metalr, recorder, history, steps)


@pytest.fixture(scope="module", params=["adam", "momentum", "own_step"])
def run(request) -> Measured:
    if request.param == "adam":
        return measure(
            lambda: compiled(full_model(), keras.optimizers.Adam(3e-3)),
            data(weighted=True),
        )
    if request.param == "momentum":
        optimizer = dict(momentum=0.9, nesterov=True)
        return measure(
            lambda: compiled(
                full_model(), keras.optimizers.SGD(0.02, **optimizer)
            ),
            data(),
            guard=True,
        )
    return measure(
        lambda: compiled(own_step_model(), keras.optimizers.SGD(0.05)),
        data(),
        seen_by_reference=lambda batch: (0.5 * batch[0], *batch[1:]),
    )


def own_step_model() -> keras.Model:
    """A model whose own `train_step` trains on halved inputs."""
    step = {
        "tensorflow": _tensorflow_step,
        "jax": _jax_step,
        "torch": _torch_step,
    }[keras.backend.backend()]

    class OwnStep(keras.Sequential):
        train_step = step

    return OwnStep(full_model().layers)


def _tensorflow_step(self, data):
    import tensorflow as tf

    x, y = data
    x = 0.5 * x
    with tf.GradientTape() as tape:
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
    gradients = tape.gradient(loss, self.trainable_variables)
    self.optimizer.apply_gradients(
        zip(gradients, self.trainable_variables, strict=True)
    )
    return {"loss": loss}


def _torch_step(self, data):
    import torch

    x, y = data
    x = 0.5 * x
    self.zero_grad()
    loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
    loss.backward()
    gradients = [v.value.grad for v in self.trainable_variables]
    with torch.no_grad():
        self.optimizer.apply(gradients, self.trainable_variables)
    return {"loss": loss}


def _jax_step(self, state, data):
    import jax

    weights, others, slots, metrics = state
    x, y = data
    x = 0.5 * x

    def loss_and_state(weights):
        y_pred, new_others, losses = self.stateless_call(
            weights, others, x, training=True, return_losses=True
        )
        # As Keras's own JAX trainer hands over the penalties.
        self._losses_override = losses
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        self._losses_override = []
        return loss, new_others

    (loss, others), gradients = jax.value_and_grad(
        loss_and_state, has_aux=True
    )(weights)
    weights, slots = self.optimizer.stateless_apply(slots, gradients, weights)
    return {"loss": loss}, (weights, others, slots, metrics)


# -- One signal each. -------------------------------------------------------


def test_run_is_the_one_by_hand(run):
    loss = run.metalr.trace["loss"]
    np.testing.assert_array_equal(run.metalr.trace["step"], range(1, 13))
    np.testing.assert_allclose(loss, run.expected["loss"], rtol=1e-5)
    assert 1e-3 < np.ptp(loss)


def test_gradient_norm(run):
    np.testing.assert_allclose(
        run.metalr.trace["grad_norm"],
        run.expected["gradient_norm"],
        rtol=1e-5,
    )


def test_update_norm_and_every_coordinate_of_the_update(run):
    expected = np.array([step.update for step in run.steps])
    measured = np.array(run.recorder.last_updates)
    norms = np.linalg.norm(expected, axis=1)
    # A weight of size 1 is known to 6e-8, so an update of 1e-2 to 1e-5.
    np.testing.assert_allclose(
        np.linalg.norm(measured, axis=1), norms, rtol=1e-5
    )
    distance = np.linalg.norm(measured - expected, axis=1)
    np.testing.assert_array_less(distance, 1e-4 * norms)


def test_relative_update_size(run):
    expected = run.expected["update_norm"] / run.expected["weight_norm"]
    measured = np.exp(run.recorder["log_update_ratio"])
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_weight_norm(run):
    np.testing.assert_allclose(
        run.recorder["weight_norm"], run.expected["weight_norm"], rtol=1e-5
    )


def test_distance_from_the_start(run):
    np.testing.assert_allclose(
        run.recorder["distance"], run.expected["distance"], rtol=1e-5
    )


def test_cosine_of_negative_gradient_with_last_update(run):
    # `cosine_fast` is its running mean: undo that, to see each step's own.
    mean = run.recorder["cosine_fast"]
    cosine = (mean[1:] - 0.7 * mean[:-1]) / 0.3
    assert mean[0] == 0.0 == run.expected["cosine"][0]
    mean = [
        reference.ema(run.expected["cosine"][:n], 0.7) for n in range(1, 13)
    ]
    np.testing.assert_allclose(run.recorder["cosine_fast"], mean, atol=1e-5)
    np.testing.assert_allclose(cosine, run.expected["cosine"][1:], atol=1e-5)
    assert np.abs(run.expected["cosine"][1:]).min() > 1e-3


def test_promised_drop(run):
    # The difference of two sums of the size of `gradient . weights`, which is
    # up to 1e3 times as large as itself.
    np.testing.assert_allclose(
        run.promised_drop, run.expected["promised_drop"], rtol=1e-4
    )


def test_trust_ratio(run):
    # The ratio is a difference of two losses over a promised drop. float32
    # holds a loss of this size (2) to 1.2e-7, and its sums to some of these:
    # the two losses agree to 2e-6, hence the ratio to that over the drop.
    promised = run.expected["promised_drop"]
    tolerance = 2e-6 / promised + 1e-4
    assert tolerance.max() < 0.01
    measured = run.metalr.trace["trust_ratio"]
    error = np.abs(measured - run.expected["trust_ratio"])
    np.testing.assert_array_less(error, tolerance)


def test_learning_rate(run):
    rate = run.expected["learning_rate"].astype("float32")
    np.testing.assert_array_equal(run.metalr.trace["learning_rate"], rate)


def test_history_has_the_last_step(run):
    trace = run.metalr.trace
    assert run.history["grad_norm"] == [trace["grad_norm"][-1]]
    assert run.history["learning_rate"] == [trace["learning_rate"][-1]]


def test_features(run):
    expected = reference.features(run.expected, 1, NUM_STEPS)
    check_features(run.metalr, expected)


def check_features(metalr: MetaLR, expected: np.ndarray) -> None:
    expected = np.clip(expected, -4.0, 4.0)
    for i, name in enumerate(FEATURE_NAMES):
        # `trust` is a log of 1 - ratio: see `test_trust_ratio`.
        tolerance = 0.02 if name == "trust" else 2e-4
        np.testing.assert_allclose(
            metalr.trace[name],
            expected[:, i],
            atol=tolerance,
            err_msg=name,
        )


# -- Other ways to train. ---------------------------------------------------


def test_linear_regression_by_hand():
    # No framework on this side: the gradients too are written out.
    generator = np.random.default_rng(2)
    x = generator.normal(size=(NUM_STEPS * BATCH, 5)).astype("float32")
    y = (x @ generator.normal(size=(5, 1)) + 0.5).astype("float32")
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.8), loss="mse")
    weights = generator.normal(size=6).astype("float32")
    model.set_weights([weights[:5, None], weights[5:]])
    metalr = MetaLR(Controller(), safe_start=False, guard=False)
    recorder = StateRecorder()
    with told("promised_drop"):
        model.fit(
            x,
            y,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[metalr, recorder],
        )
    steps = reference.linear_regression(
        weights, batches((x, y)), 0.05, momentum=0.8
    )
    expected = reference.signals(steps)
    trace = metalr.trace
    for measured, name in [
        (trace["loss"], "loss"),
        (trace["grad_norm"], "gradient_norm"),
        (recorder["weight_norm"], "weight_norm"),
        (recorder["distance"], "distance"),
        (trace["output"], "promised_drop"),
    ]:
        # Near its change of sign the promised drop is a sum of larger numbers.
        np.testing.assert_allclose(
            measured, expected[name], rtol=1e-5, atol=1e-6, err_msg=name
        )
    # Momentum takes steps uphill here, which promise nothing.
    assert 0 < np.isnan(expected["trust_ratio"]).sum() < 4
    np.testing.assert_allclose(
        trace["trust_ratio"], expected["trust_ratio"], atol=1e-4
    )
    check_features(metalr, reference.features(expected, 1, NUM_STEPS))


def test_sparsity_is_that_of_the_batch():
    # One batch has some of 200 words, the next few, the third many.
    words = np.random.default_rng(1).integers(0, 200, size=(NUM_STEPS, 100))
    words[1::3] %= 30
    words[2::3, :60] = np.arange(60)
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            keras.layers.Embedding(200, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    compiled(model, keras.optimizers.Adam(1e-3))
    metalr = MetaLR(Controller())
    with told("sparsity"):
        model.fit(
            words.reshape(-1, 1),
            words.reshape(-1) % 2,
            batch_size=100,
            shuffle=False,
            verbose=0,
            callbacks=[metalr],
        )
    reached = np.array([len(set(row)) / 200 for row in words.tolist()])
    expected = np.clip((0.4 - reached) / 0.2, 0.0, 1.0) * 600 / 608
    assert np.ptp(expected) > 0.9
    np.testing.assert_allclose(metalr.trace["output"], expected, atol=1e-5)


def test_signals_are_means_over_the_interval():
    # 600 steps make an interval of 3; of the 12 steps taken, 4 decisions.
    run = measure(
        lambda: compiled(full_model(), keras.optimizers.SGD(0.05)),
        data(),
        total_steps=600,
    )
    trace, expected = run.metalr.trace, run.expected
    np.testing.assert_array_equal(trace["step"], [3, 6, 9, 12])
    np.testing.assert_allclose(
        trace["loss"], expected["loss"].reshape(4, 3).mean(axis=1), rtol=1e-5
    )
    for column, name in [
        ("grad_norm", "gradient_norm"),
        ("learning_rate", "learning_rate"),
    ]:
        last = expected[name][2::3]
        np.testing.assert_allclose(trace[column], last, rtol=1e-5)
    check_features(run.metalr, reference.features(expected, 3, 600))


def test_large_model_is_sampled():
    # 17,924 weights, of which 4,096 or a few more are looked at.
    run = measure(
        lambda: compiled(wide_model(), keras.optimizers.Adam(1e-3)),
        data(num_steps=4),
        total_steps=4,
    )
    sample = CoordinateSample(
        [tuple(v.shape) for v in wide_model().trainable_variables]
    )
    assert sample.size < 8400 < sample.num_coordinates
    for step, update in zip(run.steps, run.recorder.last_updates, strict=True):
        measured = np.linalg.norm(update)
        expected = np.linalg.norm(step.update)
        error = reference.relative_error(sample, update)
        assert 0.0 < error < 0.02
        assert abs(measured / expected - 1.0) < 4.0 * error
    expected = run.expected
    for name in ("weight_norm", "distance"):
        measured = run.recorder[name]
        np.testing.assert_allclose(measured, expected[name], rtol=0.04)
    np.testing.assert_allclose(
        run.recorder["cosine_fast"][1:2],
        0.3 * expected["cosine"][1:2],
        atol=4.0 * 0.3 / np.sqrt(sample.size),
    )
    # What needs no copy of the weights is exact all the same.
    for measured, name in [
        (run.recorder["gradient_norm"], "gradient_norm"),
        (run.promised_drop, "promised_drop"),
    ]:
        np.testing.assert_allclose(measured, expected[name], rtol=2e-4)
    np.testing.assert_allclose(
        run.metalr.trace["grad_norm"], expected["gradient_norm"], rtol=1e-5
    )


def wide_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(4),
        ]
    )


# -- What must make no difference. ------------------------------------------


@pytest.fixture(scope="module")
def plain_features() -> np.ndarray:
    return trace_of_linear_model().rows


@pytest.mark.parametrize(
    "scales",
    [
        pytest.param({"loss": 100.0}, id="loss"),
        pytest.param({"inputs": 0.1}, id="inputs"),
        pytest.param({"copies": 4}, id="width"),
    ],
)
def test_features_do_not_depend_on_scale(plain_features, scales):
    rows = trace_of_linear_model(**scales).rows
    columns = [Trace.columns.index(name) for name in FEATURE_NAMES]
    for i, name in zip(columns, FEATURE_NAMES, strict=True):
        np.testing.assert_allclose(
            rows[:, i],
            plain_features[:, i],
            atol=0.02 if name == "trust" else 5e-4,
            err_msg=name,
        )


def trace_of_linear_model(
    loss: float = 1.0, inputs: float = 1.0, copies: int = 1
) -> Trace:
    """A linear classifier whose function of the data is always the same.

    A loss that is `loss` times as large needs a rate that is as many times
    smaller; inputs that are scaled by `inputs`, weights that are as many times
    larger and a rate that is the square of this times larger; with every input
    there `copies` times, weights and a rate that are as many times smaller.
    """
    x, y = data()
    x = np.tile(inputs * x, copies)
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), keras.layers.Dense(4, use_bias=False)]
    )
    kernel = np.random.default_rng(6).normal(scale=0.3, size=(8, 4))
    model.set_weights([np.tile(kernel, (copies, 1)) / inputs / copies])
    model.compile(
        keras.optimizers.SGD(0.1 / loss / inputs**2 / copies, momentum=0.9),
        cross_entropy(),
        loss_weights=loss,
    )
    metalr = MetaLR(Controller(), safe_start=False)
    model.fit(
        x,
        y,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[metalr],
    )
    return metalr.trace


# -- Limits. ----------------------------------------------------------------


@pytest.mark.parametrize("safe_start", [False, True])
@pytest.mark.parametrize("schedule", [False, True])
def test_rate_never_leaves_the_limits(safe_start, schedule):
    # The user's own rate is above the limit, or comes there between two
    # decisions, of which there is one in 2 steps.
    rate = 0.5
    if schedule:
        rate = keras.optimizers.schedules.PolynomialDecay(1e-4, 8, 0.5)
    metalr = MetaLR(
        Controller(),
        total_steps=400,
        max_learning_rate=0.01,
        min_learning_rate=1e-3,
        safe_start=safe_start,
    )
    recorder = StateRecorder()
    x, y = data(num_steps=8)
    model = compiled(wide_model(), keras.optimizers.SGD(rate))
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[metalr, recorder])
    rates = recorder["learning_rate"]
    assert rates.max() <= 0.01 * (1 + 1e-5)
    # A schedule has no lower limit.
    assert schedule or rates.min() >= 1e-3 * (1 - 1e-5)
