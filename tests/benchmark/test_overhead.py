"""What the benchmark of the overhead measures is what it says."""

import json
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests import benchmark_scripts

overhead = benchmark_scripts.load("overhead")

MEBIBYTE = 2**20
needs_proc = pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(),
    reason="peaks of memory are read from /proc, which Linux has",
)


@needs_proc
def test_peak_rises_with_what_is_taken_and_stays_when_it_is_given_back():
    before = overhead._peak()
    # More than the process ever had, so that its peak must rise.
    taken = np.ones(before + 64 * MEBIBYTE, "uint8")
    risen = overhead._peak()
    assert risen > before + 63 * MEBIBYTE
    del taken
    # Linux counts pages a little late.
    assert overhead._peak() == pytest.approx(risen, abs=MEBIBYTE)


@needs_proc
@pytest.mark.large
def test_a_start_is_that_of_a_process_that_trains():
    command = [sys.executable, overhead.__file__, "--start"]
    in_all, once_compiled = {}, {}
    for method in ("plain", "metalr"):
        start = time.perf_counter()
        printed = subprocess.run(
            [*command, "dense", method],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        seconds, *peaks = map(float, printed.split()[-3:])
        assert 0.0 < seconds < time.perf_counter() - start
        in_all[method], once_compiled[method] = peaks
        # The weights, the slots of Adam and the gradients, 1 M of each.
        assert once_compiled[method] > 4 * 4 * 1e6
        assert once_compiled[method] <= in_all[method] < 4096 * MEBIBYTE
    ratios = overhead._memory_ratios(
        "memory", {**in_all, "bare": in_all["plain"]}
    )
    assert ratios["ratio_memory_bare"] == 1.0
    assert 0.8 < ratios["ratio_memory"] < 1.6


def test_interleaved_steps_give_a_mean_over_an_interval(monkeypatch):
    """Made-up times: 2 s plain; 3 s with MetaLR, 5 s where it decides.

    Bare it takes 2.5 s.
    """
    calls, ended = [], []

    def make_stepper(name, callback, jit):
        label = "plain"
        if callback is not None:
            label = "metalr" if callback.guard else "bare"
            assert callback.safe_start == callback.guard
        return overhead.Stepper(
            lambda: calls.append(label) or (name, label),
            lambda: ended.append(label),
        )

    def timed(step):
        _, label = step()
        if label == "plain":
            timed.round += 1
            return 2.0
        if label == "bare":
            return 2.5
        return 5.0 if timed.round % 2 == 0 else 3.0

    timed.round = 0
    monkeypatch.setattr(overhead, "make_stepper", make_stepper)
    monkeypatch.setattr(overhead, "_timed", timed)
    result = overhead.measure("dense", pairs=3, jit=False)
    # Four steps of each to warm up, then six rounds of one step of each.
    assert calls == ["plain", "bare", "metalr"] * 10
    assert ended == ["plain", "bare", "metalr"]
    assert result["plain_milliseconds"] == 2000.0
    assert result["ratio_bare_step"] == 1.25
    assert result["ratio_step"] == 1.5
    assert result["ratio_decision_step"] == 2.5
    assert result["interval_horizon_2000"] == 10
    assert result["ratio_horizon_2000"] == pytest.approx((9 * 1.5 + 2.5) / 10)
    assert result["ratio_horizon_200"] == 2.5


@pytest.fixture
def quick(monkeypatch):
    """Made-up figures for each model, but for the second."""

    def measure(name, pairs, jit):
        if name == "resnet18":
            raise KeyboardInterrupt
        return {"pairs": pairs}

    monkeypatch.setattr(overhead, "measure", measure)


def test_each_model_is_stored_when_it_is_measured(
    quick, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "overhead.json"
    # As where there is no /proc.
    monkeypatch.setattr(overhead, "CLEAR_REFS", tmp_path / "clear_refs")
    with pytest.raises(KeyboardInterrupt):
        overhead.main(["--output", str(path)])
    assert "No memory and first steps: there is no" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert [row["model"] for row in record["results"]] == ["dense"]
    assert record["backend"] == keras.backend.backend()


def test_a_row_keeps_where_each_half_of_it_was_measured(tmp_path, monkeypatch):
    path = tmp_path / "overhead.json"
    only_dense = ["--models", "dense", "--output", str(path)]
    monkeypatch.setattr(
        overhead, "measure", lambda name, pairs, jit: {"pairs": pairs}
    )
    monkeypatch.setattr(overhead, "compare_starts", lambda name, jit: {})
    monkeypatch.setattr(overhead, "git_revision", lambda: "first")
    overhead.main(["--models", "resnet18", *only_dense[2:], "--no-start"])
    overhead.main([*only_dense, "--no-start"])
    monkeypatch.setattr(overhead, "git_revision", lambda: "second")
    monkeypatch.setattr(overhead, "CLEAR_REFS", path)
    overhead.main([*only_dense, "--no-time"])
    resnet, dense = json.loads(path.read_text())["results"]
    assert resnet["times_made"]["git_revision"] == "first"
    assert dense["times_made"]["git_revision"] == "first"
    assert dense["start_made"]["git_revision"] == "second"
    assert "start_made" not in resnet


def test_figures_of_two_backends_do_not_share_a_file(quick, tmp_path, capsys):
    path = tmp_path / "overhead.json"
    text = json.dumps({"backend": "other", "results": []})
    path.write_text(text)
    with pytest.raises(SystemExit):
        overhead.main(["--models", "dense", "--output", str(path)])
    assert "is of the backend other, not" in capsys.readouterr().err
    assert path.read_text() == text


@pytest.mark.parametrize("pairs", [0, -1])
def test_a_measurement_has_a_pair_at_least(quick, tmp_path, capsys, pairs):
    with pytest.raises(SystemExit):
        overhead.main(["--pairs", str(pairs), "--no-start"])
    assert "--pairs must be 1 or more" in capsys.readouterr().err


def test_halves_of_a_row_are_both_compiled_or_neither(quick, tmp_path, capsys):
    path = tmp_path / "overhead.json"
    is_compiled = keras.backend.backend() != "torch"
    row = {"model": "dense", "jit_compile": not is_compiled}
    content = {"backend": keras.backend.backend(), "results": [row]}
    text = json.dumps(content)
    path.write_text(text)
    with pytest.raises(SystemExit):
        overhead.main(["--models", "dense", "--output", str(path)])
    assert "with jit_compile=" in capsys.readouterr().err
    assert path.read_text() == text


@pytest.mark.backend_independent
def test_a_file_that_cannot_be_written_is_found_first(quick, tmp_path, capsys):
    with pytest.raises(SystemExit):
        overhead.main(["--output", str(tmp_path)])
    assert "is a folder" in capsys.readouterr().err
