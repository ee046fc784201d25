"""The script of the side-by-side benchmark."""

import dataclasses

import keras
import pytest

from keras_metalr.benchmark.peers import packed
from keras_metalr.benchmark.peers import plan as plans
from keras_metalr.workloads import DataNotAvailableError
from keras_metalr.workloads.suite import SUITE
from tests.scripts.running import call_main

TINY = plans.Plan(
    workloads=("wine_linear",),
    methods=("constant", "metalr"),
    seeds=1,
    scales=(1.0,),
    tuning_rates=(0.1,),
    share=0.05,
    num_evaluations=2,
    timed=("wine_linear",),
    timing_turns=1,
)


@pytest.mark.backend_independent
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


@pytest.mark.backend_independent
def test_another_backend_is_one_line(tmp_path, capsys):
    assert keras.backend.backend() != "jax"
    assert call_main("benchmark.py", "--output", tmp_path / "runs") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: The benchmark runs on JAX. Received: ")
    assert "\n" not in error and not (tmp_path / "runs").exists()


def test_runs_are_made_packed_and_gone_on_with(tmp_path, monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("the benchmark runs on JAX alone")
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(plans.SETS, "smoke", TINY)
    flags = ("--joblib-backend", "sequential", "--output")
    first, second = tmp_path / "first", tmp_path / "second"
    assert call_main("benchmark.py", *flags, first) == 0
    page = (first / "benchmark.md").read_text()
    assert "| metalr |" in page and "2 runs, made with" in page
    monkeypatch.setattr(packed, "RECORDS", first / "packed")
    assert call_main("benchmark.py", *flags, second, "--resume-published") == 0
    # Nothing was made again, times of steps among them.
    assert (second / "benchmark.md").read_text() == page
    packs = [
        (folder / "packed" / "wine_linear.jsonl").read_text()
        for folder in (first, second)
    ]
    assert packs[0] == packs[1]


def test_data_of_what_is_timed_are_looked_for_first(
    tmp_path, monkeypatch, capsys
):
    if keras.backend.backend() != "jax":
        pytest.skip("the benchmark runs on JAX alone")
    tiny = dataclasses.replace(TINY, timed=("fashion_batchnorm",))
    monkeypatch.setitem(plans.SETS, "smoke", tiny)

    def missing():
        raise DataNotAvailableError("no fashion_mnist here")

    # Other tests of this process may have read, and kept, the real ones.
    entry = dataclasses.replace(SUITE["fashion_batchnorm"], load_data=missing)
    monkeypatch.setitem(SUITE, "fashion_batchnorm", entry)
    runs = tmp_path / "runs"
    assert call_main("benchmark.py", "--output", runs) == 2
    assert "no fashion_mnist here" in capsys.readouterr().err
    assert [path.name for path in runs.iterdir()] == ["plan.json"]
    # A part of a set needs no other data than its own.
    flags = ("--joblib-backend", "sequential", "--workloads", "wine_linear")
    assert call_main("benchmark.py", *flags, "--output", tmp_path / "own") == 0
