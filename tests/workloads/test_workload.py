"""Batches: their order, their size, what they depend on."""

import keras
import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.workloads import Data


def _data(num_train=10, augment=None):
    x = np.arange(num_train, dtype="float32")[:, None]
    return Data(
        x_train={"a": x, "b": 10 * x},
        y_train=np.arange(num_train),
        x_validation={"a": x[:5], "b": 10 * x[:5]},
        y_validation=np.arange(5),
        augment=augment,
    )


def _labels(data, seed, num_batches, batch_size=5):
    batches = data.train_batches(batch_size, seed=seed).take(num_batches)
    return [y.tolist() for _, y in batches.as_numpy_iterator()]


def test_train_batches_pass_over_every_example_then_shuffle_again():
    labels = _labels(_data(), seed=0, num_batches=4)
    first, second = labels[0] + labels[1], labels[2] + labels[3]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_train_batches_keep_x_and_y_together():
    x, y = next(_data().train_batches(5, seed=3).as_numpy_iterator())
    np.testing.assert_array_equal(x["a"][:, 0], y)
    np.testing.assert_array_equal(x["b"][:, 0], 10 * y)


def test_train_batches_depend_on_their_seed_alone():
    first = _labels(_data(), seed=7, num_batches=3)
    keras.utils.set_random_seed(99)
    keras.random.uniform((3,))
    assert _labels(_data(), seed=7, num_batches=3) == first
    assert _labels(_data(), seed=8, num_batches=3) != first


def test_train_batches_are_whole():
    assert [len(y) for y in _labels(_data(), 0, 5, batch_size=4)] == [4] * 5
    assert [len(y) for y in _labels(_data(), 0, 2, batch_size=64)] == [10] * 2


@pytest.mark.parametrize(("batch_size", "steps"), [(5, 2), (4, 2), (64, 1)])
def test_steps_per_epoch(batch_size, steps):
    assert _data().steps_per_epoch(batch_size) == steps


@pytest.fixture
def padded_data():
    """Row i holds the number i + 1, `lengths[i]` times, then zeros."""
    lengths = np.random.default_rng(0).integers(1, 31, 200)
    x = np.where(
        np.arange(30) < lengths[:, None], np.arange(1, 201)[:, None], 0
    )
    return Data(x, np.arange(200), x, np.arange(200), lengths=lengths)


def test_batches_by_length_hold_every_example_whole_and_once(padded_data):
    batches = list(padded_data.train_batches(10, 0).take(20))
    for x, y in batches:
        assert x.shape[1] % 8 == 0 or x.shape[1] == 30
        assert x.shape[1] - 8 < padded_data.lengths[y].max() <= x.shape[1]
        np.testing.assert_array_equal(
            x.numpy(), padded_data.x_train[y][:, : x.shape[1]]
        )
    seen = np.concatenate([y for _, y in batches])
    assert sorted(seen) == list(range(200))


def test_batches_by_length_are_shuffled_and_their_seed_decides(padded_data):
    def longest(seed, num_batches=20):
        batches = padded_data.train_batches(10, seed).take(num_batches)
        return [padded_data.lengths[y].max() for _, y in batches]

    in_order = longest(0)
    assert in_order == longest(0) != longest(1)
    # Neither the batches of a pool nor those of a pass come in order.
    assert in_order != sorted(in_order) and in_order != longest(0, 40)[20:]
    # A random batch of ten would nearly always hold one of more than 20.
    assert np.mean(np.array(in_order) <= 20) > 0.5


def test_a_pool_is_not_the_whole_pass():
    lengths = np.arange(640) // 2 + 1
    x = np.zeros((640, 320))
    data = Data(x, np.arange(640), x, np.arange(640), lengths=lengths)
    spans = [
        lengths[y].max() - lengths[y].min()
        for _, y in data.train_batches(10, 0).take(64)
    ]
    # Sorted all together, ten neighbours would span five lengths.
    assert 10 < np.median(spans) < 80


def test_first_validation_examples():
    data = _data()
    part = data.first_validation_examples(2)
    assert part.num_validation == 2
    np.testing.assert_array_equal(part.x_validation["b"][:, 0], [0, 10])
    assert part.num_train == data.num_train
    assert data.first_validation_examples(None).num_validation == 5
    assert data.first_validation_examples(9).num_validation == 5


def test_fit_arguments_are_those_of_the_seed():
    data = _data()
    workload = workloads.get("digits").replace(batch_size=5)
    arguments = workload.fit_arguments(data, epochs=3)(seed=7)
    assert (arguments["epochs"], arguments["steps_per_epoch"]) == (3, 2)
    _, y = next(arguments["x"].as_numpy_iterator())
    assert [y.tolist()] == _labels(data, seed=7, num_batches=1)
    assert arguments["shuffle"] is False
    others = workload.fit_arguments(
        data, 3, steps_per_epoch=9, validation_freq=3
    )(seed=7)
    assert (others["steps_per_epoch"], others["validation_freq"]) == (9, 3)
    for size, first in ((None, 5), (2, 2)):
        validated = workload.fit_arguments(data, 3, validation_batch_size=size)
        batches = validated(seed=7)["validation_data"].as_numpy_iterator()
        assert len(next(batches)[1]) == first


def test_validation_batches_are_in_order_and_complete():
    batches = _data().validation_batches(2).as_numpy_iterator()
    labels = [y.tolist() for _, y in batches]
    assert labels == [[0, 1], [2, 3], [4]]


def test_augment_changes_training_batches_alone():
    data = _data(augment=lambda seed: lambda x: {**x, "a": x["a"] + 100 + seed})
    x, y = next(data.train_batches(5, seed=1).as_numpy_iterator())
    np.testing.assert_array_equal(x["a"][:, 0], y + 101)
    x, y = next(data.validation_batches(5).as_numpy_iterator())
    np.testing.assert_array_equal(x["a"][:, 0], y)


def test_registry_names_every_workload():
    assert workloads.names() == (
        "cifar10_resnet18",
        "digits",
        "fashion_mnist_cnn",
        "report_mlp",
        "sst2_bert",
    )
    for name in workloads.names():
        assert workloads.get(name).name == name


def test_registry_refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"digits.*Received: name='mnist'"):
        workloads.get("mnist")


@pytest.mark.parametrize("name", workloads.names())
def test_every_workload_refuses_an_unknown_optimizer(name):
    with pytest.raises(ValueError, match="optimizer='lamb'"):
        workloads.get(name, optimizer="lamb")


def test_workload_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch_size=0"):
        workloads.get("digits").replace(batch_size=0)


@pytest.mark.parametrize(
    ("name", "kind", "momentum", "weight_decay"),
    [
        ("sgd", "SGD", 0.0, None),
        ("momentum", "SGD", 0.9, None),
        ("adam", "Adam", None, None),
        ("adamw", "AdamW", None, 0.01),
    ],
)
def test_optimizers_are_what_their_names_say(
    name, kind, momentum, weight_decay
):
    optimizer = workloads.get("digits", optimizer=name).make_optimizer(0.25)
    # Each backend has classes of its own.
    assert type(optimizer).__name__ == kind
    assert getattr(optimizer, "momentum", None) == momentum
    assert optimizer.weight_decay == weight_decay


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_optimizers_take_a_rate_or_a_schedule(name):
    workload = workloads.get("digits", optimizer=name)
    optimizer = workload.make_optimizer(0.25)
    assert float(optimizer.learning_rate) == pytest.approx(0.25)
    schedule = keras.optimizers.schedules.CosineDecay(0.5, decay_steps=10)
    optimizer = workload.make_optimizer(schedule)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
