"""Sparse gradients on TensorFlow: by their rows as they would be dense."""

import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import backend
from keras_metalr import row_gradient
from keras_metalr import signals
from tests.fit_checks import random_controller

if keras.backend.backend() != "tensorflow":
    pytest.skip("only TensorFlow has them", allow_module_level=True)

import tensorflow as tf

NUM_ROWS, WIDTH = 50, 4


def slices_of(indices, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(len(indices), WIDTH)).astype("float32")
    return tf.IndexedSlices(
        tf.constant(values),
        tf.constant(indices, "int32", shape=(len(indices),)),
        tf.constant([NUM_ROWS, WIDTH]),
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "indices",
    [[3, 49, 0, 3, 3, 17], [0], [49, 49], list(range(NUM_ROWS)), []],
    ids=str,
)
def test_rows_measure_what_the_dense_gradient_does(
    indices, compiled, monkeypatch
):
    slices = slices_of(indices)
    weights = np.random.default_rng(1).normal(size=(NUM_ROWS, WIDTH))
    variable = keras.Variable(weights.astype("float32"))
    # Some positions in every row, the last one of all among them.
    sample = signals.CoordinateSample([(NUM_ROWS, WIDTH)], size=100)
    assert sample.indices[0] is not None

    @tf.function(jit_compile=compiled)
    def measured():
        gradient = backend.measurable(slices, variable.shape)
        return (
            signals.squared_norm([gradient]),
            signals.inner_products([gradient], [variable]),
            sample.gather([gradient]),
            # What kind it was, for the test of the test.
            isinstance(gradient, row_gradient.RowGradient),
        )

    dense = measured()
    monkeypatch.setattr(backend, "MIN_SIZE", 1)

    @tf.function(jit_compile=compiled)
    def by_rows():
        return measured.python_function()

    rows = by_rows()
    assert not bool(dense[3]) and bool(rows[3])
    for one, other in zip(dense[:3], rows[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def make_model(num_rows, optimizer, jit_compile):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(num_rows, 8),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, jit_compile=jit_compile)
    return model


def trained(optimizer, jit_compile, callbacks):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 40, (64, 6)).astype("int32")
    y = (x[:, 0] % 3).astype("int32")
    model = make_model(2000, optimizer, jit_compile)
    # The last batch is smaller.
    history = model.fit(
        x,
        y,
        batch_size=12,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model.get_weights(), history.history


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_a_run_is_the_same_by_rows(optimizer, jit_compile, monkeypatch):
    def run():
        metalr = MetaLR(random_controller())
        weights, history = trained(optimizer, jit_compile, [metalr])
        return weights, history, metalr.trace.rows

    dense = run()
    monkeypatch.setattr(backend, "MIN_SIZE", 1)
    by_rows = run()
    for one, other in zip(dense[0], by_rows[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        dense[1]["grad_norm"], by_rows[1]["grad_norm"], rtol=1e-4
    )
    np.testing.assert_allclose(dense[2], by_rows[2], rtol=1e-2, atol=1e-2)


def test_large_embeddings_are_measured_by_rows(monkeypatch):
    made = []
    real = backend.summed_rows
    monkeypatch.setattr(
        backend, "summed_rows", lambda slices: made.append(1) or real(slices)
    )
    x = np.arange(48, dtype="int32").reshape(8, 6)
    y = np.zeros(8, "int32")
    for num_rows, expected in ((1000, 0), (2**17, 1)):
        made.clear()
        model = make_model(num_rows, "sgd", False)
        model.fit(x, y, verbose=0, callbacks=[MetaLR(Controller())])
        assert bool(made) == bool(expected)


def test_a_bad_row_is_seen(monkeypatch):
    monkeypatch.setattr(backend, "MIN_SIZE", 1)
    slices = slices_of([3, 3])
    values = tf.constant([[np.nan] + 3 * [1.0], 4 * [1.0]], "float32")
    slices = tf.IndexedSlices(values, slices.indices, slices.dense_shape)
    gradient = backend.measurable(slices, (NUM_ROWS, WIDTH))
    assert np.isnan(float(signals.squared_norm([gradient])))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", [(2**17, 8), (3, 2**19), (2**20,)], ids=str)
def test_elements_of_a_large_variable(shape, compiled):
    values = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    variable = keras.Variable(values)
    places = np.array([0, 7, 8, 123_457, 2**20 - 1])
    positions = backend.constant_positions(places)
    # Of the second shape most would be taken: it is read as it is.
    assert backend._is_large_table(variable, positions) == (shape[1:] == (8,))

    @tf.function(jit_compile=compiled)
    def found():
        return backend.elements(variable, positions)

    np.testing.assert_array_equal(found(), values.reshape(-1)[places])
