"""The script of the side-by-side benchmark: what it refuses."""

import keras
import pytest

from tests.scripts.running import call_main

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--set", "cpu", "--workloads", "wine_linear"),
        ("--set", "cpu", "--seeds", 1),
    ],
)
def test_no_part_of_the_benchmark_is_published(capsys, flags):
    with pytest.raises(SystemExit):
        call_main("benchmark.py", "--publish", *flags)
    assert "--publish is for all of a set" in capsys.readouterr().err


def test_another_backend_is_one_line(tmp_path, capsys):
    assert keras.backend.backend() != "jax"
    assert call_main("benchmark.py", "--output", tmp_path / "runs") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: The benchmark runs on JAX. Received: ")
    assert "\n" not in error and not (tmp_path / "runs").exists()
