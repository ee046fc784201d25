"""The plan, its runs, and the page that is made from the records."""

import dataclasses
import json
import math

import keras
import pytest
from rich.console import Console

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.peers import __main__ as command
from keras_metalr.benchmark.peers import plan as plans
from keras_metalr.benchmark.peers import schedule
from keras_metalr.benchmark.peers import store
from keras_metalr.benchmark.peers import summary
from keras_metalr.benchmark.peers.page import page
from keras_metalr.benchmark.records import write_json

ENVIRONMENT = {
    "backend": "jax",
    "versions": {"jax": "0.10", "keras": "3.15"},
    "accelerator": None,
    "num_cores": 2,
    "git_revision": "0123456789abcdef",
}
PLAN = plans.Plan(
    workloads=("wine_linear",),
    methods=("constant", "warmup_cosine", "metalr"),
    seeds=2,
    scales=(0.1, 1.0),
    tuning_rates=(0.01, 0.1),
    share=0.1,
    num_evaluations=2,
)
# The final loss by method and scale, of a run that begins at 2.0.
FINAL = {
    ("constant", 0.1): 1.5,
    ("constant", 1.0): 1.0,
    ("warmup_cosine", 0.1): math.nan,
    ("warmup_cosine", 1.0): 1.1,
    ("metalr", 0.1): 0.9,
    ("metalr", 1.0): 0.9,
}


def record(method, scale, seed):
    loss = FINAL[method, scale]
    return {
        "format_version": 1,
        "config": {
            "workload": "wine_linear",
            "method": method,
            "purpose": plans.SWEEP,
            "scale": scale,
            "learning_rate": scale,
            "seed": seed,
        },
        "environment": ENVIRONMENT,
        "data_note": "",
        "results": {
            "initial_loss": 2.0,
            "final_loss": loss,
            "num_steps": 20,
            "step_seconds": 2.0,
            "num_weights": 42,
            "state_bytes_per_weight": 8.0,
        },
        "history": {"step": [10, 20], "val_loss": [1.6, loss]},
    }


@pytest.fixture
def folder(tmp_path):
    """Records of the plan, made up."""
    output = tmp_path / "records"
    store.save_plan(PLAN, output)
    for method, scale in FINAL:
        for seed in range(PLAN.seeds):
            name = f"{method}-{scale}-seed{seed}.json"
            write_json(output / name, record(method, scale, seed))
    return output


def test_rows_by_hand(folder):
    plan, records = store.load_store(folder)
    assert plan == PLAN
    target = summary.targets(plan, records)["wine_linear"]
    assert target == summary.Target(1.0, "constant", 2.0, 20)
    table = {row.method: row for row in summary.rows(plan, records)}
    assert next(iter(table)) == "metalr"
    # (regret from 0.1, from 1): (0.5, 0), (diverged, 0.1), (-0.1, -0.1).
    assert table["constant"].sensitivity == pytest.approx(0.25)
    assert table["warmup_cosine"].sensitivity == pytest.approx(0.55)
    assert table["warmup_cosine"].worst_start == 1.0
    assert table["metalr"].sensitivity == pytest.approx(-0.1)
    assert table["warmup_cosine"].num_diverged == 2
    assert table["constant"].training_runs == 3
    assert table["metalr"].training_runs == 1
    scores = summary.profile_scores(list(table.values()))
    assert scores == {"metalr": 1.0, "constant": 1.0, "warmup_cosine": 0.0}


def test_page_is_written_checked_and_found_stale(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    target = tmp_path / "benchmark.md"
    flags = ["--records", str(folder), "--page", str(target)]
    assert command.main([*flags, "--check"]) == 1
    assert command.main(flags) == 0
    assert command.main([*flags, "--check"]) == 0
    text = target.read_text(encoding="utf-8")
    assert "| metalr | -0.10 [-0.10, -0.10] | -0.10" in text
    assert "| warmup_cosine | 0.55 " in text and "| 2/4 | 2 |" in text
    changed = record("metalr", 1.0, 0)
    changed["results"]["final_loss"] = 1.9
    write_json(folder / "metalr-1.0-seed0.json", changed)
    assert command.main([*flags, "--check"]) == 1
    assert "Run `python -m" in capsys.readouterr().err


def test_a_run_that_is_missing_is_named(folder):
    (folder / "metalr-1.0-seed1.json").unlink()
    with pytest.raises(ValueError, match=r"'metalr' on 'wine_linear'"):
        store.load_store(folder)


def test_page_without_records(tmp_path):
    plan, records = store.load_store(tmp_path)
    assert records is None
    assert "no records yet" in page(plan, None)


def test_a_folder_keeps_its_plan(tmp_path):
    store.save_plan(PLAN, tmp_path)
    store.save_plan(PLAN, tmp_path)
    with pytest.raises(ValueError, match="another plan"):
        store.save_plan(dataclasses.replace(PLAN, seeds=3), tmp_path)


def test_every_tuned_method_has_equal_trials():
    plan = plans.SETS["cpu"]
    cells = plans.tuning_cells(plan)
    assert {cell.num_runs for cell in cells} == {plan.num_trials}
    tuned = {name for name, peer in PEERS.items() if peer.is_tuned}
    assert {cell.method for cell in cells} == tuned
    # No seed is both tuned on and compared on.
    seeds = {seed for cell in cells for seed in cell.seeds}
    assert seeds.isdisjoint(range(plan.seeds))
    assert plan.seeds >= 5 and len(plan.scales) == 7


def test_starts_are_scaled_from_their_centre():
    cells = plans.sweep_cells(
        dataclasses.replace(PLAN, methods=("constant", "prodigy", "metalr")),
        {("wine_linear", "constant"): 0.5},
    )
    starts = {cell.method: cell.starts for cell in cells}
    assert starts["constant"] == starts["metalr"] == ((0.1, 0.05), (1.0, 0.5))
    assert starts["prodigy"] == ((0.1, 0.1 * 1e-6), (1.0, 1e-6))


@pytest.mark.parametrize(
    "changes",
    [
        {"workloads": ("other",)},
        {"methods": ("other",)},
        {"methods": ("metalr",)},
        {"scales": (0.1,)},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValueError, match="Received"):
        dataclasses.replace(PLAN, **changes)


def test_an_unknown_joblib_backend_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'threads'"):
        schedule.make_all(PLAN, tmp_path, joblib_backend="threads")


def test_runs_are_made_once_and_go_on_where_they_were(tmp_path):
    methods = ("constant", "keras_schedule_free")
    plan = dataclasses.replace(PLAN, methods=methods)

    def make():
        quiet = Console(quiet=True)
        schedule.make_all(
            plan, tmp_path, joblib_backend="sequential", console=quiet
        )
        return {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    made = make()
    # Two methods: two trials each, then two scales and two seeds each.
    assert len(made) == 2 * (2 + 2 * 2)
    first = min(path for path in made if "-seed0-" in path.name)
    content = json.loads(first.read_text(encoding="utf-8"))
    assert content["config"]["backend"] == keras.backend.backend()
    assert math.isfinite(content["results"]["final_loss"])
    first.unlink()
    again = make()
    assert {p for p in again if again[p] != made.get(p)} == {first}
    repeated = json.loads(first.read_text(encoding="utf-8"))
    assert repeated["history"]["val_loss"] == pytest.approx(
        content["history"]["val_loss"], rel=1e-5
    )
    store.save_plan(plan, tmp_path)
    _, records = store.load_store(tmp_path)
    assert all(len(found) == 4 for found in records.values())
