"""The digits workload, on its real data."""

import numpy as np

from keras_metalr import workloads


def test_digits_are_split_once_and_for_all():
    data = workloads.get("digits").load_data()
    assert (data.num_train, data.num_validation) == (1437, 360)
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_train.dtype == np.float32
    assert 0.0 <= data.x_train.min() < data.x_train.max() <= 1.0
    again = workloads.get("digits").load_data()
    np.testing.assert_array_equal(data.y_validation, again.y_validation)


def test_digits_train_in_seconds():
    workload = workloads.get("digits")
    data = workload.load_data()
    model = workload.compiled_model(learning_rate=3e-3)
    assert model.count_params() == 38_282
    history = model.fit(
        data.train_batches(workload.batch_size, seed=0),
        shuffle=False,
        steps_per_epoch=data.steps_per_epoch(workload.batch_size),
        epochs=5,
        validation_data=data.validation_batches(workload.batch_size),
        verbose=0,
    )
    assert history.history["val_accuracy"][-1] > 0.9
