"""ResNet-18 on CIFAR-10: the network, the split, the augmentation."""

import math

import keras
import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.workloads import DataNotAvailableError
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


def test_validation_images_come_after_those_to_train_on(tfds_dir):
    data = workloads.get(
        "cifar10_resnet18", train_examples=300, validation_examples=100
    ).load_data()
    held = tfds_source.load_arrays("cifar10", "train[45000:45100]")
    np.testing.assert_array_equal(data.y_validation, held["label"])
    train, validation = (
        {image.tobytes() for image in images}
        for images in (data.x_train, data.x_validation)
    )
    assert not train & validation


@pytest.mark.parametrize("size", [16, 8])
def test_smaller_images_are_means_over_squares(tfds_dir, size):
    options = {"train_examples": 4, "validation_examples": 2}
    whole = workloads.get("cifar10_resnet18", **options).load_data()
    workload = workloads.get("cifar10_resnet18", image_size=size, **options)
    small = workload.load_data()
    side = 32 // size
    for name in ("x_train", "x_validation"):
        images, means = getattr(whole, name), getattr(small, name)
        assert means.shape == (len(images), size, size, 3)
        for row, column in ((0, 0), (1, 2), (size - 1, size - 1)):
            square = images[:, row * side :, column * side :][:, :side, :side]
            expected = square.mean(axis=(1, 2))
            np.testing.assert_allclose(
                means[:, row, column], expected, atol=1e-5
            )
    assert workload.build_model().input_shape == (None, size, size, 3)


@pytest.mark.parametrize("size", [0, 24, 64, "16"])
def test_image_size_out_of_range(size):
    with pytest.raises(ValueError, match=r"one of \(32, 16, 8\)"):
        workloads.get("cifar10_resnet18", image_size=size)


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
    assert tfds_source.images_note("cifar10") == note
    monkeypatch.undo()
    monkeypatch.setattr(tfds_source, "images_note", lambda name: note)
    workload = workloads.get(
        "cifar10_resnet18", train_examples=2, validation_examples=2
    )
    assert workload.load_data().note == note


def test_a_download_that_fails_is_said_in_a_line(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Builder:
        data_dir = tmp_path

        def is_prepared(self):
            return False

        def download_and_prepare(self):
            raise tfds.download.DownloadError("no network")

    monkeypatch.setattr(tfds_source, "_builder", lambda name: Builder())
    workload = workloads.get("cifar10_resnet18", download=True)
    with pytest.raises(DataNotAvailableError, match="could not be downloaded"):
        workload.load_data()


@pytest.mark.parametrize("count", [0, 45_001])
def test_slice_out_of_range(count):
    with pytest.raises(ValueError, match=f"train_examples={count}"):
        workloads.get("cifar10_resnet18", train_examples=count)


def _augmented(images, seed):
    from tensorflow import data

    augment = crop_and_flip(seed, images.shape[1])
    batches = data.Dataset.from_tensors(images).map(augment)
    return next(batches.as_numpy_iterator())


@pytest.mark.parametrize(("size", "most"), [(32, 4), (16, 2)])
def test_augmentation_is_a_shift_by_whole_pixels_and_a_mirroring(size, most):
    images = np.random.default_rng(0).normal(size=(300, size, size, 3))
    images = images.astype("float32")
    results = _augmented(images, seed=5)
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    count = 2 * most + 1
    offsets = []
    for image, result in zip(padded, results, strict=True):
        crops = {
            (row, column, step): image[
                row : row + size, column : column + size
            ][:, ::step]
            for row in range(count)
            for column in range(count)
            for step in (1, -1)
        }
        found = [k for k, crop in crops.items() if np.array_equal(crop, result)]
        assert len(found) == 1
        offsets.append(found[0])
    rows, columns, steps = np.array(offsets).T
    for values in (rows, columns):
        # Within 4 standard deviations of an equal share of the 300 images.
        margin = 4 * (300 * (count - 1)) ** 0.5 / count
        found = np.bincount(values, minlength=count)
        assert len(found) == count
        assert np.abs(found - 300 / count).max() < margin
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
