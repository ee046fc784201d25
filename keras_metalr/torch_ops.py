"""The part of `keras.ops` that the bookkeeping of a run needs, for torch alone.

Keras first makes sure of what an operation was given. For a scalar that takes
several times as long as the operation, and a decision is hundreds of them. Here
they come as native tensors, float32 or boolean, or as numbers beside such. What
is named here is called, and answers, as in `keras.ops`.
"""

from collections.abc import Sequence

import keras
import torch
from torch import Tensor

convert_to_tensor = keras.ops.convert_to_tensor
full = keras.ops.full
mod = keras.ops.mod
reshape = keras.ops.reshape
zeros = keras.ops.zeros

abs = torch.abs
ceil = torch.ceil
clip = torch.clamp
cos = torch.cos
equal = torch.eq
exp = torch.exp
isnan = torch.isnan
log = torch.log
logical_not = torch.logical_not
logical_or = torch.logical_or
not_equal = torch.ne
power = torch.pow
sqrt = torch.sqrt
square = torch.square
sum = torch.sum
tanh = torch.tanh
where = torch.where
zeros_like = torch.zeros_like


def logical_and(x1: Tensor | bool, x2: Tensor | bool) -> Tensor:
    # The step's first condition may be known to the host.
    return x1 & x2


def isfinite(x: Tensor) -> Tensor:
    # A third of the operations that torch's own is made of.
    return abs(x) < float("inf")


def maximum(x1: Tensor, x2: Tensor | float) -> Tensor:
    if isinstance(x2, Tensor):
        return torch.maximum(x1, x2)
    return x1.clamp_min(x2)


def minimum(x1: Tensor, x2: Tensor | float) -> Tensor:
    if isinstance(x2, Tensor):
        return torch.minimum(x1, x2)
    return x1.clamp_max(x2)


def cumsum(x: Tensor) -> Tensor:
    return x.cumsum(0)


def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(getattr(torch, dtype))


def stack(x: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(x))


def concatenate(xs: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(xs))


def unstack(x: Tensor, num: int) -> list[Tensor]:
    return list(x.unbind())
