"""Ten thousand runs in a few files, small enough to be kept with the code.

One file per workload, one line of JSON per run: what identifies it, its figures
and its validation losses (of MetaLR the learning rates, too), to six digits.
The environments they were made in are listed once. The pages are made from
these files alone.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras

from keras_metalr.benchmark.peers.cell import FORMAT_VERSION
from keras_metalr.benchmark.peers.cell import identity
from keras_metalr.benchmark.peers.cell import path_of
from keras_metalr.benchmark.peers.cell import read_runs
from keras_metalr.benchmark.peers.plan import SWEEP
from keras_metalr.benchmark.peers.plan import TUNING
from keras_metalr.benchmark.peers.plan import Cell
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.plan import sweep_cells
from keras_metalr.benchmark.peers.plan import tuning_cells
from keras_metalr.benchmark.peers.schedule import tuned_starts
from keras_metalr.benchmark.peers.store import PLAN_FILE
from keras_metalr.benchmark.peers.store import load_plan
from keras_metalr.benchmark.peers.store import save_plan
from keras_metalr.benchmark.peers.summary import best_start
from keras_metalr.benchmark.peers.timing import TIMING_FILE
from keras_metalr.benchmark.peers.timing import load_timing
from keras_metalr.benchmark.records import decode
from keras_metalr.benchmark.records import digest
from keras_metalr.benchmark.records import encode
from keras_metalr.benchmark.records import rounded
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.workloads.suite import SUITE

# Where the project keeps them, and the page that is made from them.
RECORDS = Path("benchmarks/results/peers")
PAGE = Path("docs/benchmark.md")
ENVIRONMENTS_FILE = "environments.json"
Records = dict[tuple[str, str], list[dict[str, Any]]]
# In the name of the file, the plan or the environment.
_KNOWN = ("workload", "share", "num_evaluations", "backend")
# What is kept of a run's history, where it has it.
_CURVES = ("val_loss", "learning_rate")


class Packed(NamedTuple):
    """What a folder of packed files holds.

    Args:
        plan: `Plan`.
        records: Dict from (workload, method) to the records of its sweep,
            sorted by seed and scale. A record is a dict with `config`,
            `environment`, `data_note`, `results` and `history` (`step`,
            `val_loss` and, of MetaLR, `learning_rate`).
        timing: Dict, see `peers.timing`.
    """

    plan: Plan
    records: Records
    timing: dict[str, Any]


def pack(plan: Plan, runs: Path, folder: Path) -> None:
    """Write the packed files of a plan whose runs have all been made and timed.

    Args:
        plan: `Plan`.
        runs: Path of the folder with one record a run.
        folder: Path of the folder to write to; files there are replaced.
    """
    cells = [*tuning_cells(plan), *sweep_cells(plan, tuned_starts(plan, runs))]
    environments: dict[str, Any] = {}
    for workload in plan.workloads:
        lines = []
        for cell in cells:
            if cell.workload == workload:
                for record in read_runs(cell, runs):
                    environment = record["environment"]
                    environments[digest(environment)] = environment
                    lines.append(_line(record))
        write_text(_path(folder, workload), "\n".join(lines) + "\n")
    write_json(folder / ENVIRONMENTS_FILE, environments)
    shutil.copyfile(runs / TIMING_FILE, folder / TIMING_FILE)
    (folder / PLAN_FILE).unlink(missing_ok=True)
    save_plan(plan, folder)


def unpack(folder: Path, runs: Path, plan: Plan) -> int:
    """Write one record a run again, from what `pack` wrote.

    So that a later plan, or another controller, makes only what is missing.
    MetaLR's runs with another controller or rule than those shipped are left
    out.

    Args:
        folder: Path of the folder with the packed files.
        runs: Path of the folder to write to; records there stay.
        plan: `Plan` that they are for. Others' are left out.

    Returns:
        Integer, how many records were written.

    Raises:
        ValueError: If there are no packed files, or runs of another length than
            the plan's, of another backend or on another copy of the data.
    """
    if not (folder / PLAN_FILE).is_file():
        raise ValueError(no_plan(folder))
    made = _common_part(load_plan(folder), plan, folder)
    environments = json.loads(
        (folder / ENVIRONMENTS_FILE).read_text(encoding="utf-8")
    )
    backend = keras.backend.backend()
    others = {e["backend"] for e in environments.values()} - {backend}
    if others:
        raise ValueError(
            f"The runs in {folder} are of the backend {sorted(others)}, not "
            f"{backend!r}, and no part of a benchmark on it."
        )
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    notes: dict[str, str] = {}
    for workload in made.workloads:
        text = _path(folder, workload).read_text(encoding="utf-8")
        for line in text.splitlines():
            content = json.loads(line)
            lines[workload, *_key(content["config"])] = content
            notes.setdefault(workload, content["data_note"])
    for workload, note in notes.items():
        here = SUITE[workload].load_data().note
        if here != note:
            raise ValueError(
                f"The runs in {folder} are on another copy of the data of "
                f"{workload!r}, and no part of one benchmark. What theirs has "
                f"lost: {note!r}; yours: {here!r}. Make all runs anew."
            )

    def write(cells: list[Cell]) -> int:
        count = 0
        for run in (run for cell in cells for run in cell.runs()):
            content = lines.get((run["workload"], *_key(identity(run))))
            path = path_of(run, runs)
            if content is not None and not path.is_file():
                record = _record(content, made, environments)
                record |= {
                    "format_version": FORMAT_VERSION,
                    "config": identity(run),
                }
                write_json(path, record)
                count += 1
        return count

    count = write(tuning_cells(made))
    count += write(sweep_cells(made, tuned_starts(made, runs)))
    if not (runs / TIMING_FILE).is_file():
        shutil.copyfile(folder / TIMING_FILE, runs / TIMING_FILE)
    return count


def _common_part(made: Plan, plan: Plan, folder: Path) -> Plan:
    """What of a plan whose runs were made another one names, too."""
    lengths = [(each.share, each.num_evaluations) for each in (made, plan)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"The runs in {folder} are no part of the plan: their share and "
            f"evaluations are {lengths[0]}, not {lengths[1]}."
        )
    return dataclasses.replace(
        made,
        workloads=tuple(x for x in made.workloads if x in plan.workloads),
        methods=tuple(x for x in made.methods if x in plan.methods),
    )


def no_plan(folder: Path) -> str:
    """What is said where there are no packed files."""
    return (
        f"There are no packed runs in {str(folder)!r} (no {PLAN_FILE}). Name "
        "their folder, or run this in a checkout."
    )


def _key(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the runs of one workload apart, to six digits."""
    return tuple(
        value
        for name, value in sorted(rounded(config).items())
        if name not in _KNOWN
    )


