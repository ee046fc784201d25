"""The Fashion-MNIST workload, on a slice of its real data."""

import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.workloads import DataNotAvailableError
from keras_metalr.workloads import tfds_source


def test_slice_trains(tfds_dir):
    workload = workloads.get(
        "fashion_mnist_cnn", train_examples=1000, validation_examples=200
    )
    data = workload.load_data()
    assert data.x_train.shape == (1000, 28, 28, 1)
    assert data.x_validation.shape == (200, 28, 28, 1)
    assert data.x_train.max() == np.float32(1.0)
    model = workload.compiled_model()
    history = model.fit(
        data.train_batches(50, seed=0),
        shuffle=False,
        steps_per_epoch=20,
        epochs=3,
        validation_data=data.validation_batches(50),
        verbose=0,
    )
    assert history.history["val_accuracy"][-1] > 0.5


@pytest.mark.parametrize("count", [0, 50_001])
def test_slice_out_of_range(count):
    with pytest.raises(ValueError, match=f"train_examples={count}"):
        workloads.get("fashion_mnist_cnn", train_examples=count)


@pytest.mark.parametrize(
    "name",
    ["fashion_mnist_cnn", "report_mlp", "cifar10_resnet18", "sst2_bert"],
)
def test_missing_data_say_what_to_do(name, tmp_path, monkeypatch):
    # TensorFlow Datasets reads the variable when it is imported.
    constants = pytest.importorskip("tensorflow_datasets.core.constants")
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(DataNotAvailableError) as error:
        workloads.get(name).load_data()
    message = str(error.value)
    assert str(tmp_path) in message
    assert "TFDS_DATA_DIR" in message
    assert "tfds.load(" in message
    assert not any(tmp_path.iterdir())


def test_is_prepared(tfds_dir, tmp_path, monkeypatch):
    assert tfds_source.is_prepared("fashion_mnist")
    constants = pytest.importorskip("tensorflow_datasets.core.constants")
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    assert not tfds_source.is_prepared("fashion_mnist")
