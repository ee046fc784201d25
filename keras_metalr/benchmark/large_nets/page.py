"""The page, from the records: a table for each task and device."""

import statistics
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import NamedTuple

from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.large_nets.tasks import METHODS
from keras_metalr.benchmark.large_nets.tasks import TASKS
from keras_metalr.benchmark.large_nets.tasks import Task
from keras_metalr.benchmark.large_nets.tasks import rates
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import decode
from keras_metalr.benchmark.records import read_json
from keras_metalr.benchmark.text import METHOD_NAMES
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import figure_text
from keras_metalr.benchmark.text import markdown_table
from keras_metalr.benchmark.text import rate_text
from keras_metalr.update_rule import RULE_VERSION

HEADS = ("method", "rate", "seeds", "accuracy", "lowest", "loss", "F1")
_FIGURES = ("eval_accuracy", "eval_loss", "eval_f1")
COLUMNS = """
Accuracy, loss and macro F1 on the validation data at the end, which MetaLR
reads: 512 images, 872 texts. Means over the seeds, and the lowest accuracy of
any.
"""
_HEAD = """
# Large networks

MetaLR from four first rates beside schedules that, like MetaLR, know the length
of the run, and are tried at several highest rates. Where the best of those is
the first or the last, a better one may lie beyond.

{columns}
"""
_FOOT = """
Made by `python benchmarks/large_nets.py page` from
`{folder}`.
"""
_ALL_OF_SST2 = """
## The same encoder on all of SST-2

The encoder above, {encoder}, and not BERT Base, on 67,349 phrases in batches of
{batch_size}; *tokens*: that a text is cut to. Accuracy on the 872 examples of
the validation set after each quarter of the run; loss and macro F1 at the end.
The experiment report has an accuracy of 0.856 for BERT Base after one epoch, on
500 of the examples, and trains for three. An accuracy of 0.90 was aimed at. The
cosine has a warmup, and begins at the best highest rate of the table above, the
highest that was tried there. *Rule*: the version of MetaLR's update rule; the
shipped one is {rule}. *Earlier*: before the rate of pretrained weights in long
runs grew slowly and fell as a cosine (docs/design.md). What 5 adds to 4 changes
nothing here: the validation loss rises by a tenth of what was gained, at most,
and there 5 allows more growth than these runs have in any case. What 6 and 7
add is for new weights, but for a limit to what one batch counts for. 8 lets the
rate of pretrained weights grow less in runs of more than 2,100 steps.
"""


class Section(NamedTuple):
    """The runs of a task on a device.

    Args:
        title: String, what was trained.
        lead: String, how long, on what, with which stand-ins.
        rows: List of rows, with the columns of `HEADS`.
        is_of_another: Boolean, whether MetaLR's runs are not those of the
            controller and the rule that ship.
    """

    title: str
    lead: str
    rows: list[tuple[Any, ...]]
    is_of_another: bool


def page(folder: Path, name: str) -> str:
    """Markdown of all records.

    Args:
        folder: Path of the records, and of those of `scripts/train_sst2.py`
            in `all_of_sst2`.
        name: String, what the page calls the folder.
    """
    paragraphs = [_HEAD.strip().format(columns=COLUMNS.strip())]
    title = None
    for section in sections(folder):
        if section.title != title:
            title = section.title
            paragraphs.append(f"## {title}")
        paragraphs += [section.lead, markdown_table(HEADS, section.rows)]
        if section.is_of_another:
            paragraphs.append(OTHER_CONTROLLER)
    paragraphs += _all_of_sst2(folder / "all_of_sst2")
    foot = _FOOT.strip().format(folder=name)
    return "\n\n".join([*paragraphs, foot]) + "\n"


