"""One JSON file a run: written atomically, valid everywhere, read back.

JSON has no NaN and no infinity. Here NaN is `null`, and the infinities are
the strings `"inf"` and `"-inf"`.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
_DIGITS = 6
# What a record has at the least.
_PARTS = ("config", "environment", "history", "curves", "results")


@dataclass(frozen=True)
class RunResult:
    """The record of one training run.

    Args:
        config: Dict, everything that was chosen: `workload`, `options`,
            `method`, `method_options`, `learning_rate`, `seed`, `epochs`,
            `steps`, `batch_size`, `target_accuracy`, `mixed_precision` (a
            dtype policy), `backend`, `record_steps`.
        environment: Dict, see `keras_metalr.benchmark.environment`.
        history: Dict from log name to a list, one float an epoch.
        curves: Dict with `"loss"` and `"learning_rate"`. Each is a dict of
            `"step"` (list), `"value"` (list) and `"per"` (`"step"`,
            `"decision"` or `"epoch"`).
        results: Dict from name to float: `eval_loss`, `eval_runtime`
            (seconds), `eval_samples_per_second`, `eval_steps_per_second`,
            `epoch`, and further figures; where the workload has an accuracy,
            `eval_accuracy`, `eval_f1` and `epochs_to_target`.
        evaluations: List of dicts, what `RunConfig.evaluation_examples` asked
            for: `when`, `num_examples`, and the figures of
            `keras_metalr.benchmark.text.RESULTS_LINE`.
        data_note: String, `Data.note` of the examples.
        path: Path of the file, or `None` when nothing was written.
        resumed: Boolean, whether it was read back and not run.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    history: dict[str, list[float]]
    curves: dict[str, dict[str, Any]]
    results: dict[str, float]
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    data_note: str = ""
    path: Path | None = None
    resumed: bool = False

    @property
    def diverged(self) -> bool:
        """Whether the final validation loss is not a finite number."""
        return not math.isfinite(self.results["eval_loss"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record: first to a temporary file, then in its place."""
        write_json(
            path, {"format_version": FORMAT_VERSION, **self.to_content()}
        )

    def to_content(self) -> dict[str, Any]:
        """What the file holds, as plain values."""
        return {
            "config": self.config,
            "environment": self.environment,
            "data_note": self.data_note,
            "results": self.results,
            "evaluations": self.evaluations,
            "history": self.history,
            "curves": self.curves,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> "RunResult":
        """Make the record of what `to_content` gave and JSON kept."""
        return cls(
            # A null here is a value that was left out, not a NaN.
            config=content["config"],
            environment=content["environment"],
            data_note=content.get("data_note", ""),
            history=decode(content["history"]),
            curves=decode(content["curves"]),
            results=decode(content["results"]),
            evaluations=decode(content.get("evaluations", [])),
            resumed=True,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RunResult":
        """Read a record that `save` wrote.

        Raises:
            DamagedRecordError: If the file is not such a record.
        """
        content = read_json(path)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise DamagedRecordError(
                f"{path} must have `format_version` {FORMAT_VERSION}. "
                f"Received: {version!r}. Delete it to run it again."
            )
        for name in _PARTS:
            if not isinstance(content.get(name), dict):
                raise DamagedRecordError(
                    f"{path} holds no run: it lacks {name!r}. Delete it to run "
                    "it again."
                )
        return replace(cls.from_content(content), path=Path(path))


class DamagedRecordError(ValueError):
    """A file that does not hold what it should; the message names it."""


class NotSavedError(OSError):
    """A finished run whose record could not be written.

    Args:
        result: `RunResult`, the run.
        path: Path of the record.
        error: `OSError`, why.
    """

    def __init__(self, result: RunResult, path: Path, error: OSError) -> None:
        super().__init__(
            f"The run is finished, but its record {path} could not be written "
            f"({error}). Make room there, or name another folder."
        )
        self.result = result


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder for records, to find before a run that none can be written.

    Raises:
        OSError: If it cannot be made, or no file be written in it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"Nothing can be written in the folder {str(folder)!r} "
            f"({error.strerror}). Name another."
        ) from error


def check_records(folder: Path) -> None:
    """Find a folder of records, before a page without any is made of it.

    Raises:
        ValueError: If it is not there.
    """
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder of records {str(folder)!r}. Name the one that "
            "they lie in, or run this in a checkout."
        )


def file_name(config: Mapping[str, Any]) -> str:
    """Return the file name of a run: readable, and unique to its config."""
    return (
        f"{config['workload']}-{config['method']}-"
        f"{config['learning_rate']:g}-seed{config['seed']}-"
        f"{digest(config)}.json"
    )


def digest(content: Any) -> str:
    """Eight characters that tell plain values from any others."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def rounded(value: Any) -> Any:
    """Plain values with every float to six digits.

    Args:
        value: Float, string and so on, or mappings and sequences of such.
    """
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that `write_json` wrote, as it stands there: not decoded.

    Raises:
        DamagedRecordError: If it is not JSON, or no dict.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedRecordError(
            f"{path} is not valid JSON: {error}."
        ) from error
    if not isinstance(content, dict):
        raise DamagedRecordError(
            f"{path} must hold a JSON object. Received: "
            f"{type(content).__name__}."
        )
    return content


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a file; empty where there is none."""
    path = Path(path)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, whole."""
    text = json.dumps(encode(content), indent=1, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes files that their owner alone may read.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def encode(value: Any) -> Any:
    """Plain values as JSON can hold them: no NaN, no infinity, no tuple."""
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
    return value


def decode(value: Any) -> Any:
    """What `encode` gave, with its NaN and infinities again."""
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    return value
