"""What the pages say of the tasks: the primary ones, the ablation."""

from collections.abc import Mapping
from typing import Any

from keras_metalr.benchmark.ablation import summarize
from keras_metalr.benchmark.comparison import final_accuracy
from keras_metalr.benchmark.full_report import figures
from keras_metalr.benchmark.full_report import scores
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.document import Block
from keras_metalr.benchmark.full_report.document import Figure
from keras_metalr.benchmark.full_report.document import Paragraph
from keras_metalr.benchmark.full_report.document import Table
from keras_metalr.benchmark.full_report.tasks import METHODS
from keras_metalr.benchmark.full_report.tasks import times
from keras_metalr.benchmark.full_report.wording import Source
from keras_metalr.benchmark.full_report.wording import difference_text
from keras_metalr.benchmark.full_report.wording import summary_cells
from keras_metalr.benchmark.full_report.wording import summary_heads
from keras_metalr.benchmark.full_report.wording import summary_note
from keras_metalr.benchmark.full_report.wording import task_title
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.text import METHOD_NAMES
from keras_metalr.benchmark.text import RESULTS_LINE
from keras_metalr.benchmark.text import count_text
from keras_metalr.benchmark.text import epochs_text
from keras_metalr.benchmark.text import rate_text

# What the experiment report printed for BERT Base on SST-2.
REPORT_LINES = (
    ("before training", 872, 0.699, 0.487),
    ("after one epoch", 500, 0.432, 0.856),
)
# Places after the point.
_DIGITS = {
    "eval_loss": 3,
    "eval_accuracy": 3,
    "eval_f1": 3,
    "eval_runtime": 2,
    "eval_samples_per_second": 1,
    "eval_steps_per_second": 2,
    "epoch": 2,
}


def primary_blocks(part: PartResult, source: Source) -> list[Block]:
    """Figure, table and differences of one primary task."""
    groups = scores.method_groups(part)
    target = part.details["target_accuracy"]
    rows = [
        (METHOD_NAMES[method], rate_text(rate), *summary_cells(summarize(runs)))
        for (method, rate), runs in groups.items()
    ]
    return [
        Figure(
            name=part.name,
            caption=source.caption(
                part,
                "Training loss, validation accuracy and learning rate against "
                "the step: each seed faintly, and their mean, of the loss "
                "smoothed over a twentieth of the run (no mean where a seed "
                f"stopped early). Dotted: the target of {target:.0%}.",
            ),
            alternative=f"Curves of all methods, {task_title(part)}",
            data=_curves(part, groups),
            draw=figures.draw_methods,
        ),
        Table(
            ("method", "rate", *summary_heads(target)),
            rows,
            source.caption(
                part,
                summary_note()
                + " The rate of MetaLR is the one in the optimizer at its "
                "start.",
            ),
        ),
        *_differences(part, source, groups),
    ]


def _curves(
    part: PartResult, groups: Mapping[tuple[str, float], list[RunResult]]
) -> dict[str, Any]:
    rate = part.details["report_rate"]
    numbers = {
        (method, times(rate, factor)): number
        for number, (method, factor) in enumerate(METHODS)
    }
    return {
        "title": task_title(part),
        "target_accuracy": part.details["target_accuracy"],
        "methods": [
            {
                "label": f"{METHOD_NAMES[method]}, {rate_text(rate)}",
                "number": numbers[method, rate],
                "runs": [_curves_of(run) for run in runs],
            }
            for (method, rate), runs in groups.items()
        ],
    }


def _curves_of(run: RunResult) -> dict[str, Any]:
    accuracies = run.history["val_accuracy"]
    num_steps = run.results["num_steps"]
    steps = [
        round(num_steps * (epoch + 1) / len(accuracies))
        for epoch in range(len(accuracies))
    ]
    return {
        "accuracy": [steps, accuracies],
        **{
            name: [run.curves[name]["step"], run.curves[name]["value"]]
            for name in ("loss", "learning_rate")
        },
    }


