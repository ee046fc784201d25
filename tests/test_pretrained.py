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


def drawn_biases():
    return [keras.Input((6,)), layers.Dense(5, bias_initializer="he_normal")]


def matrices():
    # Of several shapes and initializers, one of them for another variable.
    return [
        keras.Input((6,)),
        layers.Embedding(9, 4),
        layers.GRU(3, use_bias=False, return_sequences=True),
        layers.Conv1D(4, 2, use_bias=False, kernel_initializer="he_normal"),
        layers.GlobalAveragePooling1D(),
        layers.Dense(4, use_bias=False, kernel_initializer="identity"),
        layers.Dense(2, use_bias=False, kernel_initializer="zeros"),
    ]


NETWORKS = [
    dense,
    convolutions,
    recurrent,
    prior,
    drawn_biases,
    matrices,
]


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


def test_nothing_is_lost_without_weights():
    assert not is_pretrained(keras.Sequential([layers.Dense(2)]))


def factors():
    """Two tables of vectors, whose products are fitted, and a table of zeros.

    Nets of this kind recommend films.
    """
    inputs = keras.Input((2,), dtype="int32")
    left, right = layers.Embedding(40, 8), layers.Embedding(40, 8)
    offset = layers.Embedding(40, 1, embeddings_initializer="zeros")
    products = left(inputs[:, 0]) * right(inputs[:, 1])
    outputs = keras.ops.sum(products, -1) + offset(inputs)[:, 0, 0]
    return keras.Model(inputs, outputs)


DTYPES = ["float32", "bfloat16"]
if keras.backend.backend() != "jax":
    # JAX has it where it is asked for, at its start.
    DTYPES.append("float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_step_is_seen_in_tables_of_vectors(dtype):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = factors()
    finally:
        keras.config.set_dtype_policy(policy)
    assert not is_pretrained(model)
    # Adam moves nothing in bfloat16: there 0.999 is 1.
    model.compile(keras.optimizers.SGD(1.0), loss="mse", **QUICK)
    x = np.arange(16).reshape(8, 2)
    model.fit(x, np.ones(8), batch_size=8, epochs=1, verbose=0)
    assert is_pretrained(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_without_biases_is_new(dtype):
    # Its kernels are drawn at another scale than their initializers have.
    layer = layers.MultiHeadAttention(2, 4, use_bias=False, dtype=dtype)
    inputs = keras.Input((3, 8), dtype=dtype)
    model = keras.Model(inputs, layer(inputs, inputs))
    assert not is_pretrained(model)
    kernel = model.trainable_variables[0]
    values = keras.ops.convert_to_numpy(kernel.value + 0.0).astype("float32")
    kernel.assign(3 * values)
    assert not is_pretrained(model)
    values[:, 0] *= 1.1
    kernel.assign(values)
    assert is_pretrained(model)


def test_loaded_matrices_count_as_trained(tmp_path):
    path = str(tmp_path / "model.keras")
    model = factors()
    model.save(path)
    assert is_pretrained(keras.models.load_model(path))


class Loaded(keras.initializers.Initializer):
    """Vectors that somebody has trained."""

    def __call__(self, shape, dtype=None):
        values = np.random.default_rng(0).normal(size=shape)
        return keras.ops.convert_to_tensor(values, dtype=dtype)


TRAINED = keras.initializers.Constant(
    np.random.default_rng(0).normal(size=(9, 4))
)


@pytest.mark.parametrize("initializer", [Loaded(), TRAINED])
def test_vectors_that_somebody_has_trained_count_as_trained(initializer):
    layer = layers.Embedding(9, 4, embeddings_initializer=initializer)
    layer.build((None,))
    assert is_pretrained(layer)


def test_constants_of_another_shape_are_not_asked():
    layer = layers.Dense(4, kernel_initializer=TRAINED)
    layer.build((None, 9))
    assert not is_pretrained(layer)
    layer.bias.assign([0.1, 0.2, 0.3, 0.4])
    assert is_pretrained(layer)


def test_frequencies_of_classes_count_as_trained():
    # They might as well be biases that were trained elsewhere.
    constant = keras.initializers.Constant(np.log([0.9, 0.09, 0.01]))
    layer = layers.Dense(3, bias_initializer=constant)
    layer.build((None, 2))
    assert is_pretrained(layer)


def test_asking_draws_nothing_from_a_generator():
    seed = keras.random.SeedGenerator(1)
    initializer = keras.initializers.RandomNormal(seed=seed)
    layer = layers.Dense(8, use_bias=False, kernel_initializer=initializer)
    layer.build((None, 3))
    before = keras.ops.convert_to_numpy(seed.state.value)
    assert is_pretrained(layer)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(seed.state.value), before
    )


class Tied(layers.Layer):
    """Reads words from vectors that are another layer's, too."""

    def __init__(self, embedding):
        super().__init__()
        self.kernel = embedding.embeddings

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.kernel))


def test_tied_weights_are_new_where_one_of_their_layers_drew_them():
    embedding = layers.Embedding(9, 4)
    embedding.build((None,))
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, Tied(embedding)(embedding(inputs)))
    assert not is_pretrained(model)
    embedding.embeddings.assign(embedding.embeddings.value * 1.0 + 0.01)
    assert is_pretrained(model)


class Empty(layers.Layer):
    """Has a variable with nothing in it."""

    def build(self, input_shape):
        self.nothing = self.add_weight(shape=(0,), name="nothing")


def test_a_layer_with_nothing_in_a_variable():
    layer = Empty()
    layer.build((None, 3))
    assert not is_pretrained(layer)


class Scale(layers.Layer):
    """Multiplies by one trained number."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.scale * x


def test_a_number_says_nothing():
    model = keras.Sequential([keras.Input((6,)), Scale()])
    assert is_pretrained(model)
    head = layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((6,)), head, Scale()])
    assert not is_pretrained(model)
    head.kernel.assign(np.arange(12.0).reshape(6, 2))
    assert is_pretrained(model)


@pytest.mark.parametrize("name", [None, "attention"])
def test_keras_draws_one_vector_at_random(name):
    inputs = keras.Input((4, 2))
    hidden = layers.Dense(8)(inputs)
    layer = layers.AdditiveAttention(name=name)
    model = keras.Model(inputs, layers.Dense(1)(layer([hidden, hidden])))
    assert np.ptp(keras.ops.convert_to_numpy(layer.scale)) > 0.0
    assert not is_pretrained(model)


def test_frozen_body_does_not_count():
    model = keras.Sequential(dense())
    train(model)
    body = model.layers[0]
    body.trainable = False
    tuned = keras.Sequential([keras.Input((6,)), body, layers.Dense(2)])
    assert not is_pretrained(tuned)
    body.trainable = True
    assert is_pretrained(tuned)


def test_body_counts_whose_normalization_alone_is_frozen():
    body = keras.Sequential(convolutions()[:-1])
    train(body)
    normalization = body.layers[1]
    normalization.trainable = False
    tuned = keras.Sequential([keras.Input((6, 6, 1)), body, layers.Dense(2)])
    assert is_pretrained(tuned)
    # All that is left to train is new.
    body.trainable = False
    assert not is_pretrained(tuned)


def test_new_normalization_may_be_frozen(tmp_path):
    model = keras.Sequential([*convolutions(), layers.Dense(2)])
    model.layers[1].trainable = False
    assert not is_pretrained(model)
    # Its matrices cannot be drawn again.
    path = str(tmp_path / "model.keras")
    model.save(path)
    assert not is_pretrained(keras.models.load_model(path))


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
