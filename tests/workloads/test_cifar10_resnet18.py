"""ResNet-18 on CIFAR-10: the network, the split, the augmentation."""

import math

import keras
import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.cifar10_resnet18 import build_resnet18
from keras_metalr.workloads.cifar10_resnet18 import crop_and_flip


def test_network_is_resnet18_with_the_cifar_stem():
    model = build_resnet18()
    num_weights = sum(math.prod(w.shape) for w in model.trainable_weights)
    assert num_weights == 11_173_962
    assert model.output_shape == (None, 10)
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size[0] == 3
    ]
    # With the last dense layer these are the eighteen.
    assert len(convolutions) == 17
    assert convolutions[0].output.shape == (None, 32, 32, 64)
    assert convolutions[-1].output.shape == (None, 4, 4, 512)


def test_data_are_normalized_and_split(tfds_dir):
    data = workloads.get(
        "cifar10_resnet18", train_examples=500, validation_examples=100
    ).load_data()
    assert data.x_train.shape == (500, 32, 32, 3)
    assert data.x_validation.shape == (100, 32, 32, 3)
    assert data.x_train.dtype == np.float32
    assert np.abs(data.x_train.mean(axis=(0, 1, 2))).max() < 0.15
    assert np.abs(data.x_train.std(axis=(0, 1, 2)) - 1).max() < 0.15


@pytest.mark.parametrize(
    ("start", "note"),
    [
        (b"\xff\xd8\xff\xe0", "lossy JPEG copy of the images"),
        (b"\x89PNG\r\n", ""),
    ],
)
def test_a_lossy_copy_is_noted(tfds_dir, monkeypatch, start, note):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds, "as_numpy", lambda _: [{"image": start}])
    lossy = tfds_source.is_stored_as_jpeg("cifar10")
    assert lossy == bool(note)
    monkeypatch.undo()
    monkeypatch.setattr(tfds_source, "is_stored_as_jpeg", lambda name: lossy)
    workload = workloads.get(
        "cifar10_resnet18", train_examples=2, validation_examples=2
    )
    assert workload.load_data().note == note


@pytest.mark.parametrize("count", [0, 45_001])
def test_slice_out_of_range(count):
    with pytest.raises(ValueError, match=f"train_examples={count}"):
        workloads.get("cifar10_resnet18", train_examples=count)


def _augmented(images, seed):
    from tensorflow import data

    batches = data.Dataset.from_tensors(images).map(crop_and_flip(seed))
    return next(batches.as_numpy_iterator())


def test_augmentation_is_a_shift_by_whole_pixels_and_a_mirroring():
    images = np.random.default_rng(0).normal(size=(300, 32, 32, 3))
    images = images.astype("float32")
    results = _augmented(images, seed=5)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    offsets = []
    for image, result in zip(padded, results, strict=True):
        crops = {
            (row, column, step): image[row : row + 32, column : column + 32][
                :, ::step
            ]
            for row in range(9)
            for column in range(9)
            for step in (1, -1)
        }
        found = [k for k, crop in crops.items() if np.array_equal(crop, result)]
        assert len(found) == 1
        offsets.append(found[0])
    rows, columns, steps = np.array(offsets).T
    for values in (rows, columns):
        # Nine offsets, 33 images each, give or take 4 standard deviations.
        assert np.bincount(values, minlength=9).min() > 10
        assert np.bincount(values, minlength=9).max() < 56
    assert 110 < np.sum(steps == -1) < 190


def test_augmentation_repeats_with_its_seed():
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3))
    first = _augmented(images, seed=1)
    np.testing.assert_array_equal(first, _augmented(images, seed=1))
    assert not np.array_equal(first, _augmented(images, seed=2))


@pytest.mark.large
def test_network_learns_a_slice(tfds_dir):
    workload = workloads.get(
        "cifar10_resnet18",
        train_examples=320,
        validation_examples=64,
        augment=True,
        optimizer="momentum",
    )
    data = workload.load_data()
    model = workload.compiled_model()
    history = model.fit(
        data.train_batches(32, seed=0),
        shuffle=False,
        steps_per_epoch=10,
        epochs=2,
        validation_data=data.validation_batches(32),
        verbose=0,
    )
    first, last = history.history["loss"]
    assert last < first
