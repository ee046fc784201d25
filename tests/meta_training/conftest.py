"""What the tests of meta-training share: a small data set, and JAX."""

import keras
import pytest


class OffJax(pytest.Module):
    """A module that is not imported: what it needs may not be installed."""

    def collect(self):
        pytest.skip("meta-training runs on JAX alone")


def pytest_pycollect_makemodule(module_path, parent):
    """Skip all modules of this folder on other backends."""
    if keras.backend.backend() == "jax":
        return None
    return OffJax.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def data():
    """The digits, as meta-training has them."""
    from keras_metalr.meta_training.data import load_data

    return load_data(("digits",))[0]
