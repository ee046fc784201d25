"""The plan, its runs, and the page that is made from the records."""

import dataclasses
import io
import json
import math

import keras
import pytest
from rich.console import Console

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.peers import __main__ as command
from keras_metalr.benchmark.peers import cell as cells_module
from keras_metalr.benchmark.peers import figures
from keras_metalr.benchmark.peers import packed
from keras_metalr.benchmark.peers import plan as plans
from keras_metalr.benchmark.peers import schedule
from keras_metalr.benchmark.peers import store
from keras_metalr.benchmark.peers import summary
from keras_metalr.benchmark.peers import timing
from keras_metalr.benchmark.peers.page import FIGURES
from keras_metalr.benchmark.peers.page import page
from keras_metalr.benchmark.peers.regret_tables import main_table
from keras_metalr.benchmark.records import encode
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.tables import peers_table
from keras_metalr.workloads.suite import SUITE
from keras_metalr.workloads.workload import DataNotAvailableError
from tests.benchmark.environment import ENVIRONMENT as MADE_WITH

# Its records are those of the backend that reads them.
ENVIRONMENT = {**MADE_WITH, "backend": keras.backend.backend()}
PLAN = plans.Plan(
    workloads=("wine_linear",),
    methods=("constant", "warmup_cosine", "metalr"),
    seeds=2,
    scales=(0.1, 1.0),
    tuning_rates=(0.01, 0.1),
    share=0.1,
    num_evaluations=2,
    timed=("wine_linear",),
    timing_turns=1,
)
TIMING = {
    "environment": {**ENVIRONMENT, "git_revision": "abc"},
    "controller": controller_identity(),
    "workloads": {
        "wine_linear": {
            "num_weights": 42,
            "batch_size": 32,
            "milliseconds": dict.fromkeys(PLAN.methods, 2.0),
            "ratio": dict.fromkeys(PLAN.methods, 1.0),
        }
    },
}
# The final loss by method and scale, of a run that begins at 2.0.
FINAL = {
    ("constant", 0.1): 1.5,
    ("constant", 1.0): 1.0,
    ("warmup_cosine", 0.1): math.nan,
    ("warmup_cosine", 1.0): 1.1,
    ("metalr", 0.1): 0.9,
    ("metalr", 1.0): 0.9,
}


def record(run):
    loss = FINAL[run["method"], run["scale"]]
    if run["purpose"] == plans.TUNING:
        # The higher rate wins.
        loss = 1.0 + (run["learning_rate"] < 0.1)
    is_driven = run["method"] == "metalr"
    return {
        "format_version": 1,
        "config": cells_module.identity(run),
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
        "history": {
            "step": [10, 20],
            "loss": [1.5, loss],
            "val_loss": [1.6, loss],
            # Of MetaLR alone: what it adds to the logs.
            **({"learning_rate": [0.2, 0.05]} if is_driven else {}),
        },
    }


@pytest.fixture
def folder(tmp_path):
    """The packed records of the plan, made up."""
    runs = tmp_path / "runs"
    for cell in plans.tuning_cells(PLAN):
        write_cell(cell, runs)
    tuned = schedule.tuned_starts(PLAN, runs)
    assert set(tuned.values()) == {0.1}
    for cell in plans.sweep_cells(PLAN, tuned):
        write_cell(cell, runs)
    write_json(runs / timing.TIMING_FILE, TIMING)
    output = tmp_path / "packed"
    packed.pack(PLAN, runs, output)
    return output


