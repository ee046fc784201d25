"""Changes to a training task, each with several methods, over seeds."""

import itertools
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from keras_metalr.benchmark.comparison import final_accuracy
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.runner import RunConfig
from keras_metalr.benchmark.scoring import mean_and_interval
from keras_metalr.benchmark.text import epochs_text
from keras_metalr.benchmark.text import mean_text
from keras_metalr.benchmark.text import stability_text
from keras_metalr.workloads.report_mlp import report_mlp

_CAPTION = (
    "±: 95 % interval of the mean. Epochs: median over the seeds, a missed "
    "target counts as infinity. Stability: variance of the epochs' training "
    "losses over the second half of the run; smaller is steadier. s/run: "
    "seconds, with compiling and validation."
)


@dataclass(frozen=True)
class Summary:
    """What one variant of a task reached with one method, over seeds.

    Args:
        accuracy: Float in [0, 1], mean of the final validation accuracy.
        interval: Tuple of two floats, the 95 % confidence interval of
            `accuracy`; NaN for a single seed.
        loss: Float, mean of the final validation loss. Not finite when a run
            diverged.
        loss_interval: Tuple of two floats, as `interval`.
        f1: Float in [0, 1], mean of the F1 score (itself a mean over classes).
        f1_interval: Tuple of two floats, as `interval`.
        epochs_to_target: Float, median; a seed that missed the target counts
            as infinity.
        stability: Float, mean variance of the training loss over the second
            half of a run.
        whole_stability: Float, the same over all of a run.
        seconds: Float, mean time of a run.
        num_seeds: Integer, how many runs this is over.
    """

    accuracy: float
    interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]
    epochs_to_target: float
    stability: float
    whole_stability: float
    seconds: float
    num_seeds: int


def ablation_jobs(
    variants: Iterable[str],
    methods: Iterable[str],
    seeds: int,
    *,
    controller: str | None = None,
    epochs: int | None = None,
    mixed_precision: str = "off",
    record_steps: bool = False,
    **options: Any,
) -> list[tuple[tuple[str, str], Job]]:
    """Every run of the workload `report_mlp`, with its row of the table.

    Args:
        variants: Iterable of strings, keys of
            `keras_metalr.workloads.report_mlp.VARIANTS`.
        methods: Iterable of strings, keys of `COMPETITORS`.
        seeds: Integer (>= 1), how many: 0, 1, ...
        controller: String, name or folder of the preset that MetaLR uses.
            Defaults to `None`, MetaLR's own default.
        epochs: Integer. Defaults to `None`, the workload's own number.
        mixed_precision: String, as in `RunConfig`. Defaults to `"off"`.
        record_steps: Boolean, as in `RunConfig`. Defaults to `False`.
        **options: Passed to `report_mlp`, such as `train_examples`.

    Returns:
        List of `((variant, method), Job)`. Seeds are outermost: an interrupted
        call leaves some seeds of every row.
    """
    metalr = {} if controller is None else {"controller": controller}
    plan = itertools.product(
        range(seeds),
        # One name given twice would count its seeds twice.
        dict.fromkeys(variants),
        dict.fromkeys(methods),
    )
    return [
        (
            (variant, method),
            Job(
                title=f"{variant}, {method}, seed {seed}",
                workload=report_mlp(variant=variant, **options),
                config=RunConfig(
                    method=method,
                    seed=seed,
                    epochs=epochs,
                    mixed_precision=mixed_precision,
                    record_steps=record_steps,
                    method_options=metalr if method == "metalr" else {},
                ),
            ),
        )
        for seed, variant, method in plan
    ]


def summarize(records: Sequence[Any]) -> Summary:
    """Take the mean over seeds.

    Args:
        records: Sequence of `RunResult` that differ in the seed alone.

    Returns:
        A `Summary`.

    Raises:
        ValueError: If there are no records.
    """

    def values(name: str) -> list[float]:
        return [record.results[name] for record in records]

    accuracy, low, high = mean_and_interval([*map(final_accuracy, records)])
    loss, *loss_interval = mean_and_interval(values("eval_loss"))
    f1, *f1_interval = mean_and_interval(values("eval_f1"))
    return Summary(
        accuracy=accuracy,
        interval=(low, high),
        loss=loss,
        loss_interval=(loss_interval[0], loss_interval[1]),
        f1=f1,
        f1_interval=(f1_interval[0], f1_interval[1]),
        epochs_to_target=median(values("epochs_to_target")),
        stability=fmean(values("stability_last_half")),
        whole_stability=fmean(values("stability")),
        seconds=fmean(values("train_runtime")),
        num_seeds=len(records),
    )


def ablation_table(
    title: str,
    summaries: Mapping[tuple[str, str], Summary],
    target_accuracy: float,
) -> Table:
    """Return a table for the terminal, one row a variant and method.

    Args:
        title: String.
        summaries: Mapping from (variant, method) to a `Summary`, in the order
            of the rows.
        target_accuracy: Float in [0, 1], for the head of a column.
    """
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title=title,
        title_justify="left",
        caption=_CAPTION,
        caption_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("variant", "method"):
        table.add_column(name, no_wrap=True)
    for name in (
        "accuracy, %",
        "loss",
        "F1",
        f"epochs\nto {target_accuracy:.0%}",
        "stability",
        "s/run",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for (variant, method), summary in summaries.items():
        if last not in (None, variant):
            table.add_section()
        table.add_row(variant, method, *_cells(summary))
        last = variant
    return table


def _cells(summary: Summary) -> list[str]:
    return [
        mean_text(summary.accuracy, summary.interval, scale=100, digits=2),
        f"{summary.loss:.3f}" if math.isfinite(summary.loss) else "diverged",
        f"{summary.f1:.3f}",
        epochs_text(summary.epochs_to_target),
        stability_text(summary.stability),
        f"{summary.seconds:.1f}",
    ]
