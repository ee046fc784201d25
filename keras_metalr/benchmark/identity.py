"""Which controller, and which rule, a record was made with."""

import json
from pathlib import Path
from typing import Any

from keras_metalr.benchmark.records import read_json
from keras_metalr.controller import CONFIG_FILE
from keras_metalr.controller import preset_path
from keras_metalr.update_rule import RULE_VERSION

# Beside the records of a folder that are all of one controller.
CONTROLLER_FILE = "controller.json"
OTHER_CONTROLLER = (
    "*These figures are of an earlier controller or update rule than the ones "
    "shipped now.*"
)


def controller_identity(preset: str = "general") -> dict[str, Any]:
    """What tells a controller's runs from those of any other.

    The sha256 of its weights, and the version of the rule that its outputs go
    through.

    Args:
        preset: String, name or folder of a preset. Defaults to `"general"`.

    Raises:
        ValueError: If there is no such preset.
    """
    path = preset_path(preset) / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    return {
        "weights_sha256": config["weights_sha256"],
        "rule_version": RULE_VERSION,
    }


def controller_mark(preset: str = "general", digits: int | None = None) -> str:
    """The same in a word: the sha256, `-rule`, the version.

    Args:
        preset: String, name or folder of a preset. Defaults to `"general"`.
        digits: Integer, how much of the sha256. Defaults to `None`, all of it.
    """
    identity = controller_identity(preset)
    digest = identity["weights_sha256"][:digits]
    return f"{digest}-rule{identity['rule_version']}"


def is_claimed_by_another(folder: Path, preset: str = "general") -> bool:
    """Whether a folder's records are of another controller, or another rule.

    Args:
        folder: Path; one that nobody has claimed is of no other.
        preset: String, name or folder of a preset. Defaults to `"general"`.
    """
    note = folder / CONTROLLER_FILE
    if not note.is_file():
        return False
    claimed = read_json(note)
    own = controller_identity(preset)
    return {name: claimed.get(name) for name in own} != own


def claimed_backend(folder: Path) -> str | None:
    """The backend that a folder's records are of; `None` where it has no note.

    Args:
        folder: Path.
    """
    note = folder / CONTROLLER_FILE
    if not note.is_file():
        return None
    return read_json(note).get("backend")
