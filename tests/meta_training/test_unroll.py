"""Meta-training: its runs are the product's."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from keras_metalr import safe_start
from keras_metalr.decision import EVENT_ROLLBACK
from keras_metalr.decision import EVENT_SKIPPED
from keras_metalr.decision import INITIAL
from keras_metalr.decision import Settings
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.meta_training import layers
from keras_metalr.meta_training import optimizers
from keras_metalr.meta_training import tasks as tasks_module
from keras_metalr.meta_training.evaluation import ControllerVector
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.unroll import Unroll
from tests.fit_checks import cross_entropy
from tests.fit_checks import random_controller

KERAS_OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adam": keras.optimizers.Adam,
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.01),
    "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}


def spec(name):
    return optimizers.OptimizerSpec(
        *(jnp.asarray(v) for v in optimizers.KINDS[name])
    )


def plain_task(data, name, seed=3):
    """A dense net without anything special, batches of 32, twice over."""
    task = tasks_module.draw_tasks(FAMILIES["dense"], data, 1, seed)
    task = jax.tree.map(lambda value: value[0], task)
    return task._replace(
        batch_size=jnp.asarray(32),
        label_noise=jnp.zeros(()),
        dropout=jnp.zeros(()),
        loss_scale=jnp.ones(()),
        activation=jnp.asarray(0),
        validation_every=jnp.asarray(0),
        optimizer=spec(name),
    )


# -- The parts are the product's. -------------------------------------------


# Small enough for what the optimizers add to their divisors to count.
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7])
@pytest.mark.parametrize("name", optimizers.KINDS)
def test_optimizers_are_those_of_keras(name, size):
    generator = np.random.default_rng(0)
    weights = jnp.asarray(generator.normal(size=20).astype("float32"))
    variable = keras.Variable(np.asarray(weights))
    theirs = KERAS_OPTIMIZERS[name](0.1)
    slots = optimizers.empty_slots(weights)
    for step in range(6):
        gradient = size * generator.normal(size=20).astype("float32")
        rate = 0.1 / (step + 1)
        theirs.learning_rate = rate
        theirs.apply([jnp.asarray(gradient)], [variable])
        weights, slots = optimizers.update(
            weights, jnp.asarray(gradient), slots, rate, spec(name)
        )
        np.testing.assert_allclose(variable, weights, atol=5e-5)


def keras_twin(task, num_weights):
    """The Keras model that a plain dense task stands for."""
    _, unravel = tasks_module.template(FAMILIES["dense"])
    layers = unravel(task.start)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    parts = [layers["body"]["dense_0"], layers["body"]["dense_1"]]
    for layer, part in zip(model.layers, [*parts, layers["head"]], strict=True):
        layer.set_weights([part["kernel"], part["bias"]])
    assert model.count_params() == num_weights
    return model


def keras_fit(unroll, task, optimizer, controller):
    """The run of an unroll, by `fit`: the trace and the history."""
    model = keras_twin(task, unroll.num_weights)
    model.compile(KERAS_OPTIMIZERS[optimizer](0.01), cross_entropy())
    # A generator goes on where the last epoch stopped. What the unroll has
    # several times over counts once: the mean is the same.
    size = int(task.batch_size)
    batches = (
        (x[:size], y[:size])
        for x, y, _ in (
            unroll.batch(task, jnp.asarray(index))
            for index in range(unroll.num_steps)
        )
    )
    epochs, validation = 1, {}
    if task.validation_every:
        epochs = unroll.num_decisions // unroll.epoch_decisions
        x = unroll.data.x_validation[task.data_set] * task.input_scale
        y = unroll.data.y_validation[task.data_set] + task.permutation
        validation = {
            "validation_data": (np.asarray(x), np.asarray(y % 10)),
            "validation_freq": int(task.validation_every),
            "validation_batch_size": len(x),
        }
    metalr = MetaLR(controller, pretrained=bool(task.pretrained))
    history = model.fit(
        ((np.asarray(x), np.asarray(y)) for x, y in batches),
        epochs=epochs,
        steps_per_epoch=unroll.num_steps // epochs,
        callbacks=[metalr],
        verbose=0,
        **validation,
    )
    return metalr.trace, history.history


def say_passes(monkeypatch, steps):
    """Have an unroll's passes over the data be the epochs of its `fit`."""
    monkeypatch.setattr(Unroll, "epoch_steps", lambda *_: jnp.asarray(steps))


