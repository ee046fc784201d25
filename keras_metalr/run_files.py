"""A finished run on disk: its trace (`.npz`), and the rest of it (`.json`)."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from keras_metalr.trace import Trace


def recorded(kind: Any) -> dict[str, Any]:
    """What is written of a run beside its trace.

    Args:
        kind: Dataclass of runs, with a field `trace`.

    Returns:
        Dict from the names of its other fields to their types.
    """
    types = {field.name: field.type for field in fields(kind)}
    del types["trace"]
    return types


def write_run(
    stem: str | os.PathLike[str], trace: Trace, record: Mapping[str, Any]
) -> pathlib.Path:
    """Write a run as a `.json` and a `.npz` file.

    The JSON is renamed into place last, and that of an earlier run is gone
    before its trace is: a run is there whole or not at all.

    Args:
        stem: String or path without the ending, in a folder that exists.
        trace: `Trace`.
        record: Mapping of JSON values. An `"outcome"` that is not finite is
            written as `null`.

    Returns:
        The path of the `.json` file.
    """
    outcome = record["outcome"]
    record = {**record, "outcome": outcome if math.isfinite(outcome) else None}
    # Of this process alone: another may be making the same run.
    own = f"{stem}.{os.getpid()}.tmp"
    rows, rest = pathlib.Path(f"{own}.npz"), pathlib.Path(own)
    try:
        trace.save(rows)
        rest.write_text(json.dumps(record) + "\n", encoding="utf-8")
        pathlib.Path(f"{stem}.json").unlink(missing_ok=True)
        rows.replace(f"{stem}.npz")
        return rest.replace(f"{stem}.json")
    finally:
        for file in (rows, rest):
            file.unlink(missing_ok=True)


def read_run(
    path: str | os.PathLike[str], types: Mapping[str, type]
) -> tuple[dict[str, Any], Trace]:
    """Read what `write_run` wrote.

    Args:
        path: String or path of the `.json` file.
        types: Mapping from the names of the record, all of them wanted, to
            what each is turned into.

    Returns:
        Tuple of the record, an `"outcome"` of `null` being infinite, and the
        trace.

    Raises:
        ValueError: if a file is damaged, or of another version.
    """
    file = pathlib.Path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["outcome"] is None:
            found["outcome"] = math.inf
        record = {name: kind(found[name]) for name, kind in types.items()}
        return record, Trace.load(file.with_suffix(".npz"))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{str(file)!r} holds no run that can be read ({error}). "
            "Delete it and the .npz file beside it, or use another folder."
        ) from error
