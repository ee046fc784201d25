"""The comparison of short and long runs: its runs and its page."""

import json

import pytest

from keras_metalr import workloads
from keras_metalr.benchmark import page_command
from keras_metalr.benchmark.records import RunResult
from tests import benchmark_scripts
from tests.benchmark.environment import ENVIRONMENT

pytestmark = pytest.mark.backend_independent

horizons = benchmark_scripts.load("horizons")


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Of `main`, for one small net without data from elsewhere."""
    digits = workloads.get("digits")
    tasks = {"Digits": horizons.Task(digits, (10,))}
    monkeypatch.setattr(horizons, "tasks", lambda: tasks)
    page = str(tmp_path / "page.md")
    return ["--output", str(tmp_path / "records"), "--page", page]


def test_the_page_says_what_the_records_say(tmp_path, capsys):
    assert horizons.main(["--check"]) == 0
    page = tmp_path / "page.md"
    assert horizons.main(["--check", "--page", str(page)]) == 1
    page.write_text("another page")
    assert horizons.main(["--check", "--page", str(page)]) == 1
    error = capsys.readouterr().err
    assert error.count(f"error: {page}: stale") == 2
    assert "Run `KERAS_BACKEND=jax python benchmarks/horizons.py`." in error


@pytest.mark.parametrize("flags", [["--check"], []])
def test_a_damaged_record_is_one_line(arguments, tmp_path, capsys, flags):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "run.json").write_text('{"format_version": 1}')
    assert horizons.main([*arguments, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "run.json holds no run" in error
    assert "\n" not in error
    # Found before the runs.
    assert not list((tmp_path / "records").glob("digits-*.json"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--output other", "without --output: name --page"),
        ("--page other.md", "without --page: name --output"),
        ("--seeds 3", "without --seeds: name --output and --page"),
        ("--seeds 0", "--seeds must be 1 or more"),
    ],
)
def test_the_published_page_is_of_the_published_runs(
    tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(horizons, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(horizons, "PAGE", tmp_path / "page.md")
    with pytest.raises(SystemExit):
        horizons.main(flags.split())
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_found_first(
    arguments, tmp_path, capsys
):
    arguments[-1] = str(tmp_path)
    assert horizons.main(arguments) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


def test_each_run_is_made_once(arguments, tmp_path):
    arguments += ["--seeds", "1"]
    assert horizons.main(arguments) == 0
    assert horizons.main([*arguments, "--check"]) == 0
    paths = set((tmp_path / "records").glob("digits-*.json"))
    runs = [json.loads(path.read_text()) for path in paths]
    made = [(r["config"]["method"], r["config"]["learning_rate"]) for r in runs]
    usual = workloads.get("digits").learning_rate
    assert sorted(made) == sorted(
        [
            ("metalr", 1e-6),
            ("metalr", 10.0),
            *(("cosine", scale * usual) for scale in (1.0, 3.0, 10.0, 30.0)),
            ("static", usual),
        ]
    )
    times = {path: path.stat().st_mtime_ns for path in paths}
    assert horizons.main(arguments) == 0
    assert times == {path: path.stat().st_mtime_ns for path in paths}


def _run(seed, accuracy, rates, **config):
    return RunResult(
        config={
            "workload": "digits",
            "method": "metalr",
            "learning_rate": 1e-6,
            "seed": seed,
            "steps": 20_000,
            **config,
        },
        environment=ENVIRONMENT,
        history={},
        curves={"learning_rate": {"step": [1, 2, 3], "value": rates}},
        results={"eval_loss": 0.25 + seed, "eval_accuracy": accuracy},
        data_note="a lossy copy",
    )


def test_runs_of_two_settings_are_not_averaged(arguments, tmp_path, capsys):
    for seed, batch_size in enumerate((32, 64)):
        run = _run(seed, 0.9, [1e-3], batch_size=batch_size)
        run.save(tmp_path / "records" / f"{seed}.json")
    assert horizons.main([*arguments, "--check"]) == 2
    error = capsys.readouterr().err
    assert "the same settings. Received: batch_size 32 and 64" in error


def test_a_row_has_the_mean_and_the_worst_of_its_seeds(arguments, tmp_path):
    for seed, (accuracy, rates) in enumerate(
        [(0.9, [1e-3, 4e-2, 1e-4]), (0.8, [1e-3, 2e-2, 1e-6])]
    ):
        run = _run(seed, accuracy, rates)
        run.save(tmp_path / "records" / f"{seed}.json")
    page = horizons.page(tmp_path / "records")
    assert "from\n`records`; " in page and str(tmp_path) not in page
    assert "## Digits\n\nData: a lossy copy.\n\n20,000 steps:" in page
    assert (
        "| MetaLR | 1e-6 | 0.8500 | 0.8000 | 0.750 | 0.04 | 1e-05 | 2 |" in page
    )


def test_what_is_missing_is_said_in_a_line(arguments, monkeypatch, capsys):
    def refuse(*_):
        raise workloads.DataNotAvailableError("no data: do this")

    monkeypatch.setattr(page_command, "make_runs", refuse)
    assert horizons.main(arguments) == 2
    assert "no data: do this" in capsys.readouterr().err
