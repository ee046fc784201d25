"""A population is spread over devices and processes: the search is the same."""

import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from keras_metalr.controller import Controller
from keras_metalr.meta_training import processes

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = pathlib.Path(__file__).with_name("device_script.py")


def begun(num_devices, *arguments, script=SCRIPT):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def outputs_of(both):
    # Side by side: none ends before the other, nor before it is listened to.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(output_of, both))


def ended(process):
    return found_in(output_of(process))


def found_in(output):
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def alone():
    return ended(begun(1))


@pytest.mark.large
def test_two_devices_find_what_one_finds(alone):
    two = ended(begun(2))
    assert (alone["devices"], two["devices"]) == (1, 2)
    np.testing.assert_allclose(alone["weights"], two["weights"], atol=1e-5)


@pytest.mark.large
def test_two_processes_find_what_one_finds(alone, free_tcp_port):
    address = f"127.0.0.1:{free_tcp_port}"
    both = [begun(1, address, "2", str(number)) for number in (0, 1)]
    for found in map(found_in, outputs_of(both)):
        assert found["devices"] == 2
        np.testing.assert_allclose(
            alone["weights"], found["weights"], atol=1e-5
        )


@pytest.mark.large
def test_two_processes_write_one_preset(tmp_path, free_tcp_port):
    flags = "--config smoke --data digits --generations 1 --num-processes 2"
    both = [
        begun(
            1,
            *flags.split(),
            *("--work", str(tmp_path / "work")),
            *("--output", str(tmp_path / "preset")),
            *("--coordinator", f"127.0.0.1:{free_tcp_port}"),
            *("--process-id", str(number)),
            script=ROOT / "scripts" / "meta_train.py",
        )
        for number in (0, 1)
    ]
    first, second = outputs_of(both)
    assert "generation 1/1" in first and "generation" not in second
    Controller.from_preset(tmp_path / "preset")
    record = json.loads((tmp_path / "preset" / "scores.json").read_text())
    (device,) = record["seconds"]
    assert device.startswith("2 processes: ")


@pytest.mark.parametrize(("count", "num_processes"), [(6, 4), (8, 2), (2, 3)])
def test_every_run_is_somebodys(monkeypatch, count, num_processes):
    monkeypatch.setattr(jax, "process_count", lambda: num_processes)
    shares = []
    for number in range(num_processes):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        shares.append(processes.own_share(count))
    assert len({len(share) for share in shares}) == 1
    # In this order they are gathered, and what is twice there is cut off.
    assert np.concatenate(shares)[:count].tolist() == list(range(count))


def test_one_process_gathers_its_own():
    values = np.arange(6.0)
    assert processes.own_share(6).tolist() == list(range(6))
    np.testing.assert_array_equal(processes.gathered(values, 6), values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost", 2, 0), "HOST:PORT"),
        (("localhost:port", 2, 0), "HOST:PORT"),
        (("localhost:1", 2, 2), "process_id=2, num_processes=2"),
        (("localhost:1", 0, 0), "process_id=0, num_processes=0"),
    ],
)
def test_processes_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)
