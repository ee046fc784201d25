"""What is kept of a part: short, without paths, and read back whole."""

import dataclasses
import json
import math

import pytest

from keras_metalr.benchmark.full_report.condensed import MAX_POINTS
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.condensed import load_all
from keras_metalr.benchmark.full_report.condensed import shortened
from tests.benchmark.full_report.made_up import part_results

pytestmark = pytest.mark.backend_independent


def _curve(values):
    steps = list(range(1, len(values) + 1))
    return {"per": "step", "step": steps, "value": values}


def test_short_curves_are_left_alone():
    curve = _curve([3.0, 2.0, 1.0])
    assert shortened(curve, average=True) == curve
    assert shortened(curve, average=False) == curve


def test_long_curves_keep_means_or_last_values():
    curve = _curve([float(number) for number in range(4 * MAX_POINTS)])
    means = shortened(curve, average=True)
    last = shortened(curve, average=False)
    assert len(means["value"]) == len(last["value"]) == MAX_POINTS
    assert means["step"][:2] == last["step"][:2] == [4, 8]
    assert means["value"][:2] == [1.5, 5.5]
    assert last["value"][:2] == [3.0, 7.0]


def test_long_runs_become_small_files(tmp_path):
    for part in part_results(steps=5000):
        part.save(tmp_path)
    for path in tmp_path.iterdir():
        for run in json.loads(path.read_text())["runs"]:
            for curve in run["curves"].values():
                assert len(curve["value"]) == MAX_POINTS
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500_000


def test_read_back(tmp_path):
    parts = part_results()
    for part in parts:
        part.save(tmp_path)
    again = load_all(tmp_path)
    assert [part.name for part in again] == sorted(p.name for p in parts)
    for part in parts:
        read = PartResult.load(tmp_path / part.file)
        for name in ("section", "budget", "data_note", "controllers", "loops"):
            assert getattr(read, name) == getattr(part, name)
        assert [r.results for r in read.runs] == [
            pytest.approx(r.results) for r in part.runs
        ]
        assert read.runs[0].environment == part.runs[0].environment
    assert load_all(tmp_path / "nothing") == []


def test_controllers_lose_their_folder(tmp_path):
    part = next(p for p in part_results() if p.section == "phases")
    part.save(tmp_path)
    text = (tmp_path / part.file).read_text()
    assert '"controller": "fitted"' in text
    assert "made-up" not in text


def test_diverged_runs_are_kept(tmp_path):
    part = next(p for p in part_results() if p.section == "ablation")
    results = {**part.runs[0].results, "eval_loss": math.nan}
    results["epochs_to_target"] = math.inf
    runs = [dataclasses.replace(part.runs[0], results=results)]
    dataclasses.replace(part, runs=runs).save(tmp_path)
    (run,) = PartResult.load(tmp_path / part.file).runs
    assert math.isnan(run.results["eval_loss"])
    assert run.results["epochs_to_target"] == math.inf


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format_version": 0}', '{"format_version": 1}']
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "part.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"part\.json holds no part"):
        PartResult.load(path)
