"""The table of an ablation against figures made by hand."""

import math

import pytest
from rich.console import Console

from keras_metalr.benchmark.ablation import ablation_table
from keras_metalr.benchmark.ablation import summarize
from keras_metalr.benchmark.records import RunResult

pytestmark = pytest.mark.backend_independent


def _records(**columns):
    """Runs from one list a figure, one entry a seed."""
    figures = {
        "eval_accuracy": [0.86, 0.88],
        "eval_loss": [0.4, 0.5],
        "eval_f1": [0.8, 0.9],
        "epochs_to_target": [2.0, 5.0],
        "stability": [0.1, 0.3],
        "stability_last_half": [1e-4, 3e-4],
        "train_runtime": [10.0, 20.0],
        **columns,
    }
    return [
        RunResult({}, {}, {}, {}, dict(zip(figures, seed, strict=True)))
        for seed in zip(*figures.values(), strict=True)
    ]


def test_means_over_seeds():
    summary = summarize(_records())
    assert summary.accuracy == pytest.approx(0.87)
    # Student's t with one degree of freedom: 12.706 standard errors.
    assert summary.interval == pytest.approx(
        (0.87 - 0.12706, 0.87 + 0.12706), abs=1e-4
    )
    assert summary.loss == pytest.approx(0.45)
    assert summary.f1 == pytest.approx(0.85)
    for low, high in (summary.loss_interval, summary.f1_interval):
        assert (high - low) / 2 == pytest.approx(0.6353, abs=1e-4)
    assert summary.epochs_to_target == 3.5
    assert summary.stability == pytest.approx(2e-4)
    assert summary.whole_stability == pytest.approx(0.2)
    assert summary.seconds == 15.0
    assert summary.num_seeds == 2


def test_missed_targets_count_as_infinity():
    def epochs(*values):
        one = {name: [0.5] * len(values) for name in _records()[0].results}
        one["epochs_to_target"] = list(values)
        return summarize(_records(**one)).epochs_to_target

    assert epochs(3.0, math.inf, 4.0) == 4.0
    assert epochs(3.0, math.inf, math.inf) == math.inf
    assert epochs(3.0, math.inf) == math.inf


def test_no_runs():
    with pytest.raises(ValueError, match="at least one value"):
        summarize([])


def test_table_fits_eighty_columns():
    good = summarize(_records())
    bad = summarize(
        _records(
            eval_accuracy=[math.nan, 0.1],
            eval_loss=[math.nan, 2.3],
            epochs_to_target=[math.inf, math.inf],
            stability_last_half=[math.inf, 0.00012345],
            train_runtime=[100.0, 120.0],
        )
    )
    short = summarize(_records(stability_last_half=[math.nan, math.nan]))
    rows = {("original", "static"): good, ("+larger-batch", "metalr"): bad}
    rows["wider", "static"] = short
    console = Console(width=80)
    with console.capture() as capture:
        console.print(ablation_table("A title", rows, target_accuracy=0.85))
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert "original static 87.00 ± 12.71 0.450 0.850 3.5 0.0002 15.0" in lines
    assert (
        "+larger-batch metalr 5.00 ± 63.53 diverged 0.850 missed inf 110.0"
        in lines
    )
    assert "wider static 87.00 ± 12.71 0.450 0.850 3.5 - 15.0" in lines
    assert any("to 85%" in line for line in lines)
