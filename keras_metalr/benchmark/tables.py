"""Tables as Markdown, from the recorded results, for pages written by hand."""

import json
import math
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_metalr.benchmark.comparison import Comparison
from keras_metalr.benchmark.comparison import Score
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
from keras_metalr.benchmark.text import BACKENDS
from keras_metalr.benchmark.text import OPTIMIZERS
from keras_metalr.benchmark.text import bounds_text
from keras_metalr.benchmark.text import environment_text
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
    """
    records = [RunResult.load(path) for path in folder.glob("digits-*.json")]
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
    content = _read(path)
    cells: dict[str, dict[str, str]] = {}
    for row in content["rows"]:
        accuracy = f"{100 * row['accuracy']:.1f}"
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
    times: list[tuple[Any, ...]] = []
    starts: list[tuple[Any, ...]] = []
    halves: list[Mapping[str, Any]] = []
    for backend, path in paths.items():
        title = BACKENDS[backend]
        if not path.is_file():
            times.append((title, "not measured yet", *[""] * 7))
            continue
        for result in _read(path)["results"]:
            halves += [result[half] for half in _HALVES if half in result]
            model = str(result["model"])
            names = (title, _MODEL_NAMES.get(model, model))
            plain = result["plain_milliseconds"]
            milliseconds = f"{plain:,.0f}" if plain >= 100 else f"{plain:.3g}"
            times.append(
                (
                    *names,
                    f"{milliseconds} ms",
                    *_figures(result, _TIMES),
                    result["pairs"],
                )
            )
            if "plain_peak_mebibytes" in result:
                peak = f"{result['plain_peak_mebibytes']:,.0f} MiB"
                ratios = _figures(result, _MEMORY)
                seconds = _figures(result, _FIRST_STEPS, "{:.1f} s")
                starts.append((*names, peak, *ratios, *seconds))
    lines = [
        markdown_table(
            ("backend", "model", "plain step", *_TIMES.values(), "pairs"),
            times,
        ),
        "",
        "Time of a training step with MetaLR over that of a plain compiled "
        "step: on a step without a decision, and averaged over a run of that "
        "many steps, decisions (one more forward pass each) included; medians "
        "of so many pairs of steps of each kind, taken in turn. *Bare*: "
        "without guard and safe start, which are on by default. "
        + " ".join(_overhead_notes(halves)),
    ]
    if starts:
        lines += [
            "",
            markdown_table(
                (
                    "backend",
                    "model",
                    "plain process",
                    *_MEMORY.values(),
                    *_FIRST_STEPS.values(),
                ),
                starts,
            ),
            "",
            "Memory with MetaLR over that of plain training: what XLA plans "
            "for the compiled step (state, batch and all between), and the "
            "peak of the process, with its libraries and what they keep of "
            "the compiled step. Then the seconds of a run's first step, which "
            "compiles it.",
        ]
    if any(half["rule_version"] != RULE_VERSION for half in halves):
        lines += ["", OTHER_CONTROLLER]
    return "\n".join(lines)


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
    content = _read(path)
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
    heads = (
        "controller",
        "nets",
        "first 5",
        "last 5",
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
        "the first and the last 5 runs with experience, and their "
        "difference; of the last 5 without, and the difference to those. "
        "Below 0 it helps; a regret of 0 is the best of 36 tuned runs. Data: "
        f"{data_text(content['data'], content['data_notes'])}.",
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
    content = _read(path)
    rows = [
        (
            row["task"],
            rate_text(row["learning_rate"]),
            f"{row['trust_ratio']:.2f}",
            f"{row['validation_loss']:.3f}",
        )
        for row in content["rows"]
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


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
