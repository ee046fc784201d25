"""Tables as Markdown, from the recorded results, for pages written by hand."""

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_metalr.benchmark.comparison import Comparison
from keras_metalr.benchmark.comparison import Score
from keras_metalr.benchmark.comparison import check_settings
from keras_metalr.benchmark.comparison import compare
from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.identity import is_claimed_by_another
from keras_metalr.benchmark.peers import summary
from keras_metalr.benchmark.peers.packed import load_packed
from keras_metalr.benchmark.peers.page import data_notes
from keras_metalr.benchmark.peers.regret_tables import main_table
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import decode
from keras_metalr.benchmark.records import read_json
from keras_metalr.benchmark.scoring import block_size
from keras_metalr.benchmark.text import BACKENDS
from keras_metalr.benchmark.text import OPTIMIZERS
from keras_metalr.benchmark.text import bounds_text
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import figure_text
from keras_metalr.benchmark.text import markdown_table
from keras_metalr.benchmark.text import mean_text
from keras_metalr.benchmark.text import rate_text
from keras_metalr.features import FEATURES
from keras_metalr.update_rule import RULE_VERSION
from keras_metalr.workloads.tfds_source import data_text

# What Keras gives Adam where nobody chooses.
USUAL_RATE = 1e-3
NOT_MEASURED = "Not measured yet."

_MODEL_NAMES = {
    "dense": "dense net, 1.0 M weights, batch 128",
    "embedding": "500,000 word vectors, 16 M weights, batch 64",
    "resnet18": "ResNet-18, 11 M weights, batch 64",
}
# Columns of the tables of what MetaLR costs, by their names in the records.
_TIMES = {
    "ratio_bare_step": "bare, no decision",
    "ratio_step": "no decision",
    "ratio_horizon_200": "200 steps",
    "ratio_horizon_2000": "2,000 steps",
    "ratio_horizon_10000": "10,000 steps",
}
_MEMORY = {
    "ratio_planned_memory": "XLA's plan",
    "ratio_peak_memory": "process",
    "ratio_compiled_peak_memory": "once compiled",
    "ratio_compiled_peak_memory_bare": "the same, bare",
}
_FIRST_STEPS = {
    "plain_first_step_seconds": "plain first step",
    "metalr_first_step_seconds": "with MetaLR",
}
# Of a row of theirs: where each was measured, and by which rule.
_HALVES = ("times_made", "start_made")


def tables(results: Path) -> dict[str, str]:
    """Every table as Markdown, by name.

    Args:
        results: Path of the folder with the recorded results. What is not
            there reads "Not measured yet."
    """
    return {
        "digits": digits_table(results / "digits"),
        "demo": demo_table(results / "demo.json"),
        "peers": peers_table(results / "peers"),
        "overhead": overhead_table(results),
        "features": features_table(),
        "experience": experience_table(results / "experience.json"),
        "trust": trust_table(results / "trust.json"),
    }


def digits_table(folder: Path) -> str:
    """What `benchmarks/digits.py` recorded.

    Args:
        folder: Path of its records. An unfinished set counts as none.

    Raises:
        ValueError: If they are of several settings.
    """
    records = [RunResult.load(path) for path in folder.glob("digits-*.json")]
    check_settings(records)
    try:
        comparison = compare(records)
    except ValueError:
        return NOT_MEASURED
    lines = [_digits_rows(comparison), "", _digits_note(comparison, records)]
    if is_claimed_by_another(folder):
        lines += ["", OTHER_CONTROLLER]
    return "\n".join(lines)


def _digits_rows(comparison: Comparison) -> str:
    best = comparison.best_static
    seeds = len(comparison.seeds)
    rows = [
        (
            "MetaLR",
            f"from {rate_text(score.learning_rate)}",
            *_accuracies(score),
            seeds,
        )
        for score in comparison.metalr
    ]
    rows.append(
        (
            f"best of {len(comparison.static)} constant rates",
            rate_text(best.learning_rate),
            *_accuracies(best),
            comparison.num_trials,
        )
    )
    usual = min(
        comparison.static,
        key=lambda score: abs(math.log(score.learning_rate / USUAL_RATE)),
    )
    for name, score in (
        (f"constant, nearest to {USUAL_RATE:g}", usual),
        ("lowest constant rate of the grid", comparison.static[0]),
        ("highest constant rate of the grid", comparison.static[-1]),
    ):
        rows.append(
            (name, rate_text(score.learning_rate), *_accuracies(score), seeds)
        )
    heads = (
        "method",
        "rate",
        "accuracy, mean ± 95 %",
        "worst seed",
        "training runs",
    )
    return markdown_table(heads, rows)


