"""The comparison on nets of other kinds: its data, its runs and its page."""

import dataclasses
import json

import numpy as np
import pytest

from keras_metalr import workloads
from keras_metalr.benchmark.records import RunResult
from tests import benchmark_scripts
from tests.benchmark.environment import ENVIRONMENT

pytestmark = pytest.mark.backend_independent

unfamiliar = benchmark_scripts.load("unfamiliar")


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Of `main`, for one small net, two rates and a few steps."""
    digits = dataclasses.replace(workloads.get("digits"), name="small")
    monkeypatch.setattr(
        unfamiliar, "groups", lambda: {"A group": {"a small net": digits}}
    )
    monkeypatch.setattr(unfamiliar, "RATES", (1e-9, 0.01))
    monkeypatch.setattr(unfamiliar, "NUM_STEPS", 10)
    page = str(tmp_path / "page.md")
    return ["--output", str(tmp_path / "records"), "--page", page]


def test_the_page_says_what_the_records_say(tmp_path, capsys):
    assert unfamiliar.main(["--check"]) == 0
    page = tmp_path / "page.md"
    page.write_text("another page")
    assert unfamiliar.main(["--check", "--page", str(page)]) == 1
    error = capsys.readouterr().err
    assert f"error: {page}: stale" in error
    assert "Run `KERAS_BACKEND=jax python benchmarks/unfamiliar.py`." in error


def test_the_best_schedule_stands_beside_metalr(arguments, tmp_path):
    assert unfamiliar.main(arguments) == 0
    assert unfamiliar.main([*arguments, "--check"]) == 0
    paths = sorted((tmp_path / "records").glob("small-*.json"))
    runs = [json.loads(path.read_text()) for path in paths]
    made = [
        (r["config"]["method"], r["config"]["learning_rate"])
        for r in runs
        if r["config"]["method"] != "metalr"
    ]
    assert sorted(made) == [
        (method, rate)
        for method in ("cosine", "static")
        for rate in (1e-9, 0.01)
    ]
    tuned = [r for r in runs if r["config"]["method"] != "metalr"]
    best = min(tuned, key=lambda r: r["results"]["eval_loss"])
    assert best["config"]["learning_rate"] == 0.01
    controlled = [
        r["results"] for r in runs if r["config"]["method"] == "metalr"
    ]
    assert len(controlled) == 2
    loss, accuracy = (
        np.mean([results[name] for results in controlled])
        for name in ("eval_loss", "eval_accuracy")
    )
    page = (tmp_path / "page.md").read_text()
    assert f"| 0.01 | {best['results']['eval_loss']:.3f} | " in page.replace(
        "static, ", "| "
    ).replace("cosine, ", "| ")
    assert f" | {loss:.3f} | {accuracy:.3f} |\n" in page
    assert "| a small net |" in page
    # A net that was interrupted has no row yet, with one seed or with none.
    for path in (path for path in paths if "-metalr-" in path.name):
        path.unlink()
        assert "| a small net |" not in unfamiliar.page(tmp_path / "records")


@pytest.mark.parametrize(
    ("half", "expected"), [(0.9e-3, True), (1.1e-3, False)]
)
def test_nets_with_far_lower_rates_are_named(
    arguments, tmp_path, half, expected
):
    def save(method, rate, seed, rates):
        run = RunResult(
            config={
                "workload": "small",
                "method": method,
                "learning_rate": rate,
                "seed": seed,
            },
            environment=ENVIRONMENT,
            history={},
            curves={"learning_rate": {"step": [1, 2, 3], "value": rates}},
            results={
                "eval_loss": rate,
                "eval_accuracy": 0.5,
                "num_steps": 3,
            },
        )
        run.save(tmp_path / "records" / f"{method}-{rate}-{seed}.json")

    # The second has the higher loss.
    save("cosine", 0.02, 0, [0.02, 0.01, 0.0])
    save("static", 3.0, 0, [3.0, 3.0])
    for seed in unfamiliar.SEEDS:
        save("metalr", 1e-3, seed, [1e-3, half, 1.0])
    page = unfamiliar.page(tmp_path / "records")
    assert ("of the schedule's on:\na small net.\n" in page) == expected
    assert "`records`; " in page


def test_what_has_no_classes_has_no_accuracy():
    def run(loss, **figures):
        results = {"eval_loss": loss, **figures}
        return RunResult({}, ENVIRONMENT, {}, {}, results)

    figures = unfamiliar._figures
    runs = [run(0.5, eval_accuracy=0.5), run(0.7, eval_accuracy=0.6)]
    assert figures(runs) == ("0.600", "0.550")
    assert figures([run(0.01234)]) == ("0.012", "-")
    assert figures([run(-0.894)]) == ("-0.894", "-")
