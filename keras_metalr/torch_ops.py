"""The part of `keras.ops` that the bookkeeping of a run needs, for torch alone.

Keras first makes sure of what an operation was given. For a scalar that takes
several times as long as the operation, and a decision is hundreds of them. Here
they come as native tensors, float32 or boolean, or as numbers beside such; or,
on a CPU, as those of `host_ops`. What is named here is called, and answers, as
in `keras.ops`.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import torch
from torch import Tensor

from keras_metalr import host_ops

convert_to_tensor = keras.ops.convert_to_tensor
full = keras.ops.full
reshape = keras.ops.reshape
zeros = keras.ops.zeros


def _either(on_tensors: Callable[..., Any], name: str) -> Callable[..., Any]:
    """By what the first argument is: of tensors, or of the host's numbers."""
    on_numbers = getattr(host_ops, name)

    @functools.wraps(on_numbers)
    def operation(x: Any, *others: Any) -> Any:
        if isinstance(x, Tensor):
            return on_tensors(x, *others)
        return on_numbers(x, *others)

    return operation


def _maximum(x1: Tensor, x2: Tensor | float) -> Tensor:
    if isinstance(x2, Tensor):
        return torch.maximum(x1, x2)
    return x1.clamp_min(x2)


def _minimum(x1: Tensor, x2: Tensor | float) -> Tensor:
    if isinstance(x2, Tensor):
        return torch.minimum(x1, x2)
    return x1.clamp_max(x2)


def _isfinite(x: Tensor) -> Tensor:
    # A third of the operations that torch's own is made of.
    return torch.abs(x) < float("inf")


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(getattr(torch, dtype))


abs = _either(torch.abs, "abs")
cast = _either(_cast, "cast")
ceil = _either(torch.ceil, "ceil")
clip = _either(torch.clamp, "clip")
cos = _either(torch.cos, "cos")
cumsum = _either(lambda x: x.cumsum(0), "cumsum")
equal = _either(torch.eq, "equal")
exp = _either(torch.exp, "exp")
isfinite = _either(_isfinite, "isfinite")
isnan = _either(torch.isnan, "isnan")
log = _either(torch.log, "log")
logical_not = _either(torch.logical_not, "logical_not")
logical_or = _either(torch.logical_or, "logical_or")
maximum = _either(_maximum, "maximum")
minimum = _either(_minimum, "minimum")
mod = _either(torch.remainder, "mod")
not_equal = _either(torch.ne, "not_equal")
sqrt = _either(torch.sqrt, "sqrt")
square = _either(torch.square, "square")
sum = _either(torch.sum, "sum")
tanh = _either(torch.tanh, "tanh")
unstack = _either(lambda x, num: list(x.unbind()), "unstack")
where = _either(torch.where, "where")
zeros_like = _either(torch.zeros_like, "zeros_like")


def logical_and(x1: Any, x2: Any) -> Any:
    # The step's first condition may be known to the host.
    return x1 & x2


def power(x1: Any, x2: Any) -> Any:
    return x1**x2


def stack(x: Sequence[Any]) -> Any:
    of_tensors = isinstance(x[0], Tensor)
    return torch.stack(list(x)) if of_tensors else host_ops.stack(x)


def concatenate(xs: Sequence[Any]) -> Any:
    of_tensors = isinstance(xs[0], Tensor)
    return torch.cat(list(xs)) if of_tensors else host_ops.concatenate(xs)