def _digits_note(comparison: Comparison, records: list[Any]) -> str:
    best = 100 * comparison.best_static.mean
    lowest = 100 * min(score.mean for score in comparison.metalr)
    verdict = (
        "Every start is within 1 point of the best constant rate"
        if comparison.is_within_tolerance
        else "**Not every start is within 1 point of the best constant rate**"
    )
    first = records[0]
    optimizer = OPTIMIZERS[first.config["options"]["optimizer"]]
    made = {environment_text(record.environment) for record in records}
    places = "; ".join(sorted(made))
    return (
        f"Validation accuracy in %, {len(comparison.seeds)} seeds, "
        f"{optimizer}, {first.config['epochs']} epochs, "
        f"{places}. "
        f"{verdict} ({lowest:.2f} against {best:.2f}); the starts differ by "
        f"{100 * comparison.spread:.2f} points."
    )


def _accuracies(score: Score) -> tuple[str, str]:
    mean = mean_text(score.mean, score.interval, scale=100, digits=2)
    return mean, f"{100 * score.worst:.2f}"


def demo_table(path: Path) -> str:
    """What `scripts/demo.py --save-json` recorded.

    Args:
        path: Path of its file.
    """
    if not path.is_file():
        return NOT_MEASURED
    content = read_json(path)
    cells: dict[str, dict[str, str]] = {}
    for row in decode(content["rows"]):
        accuracy = figure_text(row["accuracy"], scale=100, digits=1)
        column = f"{row['data']}, {row['method']}"
        start = rate_text(row["learning_rate"])
        cells.setdefault(start, {})[column] = accuracy
    columns = list(next(iter(cells.values())))
    rows = [
        (start, *(cells[start].get(column, "-") for column in columns))
        for start in cells
    ]
    optimizers = dict.fromkeys(
        f"{row['data']}: {OPTIMIZERS.get(row['optimizer'], row['optimizer'])}"
        for row in content["rows"]
    )
    lines = [
        markdown_table(("rate at the start", *columns), rows),
        "",
        f"Validation accuracy in % after {content['steps']} steps, one seed "
        f"({', '.join(optimizers)}; "
        f"{environment_text(content['environment'])}). Guessing gives 10.",
    ]
    if content["controller"] != controller_identity():
        lines += ["", OTHER_CONTROLLER]
    return "\n".join(lines)


def peers_table(folder: Path) -> str:
    """What `scripts/benchmark.py --publish` recorded.

    Args:
        folder: Path of its packed files.
    """
    packed = load_packed(folder)
    if packed is None:
        return NOT_MEASURED
    table = main_table(packed, summary.rows(*packed))
    return "\n\n".join([table, *data_notes(packed.records)])


def overhead_table(folder: Path) -> str:
    """What `benchmarks/overhead.py` recorded, one file a backend.

    Args:
        folder: Path of the folder with `overhead-BACKEND.json`.
    """
    paths = {name: folder / f"overhead-{name}.json" for name in BACKENDS}
    if not any(path.is_file() for path in paths.values()):
        return NOT_MEASURED
    results = {
        name: read_json(path)["results"] if path.is_file() else None
        for name, path in paths.items()
    }
    halves = [
        row[half]
        for rows in results.values()
        for row in rows or ()
        for half in _HALVES
        if half in row
    ]
    lines = _overhead_times(results, halves) + _overhead_starts(results)
    if any(half["rule_version"] != RULE_VERSION for half in halves):
        lines += ["", OTHER_CONTROLLER]
    return "\n".join(lines)


def _overhead_times(
    results: Mapping[str, Sequence[Mapping[str, Any]] | None],
    halves: Sequence[Mapping[str, Any]],
) -> list[str]:
    """The table of times, by backend; `None` where there is no file."""
    times: list[tuple[Any, ...]] = []
    for backend, rows in results.items():
        if rows is None:
            times.append((BACKENDS[backend], "not measured yet", *[""] * 7))
        for row in rows or ():
            plain = row["plain_milliseconds"]
            milliseconds = f"{plain:,.0f}" if plain >= 100 else f"{plain:.3g}"
            times.append(
                (
                    *_names(backend, row),
                    f"{milliseconds} ms",
                    *_figures(row, _TIMES),
                    row["pairs"],
                )
            )
    return [
        markdown_table(
            ("backend", "model", "plain step", *_TIMES.values(), "pairs"),
            times,
        ),
        "",
        "Time of a training step with MetaLR over that of a plain step, both "
        "compiled (PyTorch: neither): on a step without a decision, and "
        "averaged over a run of that many steps, decisions (one more forward "
        "pass each) included; medians of so many pairs of steps of each kind, "
        "taken in turn. *Bare*: without guard and safe start, which are on by "
        "default. A ratio below 1, or a bare step dearer than a guarded one, "
        "is noise of the machine. " + " ".join(_overhead_notes(halves)),
    ]


