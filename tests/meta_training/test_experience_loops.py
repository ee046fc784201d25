"""What experience is worth: the loops side by side, and what is stored."""

import json

import numpy as np
import pytest

from keras_metalr.meta_training.bank import OTHER_BATCHES
from keras_metalr.meta_training.bank import make_bank
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.unroll import Unroll
from tests import benchmark_scripts

benchmark = benchmark_scripts.load("experience")


@pytest.fixture
def bank(data):
    return make_bank(Unroll(FAMILIES["dense"], data, 20, 1), 3, seed=5)


def test_each_task_learns_for_itself_from_runs_on_other_batches(bank):
    """A made-up run whose best shift differs from task to task."""
    best = np.array([-2.0, 0.0, 2.0])
    seen = []

    def run(fresh, shifts):
        seen.append(np.asarray(fresh.tasks.seed) - np.asarray(bank.tasks.seed))
        error = np.abs(np.arcsinh(2.0 * (np.asarray(shifts) - best)))
        gain = np.asarray(bank.initial_loss - bank.best_loss)
        return np.asarray(bank.best_loss) + gain * error / 10.0

    learned = benchmark.loops(run, bank, 12)
    plain = benchmark.loops(run, bank, 12, learn=False)
    expected = [[k * OTHER_BATCHES] * 3 for k in range(1, 13)]
    np.testing.assert_array_equal(seen[:12], expected)
    np.testing.assert_array_equal(seen[12:], expected)
    # Without learning all runs are alike; the first run is with it, too.
    np.testing.assert_allclose(plain, np.tile(plain[:1], (12, 1)))
    np.testing.assert_allclose(learned[0], plain[0])
    assert np.all(learned[-3:, [0, 2]].mean(0) < 0.6 * plain[0, [0, 2]])
    assert np.all(learned[-3:, 1] < 0.05)


@pytest.mark.large
def test_figures_are_stored(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "NUM_STEPS", 20)
    file = tmp_path / "result.json"
    benchmark.main(
        f"--families dense --controllers supervised general --tasks 2 --runs 4 "
        f"--data digits --output {file}".split()
    )
    record = json.loads(file.read_text())
    assert record["num_tuned"] == 36
    assert record["command"].endswith(f"--runs 4 --data digits --output {file}")
    names = [row["controller"] for row in record["rows"]]
    assert names == ["supervised", "general"]
    shown = capsys.readouterr().out
    for row in record["rows"]:
        by_run = row["with"]["by_run"]
        assert len(by_run) == 4 and by_run[0] == row["without"]["by_run"][0]
        assert by_run[1:] != row["without"]["by_run"][1:]
        first = np.mean(by_run[:2])
        assert row["with"]["first"]["mean"] == pytest.approx(first, abs=2e-4)
        assert f"{row['with']['first']['mean']:.3f} [" in shown
        assert "first 2" in shown and "last 2" in shown
        gain = row["with"]["last_less_first"]["mean"]
        assert gain == pytest.approx(np.mean(by_run[2:]) - first, abs=2e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--controllers", "general", "none"), "There is no preset 'none'"),
        (("--output", "."), "is a folder"),
        # The first and the last would be one.
        (("--runs", "1"), "--runs must be 2 or more"),
    ],
)
def test_what_is_missing_is_found_before_the_loops(
    tmp_path, capsys, flags, message
):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--output", str(tmp_path / "a.json"), *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
