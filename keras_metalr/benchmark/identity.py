"""Which controller a record was made with."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from keras_metalr.controller import CONFIG_FILE
from keras_metalr.controller import shipped_presets

# Beside the records of a folder that are all of one controller.
CONTROLLER_FILE = "controller.json"
OTHER_CONTROLLER = (
    "*These figures are of an earlier controller than the one shipped now.*"
)


def controller_identity(preset: str = "general") -> dict[str, str]:
    """What tells a controller from any other: the sha256 of its weights.

    Args:
        preset: String, name or folder of a preset. Defaults to `"general"`.
    """
    root: Any = Path(preset)
    if preset in shipped_presets():
        root = resources.files("keras_metalr") / "presets" / preset
    config = json.loads((root / CONFIG_FILE).read_text(encoding="utf-8"))
    return {"weights_sha256": config["weights_sha256"]}