def write_cell(cell, runs):
    for run in cell.runs():
        write_json(cells_module.path_of(run, runs), record(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workloads": ("iris",)}, r"`workloads` must be of .*'iris'"),
        ({"methods": ("other",)}, r"`methods` must be of .*'other'"),
        ({"timed": ("other",)}, r"`timed` must be of .*'other'"),
        ({"methods": ("metalr",)}, "`methods` must hold 'constant'"),
        ({"scales": (0.1, 10.0)}, r"`scales` 1\.0"),
        ({"seeds": 0}, "`seeds` must be 1 or more. Received: seeds=0"),
        ({"tuning_seeds": 0}, "`tuning_seeds` must be 1 or more"),
        ({"num_evaluations": 0}, "`num_evaluations` must be 1 or more"),
        ({"timing_turns": 0}, "`timing_turns` must be 1 or more"),
        ({"share": 0.0}, "`share` must be above 0. Received: share=0"),
        ({"tuning_rates": ()}, "there must be at least one rate"),
        ({"tuning_rates": (0.1, -0.1)}, "must be above 0"),
        ({"scales": (0.0, 1.0)}, "must be above 0"),
        ({"workloads": ("wine_linear",) * 2}, "`workloads` must name each"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **changes)


def test_a_part_of_the_set_is_named_on_the_page(folder):
    text = page(packed.load_packed(folder))
    assert "2 CPU cores, optax none; code of " in text
    assert "Step times: " in text and "; code of abc." in text
    assert "So far 1 of the 14 workloads and 2 of the 5 seeds" in text
    assert "missing: cancer_gated, " in text


def test_one_seed_has_no_interval(folder):
    plan, records, measured = packed.load_packed(folder)
    plan = dataclasses.replace(plan, seeds=1)
    records = {
        key: [r for r in found if r["config"]["seed"] == 0]
        for key, found in records.items()
    }
    table = summary.rows(plan, records, measured)
    text = main_table(packed.Packed(plan, records, measured), table)
    assert "nan" not in text and "| metalr | -0.10 | -0.10 |" in text


def test_a_copy_of_the_data_is_named_with_its_workload(folder):
    note = '"data_note":"lossy copy"'
    edit(folder, lambda text: text.replace('"data_note":""', note))
    line = "Data of `wine_linear`: lossy copy."
    assert line in page(packed.load_packed(folder))
    assert peers_table(folder).endswith(line)


def edit(folder, change):
    path = folder / "wine_linear.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(change(text), encoding="utf-8")


def test_runs_on_two_copies_of_the_data_are_refused(folder, tmp_path):
    note = '"data_note":"lossy copy"'
    edit(folder, lambda text: text.replace('"data_note":""', note))
    with pytest.raises(ValueError, match="another copy of the data of 'wine_"):
        packed.unpack(folder, tmp_path / "again", PLAN)
    edit(folder, lambda text: text.replace(note, '"data_note":""', 1))
    with pytest.raises(ValueError, match=r"one copy of its data.*'lossy copy'"):
        packed.load_packed(folder)


def test_runs_that_do_not_start_where_the_trials_say_are_refused(folder):
    def change(text):
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            config = line["config"]
            if config["method"] == "constant" and config["purpose"] == "tuning":
                # Now the lower rate wins.
                better = config["learning_rate"] < 0.1
                line["results"]["final_loss"] = 1.0 if better else 1.5
        return "".join(json.dumps(line) + "\n" for line in lines)

    edit(folder, change)
    message = r"'constant' on 'wine_linear' that start .* learning_rate=0\.01"
    with pytest.raises(ValueError, match=message):
        packed.load_packed(folder)


def test_methods_are_set_against_metalr(folder):
    text = page(packed.load_packed(folder))
    (section,) = (
        part for part in text.split("\n## ") if part.startswith("Beside MetaLR")
    )
    # (0.5, 0), (diverged, 0.1) and MetaLR's (-0.1, -0.1), on all seeds alike.
    constant = "0.35 [0.35, 0.35] | 0.60 [0.60, 0.60] | 0.10 [0.10, 0.10]"
    assert f"| constant | {constant} | 0 of 1 |" in section
    assert "| warmup_cosine | 0.65 [0.65, 0.65] |" in section
    assert "| metalr |" not in section


def test_the_figures_are_written_before_the_page(folder, tmp_path, monkeypatch):
    def fails(*arguments):
        raise ImportError("Figures need Matplotlib")

    target = tmp_path / "page.md"
    monkeypatch.setattr(command, "write_figures", fails)
    arguments = ["--records", str(folder), "--page", str(target)]
    assert command.main(arguments) == 2
    assert not target.exists()


def test_rows_by_hand(folder):
    plan, records, measured = packed.load_packed(folder)
    assert plan == PLAN and measured == TIMING
    target = summary.targets(plan, records)["wine_linear"]
    assert target == summary.Target(1.0, "constant", 2.0, 20)
    rows = summary.rows(plan, records, measured)
    table = {row.method: row for row in rows}
    assert next(iter(table)) == "metalr"
    # (regret from 0.1, from 1): (0.5, 0), (diverged, 0.1), (-0.1, -0.1).
    assert table["constant"].sensitivity == pytest.approx(0.25)
    assert table["warmup_cosine"].sensitivity == pytest.approx(0.55)
    worst = summary.mean_worst_regret(table["warmup_cosine"].regrets)
    assert worst == 1.0
    assert table["metalr"].sensitivity == pytest.approx(-0.1)
    assert table["warmup_cosine"].num_failed == 2
    assert table["constant"].training_runs == 3
    assert table["metalr"].training_runs == 1
    # Only the second validation, after all 20 steps of 2 s, is at the target.
    assert table["constant"].num_reached == 1
    assert table["constant"].shares.tolist() == [1.0]
    assert table["constant"].seconds.tolist() == [40.0]
    assert table["warmup_cosine"].num_reached == 0
    scores = summary.profile_scores(list(table.values()))
    assert scores == {"metalr": 1.0, "constant": 1.0, "warmup_cosine": 0.0}


def test_rate_paths_by_hand(folder):
    plan, records, _ = packed.load_packed(folder)
    pytest.importorskip("matplotlib")
    (path,) = summary.rate_paths(plan, records)
    assert (path.workload, path.baseline) == ("wine_linear", "constant")
    assert path.regret == pytest.approx(-0.1)
    # Over a constant rate of 0.1, after half of the run and at its end.
    assert path.ratio(0.5) == pytest.approx(2.0)
    assert path.ratio(1.0) == pytest.approx(0.5)
    for run in records["wine_linear", "constant"]:
        run["results"]["final_loss"] = 1.2
    (path,) = summary.rate_paths(plan, records)
    assert path.baseline == "warmup_cosine"
    # Steps 9 and 19 of 20, from 0; two of them warm up.
    expected = [
        0.05 * (1.0 + math.cos(math.pi * (step - 2) / 18)) for step in (9, 19)
    ]
    assert path.baseline_rates == pytest.approx(expected, rel=1e-4)
    others = dataclasses.replace(plan, methods=plan.methods[:2])
    assert summary.rate_paths(others, records) == []
    assert not figures.rates([]).axes[0].lines


def test_runs_of_another_controller_are_named_on_the_page(folder):
    loaded = packed.load_packed(folder)
    assert OTHER_CONTROLLER not in page(loaded)
    for run in loaded.records["wine_linear", "metalr"]:
        run["config"]["weights_sha256"] = "0" * 64
    assert OTHER_CONTROLLER in page(loaded)


@pytest.mark.parametrize("method", ["warmup_cosine", "metalr"])
def test_packed_runs_are_those_that_were_made(folder, method):
    plan, records, _ = packed.load_packed(folder)
    made = records["wine_linear", method]
    runs = plans.sweep_cells(
        plan, {("wine_linear", m): 0.1 for m in plan.methods}
    )
    expected = [
        record(run)
        for cell in runs
        for run in cell.runs()
        if cell.method == method
    ]
    expected.sort(key=lambda r: (r["config"]["seed"], r["config"]["scale"]))
    for one, other in zip(made, expected, strict=True):
        for key in ("scale", "seed", "method"):
            assert one["config"][key] == other["config"][key]
        assert one["config"]["learning_rate"] == pytest.approx(
            other["config"]["learning_rate"], rel=1e-5
        )
        for key in ("environment", "data_note"):
            assert one[key] == other[key]
        assert encode(one["results"]) == encode(other["results"])
        # The training loss is not kept.
        other["history"].pop("loss")
        assert encode(one["history"]) == encode(other["history"])


def test_packed_runs_name_the_controller(folder):
    records = packed.load_packed(folder).records
    for record in records["wine_linear", "metalr"]:
        assert controller_identity().items() <= record["config"].items()


def test_unpacked_runs_are_made_no_more(folder, tmp_path):
    runs = tmp_path / "unpacked"
    tuning = plans.tuning_cells(PLAN)
    assert packed.unpack(folder, runs, PLAN) == 2 * 2 + 3 * 2 * 2
    sweep = plans.sweep_cells(PLAN, schedule.tuned_starts(PLAN, runs))
    for cell in tuning + sweep:
        assert cells_module.missing_runs(cell, runs) == []
    again = tmp_path / "again"
    packed.pack(PLAN, runs, again)
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_text() == (folder / name).read_text()
    assert packed.unpack(folder, runs, PLAN) == 0


def test_a_damaged_record_is_named(folder, tmp_path):
    runs = tmp_path / "unpacked"
    packed.unpack(folder, runs, PLAN)
    cell = plans.tuning_cells(PLAN)[0]
    path = cells_module.path_of(next(iter(cell.runs())), runs)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged .*Delete"):
        cells_module.read_runs(cell, runs)


def test_another_seed_alone_is_missing(folder, tmp_path):
    runs = tmp_path / "unpacked"
    packed.unpack(folder, runs, PLAN)
    plan = dataclasses.replace(PLAN, seeds=3)
    for cell in plans.sweep_cells(plan, schedule.tuned_starts(plan, runs)):
        missing = cells_module.missing_runs(cell, runs)
        assert [run["seed"] for run in missing] == [2, 2]


def test_runs_of_another_controller_are_not_unpacked(
    folder, tmp_path, monkeypatch
):
    other = {"weights_sha256": "0" * 64, "rule_version": 1}
    monkeypatch.setattr(cells_module, "controller_identity", lambda: other)
    runs = tmp_path / "unpacked"
    assert packed.unpack(folder, runs, PLAN) == 2 * 2 + 2 * 2 * 2


def test_only_runs_of_the_plan_are_unpacked(folder, tmp_path):
    runs = tmp_path / "unpacked"
    plan = dataclasses.replace(PLAN, methods=("constant", "metalr"))
    assert packed.unpack(folder, runs, plan) == 2 + 2 * 2 * 2
    shorter = dataclasses.replace(PLAN, share=0.05)
    message = r"share and evaluations are \(0\.1, 2\), not \(0\.05, 2\)"
    with pytest.raises(ValueError, match=message):
        packed.unpack(folder, tmp_path / "other", shorter)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: write_json(
                folder / packed.ENVIRONMENTS_FILE,
                {"abc": {**ENVIRONMENT, "backend": "other"}},
            ),
            r"of the backend \['other'\], not",
        ),
        (
            lambda folder: (folder / store.PLAN_FILE).unlink(),
            "There are no packed runs in",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_not_unpacked(
    folder, tmp_path, change, message
):
    change(folder)
    with pytest.raises(ValueError, match=message):
        packed.unpack(folder, tmp_path / "unpacked", PLAN)
    assert not (tmp_path / "unpacked").exists()


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
    assert "| constant | 1/1 | 1.00 | 40.00 | 2.0 (1.00) |" in text
    assert "| warmup_cosine | 0/1 | missed | missed |" in text
    # README shows the same table.
    assert peers_table(folder) in text
    path = folder / "wine_linear.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    place, line = next(
        (place, line)
        for place, line in enumerate(lines)
        if '"method":"metalr"' in line
    )
    lines[place] = line.replace('"final_loss":0.9', '"final_loss":1.9')
    assert lines[place] != line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert command.main([*flags, "--check"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {target}, ") and ": stale" in error
    assert "Run `python -m keras_metalr.benchmark.peers`." in error
    # So are the figures, which were not drawn from these.
    for name in FIGURES:
        assert str(tmp_path / name) in error
    # A run is missing.
    path.write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    assert command.main([*flags, "--check"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert "must hold the" in error


@pytest.mark.parametrize(
    ("purpose", "count"), [(plans.SWEEP, 4), (plans.TUNING, 2)]
)
def test_a_run_that_is_missing_is_named(folder, purpose, count):
    path = folder / "wine_linear.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines.remove(
        next(
            line
            for line in lines
            if '"method":"constant"' in line and f'"{purpose}"' in line
        )
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    message = rf"the {count} runs of 'constant' on 'wine_linear'.*{count - 1}\."
    with pytest.raises(ValueError, match=message):
        packed.load_packed(folder)


def test_a_run_of_a_method_outside_the_plan_is_named(folder):
    edit(folder, lambda text: text.replace('"constant"', '"other"', 1))
    message = r"wine_linear\.jsonl must hold runs of the plan .* 'other'"
    with pytest.raises(ValueError, match=message):
        packed.load_packed(folder)


def test_every_method_is_timed_in_turn(tmp_path):
    plan = dataclasses.replace(PLAN, methods=("constant", "metalr"))
    timing.time_methods(plan, tmp_path)
    found = timing.load_timing(tmp_path)
    table = found["workloads"]["wine_linear"]
    assert table["ratio"]["constant"] == 1.0
    assert table["ratio"]["metalr"] == pytest.approx(
        table["milliseconds"]["metalr"] / table["milliseconds"]["constant"]
    )
    assert table["num_weights"] == 42
    # Made once.
    before = (tmp_path / timing.TIMING_FILE).stat().st_mtime_ns
    timing.time_methods(plan, tmp_path)
    assert (tmp_path / timing.TIMING_FILE).stat().st_mtime_ns == before


def test_times_of_other_methods_or_another_rule_are_made_anew(
    tmp_path, monkeypatch
):
    made = []
    monkeypatch.setattr(
        timing, "_time", lambda name, plan: made.append(name) or {"ratio": {}}
    )
    here = {k: v for k, v in ENVIRONMENT.items() if k != "git_revision"}
    monkeypatch.setattr(timing, "environment", lambda: here)
    for stale in (
        TIMING | {"controller": {"weights_sha256": "0", "rule_version": 1}},
        TIMING | {"workloads": {"wine_linear": {"ratio": {"constant": 1.0}}}},
        TIMING | {"workloads": {}},
        # Made on another machine.
        TIMING | {"environment": ENVIRONMENT | {"num_cores": 64}},
    ):
        write_json(tmp_path / timing.TIMING_FILE, stale)
        timing.time_methods(PLAN, tmp_path)
    assert made == 4 * ["wine_linear"]
    write_json(tmp_path / timing.TIMING_FILE, TIMING)
    timing.time_methods(PLAN, tmp_path)
    assert len(made) == 4


def test_times_of_an_earlier_rule_are_marked(folder):
    found = packed.load_packed(folder)
    assert OTHER_CONTROLLER not in main_table(found, summary.rows(*found))
    earlier = found.timing | {"controller": None}
    found = found._replace(timing=earlier)
    assert OTHER_CONTROLLER in main_table(found, summary.rows(*found))


def test_a_schedule_lasts_the_whole_run(tmp_path):
    methods = ("constant", "warmup_linear")
    plan = dataclasses.replace(
        PLAN, methods=methods, scales=(1.0,), num_evaluations=4
    )
    tuned = {("wine_linear", method): 0.1 for method in methods}
    cell = plans.sweep_cells(plan, tuned)[1]
    assert cell.method == "warmup_linear"
    cells_module.run_cell(cell, tmp_path)
    made = list(cells_module.read_runs(cell, tmp_path))
    workload = SUITE["wine_linear"].workload()
    epoch = SUITE["wine_linear"].load_data().steps_per_epoch(32)
    for record in made:
        # At a rate of 0 nothing would change any more.
        assert len(set(record["history"]["val_loss"])) == 4
        steps = record["results"]["num_steps"]
        assert abs(steps - plan.share * workload.epochs * epoch) <= 2


def test_without_the_records_no_page_is_emptied(tmp_path, capsys):
    assert packed.load_packed(tmp_path) is None
    path = tmp_path / "benchmark.md"
    path.write_text("a page")
    flags = ["--records", str(tmp_path), "--page", str(path)]
    assert command.main(flags) == command.main([*flags, "--check"]) == 2
    assert capsys.readouterr().err.count("There are no packed runs in") == 2
    assert path.read_text() == "a page"


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


def test_an_unknown_joblib_backend_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'threads'"):
        schedule.make_all(PLAN, tmp_path, joblib_backend="threads")


def test_a_cluster_needs_its_backend(tmp_path):
    with pytest.raises(ValueError, match="goes with `joblib_backend='dask'`"):
        schedule.make_all(PLAN, tmp_path, cluster="tcp://127.0.0.1:8786")


def test_data_that_are_missing_are_found_before_the_first_run(
    tmp_path, monkeypatch
):
    def refuse():
        raise DataNotAvailableError("no wine")

    entry = dataclasses.replace(SUITE["wine_linear"], load_data=refuse)
    monkeypatch.setitem(SUITE, "wine_linear", entry)
    plan = dataclasses.replace(PLAN, workloads=("digits_dense", "wine_linear"))
    with pytest.raises(DataNotAvailableError, match="no wine"):
        schedule.make_all(plan, tmp_path, joblib_backend="sequential")
    assert not list(tmp_path.iterdir())


@pytest.mark.large
def test_a_cluster_of_two_workers_makes_all_runs(tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip("the benchmark runs on JAX, and workers start slowly")
    plan = dataclasses.replace(PLAN, methods=("constant", "metalr"))
    schedule.make_all(
        plan,
        tmp_path,
        num_processes=2,
        joblib_backend="dask",
        console=Console(quiet=True),
    )
    # Trials of the constant rate, then two scales and two seeds of each.
    records = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert len(records) == 2 + 2 * 4
    assert all(math.isfinite(r["results"]["final_loss"]) for r in records)


def test_runs_are_made_once_and_go_on_where_they_were(tmp_path):
    methods = ("constant", "keras_schedule_free")
    plan = dataclasses.replace(PLAN, methods=methods)

    text = io.StringIO()

    def make():
        console = Console(file=text, width=80)
        schedule.make_all(
            plan, tmp_path, joblib_backend="sequential", console=console
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
    assert "sweep: " in text.getvalue()
    assert "(0 min left)" in text.getvalue()
    text.truncate(0)
    again = make()
    assert {p for p in again if again[p] != made.get(p)} == {first}
    assert "tuning: " not in text.getvalue(), "nothing of it was missing"
    repeated = json.loads(first.read_text(encoding="utf-8"))
    assert repeated["history"]["val_loss"] == pytest.approx(
        content["history"]["val_loss"], rel=1e-5
    )
    write_json(tmp_path / timing.TIMING_FILE, TIMING)
    packed.pack(plan, tmp_path, tmp_path / "packed")
    records = packed.load_packed(tmp_path / "packed").records
    assert all(len(found) == 4 for found in records.values())