def load_packed(folder: Path) -> Packed | None:
    """Read what `pack` wrote: all of it, or `None` without a plan.

    Args:
        folder: Path.

    Raises:
        ValueError: If a run of the plan is missing, one more is there, a method
            did not start where its trials say, or data are of two kinds.
    """
    if not (folder / PLAN_FILE).is_file():
        return None
    plan = load_plan(folder)
    environments = json.loads(
        (folder / ENVIRONMENTS_FILE).read_text(encoding="utf-8")
    )
    found: Records = {
        (workload, method): []
        for workload in plan.workloads
        for method in plan.methods
    }
    trials: Records = {
        (cell.workload, cell.method): [] for cell in tuning_cells(plan)
    }
    for workload in plan.workloads:
        text = _path(folder, workload).read_text(encoding="utf-8")
        for line in text.splitlines():
            record = _record(json.loads(line), plan, environments)
            config = record["config"]
            kinds = {SWEEP: found, TUNING: trials}
            cells = kinds.get(config["purpose"], {})
            if (workload, config["method"]) not in cells:
                raise ValueError(
                    f"{_path(folder, workload)} must hold runs of the plan "
                    f"beside it. Received one more: {config}."
                )
            cells[workload, config["method"]].append(record)
    _check_numbers(plan, found, trials, folder)
    _check_starts(plan, found, trials, folder)
    _check_data([found, trials], folder)
    for records in found.values():
        records.sort(key=lambda r: (r["config"]["seed"], r["config"]["scale"]))
    return Packed(plan, found, load_timing(folder))


def _path(folder: Path, workload: str) -> Path:
    return folder / f"{workload}.jsonl"


def _line(record: Mapping[str, Any]) -> str:
    config = record["config"]
    content = {
        "config": {k: v for k, v in config.items() if k not in _KNOWN},
        "environment": digest(record["environment"]),
        "data_note": record["data_note"],
        "results": record["results"],
        "history": {
            name: values
            for name, values in record["history"].items()
            if name in _CURVES
        },
    }
    return json.dumps(
        encode(rounded(content)), allow_nan=False, separators=(",", ":")
    )


def _record(
    content: dict[str, Any], plan: Plan, environments: Mapping[str, Any]
) -> dict[str, Any]:
    results = decode(content["results"])
    curves = decode(content["history"])
    between = results["num_steps"] // plan.num_evaluations
    return {
        "config": content["config"],
        "environment": environments[content["environment"]],
        "data_note": content["data_note"],
        "results": results,
        "history": {
            "step": [between * (k + 1) for k in range(len(curves["val_loss"]))],
            **curves,
        },
    }


def _check_numbers(
    plan: Plan, found: Records, trials: Records, folder: Path
) -> None:
    expected = sorted(
        (seed, scale) for seed in range(plan.seeds) for scale in plan.scales
    )
    wrong = [
        (*key, len(expected), len(records))
        for key, records in found.items()
        if sorted((r["config"]["seed"], r["config"]["scale"]) for r in records)
        != expected
    ]
    for cell in tuning_cells(plan):
        key = cell.workload, cell.method
        if len(trials[key]) != cell.num_runs:
            wrong.append((*key, cell.num_runs, len(trials[key])))
    if wrong:
        workload, method, should, has = wrong[0]
        raise ValueError(
            f"{folder} must hold the {should} runs of {method!r} on "
            f"{workload!r} that its plan names. Received {has}. "
            "`python scripts/benchmark.py` makes what is missing."
        )


def _check_starts(
    plan: Plan, found: Records, trials: Records, folder: Path
) -> None:
    tuned = {key: best_start(records) for key, records in trials.items()}
    for cell in sweep_cells(plan, tuned):
        starts = rounded(dict(cell.starts))
        for record in found[cell.workload, cell.method]:
            config = record["config"]
            should = starts[config["scale"]]
            if not math.isclose(config["learning_rate"], should, rel_tol=1e-5):
                raise ValueError(
                    f"{folder} must hold runs of {cell.method!r} on "
                    f"{cell.workload!r} that start where its trials were best, "
                    f"at {should:g} for scale {config['scale']:g}. Received: "
                    f"learning_rate={config['learning_rate']:g}."
                )


def _check_data(parts: Sequence[Records], folder: Path) -> None:
    notes: dict[str, set[str]] = {}
    for (workload, _), records in (cell for p in parts for cell in p.items()):
        kinds = notes.setdefault(workload, set())
        kinds |= {record["data_note"] for record in records}
    for workload, kinds in notes.items():
        if len(kinds) > 1:
            raise ValueError(
                f"{folder} must hold runs of {workload!r} on one copy of its "
                f"data. Received: {sorted(kinds)}."
            )
