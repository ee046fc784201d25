"""README's tables say what the recorded results say."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from keras_metalr.benchmark import identity
from keras_metalr.benchmark import report
from keras_metalr.benchmark import tables
from keras_metalr.benchmark.comparison import compare
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import write_json
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.update_rule import RULE_VERSION
from tests.benchmark.environment import ENVIRONMENT

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]


def record(method, rate, seed, accuracy):
    return RunResult(
        config={
            "method": method,
            "learning_rate": rate,
            "seed": seed,
            "options": {"optimizer": "adam"},
            "epochs": 20,
        },
        environment=ENVIRONMENT,
        history={},
        curves={},
        results={"eval_accuracy": accuracy},
    )


def records(metalr=(0.97, 0.98)):
    table = {
        ("static", 0.01): (0.96, 0.98),
        ("static", 1.0): (0.10, 0.20),
        ("static", 1e-5): (0.30, math.nan),
        ("metalr", 1e-6): metalr,
        ("metalr", 10.0): (0.97, 0.99),
    }
    return [
        record(method, rate, seed, accuracies[seed])
        for (method, rate), accuracies in table.items()
        for seed in (1, 0)
    ]


def save(folder, all_records):
    for number, run in enumerate(all_records):
        run.save(folder / f"digits-{number}.json")


def test_the_pages_say_what_the_results_say(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = report.main(["--check"])
    assert code == 0, capsys.readouterr().err


def test_comparison():
    comparison = compare(records())
    best = comparison.best_static
    assert (best.learning_rate, best.accuracies) == (0.01, (0.96, 0.98))
    assert best.mean == pytest.approx(0.97)
    assert best.worst == 0.96
    assert comparison.seeds == (0, 1)
    assert comparison.num_trials == 6
    assert [s.learning_rate for s in comparison.metalr] == [1e-6, 10.0]
    # A run without an accuracy got nothing right.
    assert comparison.static[0].accuracies == (0.30, 0.0)
    assert comparison.spread == pytest.approx(0.005)
    assert comparison.is_within_tolerance


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.97, True), (0.96, True), (0.9599, False)]
)
def test_one_point_below_the_best_is_within_tolerance(mean, expected):
    comparison = compare(records(metalr=(mean, mean)))
    assert comparison.is_within_tolerance == expected


def test_interval_is_students():
    low, high = compare(records()).best_static.interval
    # Two values 0.02 apart: standard error 0.01, t(1) = 12.706.
    assert (high - low) / 2 == pytest.approx(0.01 * 12.706, rel=1e-3)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (lambda run: run.config["method"] == "static", "no run of 'static'"),
        (lambda run: run.config["method"] == "metalr", "no run of 'metalr'"),
        (
            lambda run: run.config["seed"] + run.config["learning_rate"] == 2.0,
            r"'static' at 1 with seeds \[0\]; expected \[0, 1\]",
        ),
    ],
)
def test_incomplete_runs_are_not_compared(dropped, message):
    kept = [run for run in records() if not dropped(run)]
    with pytest.raises(ValueError, match=message):
        compare(kept)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epochs": 2}, "epochs 20 and 2"),
        ({"backend": "jax"}, "backend None and 'jax'"),
        ({"controller": "other"}, "controller None and 'other'"),
    ],
)
def test_runs_of_two_settings_are_not_compared(tmp_path, config, message):
    # The last one is MetaLR's.
    *others, last = records()
    last.config.update(config)
    with pytest.raises(ValueError, match=f"same settings. Rec.*{message}"):
        compare([*others, last])
    save(tmp_path, [*others, last])
    with pytest.raises(ValueError, match="same settings"):
        tables.digits_table(tmp_path)


@pytest.mark.parametrize(
    "name", ["demo.json", "trust.json", "digits/digits-1.json"]
)
def test_a_record_of_another_form_is_one_line(page, tmp_path, capsys, name):
    path = tmp_path / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[]")
    assert report.main(page.arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error == (f"error: {path} must hold a JSON object. Received: list.")


def test_digits_table(tmp_path):
    save(tmp_path, records())
    write_json(
        tmp_path / identity.CONTROLLER_FILE, identity.controller_identity()
    )
    text = tables.digits_table(tmp_path)
    assert "| MetaLR | from 1e-6 | 97.50 ± 6.35 | 97.00 | 2 |" in text
    assert "| best of 3 constant rates | 0.01 | 97.00 ± 12.71 |" in text
    assert "| 96.00 | 6 |" in text
    assert "| constant, nearest to 0.001 | 0.01 | 97.00 ± 12.71 |" in text
    assert "Every start is within 1 point" in text
    assert "2 CPU cores" in text
    assert identity.OTHER_CONTROLLER not in text


def test_digits_table_says_what_failed(tmp_path):
    save(tmp_path, records(metalr=(0.1, 0.1)))
    write_json(tmp_path / identity.CONTROLLER_FILE, {"weights_sha256": "other"})
    text = tables.digits_table(tmp_path)
    assert "**Not every start is within 1 point" in text
    assert identity.OTHER_CONTROLLER in text


def test_nothing_measured(tmp_path):
    bodies = tables.tables(tmp_path)
    for name in ("digits", "demo", "peers", "overhead", "experience", "trust"):
        assert bodies[name] == tables.NOT_MEASURED
    save(tmp_path / "digits", records()[:-1])
    assert tables.tables(tmp_path)["digits"] == tables.NOT_MEASURED


def test_demo_table(tmp_path):
    rows = [
        {
            "data": "Digits",
            "method": m,
            "optimizer": "momentum",
            "learning_rate": r,
            "accuracy": a,
        }
        for m, r, a in [
            ("static", 1e-5, 0.1),
            ("static", 10.0, 0.11),
            ("MetaLR", 1e-5, 0.98),
            ("MetaLR", 10.0, 0.97),
        ]
    ]
    content = {
        "steps": 240,
        "controller": identity.controller_identity(),
        "environment": ENVIRONMENT,
        "rows": rows,
    }
    write_json(tmp_path / "demo.json", content)
    lines = tables.demo_table(tmp_path / "demo.json").splitlines()
    assert lines[0] == "| rate at the start | Digits, static | Digits, MetaLR |"
    assert lines[2:4] == ["| 1e-5 | 10.0 | 98.0 |", "| 10 | 11.0 | 97.0 |"]
    assert "240 steps, one seed (Digits: SGD with momentum; JAX" in lines[5]


def test_overhead_table(tmp_path):
    row = {"model": "dense", "plain_milliseconds": 3.21, "pairs": 20}
    row["ratio_bare_step"], row["ratio_step"] = 1.25, 1.375
    row |= {f"ratio_horizon_{n}": 1.5 for n in (200, 2000, 10000)}
    memory = {"plain_peak_mebibytes": 1234.5, "ratio_peak_memory": 1.01}
    memory["plain_first_step_seconds"] = 1.23
    memory["metalr_first_step_seconds"] = 4.56
    made = {"environment": ENVIRONMENT, "rule_version": RULE_VERSION}
    row["times_made"] = memory["start_made"] = made
    content = {"backend": "jax", "results": [row, row | memory]}
    write_json(tmp_path / "overhead-jax.json", content)
    text = tables.overhead_table(tmp_path)
    assert "| TensorFlow | not measured yet |" in text
    assert text.count("| JAX | dense net, 1.0 M weights, batch 128 |") == 3
    times = "| 3.21 ms | 1.25 | 1.38 | 1.50 | 1.50 | 1.50 | 20 |"
    assert text.count(times) == 2
    assert text.count("| 1,234 MiB | - | 1.01 | - | - | 1.2 s | 4.6 s |") == 1
    assert identity.OTHER_CONTROLLER not in text
    content["results"][1]["start_made"] = made | {"rule_version": -1}
    write_json(tmp_path / "overhead-jax.json", content)
    assert identity.OTHER_CONTROLLER in tables.overhead_table(tmp_path)


def test_experience_table(tmp_path):
    def values(mean):
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}

    row = {"family": "dense", "controller": "general"}
    row["with"] = {
        "first": values(0.3),
        "last": values(0.1),
        "last_less_first": values(-0.2),
    }
    row["without"] = {"first": values(0.4), "last": values(0.2)}
    row["last_with_less_without"] = values(-0.1)
    content = {
        "controllers": {"general": identity.controller_mark()},
        "num_tasks": 7,
        "num_runs": 20,
        "num_steps": 200,
        "data": ["digits", "cifar10"],
        "data_notes": {"cifar10": "lossy copy"},
        "rows": [row],
    }
    write_json(tmp_path / "experience.json", content)
    text = tables.experience_table(tmp_path / "experience.json")
    assert (
        "| `general` | dense | 0.300 | 0.100 [0.090, 0.110] | "
        "-0.200 [-0.210, -0.190] | 0.200 [0.190, 0.210] | "
        "-0.100 [-0.110, -0.090] |"
    ) in text
    assert "7 small tasks, each trained 20 times for 200 steps" in text
    assert "| first 5 | last 5 |" in text and "best of 36 tuned" in text
    assert "Data: digits, cifar10 (lossy copy)." in text
    assert identity.OTHER_CONTROLLER not in text
    content["controllers"]["general"] = "abc-rule1"
    content |= {"num_runs": 2, "num_tuned": 12}
    write_json(tmp_path / "experience.json", content)
    text = tables.experience_table(tmp_path / "experience.json")
    assert text.endswith(identity.OTHER_CONTROLLER)
    assert "| first 1 | last 1 |" in text and "best of 12 tuned" in text


def test_trust_table(tmp_path):
    row = {"task": "net", "note": "a copy", "learning_rate": 1e-5}
    row |= {"trust_ratio": 0.456, "validation_loss": 1.2345}
    content = {"environment": ENVIRONMENT, "num_steps": 80, "rows": [row, row]}
    write_json(tmp_path / "trust.json", content)
    text = tables.trust_table(tmp_path / "trust.json")
    assert text.count("| net | 1e-5 | 0.46 | 1.234 |") == 2
    assert text.count("net: a copy;") == 1
    assert "80 steps at a constant rate" in text


def test_trust_that_is_not_known_and_a_run_that_diverged(tmp_path):
    row = {"task": "net", "note": "", "learning_rate": 10.0}
    row |= {"trust_ratio": math.nan, "validation_loss": math.inf}
    content = {"environment": ENVIRONMENT, "num_steps": 80, "rows": [row]}
    write_json(tmp_path / "trust.json", content)
    text = tables.trust_table(tmp_path / "trust.json")
    assert "| net | 10 | - | diverged |" in text


def test_a_wrong_preset_is_named():
    with pytest.raises(ValueError, match="There is no preset 'none'"):
        identity.controller_identity("none")


def test_features_table_has_every_feature():
    lines = tables.features_table().splitlines()
    assert len(lines) == 2 + len(FEATURE_NAMES)
    for name, line in zip(FEATURE_NAMES, lines[2:], strict=True):
        assert line.startswith(f"| `{name}` |")
        # Four bars of the table; those of a norm are escaped.
        assert line.replace("\\|", "").count("|") == 4


@pytest.fixture
def page(tmp_path):
    text = "a\n<!-- table:digits -->\nold\n<!-- end -->\nb\n"
    path = tmp_path / "README.md"
    path.write_text(text)
    (tmp_path / "results").mkdir()
    arguments = ["--pages", str(path), "--results", str(tmp_path / "results")]
    return SimpleNamespace(path=path, text=text, arguments=arguments)


def test_check_changes_nothing_and_fails_once(page, capsys):
    assert report.main([*page.arguments, "--check"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {page.path}, tables digits: stale")
    assert "Run `python -m keras_metalr.benchmark.report`." in error
    assert page.path.read_text() == page.text
    assert report.main(page.arguments) == 0
    assert page.path.read_text() == page.text.replace(
        "old", tables.NOT_MEASURED
    )
    assert report.main([*page.arguments, "--check"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table:digits", "table:digit", "There is no table 'digit'"),
        ("<!-- end -->", "", "1 markers, 0 of them whole"),
    ],
)
def test_damaged_markers(page, capsys, old, new, message):
    page.path.write_text(page.text.replace(old, new))
    assert report.main(page.arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_page_is_one_line(page, capsys):
    page.path.unlink()
    assert report.main(page.arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_without_the_records_no_table_is_emptied(page, tmp_path, capsys):
    (tmp_path / "results").rmdir()
    assert report.main(page.arguments) == 2
    assert "There is no folder of records" in capsys.readouterr().err
    assert page.path.read_text() == page.text