def _differences(
    part: PartResult,
    source: Source,
    groups: Mapping[tuple[str, float], list[RunResult]],
) -> list[Block]:
    """MetaLR from the report's rate against the others, seed by seed."""
    rate = part.details["report_rate"]
    if ("metalr", rate) not in groups:
        return []
    accuracies = {
        key: [final_accuracy(run) for run in runs]
        for key, runs in groups.items()
        if key[1] == rate
    }
    own = accuracies.pop(("metalr", rate))
    phrases = [
        f"{difference_text(scores.paired(own, others), 100, 2)} points "
        f"against {METHOD_NAMES[method]}"
        for (method, _), others in accuracies.items()
    ]
    text = (
        f"MetaLR from the report's own rate, accuracy paired by seed "
        f"({count_text(len(own), 'seed')}): {', '.join(phrases)}."
    )
    starts = [
        summarize(runs).accuracy
        for (method, _), runs in groups.items()
        if method == "metalr"
    ]
    if len(starts) > 1:
        spread = 100 * (max(starts) - min(starts))
        text += f" Its {len(starts)} starts differ by {spread:.2f} points."
    if ("static", rate) in groups:
        text += f" {_epochs_to_static(groups, rate)}"
    return [Paragraph(source.caption(part, text))]


def _epochs_to_static(
    groups: Mapping[tuple[str, float], list[RunResult]], rate: float
) -> str:
    """How soon each method is where static ends."""
    static = groups["static", rate]
    medians = [
        f"{METHOD_NAMES[method]} from {rate_text(start)} "
        f"{epochs_text(scores.median_epochs_to_end_of(static, runs))}"
        for (method, start), runs in groups.items()
    ]
    return (
        "Epochs until the accuracy that static has at its end, of the same "
        f"seed (medians): {', '.join(medians)}."
    )


def results_line_blocks(part: PartResult, source: Source) -> list[Block]:
    """Our line beside the report's own."""
    report, gaps = "the report, BERT Base", ["-"] * (len(RESULTS_LINE) - 2)
    rows: list[list[Any]] = [
        [report, "", *line, *gaps, "the report itself"] for line in REPORT_LINES
    ]
    # Before training all methods are one model.
    lines = [("", line) for line in _lines(part.runs[0], "before training")]
    for run in part.runs:
        name = METHOD_NAMES[run.config["method"]]
        lines += [(name, line) for line in _lines(run, "after training")]
    for method, line in lines:
        values = [f"{line[name]:.{_DIGITS[name]}f}" for name in RESULTS_LINE]
        what = [f"here, {task_title(part)}", method, line["when"]]
        rows.append([*what, line["num_examples"], *values, source.link(part)])
    config, results = part.runs[0].config, part.runs[0].results
    num_steps, num_train = (
        round(results[n]) for n in ("num_steps", "num_train")
    )
    return [
        Table(
            ("model", "method", "when", "examples", *RESULTS_LINE, "from"),
            rows,
            "GLUE SST-2, its validation set: all 872 examples, or the first "
            f"500; one seed, batches of {config['batch_size']}, AdamW, "
            f"{rate_text(part.details['report_rate'])} in the optimizer. "
            f"Trained here for {count_text(num_steps, 'step')} on "
            f"{count_text(num_train, 'example')}. `eval_f1` is macro F1, the "
            "mean over both classes; `eval_runtime` in seconds, "
            "the first of a run with compiling; `epoch`: the share "
            "of the training examples here that was seen. `-`: the report does "
            "not say.",
        )
    ]


def _lines(run: RunResult, when: str) -> list[dict[str, Any]]:
    return [line for line in run.evaluations if line["when"] == when]


def ablation_blocks(part: PartResult, source: Source) -> list[Block]:
    """One row a variant and method."""
    groups = scores.variant_groups(part)
    variants = dict.fromkeys(variant for variant, _ in groups)
    rows = []
    for variant in variants:
        for (name, method), runs in groups.items():
            if name == variant:
                cells = summary_cells(summarize(runs))
                rows.append((variant, METHOD_NAMES[method], *cells))
    note = (
        "`+NAME` is a change on top of all before it, `NAME` the change alone "
        "(`wider` alone is `+wider`). "
    )
    return [
        Table(
            (
                "variant",
                "method",
                *summary_heads(part.details["target_accuracy"]),
            ),
            rows,
            source.caption(part, note + summary_note()),
        )
    ]
