"""On a CPU, PyTorch's scalars are NumPy's: the run is that of a GPU.

There they stay on the device, as native tensors. What follows from either must
be one and the same.
"""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from keras_metalr import MetaLR
from keras_metalr import backend
from keras_metalr.decision import TRACE_COLUMNS
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import compiled
from tests.fit_checks import make_data
from tests.fit_checks import needs_optimizer
from tests.fit_checks import random_controller

pytestmark = pytest.mark.skipif(
    backend.name() != "torch", reason="elsewhere a step is compiled"
)

O = keras.optimizers  # noqa: E741 - as in the table of test_compatibility
# With 20 batches an epoch, the guard keeps weights and goes back to them.
NUM_EXAMPLES, EPOCHS = 20 * BATCH_SIZE, 5


def _schedule() -> keras.optimizers.Optimizer:
    return O.Adam(keras.optimizers.schedules.CosineDecayRestarts(0.1, 30))


CASES: dict[str, tuple[Callable[[], keras.optimizers.Optimizer], dict]] = {
    "Adam": (lambda: O.Adam(10.0), {}),
    "momentum": (lambda: O.SGD(1e-6, momentum=0.9), {}),
    "Ftrl": (lambda: O.Ftrl(0.1), {}),
    "a schedule": (_schedule, {}),
    "a loss scale": (
        lambda: O.LossScaleOptimizer(O.Adam(0.01), initial_scale=2.0**20),
        {},
    ),
    "accumulation": (
        lambda: O.Adam(0.01, gradient_accumulation_steps=3),
        {},
    ),
    "feedback": (lambda: O.Adam(0.01), {"feedback": True}),
    "limits": (lambda: O.SGD(0.01), {"max_learning_rate": 0.02}),
    "pretrained": (lambda: O.Adam(0.01), {"pretrained": True}),
    "MultiOptimizer": (
        lambda: O.MultiOptimizer(
            O.OptimizerMap(O.Adam(0.01), {".*/bias": O.SGD(0.1)})
        ),
        {},
    ),
    "no guard": (lambda: O.Adam(0.01), {"guard": False}),
    "ruin": (lambda: O.SGD(1e5), {"safe_start": False}),
}


def _run(make_optimizer: Callable[[], Any], kwargs: dict) -> np.ndarray:
    """The rows of a run's trace, a batch in twenty of which is not finite."""
    x, y = make_data(NUM_EXAMPLES)
    if kwargs.get("guard", True):
        x[7 * BATCH_SIZE] = np.nan
    model = compiled(make_optimizer())
    metalr = MetaLR(random_controller(), **kwargs)
    with warnings.catch_warnings():
        # Of what the guard did, which is compared below.
        warnings.filterwarnings("ignore", message="MetaLR")
        model.fit(
            x,
            y,
            epochs=EPOCHS,
            callbacks=[metalr],
            validation_data=make_data(16),
            **FIT,
        )
    columns = [metalr.trace[name] for name in metalr.trace.columns]
    return np.stack(columns, axis=1)


def _column(rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, TRACE_COLUMNS.index(name)]


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [needs_optimizer(name)] if name == "MultiOptimizer" else []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_marks(name)) for name in CASES]
)
def test_it_is_the_run_of_a_device(name, monkeypatch):
    make_optimizer, kwargs = CASES[name]
    on_host = _run(make_optimizer, kwargs)
    monkeypatch.setattr(backend, "at_hand", lambda tensor: False)
    on_device = _run(make_optimizer, kwargs)
    np.testing.assert_allclose(on_host[:8], on_device[:8], rtol=2e-3, atol=1e-4)
    # Trust is a small difference of losses: what was rounding grows.
    np.testing.assert_array_equal(
        _column(on_host, "event"), _column(on_device, "event")
    )
    for name in ("learning_rate", "loss", "validation_gap"):
        np.testing.assert_allclose(
            _column(on_host, name),
            _column(on_device, name),
            rtol=0.1,
            atol=0.02,
        )


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_elements_of_any_kind_and_layout(dtype, transposed):
    import torch

    values = torch.arange(12.0, dtype=getattr(torch, dtype)).reshape(3, 4)
    values = values.t() if transposed else values
    positions = backend.constant_positions(np.array([1, 6, 11]))
    expected = values.float().numpy().ravel()[[1, 6, 11]]
    for where in (positions, backend.native(positions)):
        found = backend.native(backend.elements(values, where))
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), expected)


def test_numbers_are_those_of_numpy():
    import torch

    scalar = backend.noted(torch.tensor(0.25))
    assert type(scalar) is np.float32 and scalar == 0.25
    vector = torch.arange(3.0)
    view = backend.noted(vector)
    vector += 1.0
    np.testing.assert_array_equal(view, [1.0, 2.0, 3.0])
    assert backend.native(view).data_ptr() == vector.data_ptr()
    # What a device has stays there.
    distant = torch.zeros(2, device="meta")
    assert backend.noted(distant) is distant
    assert backend.noted(3.0) == 3.0