def sections(folder: Path) -> list[Section]:
    """What was recorded, a section for each task and device.

    Args:
        folder: Path of the records.
    """
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    found = []
    for name, task in TASKS.items():
        made = [r for r in records if r["task"] == name]
        # What was trained on what: figures of two are not averaged.
        kinds = [(environment_text(r["environment"]), r["note"]) for r in made]
        for kind in sorted(set(kinds)):
            rows = [r for r, k in zip(made, kinds, strict=True) if k == kind]
            mark = _newest_mark(rows)
            # Schedules have none.
            rows = [r for r in rows if r["controller"] in ("", mark)]
            device, note = kind
            found.append(
                Section(
                    title=task.title,
                    lead=f"{rows[0]['num_steps']} steps of {task.batch_size}, "
                    f"{device} ({note}).",
                    rows=list(_rows(task, rows)),
                    is_of_another=mark not in ("", _shipped_mark()),
                )
            )
    return found


def _read(path: Path) -> dict[str, Any]:
    """A record; its figures may be infinite, or NaN."""
    record = read_json(path)
    return record | {name: decode(record[name]) for name in _FIGURES}


def _newest_mark(records: list[dict[str, Any]]) -> str:
    """Of the controller and rule that ship; else of the latest rule."""

    def age(mark: str) -> tuple[bool, int, str]:
        return mark == _shipped_mark(), int(_rule(mark)), mark

    marks = {r["controller"] for r in records} - {""}
    return max(marks, key=age, default="")


def _shipped_mark() -> str:
    return controller_mark("general", digits=8)


def _rows(
    task: Task, records: list[dict[str, Any]]
) -> Iterator[tuple[Any, ...]]:
    """A row for each method and rate that there are records of."""
    for method in METHODS:
        for rate in rates(task, method):
            runs = [
                r
                for r in records
                if (r["method"], r["learning_rate"]) == (method, rate)
            ]
            if runs:
                yield _row(task, method, rate, runs)


def _row(
    task: Task, method: str, rate: float, runs: list[dict[str, Any]]
) -> tuple[Any, ...]:
    def mean(key: str) -> str:
        return figure_text(statistics.fmean(run[key] for run in runs))

    tuned = f"warmup, then {task.schedule}, from"
    what = {"static": "constant", "tuned": tuned, "metalr": "MetaLR, from"}
    return (
        what[method],
        rate_text(rate),
        len(runs),
        mean("eval_accuracy"),
        figure_text(min(run["eval_accuracy"] for run in runs)),
        mean("eval_loss"),
        mean("eval_f1"),
    )


def _all_of_sst2(folder: Path) -> list[str]:
    """The records of `scripts/train_sst2.py` in a folder, one row each.

    In the folder `earlier` there may be some of an earlier rule.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        return []
    runs = [(RunResult.load(path), path.parent != folder) for path in paths]
    runs.sort(key=_place)
    heads = ("method", "rule", "rate", "seed", "steps", "tokens", "accuracy")
    rows = [
        (
            METHOD_NAMES[run.config["method"]],
            "earlier"
            if is_earlier
            else _rule(run.config.get("controller", "")),
            rate_text(run.config["learning_rate"]),
            run.config["seed"],
            f"{run.config['steps']:,}",
            _tokens(run.config["options"]),
            ", ".join(f"{a:.3f}" for a in _quarters(run)),
            figure_text(run.results["eval_loss"]),
            figure_text(run.results["eval_f1"]),
            environment_text(run.environment),
        )
        for run, is_earlier in runs
    ]
    config = runs[0][0].config
    return [
        _ALL_OF_SST2.strip().format(
            encoder=config["options"]["encoder"],
            batch_size=config["batch_size"],
            rule=RULE_VERSION,
        ),
        markdown_table((*heads, "loss", "F1", "run on"), rows),
    ]


def _place(run: tuple[RunResult, bool]) -> tuple[Any, ...]:
    """Where a run stands: seeds side by side, what is earlier before them."""
    config = run[0].config
    return config["steps"], config["method"], not run[1], config["seed"]


def _rule(mark: str) -> str:
    """The version of the rule in a record's mark; schedules have none."""
    return mark.rpartition("-rule")[2]


def _tokens(options: Mapping[str, Any]) -> str:
    by_length = ", batches by length" * bool(options.get("group_by_length"))
    return f"{options['sequence_length']}{by_length}"


def _quarters(run: RunResult) -> list[float]:
    """Validation accuracy after each quarter; their number is one of fours."""
    accuracy = run.history["val_accuracy"]
    every = len(accuracy) // 4
    return accuracy[every - 1 :: every]
