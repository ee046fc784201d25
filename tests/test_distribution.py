"""On two devices MetaLR measures and trains as on one."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_metalr import Trace
from tests.fit_checks import FIT
from tests.fit_checks import largest_difference

pytestmark = pytest.mark.large

BACKEND = keras.backend.backend()
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs() -> dict:
    """What the child process printed: devices are made before all else."""
    if BACKEND == "torch":
        pytest.skip("torch: Keras distributes nothing there")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "distribution_script.py")],
        env={
            **os.environ,
            "PYTHONPATH": path.rstrip(os.pathsep),
            "KERAS_BACKEND": BACKEND,
            # Read by JAX when it is imported.
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def _weights(run: dict) -> list[np.ndarray]:
    return [np.array(w) for w in run["weights"]]


@pytest.mark.parametrize("other", ["plain on two", "plain on one"])
def test_an_output_of_zero_is_plain_training(runs, other):
    run = runs["metalr on two"]
    assert run["clean"]
    assert largest_difference(_weights(runs[other]), _weights(run)) < 1e-6
    assert run["loss"] == pytest.approx(runs[other]["loss"], rel=1e-5)
    assert run["overlap"] == pytest.approx(runs[other]["overlap"], rel=1e-5)


def test_the_examples_of_a_batch_are_those_of_all_devices(runs):
    assert set(runs["examples"]) == {float(FIT["batch_size"])}


def test_the_gradient_norm_is_that_of_one_device(runs):
    one, two = runs["metalr on one"], runs["metalr on two"]
    norms = two["trace"]["grad_norm"]
    assert len(norms) == 12 and min(norms) > 0
    np.testing.assert_allclose(norms, one["trace"]["grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(two["grad_norm"], one["grad_norm"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["metalr", "moving"])
def test_all_that_is_measured_is_that_of_one_device(runs, kind):
    one, two = runs[f"{kind} on one"]["trace"], runs[f"{kind} on two"]["trace"]
    assert two["validated"] == [0.0] * 6 + [1.0] * 6
    for column in Trace.columns:
        # The trust ratio is a quotient of small differences of losses.
        tolerance = 0.02 if "trust" in column else 1e-4
        np.testing.assert_allclose(
            two[column],
            one[column],
            rtol=1e-3,
            atol=tolerance,
            equal_nan=True,
            err_msg=column,
        )


def test_a_rate_that_moves_does_so_alike(runs):
    one, two = runs["moving on one"], runs["moving on two"]
    rates = two["trace"]["learning_rate"]
    assert max(rates) / min(rates) > 2
    np.testing.assert_allclose(rates, one["trace"]["learning_rate"], rtol=1e-4)
    assert largest_difference(_weights(one), _weights(two)) < 1e-5


@pytest.mark.skipif(BACKEND != "jax", reason="Keras splits models on JAX alone")
def test_a_model_that_is_split_over_devices_stays_so(runs):
    plain, run = runs["split"]
    assert largest_difference(_weights(plain), _weights(run)) < 1e-6
    # What the sample needs of a kernel, and not the kernel, goes between them.
    assert run["reduces"] and not run["gathers"]
