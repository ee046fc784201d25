"""Training tasks to compare methods on, by name."""

from collections.abc import Callable
from typing import Any

from keras_metalr.workloads.cifar10_resnet18 import cifar10_resnet18
from keras_metalr.workloads.digits import digits
from keras_metalr.workloads.fashion_mnist_cnn import fashion_mnist_cnn
from keras_metalr.workloads.report_mlp import report_mlp
from keras_metalr.workloads.sst2_bert import sst2_bert
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import DataNotAvailableError
from keras_metalr.workloads.workload import Workload

__all__ = [
    "Data",
    "DataNotAvailableError",
    "Workload",
    "get",
    "names",
]

_WORKLOADS: dict[str, Callable[..., Workload]] = {
    "cifar10_resnet18": cifar10_resnet18,
    "digits": digits,
    "fashion_mnist_cnn": fashion_mnist_cnn,
    "report_mlp": report_mlp,
    "sst2_bert": sst2_bert,
}


def names() -> tuple[str, ...]:
    """Return the names that `get` knows."""
    return tuple(_WORKLOADS)


def get(name: str, **options: Any) -> Workload:
    """Return a workload by name.

    Args:
        name: String, one of `names()`.
        **options: What the function of that name takes, such as
            `train_examples` (`help(keras_metalr.workloads.digits.digits)`).

    Returns:
        A `Workload`.

    Raises:
        ValueError: If `name` is unknown.
        TypeError: If the workload does not take an option.

    Example:

        from keras_metalr import workloads

        workload = workloads.get("fashion_mnist_cnn", train_examples=2000)
    """
    if name not in _WORKLOADS:
        raise ValueError(
            f"`name` must be one of {names()}. Received: name={name!r}."
        )
    return _WORKLOADS[name](**options)
