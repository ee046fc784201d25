"""Meta-training: its runs are the product's, its search can be resumed."""

import json

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("meta-training runs on JAX alone", allow_module_level=True)

import jax
import jax.numpy as jnp

from keras_metalr import MetaLR
from keras_metalr.controller import Controller
from keras_metalr.meta_training import bank as banks
from keras_metalr.meta_training import optimizers
from keras_metalr.meta_training import tasks as tasks_module
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.evolution import Arena
from keras_metalr.meta_training.evolution import ControllerVector
from keras_metalr.meta_training.evolution import EvolutionConfig
from keras_metalr.meta_training.evolution import evaluate
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.train import CONFIGS
from keras_metalr.meta_training.train import meta_train
from keras_metalr.meta_training.unroll import Unroll

KERAS_OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adam": keras.optimizers.Adam,
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.01),
    "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}


@pytest.fixture(scope="module")
def data():
    return load_data(("digits",))[0]


def spec(name):
    return optimizers.OptimizerSpec(
        *(jnp.asarray(v) for v in optimizers.KINDS[name])
    )


def plain_task(data, name, seed=3):
    """A dense net without anything special, batches of 32."""
    task = tasks_module.draw_tasks(FAMILIES["dense"], data, 1, seed)
    task = jax.tree.map(lambda value: value[0], task)
    return task._replace(
        batch_size=jnp.asarray(32),
        label_noise=jnp.zeros(()),
        loss_scale=jnp.ones(()),
        activation=jnp.asarray(0),
        optimizer=spec(name),
    )


def moving_controller(seed=0, scale=0.5):
    """A controller that answers something else in every state."""
    controller = Controller()
    generator = np.random.default_rng(seed)
    controller.set_weights(
        [
            scale * generator.normal(size=w.shape) / np.sqrt(w.shape[0])
            for w in controller.get_weights()
        ]
    )
    return controller


# -- The parts are the product's. -------------------------------------------


@pytest.mark.parametrize("name", optimizers.KINDS)
def test_optimizers_are_those_of_keras(name):
    generator = np.random.default_rng(0)
    weights = jnp.asarray(generator.normal(size=20).astype("float32"))
    variable = keras.Variable(np.asarray(weights))
    theirs = KERAS_OPTIMIZERS[name](0.1)
    slots = optimizers.empty_slots(weights)
    for step in range(6):
        gradient = generator.normal(size=20).astype("float32")
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


@pytest.mark.parametrize(
    ("optimizer", "num_steps", "interval"),
    [("adam", 24, 1), ("momentum", 24, 1), ("adam", 600, 3)],
)
def test_an_unroll_is_a_fit(data, optimizer, num_steps, interval):
    task = plain_task(data, optimizer)
    num_decisions = num_steps // interval
    unroll = Unroll(FAMILIES["dense"], data, num_decisions, interval)
    controller = moving_controller()
    vector = ControllerVector(controller)
    result = jax.jit(
        lambda t: unroll.controlled(vector.function(vector.start), t)
    )(task)

    batches = [
        unroll._batch(task, jnp.asarray(index)) for index in range(num_steps)
    ]
    x = np.concatenate([batch[0] for batch in batches])
    y = np.concatenate([batch[1] for batch in batches])
    model = keras_twin(task, unroll.num_weights)
    model.compile(
        KERAS_OPTIMIZERS[optimizer](0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    metalr = MetaLR(controller)
    history = model.fit(
        x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[metalr]
    )
    rates = metalr.trace["learning_rate"]
    assert len(rates) == num_decisions
    # The rate has been all over the place, and both went the same way. Float
    # errors grow with the steps: a run is chaotic where the rate is high.
    compared = slice(0, 24)
    assert np.ptp(np.log(rates[compared])) > 0.5
    np.testing.assert_allclose(
        np.exp(result.log_rates)[compared], rates[compared], rtol=5e-3
    )
    if num_steps < 100:
        loss = history.history["loss"][0]
        assert float(result.mean_loss) == pytest.approx(loss, rel=1e-3)


# -- The measure. -----------------------------------------------------------


def test_regret():
    value = banks.regret(
        jnp.asarray([1.0, 2.0, 0.9, np.nan, 1e9, -5.0]),
        jnp.full(6, 1.0),
        jnp.full(6, 2.0),
    )
    np.testing.assert_allclose(value, [0, 1, -0.1, 5, 5, -0.15], atol=1e-6)


def test_a_bank_holds_the_best_of_the_grid(data):
    unroll = Unroll(FAMILIES["dense"], data, 20, 1)
    bank = banks.make_bank(unroll, 2, 5)
    task = jax.tree.map(lambda value: value[1], bank.tasks)
    run = jax.jit(lambda rate, way: unroll.scheduled(rate, way, task))
    finals = [
        float(run(rate, way).final_loss)
        for rate in banks.GRID_RATES
        for way in range(3)
    ]
    assert float(bank.best_loss[1]) == pytest.approx(
        np.nanmin(finals), rel=1e-4
    )
    assert float(bank.best_loss[1]) < float(bank.initial_loss[1])


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"dense"}))
def test_every_family_learns(data, family):
    unroll = Unroll(FAMILIES[family], data, 60, 1)
    bank = banks.make_bank(unroll, 3, 7)
    assert np.all(np.isfinite(bank.best_loss))
    gain = bank.initial_loss - bank.best_loss
    assert np.all(gain > 0.05 * bank.initial_loss)


