"""The plan that a folder of runs was made by, kept beside them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from keras_metalr.benchmark.peers.plan import Plan
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