def _overhead_starts(
    results: Mapping[str, Sequence[Mapping[str, Any]] | None],
) -> list[str]:
    """The table of memory and first steps; nothing where none were measured."""
    starts = [
        (
            *_names(backend, row),
            f"{row['plain_peak_mebibytes']:,.0f} MiB",
            *_figures(row, _MEMORY),
            *_figures(row, _FIRST_STEPS, "{:.1f} s"),
        )
        for backend, rows in results.items()
        for row in rows or ()
        if "plain_peak_mebibytes" in row
    ]
    if not starts:
        return []
    heads = ("backend", "model", "plain process")
    return [
        "",
        markdown_table(
            (*heads, *_MEMORY.values(), *_FIRST_STEPS.values()), starts
        ),
        "",
        "Memory with MetaLR over that of plain training: what XLA plans for "
        "the compiled step (state, batch and all between), and the peak of "
        "the process, with its libraries and what they keep of the compiled "
        "step. Then the seconds of a run's first step, which compiles what "
        "is compiled.",
    ]


def _names(backend: str, row: Mapping[str, Any]) -> tuple[str, str]:
    model = str(row["model"])
    return BACKENDS[backend], _MODEL_NAMES.get(model, model)


def _figures(
    result: Mapping[str, Any], keys: Iterable[str], form: str = "{:.2f}"
) -> tuple[str, ...]:
    return tuple(
        form.format(result[key]) if key in result else "-" for key in keys
    )


def _overhead_notes(halves: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where they were measured; said once where all say the same."""
    notes: dict[str, list[str]] = {}
    for half in halves:
        place = half["environment"]
        where = (
            f"Keras {place['versions']['keras']}, Python {place['python']}, "
            f"{place['num_cores']} CPU cores ({place['processor']})."
        )
        names = notes.setdefault(where, [])
        if (name := BACKENDS[place["backend"]]) not in names:
            names.append(name)
    if len(notes) == 1:
        return list(notes)
    return [f"{', '.join(names)}: {where}" for where, names in notes.items()]


def experience_table(path: Path) -> str:
    """What `benchmarks/experience.py` recorded.

    Args:
        path: Path of its file.
    """
    if not path.is_file():
        return NOT_MEASURED
    content = read_json(path)
    rows = []
    for row in content["rows"]:
        learned, plain = row["with"], row["without"]
        rows.append(
            (
                f"`{row['controller']}`",
                row["family"],
                f"{learned['first']['mean']:.3f}",
                bounds_text(learned["last"]),
                bounds_text(learned["last_less_first"]),
                bounds_text(plain["last"]),
                bounds_text(row["last_with_less_without"]),
            )
        )
    size = block_size(content["num_runs"])
    # Records of before it was noted are of the grid that there is now.
    num_tuned = content.get("num_tuned", 36)
    heads = (
        "controller",
        "nets",
        f"first {size}",
        f"last {size}",
        "last - first",
        "without",
        "last - without",
    )
    lines = [
        markdown_table(heads, rows),
        "",
        f"Mean regret over {content['num_tasks']} small tasks, each "
        f"trained {content['num_runs']} times for "
        f"{content['num_steps']} steps, with 95 % intervals over tasks: of "
        f"the first and the last {size} runs with experience, and their "
        f"difference; of the last {size} without, and the difference to those. "
        f"Below 0 it helps; a regret of 0 is the best of {num_tuned} tuned "
        f"runs. Data: {data_text(content['data'], content['data_notes'])}.",
    ]
    if any(
        controller_mark(name) != mark
        for name, mark in content["controllers"].items()
    ):
        lines += ["", OTHER_CONTROLLER]
    return "\n".join(lines)


def trust_table(path: Path) -> str:
    """What `benchmarks/trust.py` recorded.

    Args:
        path: Path of its file.
    """
    if not path.is_file():
        return NOT_MEASURED
    content = read_json(path)
    rows = [
        (
            row["task"],
            rate_text(row["learning_rate"]),
            # Not known where no step could be measured.
            "-"
            if math.isnan(row["trust_ratio"])
            else f"{row['trust_ratio']:.2f}",
            figure_text(row["validation_loss"]),
        )
        for row in decode(content["rows"])
    ]
    notes = dict.fromkeys(
        f"{row['task']}: {row['note']}" for row in content["rows"]
    )
    return "\n".join(
        [
            markdown_table(("net", "rate", "trust", "validation loss"), rows),
            "",
            f"{content['num_steps']} steps at a constant rate: mean trust "
            "ratio of the second half, and the loss at the end. One seed; "
            f"{'; '.join(notes)}; {environment_text(content['environment'])}.",
        ]
    )


def features_table() -> str:
    """What the controller reads, from the table in the code."""
    rows = [
        (f"`{f.name}`", f"`{f.formula}`", f.meaning.replace("||", "‖"))
        for f in FEATURES
    ]
    return markdown_table(("feature", "formula", "what it tells"), rows)
