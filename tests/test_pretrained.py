"""New weights are told from trained ones, whatever the layers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_metalr import MetaLR
from keras_metalr.pretrained import is_pretrained
from tests.fit_checks import QUICK
from tests.fit_checks import cross_entropy


def dense():
    return [keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(2)]


def convolutions():
    return [
        keras.Input((6, 6, 1)),
        layers.Conv2D(4, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(2, use_bias=False),
    ]


def recurrent():
    # An LSTM's bias begins with zeros and ones.
    return [
        keras.Input((6,)),
        layers.Embedding(9, 4),
        layers.Bidirectional(layers.LSTM(3)),
        layers.LayerNormalization(),
        layers.Dense(2),
    ]


def prior():
    # A bias that begins at the log odds of a rare class.
    constant = keras.initializers.Constant(-4.6)
    return [keras.Input((6,)), layers.Dense(2, bias_initializer=constant)]


NETWORKS = [dense, convolutions, recurrent, prior]


def train(model, **kwargs):
    shape = (16, *model.input_shape[1:])
    x = np.random.default_rng(0).integers(0, 9, shape).astype("float32")
    y = np.arange(16) % 2
    model.compile(keras.optimizers.SGD(0.1), loss=cross_entropy(), **QUICK)
    model.fit(x, y, batch_size=4, epochs=1, verbose=0, **kwargs)


@pytest.mark.parametrize("network", NETWORKS)
def test_training_is_seen(network):
    model = keras.Sequential(network())
    assert not is_pretrained(model)
    train(model)
    assert is_pretrained(model)


def test_nothing_can_be_said_without_a_vector():
    inputs = keras.Input((6,))
    outputs = layers.Dense(2, use_bias=False)(inputs)
    model = keras.Model(inputs, outputs)
    assert is_pretrained(model)
    assert not is_pretrained(keras.Sequential([layers.Dense(2)]))


class Scale(layers.Layer):
    """Multiplies by one trained number."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.scale * x


def test_a_number_is_no_vector():
    head = layers.Dense(2, use_bias=False)
    assert is_pretrained(keras.Sequential([keras.Input((6,)), head, Scale()]))


@pytest.mark.parametrize("name", [None, "attention"])
def test_keras_draws_one_vector_at_random(name):
    inputs = keras.Input((4, 2))
    hidden = layers.Dense(8)(inputs)
    layer = layers.AdditiveAttention(name=name)
    model = keras.Model(inputs, layers.Dense(1)(layer([hidden, hidden])))
    assert np.ptp(keras.ops.convert_to_numpy(layer.scale)) > 0.0
    assert not is_pretrained(model)


def test_biases_drawn_at_random_count_as_trained():
    layer = layers.Dense(8, bias_initializer="random_normal")
    layer.build((None, 3))
    assert is_pretrained(layer)


def test_frozen_body_does_not_count():
    model = keras.Sequential(dense())
    train(model)
    body = model.layers[0]
    body.trainable = False
    tuned = keras.Sequential([keras.Input((6,)), body, layers.Dense(2)])
    assert not is_pretrained(tuned)
    body.trainable = True
    assert is_pretrained(tuned)


@keras.saving.register_keras_serializable("test_pretrained")
class Headed(keras.Model):
    """A body with a new head; not built before it is called."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.body(x))


def test_trained_body_in_a_model_that_is_not_built():
    body = keras.Sequential(dense())
    assert not is_pretrained(Headed(body))
    train(body)
    model = Headed(body)
    assert not model.built
    assert is_pretrained(model)


class Look(keras.callbacks.Callback):
    """Keeps what the run holds its weights for."""

    def on_train_batch_end(self, batch, logs=None):
        self.state = self.model.optimizer.metalr_state

    def on_train_end(self, logs=None):
        self.pretrained = float(self.state.read()["pretrained"])


@pytest.mark.parametrize("network", [dense()[1:], dense()])
def test_each_fit_looks_at_the_weights_it_finds(network):
    model = keras.Sequential(network)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    model.compile("sgd", loss="mse", **QUICK)
    look = Look()
    for expected in (0.0, 1.0):
        model.fit(x, x[:, :2], verbose=0, callbacks=[MetaLR(), look])
        assert look.pretrained == expected


def test_resumed_run_is_held_as_it_began(tmp_path):
    path = str(tmp_path / "run.keras")
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    model = keras.Sequential(dense())
    model.compile("sgd", loss="mse", **QUICK)
    saver = keras.callbacks.ModelCheckpoint(path)
    model.fit(x, x[:, :2], verbose=0, callbacks=[MetaLR(), saver])
    model = keras.models.load_model(path)
    assert is_pretrained(model)
    metalr, look = MetaLR().restore(path), Look()
    arguments = {"epochs": 2, "initial_epoch": 1, "verbose": 0}
    model.fit(x, x[:, :2], callbacks=[metalr, look], **arguments)
    assert look.pretrained == 0.0
