"""What the tests of meta-training share: a small data set."""

import keras
import pytest


@pytest.fixture(scope="session")
def data():
    """The digits, as meta-training has them."""
    if keras.backend.backend() != "jax":
        pytest.skip("meta-training runs on JAX alone")
    from keras_metalr.meta_training.data import load_data

    return load_data(("digits",))[0]
