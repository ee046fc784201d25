"""What a step passes on: how many examples it had."""

import numpy as np
import pytest
from keras import ops

from keras_metalr.step_context import make_step_context


def _array(*shape):
    return ops.convert_to_tensor(np.zeros(shape, "float32"))


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"x": _array(2, 9), "y": _array(3), "y_pred": _array(4, 1)}, 4.0),
        ({"y_pred": {"a": _array(5, 1), "b": _array(5, 2)}}, 5.0),
        ({"y_pred": [_array(), _array(6, 2)]}, 6.0),
        # Losses that need no predictions.
        ({"x": _array(7, 2), "y": None, "y_pred": None}, 7.0),
        ({"x": None}, 0.0),
        ({}, 0.0),
    ],
)
def test_examples_of_a_batch(arguments, count):
    context = make_step_context()
    with context.step():
        context.see_loss(_array(), arguments)
        assert float(context.num_examples()) == count