def test_a_pretrained_task_starts_ahead(data):
    family = FAMILIES["dense"]
    tasks = tasks_module.draw_tasks(family, data, 24, 2)
    pretrained = np.asarray(tasks.pretrained) > 0.5
    assert 2 <= pretrained.sum() <= 22
    unroll = Unroll(family, data, 30, 1)
    bank = banks.make_bank(unroll, 24, 2)
    reached = np.asarray(bank.best_loss / tasks.loss_scale)
    assert np.median(reached[pretrained]) < np.median(reached[~pretrained])


# -- The search. ------------------------------------------------------------


@pytest.fixture(scope="module")
def arena(data):
    unroll = Unroll(FAMILIES["dense"], data, 12, 1)
    return Arena("dense-12", unroll, banks.make_bank(unroll, 6, 0))


def test_evolution_goes_on_where_it_was_interrupted(arena, tmp_path):
    config = EvolutionConfig(num_generations=4, num_pairs=3)
    whole = evolve([arena], moving_controller(), config)
    path = tmp_path / "evolution.npz"

    def interrupt(generation, *_):
        if generation == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve([arena], moving_controller(), config, path, 1, report=interrupt)
    seen = []
    resumed = evolve(
        [arena],
        moving_controller(),
        config,
        path,
        report=lambda generation, *_: seen.append(generation),
    )
    assert seen == [2, 3]
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    start = moving_controller().get_weights()
    assert np.abs(start[0] - whole.get_weights()[0]).max() > 1e-4


def test_evolution_finds_a_lower_score(arena):
    start = Controller()
    config = EvolutionConfig(
        num_generations=25, num_pairs=12, learning_rate=0.05
    )
    evolved = evolve([arena], start, config)
    before = evaluate(arena, start)["score"].mean()
    assert evaluate(arena, evolved)["score"].mean() < before - 0.05


def test_meta_training_writes_a_preset_with_its_card(tmp_path):
    output = tmp_path / "tiny"
    lines = []
    record = meta_train(
        "tiny",
        CONFIGS["smoke"],
        moving_controller(),
        tmp_path / "work",
        output,
        "the command",
        say=lines.append,
    )
    loaded = Controller.from_preset(str(output))
    assert loaded.hidden_units == (64, 32)
    card = (output / "CARD.md").read_text()
    score = record["scores"]["dense-20"]["evolved"]
    assert f"| {score['mean']:.3f} |" in card and "the command" in card
    assert json.loads((output / "scores.json").read_text()) == record
    assert any("generation 2/2" in line for line in lines)