def unrolled(unroll, controller):
    """The function from a task to the run of it."""
    vector = ControllerVector(controller)
    return jax.jit(
        lambda task: unroll.controlled(vector.function(vector.start), task)
    )


@pytest.mark.parametrize(
    ("optimizer", "num_steps", "interval", "told"),
    [
        ("momentum", 24, 1, {}),
        # Epochs of two decisions, and one decision that is left at the end.
        ("adam", 45, 1, {}),
        ("adam", 600, 3, {}),
        # Epochs of two steps, and of ten decisions of three steps each.
        ("momentum", 40, 1, {"validation_every": 2}),
        ("adam", 600, 3, {"validation_every": 1}),
        ("momentum", 24, 1, {"pretrained": 1.0}),
        ("adam", 45, 1, {"batch_size": 8}),
    ],
)
# The made up controller may ruin a run, long after what is compared.
@pytest.mark.filterwarnings("ignore:MetaLR skipped 0 step:UserWarning")
def test_an_unroll_is_a_fit(
    data, optimizer, num_steps, interval, told, monkeypatch
):
    # Both begin with short updates: from longer ones, float errors grow to all
    # sizes before there is anything to compare.
    monkeypatch.setattr(safe_start, "NEW_START_RATIO", 1e-4)
    task = plain_task(data, optimizer)
    num_decisions = num_steps // interval
    unroll = Unroll(FAMILIES["dense"], data, num_decisions, interval)
    controller = random_controller()
    validation_every = told.get("validation_every", 0)
    if validation_every:
        # One that listens to it above all.
        weights = controller.get_weights()
        weights[0][-4:] *= 40.0
        controller.set_weights(weights)
    run = unrolled(unroll, controller)
    told = task._replace(**{k: jnp.asarray(v) for k, v in told.items()})
    epochs = num_decisions // unroll.epoch_decisions if validation_every else 1
    say_passes(monkeypatch, num_steps // epochs)
    result = run(told)
    trace, history = keras_fit(unroll, told, optimizer, controller)
    assert trace.rows.shape == result.trace.shape
    assert len(trace) == num_decisions
    rates, measured = trace["learning_rate"], Trace(np.asarray(result.trace))
    # The rate has been all over the place, and both went the same way. Float
    # errors grow with the steps: a run is chaotic where the rate is high.
    compared = slice(0, 24)
    assert np.ptp(np.log(rates[compared])) > 0.5
    np.testing.assert_allclose(
        measured["learning_rate"][compared], rates[compared], rtol=5e-3
    )
    if num_steps < 100:
        loss = np.mean(history["loss"])
        assert float(result.mean_loss) == pytest.approx(loss, rel=1e-3)
    for name in FEATURE_NAMES[-4:]:
        np.testing.assert_allclose(
            measured[name][compared],
            trace[name][compared],
            atol=0.01,
            err_msg=name,
        )
        # A loss that only falls never rises above its best.
        seen = validation_every > 0 and name != "validation_rise"
        assert np.any(trace[name][compared]) == seen
    if validation_every:
        # It makes a difference what the controller is told.
        untold = Trace(np.asarray(run(task).trace))["learning_rate"]
        assert np.abs(np.log(untold / rates)[compared]).max() > 0.05


@pytest.mark.filterwarnings("ignore:MetaLR skipped 1 step:UserWarning")
def test_a_batch_that_is_not_finite_is_that_of_a_fit(data, monkeypatch):
    monkeypatch.setattr(safe_start, "NEW_START_RATIO", 1e-4)
    batch = Unroll.batch

    def broken(self, task, index):
        x, *others = batch(self, task, index)
        return jnp.where(index == 9, jnp.nan, x), *others

    monkeypatch.setattr(Unroll, "batch", broken)
    say_passes(monkeypatch, 24)
    task = plain_task(data, "momentum")
    unroll = Unroll(FAMILIES["dense"], data, 24, 1)
    controller = random_controller()
    result = unrolled(unroll, controller)(task)
    trace, _ = keras_fit(unroll, task, "momentum", controller)
    measured = Trace(np.asarray(result.trace))
    for name in ("event", "learning_rate", "loss"):
        np.testing.assert_allclose(
            measured[name], trace[name], rtol=5e-3, err_msg=name
        )
    assert np.flatnonzero(trace["event"] == EVENT_SKIPPED).tolist() == [9]
    assert np.isfinite(result.final_loss)


def test_a_pass_is_as_many_steps_as_the_data_have_batches(data):
    unroll = Unroll(FAMILIES["dense"], data, 24, 1)
    for examples, size, steps in ((640, 32, 20.0), (100, 8, 12.5), (5, 64, 1)):
        task = plain_task(data, "adam")._replace(
            num_examples=jnp.asarray(examples), batch_size=jnp.asarray(size)
        )
        assert float(unroll.epoch_steps(task)) == steps


def test_a_rule_is_told_how_many_weights_a_batch_reaches(data, monkeypatch):
    task = plain_task(data, "adam")
    unroll = Unroll(
        FAMILIES["dense"], data, 24, 1, rule=lambda _, known: known.sparsity
    )
    sizes = [part.size for part in jax.tree.leaves(unroll._unravel(task.start))]
    largest = int(np.argmax(sizes))
    first = sum(sizes[:largest])
    # The batch has a gradient for a tenth of the largest part.
    last = first + sizes[largest] // 10
    told = jnp.ones(unroll.num_weights).at[last : first + sizes[largest]].set(0)
    monkeypatch.setattr(
        Unroll,
        "loss",
        lambda _, task, weights, batch: (weights - 3.0) ** 2 @ told,
    )
    trace = Trace(np.asarray(unrolled(unroll, random_controller())(task).trace))
    free = trace["event"] == 0.0
    assert free.any()
    np.testing.assert_allclose(
        trace["increment"][free], sizes[largest] / sum(sizes), rtol=1e-5
    )


def test_an_unroll_that_is_ruined_goes_back(data):
    task = plain_task(data, "momentum")
    settings = Settings(safe_start=False)
    unroll = Unroll(FAMILIES["dense"], data, 12, 1, settings, first_rate=1e8)
    result = unrolled(unroll, Controller())(task)
    trace = Trace(np.asarray(result.trace))
    went_back = trace["event"].astype(int) & int(EVENT_ROLLBACK)
    (back, *_) = np.flatnonzero(went_back).tolist()
    assert trace["loss"][back] > 1e6
    # The next step is made from the weights that the run began with.
    batch = unroll.batch(task, jnp.asarray(back + 1))
    expected = float(unroll.loss(task, task.start, batch))
    assert trace["loss"][back + 1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pretrained", [0.0, 1.0])
@pytest.mark.parametrize("setting", [None, False, True])
def test_an_unroll_begins_as_its_settings_say(data, setting, pretrained):
    settings = Settings(output_shift=0.5, pretrained=setting)
    unroll = Unroll(FAMILIES["dense"], data, 2, 1, settings)
    task = drawn_task(data, pretrained=pretrained)
    scalars = unroll._begin(task).scalars
    assert scalars["output_shift"] == 0.5
    told = pretrained if setting is None else float(setting)
    assert scalars["pretrained"] == told
    plain = Unroll(FAMILIES["dense"], data, 2, 1)._begin(task).scalars
    assert {key for key in INITIAL if plain[key] != scalars[key]} <= {
        "output_shift",
        "pretrained",
    }


def test_half_of_the_tasks_have_validation_data(data):
    every = tasks_module.draw_numbers(data, 64, 0)[0].validation_every
    assert set(np.asarray(every).tolist()) == {0, 1, 2, 4}
    assert 20 <= np.sum(every == 0) <= 44


def test_a_third_is_pretrained(data):
    for count, expected in ((1, 0), (2, 1), (7, 2), (16, 5), (64, 21)):
        tasks, _ = tasks_module.draw_numbers(data, count, 0)
        assert int(np.sum(tasks.pretrained)) == expected


def test_weight_decay_is_for_some_of_one_formula_alone(data):
    specs = tasks_module.draw_numbers(data, 64, 0)[0].optimizer
    decay, adaptive = (
        np.asarray(specs.weight_decay),
        np.asarray(specs.formula) == 1.0,
    )
    assert np.all(decay[~adaptive] == 0.0)
    assert np.any(decay[adaptive] == 0.0)
    known = decay[decay > 0.0]
    assert 1e-3 <= known.min() < known.max() <= 0.1


def test_pretraining_is_on_other_examples_and_leaves_a_new_head(
    data, monkeypatch
):
    family = FAMILIES["dense"]
    task = drawn_task(data, pretrained=1.0, dropout=0.4, label_noise=0.4)
    _, unravel = tasks_module.template(family)
    original, seen = tasks_module.draw_batch, []

    def draw_batch(data, elsewhere, key):
        seen.append(elsewhere)
        return original(data, elsewhere, key)

    monkeypatch.setattr(tasks_module, "draw_batch", draw_batch)

    def start(num_steps):
        monkeypatch.setattr(tasks_module, "PRETRAINING_STEPS", num_steps)
        return unravel(tasks_module._start(family, data, task, jnp.ones(())))

    short, long = start(1), start(20)
    assert int(seen[0].offset) == int(task.offset + task.num_examples)
    assert (int(seen[0].permutation) - int(task.permutation)) % 10 != 0
    assert float(seen[0].dropout) == float(seen[0].label_noise) == 0.0
    kernels = [part["body"]["dense_0"]["kernel"] for part in (short, long)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
    for name, values in short["head"].items():
        np.testing.assert_array_equal(values, long["head"][name])


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_so_many_labels_are_wrong(data, noise):
    task = drawn_task(data, batch_size=64, label_noise=noise, input_scale=1.0)
    known = {
        np.asarray(x).tobytes(): int(y)
        for x, y in zip(data.x[0], data.y[0], strict=True)
    }
    wrong = []
    for number in range(10):
        key = jax.random.key(number)
        x, y, _ = tasks_module.draw_batch(data, task, key)
        true = [known[np.asarray(row).tobytes()] for row in x]
        wrong += list((np.array(true) + int(task.permutation)) % 10 != y)
    # One wrong label of ten is the right one after all, where it is drawn
    # from all.
    assert 0.8 * noise <= np.mean(wrong) <= 1.2 * noise


def drawn_task(data, **changes):
    tasks, _ = tasks_module.draw_numbers(data, 1, 4)
    task = jax.tree.map(lambda value: value[0], tasks)
    return task._replace(**{k: jnp.asarray(v) for k, v in changes.items()})


def test_a_small_batch_is_one_over_its_own_examples(data):
    family = FAMILIES["dense_batchnorm"]
    task = drawn_task(data, batch_size=8, dropout=0.0)
    x, y, key = tasks_module.draw_batch(data, task, jax.random.key(1))
    assert len(np.unique(np.asarray(x), axis=0)) == 8
    weights = family.init(jax.random.key(0), jnp.ones(()))
    # What batch normalization sees is these eight, too.
    few = tasks_module.batch_loss(family, task, weights, x[:8], y[:8], key)
    all_of_it = tasks_module.batch_loss(family, task, weights, x, y, key)
    assert float(all_of_it) == pytest.approx(float(few), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_the_same_when_a_batch_is_replayed(data, family):
    family = FAMILIES[family]
    task = drawn_task(data, dropout=0.4)
    weights = family.init(jax.random.key(0), jnp.ones(()))
    x, y, key = tasks_module.draw_batch(data, task, jax.random.key(1))

    def loss(key, dropout=0.4):
        dropping = task._replace(dropout=jnp.asarray(dropout))
        return float(
            tasks_module.batch_loss(family, dropping, weights, x, y, key)
        )

    other = jax.random.key(7)
    assert loss(key) == loss(key) != loss(other)
    assert loss(key, dropout=0.0) == loss(other, dropout=0.0)
    # Nothing is dropped where the net is validated.
    kept = task._replace(dropout=jnp.zeros(()))
    validated = [
        float(tasks_module.validation_loss(family, data, t, weights))
        for t in (task, kept)
    ]
    assert validated[0] == validated[1]


def test_dropout_keeps_the_mean():
    x = jnp.ones((400, 400))
    dropped = np.asarray(layers.dropout(jax.random.key(0), 0.4)(x))
    np.testing.assert_allclose(np.unique(dropped), [0.0, 1 / 0.6], rtol=1e-6)
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_array_equal(layers.keep_all(x), x)
