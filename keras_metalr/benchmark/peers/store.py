"""A folder of records and the plan that they were made by.

The plan lies beside the records, so that the page knows which runs belong to it
and can tell a run that is missing.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_metalr.benchmark.peers.plan import SETS
from keras_metalr.benchmark.peers.plan import SWEEP
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.records import decode
from keras_metalr.benchmark.records import write_json

PLAN_FILE = "plan.json"


def save_plan(plan: Plan, folder: Path) -> None:
    """Write the plan of a folder.

    Raises:
        ValueError: If the folder holds the runs of another plan.
    """
    path = folder / PLAN_FILE
    if path.is_file() and load_plan(folder) != plan:
        raise ValueError(
            f"The runs in {folder} are of another plan. Delete the folder, or "
            "name another with `--output`."
        )
    write_json(path, dataclasses.asdict(plan))


def load_plan(folder: Path) -> Plan:
    """Read the plan of a folder."""
    content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
    }
    return Plan(**values)


def load_store(
    folder: Path,
) -> tuple[Plan, dict[tuple[str, str], list[dict[str, Any]]] | None]:
    """Read the plan and the records that are compared.

    Args:
        folder: Path.

    Returns:
        Tuple of the plan and a dict from (workload, method) to records, sorted
        by seed and scale; without a plan in the folder, of the default plan and
        `None`.

    Raises:
        ValueError: If a run of the plan is missing.
    """
    if not (folder / PLAN_FILE).is_file():
        return SETS["cpu"], None
    plan = load_plan(folder)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {
        (workload, method): []
        for workload in plan.workloads
        for method in plan.methods
    }
    for path in sorted(folder.glob("*-seed*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        config = record["config"]
        key = config["workload"], config["method"]
        if config["purpose"] == SWEEP and key in found:
            results, history = record["results"], record["history"]
            record |= {"results": decode(results), "history": decode(history)}
            found[key].append(record)
    _check(plan, found, folder)
    for records in found.values():
        records.sort(key=lambda r: (r["config"]["seed"], r["config"]["scale"]))
    return plan, found


def _check(
    plan: Plan, found: Mapping[tuple[str, str], Any], folder: Path
) -> None:
    expected = {(s, scale) for s in range(plan.seeds) for scale in plan.scales}
    for (workload, method), records in found.items():
        made = [(r["config"]["seed"], r["config"]["scale"]) for r in records]
        if sorted(made) != sorted(expected):
            raise ValueError(
                f"{folder} must hold one run of {method!r} on {workload!r} for "
                f"each seed and scale, {len(expected)} in all. Received "
                f"{len(made)}. `python scripts/benchmark.py` makes what is "
                "missing; of another controller, delete what is there."
            )
