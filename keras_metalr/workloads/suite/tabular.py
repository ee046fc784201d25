"""scikit-learn's tabular sets, standardized, with a fixed split."""

from typing import Any

import numpy as np

from keras_metalr.workloads import sklearn_source
from keras_metalr.workloads.workload import Data

_SPLIT_SEED = 0
_VALIDATION_SHARE = 0.25


def load_breast_cancer_data() -> Data:
    """569 tumours, 30 measurements each, two classes."""
    return _split(sklearn_source.datasets().load_breast_cancer())


def load_wine_data() -> Data:
    """178 wines, 13 measurements each, three classes."""
    return _split(sklearn_source.datasets().load_wine())


def load_diabetes_data() -> Data:
    """442 patients, 10 measurements each; the target is a number.

    The target, disease progression, is standardized: a mean squared error of 1
    is that of the mean.
    """
    bunch = sklearn_source.datasets().load_diabetes()
    return _split(bunch, is_regression=True)


def _split(bunch: Any, is_regression: bool = False) -> Data:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(bunch.target))
    x = bunch.data[order].astype("float32")
    y = bunch.target[order]
    num_train = len(y) - round(_VALIDATION_SHARE * len(y))
    # Scaled by the training part alone.
    x = _standardized(x, num_train)
    if is_regression:
        y = _standardized(y[:, None], num_train)
    y = y.astype("float32" if is_regression else "int32")
    return Data(
        x_train=x[:num_train],
        y_train=y[:num_train],
        x_validation=x[num_train:],
        y_validation=y[num_train:],
    )


def _standardized(values: np.ndarray, num_train: int) -> np.ndarray:
    known = values[:num_train]
    return ((values - known.mean(0)) / (known.std(0) + 1e-6)).astype("float32")
