"""Small things to train: two functions of a point, and a net."""

import keras
import numpy as np
from keras import ops

from keras_metalr.benchmark import competitors

NUM_STEPS = 300
STEPS_PER_EPOCH = 100


class Objective(keras.layers.Layer):
    """A function of a trained point, whatever the input."""

    def __init__(self, function, first):
        super().__init__()
        self._function = function
        self._first = np.asarray(first, "float32")

    def build(self, input_shape):
        self.point = self.add_weight(
            shape=self._first.shape, initializer="zeros", name="point"
        )
        self.point.assign(self._first)

    def call(self, inputs):
        return 0.0 * inputs + self._function(self.point)

    def compute_output_shape(self, input_shape):
        return input_shape


def parabola(point):
    return ops.sum(ops.square(point - 1.0))


def rosenbrock(point):
    x, y = point[0], point[1]
    return ops.square(1.0 - x) + 100.0 * ops.square(y - x * x)


def mean_output(y_true, y_pred):
    return ops.mean(y_pred)


def objective_model(function, first):
    inputs = keras.Input((1,))
    return keras.Model(inputs, Objective(function, first)(inputs))


def function_task(function, first):
    """`(model, loss, x, y)`; the loss is the function's value."""
    zeros = np.zeros((STEPS_PER_EPOCH, 1), "float32")
    return objective_model(function, first), mean_output, zeros, zeros, 1


def net_task(seed=0):
    """A dense net with batch normalization on two clouds of points."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, 8 * STEPS_PER_EPOCH).astype("int32")
    x = generator.normal(size=(len(y), 4)).astype("float32")
    x[:, 0] += 2.0 * y - 1.0
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8)(inputs)
    hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
    outputs = keras.layers.Dense(2)(keras.layers.ReLU()(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.Model(inputs, outputs), loss, x, y, 8


TASKS = {
    "parabola": lambda: function_task(parabola, [3.0, -2.0, 0.5]),
    "rosenbrock": lambda: function_task(rosenbrock, [-1.0, 1.5]),
    "net": net_task,
}


def setting(num_steps=NUM_STEPS):
    return competitors.Setting(
        lambda rate: keras.optimizers.Adam(rate), num_steps
    )


def train(trainee, x, y, batch_size, start, values=None, steps=NUM_STEPS):
    """One run; returns the history, with `val_loss` on the same examples."""
    epochs = max(1, steps // STEPS_PER_EPOCH)
    batches = [
        (x[i : i + batch_size], y[i : i + batch_size])
        for i in range(0, len(x), batch_size)
    ]
    return trainee.fit(
        start,
        values,
        batches,
        x=x,
        y=y,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        validation_data=(x, y),
        verbose=0,
    )
