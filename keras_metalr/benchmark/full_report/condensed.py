"""What is kept of a part: one small JSON file, with everything on the pages.

Records are long: a loss a step. Here a curve has at most 200 points, an
environment stands once, and no path is left.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import decode
from keras_metalr.benchmark.records import encode
from keras_metalr.benchmark.records import rounded
from keras_metalr.benchmark.records import write_text

FORMAT_VERSION = 1
MAX_POINTS = 200
# The sections whose runs are drawn: with their curves.
WITH_CURVES = ("cifar10", "sst2")


@dataclass(frozen=True)
class PartResult:
    """What came out of a part.

    Args:
        section: String, one of `plan.SECTIONS`.
        name: String, the stem of the file.
        budget: String, its name.
        data_note: String, `Data.note`.
        details: Mapping, as in `Part`.
        runs: List of `RunResult`.
        controllers: Mapping from the name of a controller to the sha256 of its
            weights.
        ladder: List of `{"learning_rate", "seed", "outcome"}`, phase 1.
        fit: Mapping, phase 2.
        loops: List of `{"first_seed", "outcomes"}`.
    """

    section: str
    name: str
    budget: str
    data_note: str
    details: Mapping[str, Any]
    runs: list[RunResult] = field(default_factory=list)
    controllers: Mapping[str, str] = field(default_factory=dict)
    ladder: list[dict[str, Any]] = field(default_factory=list)
    fit: Mapping[str, Any] = field(default_factory=dict)
    loops: list[dict[str, Any]] = field(default_factory=list)

    @property
    def file(self) -> str:
        """Name of the JSON file."""
        return f"{self.name}.json"

    def save(self, folder: Path) -> None:
        """Write the file.

        Args:
            folder: Path.
        """
        with_curves = self.section in WITH_CURVES
        environments: list[Any] = []
        lines = []
        for run in self.runs:
            content = _condensed(run, with_curves).to_content()
            if content["environment"] not in environments:
                environments.append(content["environment"])
            content["environment"] = environments.index(content["environment"])
            lines.append(_json(content))
        head = {
            "format_version": FORMAT_VERSION,
            "section": self.section,
            "budget": self.budget,
            "data_note": self.data_note,
            "details": self.details,
            "controllers": self.controllers,
            "environments": environments,
            "ladder": self.ladder,
            "fit": self.fit,
            "loops": self.loops,
        }
        # One line an entry, and one a run: small, and a change shows.
        entries = [f"{_json(key)}: {_json(head[key])}" for key in head]
        runs = ",\n".join(lines)
        entries.append(f'"runs": [\n{runs}\n]')
        text = "{\n" + ",\n".join(entries) + "\n}\n"
        write_text(folder / self.file, text)

    @classmethod
    def load(cls, path: Path) -> "PartResult":
        """Read what `save` wrote.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If it is not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"its `format_version` is {version!r}, not {FORMAT_VERSION}"
                )
            environments = content["environments"]
            runs = [
                RunResult.from_content(
                    {**run, "environment": environments[run["environment"]]}
                )
                for run in content["runs"]
            ]
            return cls(
                name=path.stem,
                runs=runs,
                **{
                    key: content[key]
                    for key in ("section", "budget", "data_note", "details")
                },
                **{
                    key: decode(content[key])
                    for key in ("controllers", "ladder", "fit", "loops")
                },
            )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no part of the report ({error!r}). Delete it "
                "and make it again with `scripts/run_report.py`."
            ) from error


def load_all(folder: Path) -> list[PartResult]:
    """Read all the parts of a folder, in the order of their names.

    Args:
        folder: Path; one that does not exist holds none.
    """
    return [PartResult.load(path) for path in sorted(folder.glob("*.json"))]


def shortened(curve: Mapping[str, Any], average: bool) -> dict[str, Any]:
    """Return a curve with at most `MAX_POINTS` points.

    Args:
        curve: Mapping with `step`, `value` and `per`.
        average: Boolean. `True` takes the mean over a stretch, `False` its last
            value.
    """
    steps, values = curve["step"], curve["value"]
    stretches = np.array_split(
        np.arange(len(steps)), min(MAX_POINTS, len(steps))
    )
    array = np.asarray(values, "float64")
    return {
        "per": curve["per"],
        "step": [int(steps[part[-1]]) for part in stretches],
        "value": [
            rounded(float(array[part].mean() if average else array[part[-1]]))
            for part in stretches
        ],
    }


def _condensed(run: RunResult, with_curves: bool) -> RunResult:
    config = dict(run.config)
    options = dict(config["method_options"])
    if "controller" in options:
        # Its name: where a folder lies is nobody's business.
        options["controller"] = Path(options["controller"]).name
    config["method_options"] = options
    history: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    if with_curves:
        # One number an epoch: fewer than 200 in every budget.
        history = {"val_accuracy": rounded(run.history["val_accuracy"])}
        curves = {
            "loss": shortened(run.curves["loss"], average=True),
            "learning_rate": shortened(
                run.curves["learning_rate"], average=False
            ),
        }
    return replace(
        run,
        config=config,
        results=rounded(run.results),
        evaluations=rounded(run.evaluations),
        history=history,
        curves=curves,
    )


def _json(content: Any) -> str:
    return json.dumps(encode(content), allow_nan=False)
