"""A population is spread over the devices, and the search stays the same."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def evolved(num_devices):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    script = pathlib.Path(__file__).with_name("device_script.py")
    output = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.large
def test_two_devices_find_what_one_finds():
    one, two = evolved(1), evolved(2)
    assert (one["devices"], two["devices"]) == (1, 2)
    np.testing.assert_allclose(one["weights"], two["weights"], atol=1e-5)
