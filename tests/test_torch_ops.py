"""What stands in for `keras.ops` on torch answers as `keras.ops` does."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_metalr import backend
from tests.tensors import tensor

pytestmark = pytest.mark.skipif(
    backend.name() != "torch", reason="torch_ops is for the backend torch"
)

UNARY = (
    "abs",
    "ceil",
    "exp",
    "isfinite",
    "isnan",
    "log",
    "sqrt",
    "square",
    "sum",
    "tanh",
    "zeros_like",
)
BINARY = ("equal", "maximum", "minimum", "not_equal")
values = st.floats(width=32) | st.sampled_from([0.0, 1e30, 1e-30])


def both(name, *arguments):
    """The same call on both, arrays as tensors and the rest as it is."""
    results = []
    for module in (backend.native_ops(), keras.ops):
        given_ = [
            keras.ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a
            for a in arguments
        ]
        results.append(getattr(module, name)(*given_))
    return results


def assert_same(name, *arguments):
    ours, theirs = both(name, *arguments)
    assert ours.dtype == theirs.dtype, name
    theirs = keras.ops.convert_to_numpy(theirs)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(ours),
        theirs,
        err_msg=f"{name}{arguments}",
    )
    # And as the host has them: scalars, not arrays without a dimension.
    noted = [backend.noted(a) for a in map(_noted, arguments)]
    with np.errstate(all="ignore"):
        numbers = getattr(backend.native_ops(), name)(*noted)
    assert not isinstance(numbers, np.ndarray) or numbers.ndim, name
    assert numbers.dtype == theirs.dtype, name
    np.testing.assert_allclose(
        numbers, theirs, rtol=1e-6, err_msg=f"{name}{arguments} on the host"
    )


def _noted(argument):
    if isinstance(argument, list):
        return [backend.noted(part) for part in argument]
    return argument[()] if isinstance(argument, np.ndarray) else argument


@given(st.lists(values, min_size=1, max_size=5), values)
def test_numbers(numbers, other):
    vector = np.array(numbers, "float32")
    scalar = np.array(other, "float32")
    for name in UNARY:
        assert_same(name, vector)
        assert_same(name, scalar)
    for name in BINARY:
        assert_same(name, vector, scalar)
        if not math.isnan(other):
            assert_same(name, vector, 0.3)
    assert_same("clip", vector, -4.0, 4.0)
    assert_same("cumsum", (vector > 0.0).astype("float32"))
    assert_same("power", 0.96, np.abs(vector))
    assert_same("where", vector > 0.0, vector, scalar)
    assert_same("where", vector > 0.0, vector, float("nan"))
    assert_same("where", vector > 0.0, 0.8, 0.3)
    is_positive = np.array(scalar > 0.0)
    assert_same("where", is_positive, scalar, 0.3)
    assert_same("where", is_positive, vector, -vector)
    assert_same("mod", np.abs(vector).clip(0.0, 1e6).astype("int32"), 3)
    assert_same("concatenate", [tensor(vector)] * 2)
    assert_same("stack", [tensor(vector)] * 2)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_conditions(first, second):
    array = np.array(second)
    for name in ("logical_and", "logical_or"):
        assert_same(name, np.array(first), array)
    assert_same("logical_not", array)
    assert_same("cast", array, "float32")
    # The host may know one of them.
    assert_same("logical_and", first, array)


def test_every_name_is_one_of_keras():
    operations = backend.native_ops()
    for name in vars(operations):
        if callable(getattr(operations, name)) and name[0].islower():
            assert hasattr(keras.ops, name), name


def test_elements_come_apart_in_order():
    parts = backend.native_ops().unstack(tensor([1.0, 2.0, 3.0]), 3)
    assert [float(part) for part in parts] == [1.0, 2.0, 3.0]


def test_elements_are_found_on_devices_that_cannot_take(monkeypatch):
    """`Tensor.take` is there on a CPU and on CUDA alone."""
    import torch

    def refuse(*arguments):
        raise NotImplementedError("take")

    monkeypatch.setattr(torch.Tensor, "take", refuse)
    values = torch.zeros((3, 4), dtype=torch.float16, device="meta")
    positions = torch.zeros(5, dtype=torch.int64, device="meta")
    found = backend.elements(values, positions)
    assert found.shape == (5,) and found.dtype == torch.float32
