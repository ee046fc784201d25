"""Reaches the small data sets that come with scikit-learn."""

from typing import Any


def datasets() -> Any:
    """Return `sklearn.datasets`, or say how to install it.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "This data set comes with scikit-learn. Install it with "
            "`pip install scikit-learn`."
        ) from error
    return datasets
