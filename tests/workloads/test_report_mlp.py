"""The dense net on Fashion-MNIST: its variants, on a slice of the real data."""

import keras
import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.workloads.report_mlp import VARIANTS

NARROW = 784 * 64 + 64 + 64 * 10 + 10
WIDE = 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10


@pytest.mark.parametrize(
    ("variant", "sizes", "dropout", "weights", "rate", "batch_size"),
    [
        ("original", [64, 10], [], NARROW, 0.001, 32),
        ("+wider", [128, 64, 10], [], WIDE, 0.001, 32),
        ("+dropout", [128, 64, 10], [0.5, 0.5], WIDE, 0.001, 32),
        ("+lower-rate", [128, 64, 10], [0.5, 0.5], WIDE, 0.0005, 32),
        ("+larger-batch", [128, 64, 10], [0.5, 0.5], WIDE, 0.0005, 64),
        ("wider", [128, 64, 10], [], WIDE, 0.001, 32),
        ("dropout", [64, 10], [0.5], NARROW, 0.001, 32),
        ("lower-rate", [64, 10], [], NARROW, 0.0005, 32),
        ("larger-batch", [64, 10], [], NARROW, 0.001, 64),
    ],
)
def test_variant(variant, sizes, dropout, weights, rate, batch_size):
    workload = workloads.get("report_mlp", variant=variant)
    model = workload.compiled_model()
    layers = model.layers[1:]
    dense = [x for x in layers if isinstance(x, keras.layers.Dense)]
    drops = [x for x in layers if isinstance(x, keras.layers.Dropout)]
    assert model.input_shape == (None, 784)
    assert [layer.units for layer in dense] == sizes
    assert [layer.rate for layer in drops] == dropout
    # One after each hidden layer, none after the logits.
    assert [layers[2 * i + 1] for i in range(len(drops))] == drops
    assert [layer.activation.__name__ for layer in dense] == [
        *["relu"] * (len(sizes) - 1),
        "linear",
    ]
    assert model.count_params() == weights
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(rate)
    assert (workload.batch_size, workload.epochs) == (batch_size, 10)


def test_every_variant_is_in_the_order_of_the_changes():
    assert tuple(VARIANTS) == (
        "original",
        *("+wider", "+dropout", "+lower-rate", "+larger-batch"),
        *("wider", "dropout", "lower-rate", "larger-batch"),
    )


def test_one_setting_has_one_name_in_the_records():
    def options(variant):
        return workloads.get("report_mlp", variant=variant).options

    assert options("wider") == options("+wider")
    names = [options(variant)["variant"] for variant in VARIANTS]
    assert names.count("+wider") == 2
    assert len(set(names)) == len(VARIANTS) - 1
    assert options("original") == {
        "variant": "original",
        "train_examples": 48_000,
        "validation_examples": 12_000,
        "optimizer": "adam",
    }


def test_unknown_variant_says_what_was_expected():
    with pytest.raises(ValueError, match=r"original.*wider.*variant='deeper'"):
        workloads.get("report_mlp", variant="deeper")


@pytest.mark.parametrize(
    ("name", "count"),
    [("train_examples", 48_001), ("validation_examples", 0)],
)
def test_slice_out_of_range(name, count):
    with pytest.raises(ValueError, match=f"{name}={count}"):
        workloads.get("report_mlp", **{name: count})


def test_data_are_the_two_ends_of_the_training_split(tfds_dir):
    data = workloads.get(
        "report_mlp", train_examples=600, validation_examples=100
    ).load_data()
    assert data.x_train.shape == (600, 784)
    assert data.x_validation.shape == (100, 784)
    assert data.x_train.dtype == np.float32
    assert 0.0 == data.x_train.min() < data.x_train.max() == 1.0
    images = workloads.get(
        "fashion_mnist_cnn", train_examples=600, validation_examples=100
    ).load_data()
    np.testing.assert_array_equal(
        data.x_train, images.x_train.reshape(600, 784)
    )
    np.testing.assert_array_equal(data.y_validation, images.y_validation)


@pytest.mark.parametrize("variant", ["original", "+larger-batch"])
def test_slice_trains(tfds_dir, variant):
    workload = workloads.get(
        "report_mlp",
        variant=variant,
        train_examples=1280,
        validation_examples=200,
    )
    data = workload.load_data()
    history = workload.compiled_model().fit(
        data.train_batches(workload.batch_size, seed=0),
        shuffle=False,
        steps_per_epoch=data.steps_per_epoch(workload.batch_size),
        epochs=5,
        validation_data=data.validation_batches(workload.batch_size),
        verbose=0,
    )
    assert history.history["val_accuracy"][-1] > 0.6


@pytest.mark.large
def test_validation_split_of_a_fifth(tfds_dir):
    data = workloads.get("report_mlp").load_data()
    assert (data.num_train, data.num_validation) == (48_000, 12_000)
    # No image is in both, up to the few that occur twice in Fashion-MNIST.
    train, validation = (
        {row.tobytes() for row in x} for x in (data.x_train, data.x_validation)
    )
    assert len(train & validation) < 10
