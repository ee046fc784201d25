"""MetaLR from four starting rates against a grid of constant rates.

    python benchmarks/digits.py

The digits convnet, 20 epochs, seeds 0 to 4: 12 constant rates from 1e-5 to 3,
and MetaLR with the shipped controller from 1e-6, 1e-3, 1 and 10. About ten
minutes on two CPU cores. One JSON a run; runs that are there already are not
made again, so an interrupted call goes on where it was.
"""

import argparse
import json
import logging
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TextColumn
from rich.progress import TimeRemainingColumn
from rich.table import Table

from keras_metalr import workloads
from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark import run
from keras_metalr.benchmark.comparison import Comparison
from keras_metalr.benchmark.comparison import Score
from keras_metalr.benchmark.comparison import compare
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.report import CONTROLLER_FILE
from keras_metalr.benchmark.report import controller_identity
from keras_metalr.workloads.optimizers import OPTIMIZER_NAMES

STARTING_RATES = (1e-6, 1e-3, 1.0, 10.0)
LOWEST_RATE, HIGHEST_RATE, NUM_RATES = 1e-5, 3.0, 12
RESULTS = pathlib.Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing; print what came out."""
    arguments = _parser().parse_args(argv)
    # TensorFlow warns that functions are traced anew: each run has its model.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    output = arguments.output or RESULTS / _folder_name(arguments.optimizer)
    if not _is_of_the_controller_identity(output):
        print(
            f"error: the runs in {output} are of another controller. Delete "
            "the folder, or name another with --output.",
            file=sys.stderr,
        )
        return 2
    console = Console()
    grid = constant_rates(arguments.rates)
    configs = [
        RunConfig(method=method, learning_rate=rate, seed=seed)
        for seed in range(arguments.seeds)
        for method, rates in (("static", grid), ("metalr", STARTING_RATES))
        for rate in rates
    ]
    workload = workloads.get("digits", optimizer=arguments.optimizer)
    comparison = compare(_make_runs(workload, configs, output, console))
    _print(comparison, console)
    return 0


def constant_rates(count: int = NUM_RATES) -> list[float]:
    """The grid: `count` rates, evenly spaced in the logarithm.

    Args:
        count: Integer (>= 2). Defaults to `12`.
    """
    rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, count)
    # Three digits, so that a rate reads the same wherever it is printed.
    return [float(f"{rate:.3g}") for rate in rates]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--optimizer",
        choices=OPTIMIZER_NAMES,
        default="adam",
        help="(default: %(default)s)",
    )
    add("--seeds", type=int, default=5, help="(default: %(default)s)")
    add(
        "--rates",
        type=int,
        default=NUM_RATES,
        help="constant rates in the grid (default: %(default)s)",
    )
    add(
        "--output",
        type=pathlib.Path,
        help="folder for the records (default: benchmarks/results/digits)",
    )
    return parser


def _folder_name(optimizer: str) -> str:
    return "digits" if optimizer == "adam" else f"digits-{optimizer}"


def _is_of_the_controller_identity(output: pathlib.Path) -> bool:
    """Whether records in the folder, if any, were made with the controller."""
    note = output / CONTROLLER_FILE
    if note.is_file():
        recorded = json.loads(note.read_text(encoding="utf-8"))
        return bool(recorded == controller_identity())
    write_json(note, controller_identity())
    return True


def _make_runs(
    workload: Any,
    configs: list[RunConfig],
    output: pathlib.Path,
    console: Console,
) -> list[Any]:
    data = workload.load_data()
    results = []
    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
    )
    with progress:
        task = progress.add_task("", total=len(configs))
        for config in configs:
            text = (
                f"{config.method}, {config.learning_rate:g}, seed {config.seed}"
            )
            progress.update(task, description=text)
            results.append(run(workload, config, data=data, output=output))
            keras.utils.clear_session(free_memory=True)
            progress.advance(task)
        progress.update(task, description="done")
    return results


def _print(comparison: Comparison, console: Console) -> None:
    best = comparison.best_static
    seeds = len(comparison.seeds)
    table = Table(
        title=f"Digits: validation accuracy in %, {seeds} seed(s)",
        title_justify="left",
    )
    table.add_column("method")
    for name in ("rate", "mean", "95 % interval", "worst seed"):
        table.add_column(name, justify="right")
    for score in comparison.static:
        name = "constant (best)" if score is best else "constant"
        table.add_row(name, *_cells(score))
    table.add_section()
    for score in comparison.metalr:
        table.add_row("MetaLR from", *_cells(score))
    console.print(table)
    console.print(
        f"Best constant rate: {best.learning_rate:g}, mean "
        f"{100 * best.mean:.2f} %, found with {comparison.num_trials} runs "
        "(chosen by its mean over the seeds, on the validation images).",
        highlight=False,
    )
    verdict = "is" if comparison.is_within_tolerance else "is NOT"
    console.print(
        f"MetaLR: {100 * comparison.spread:.2f} points between the best and "
        f"the worst start; every start {verdict} within 1 point of the best "
        "constant rate.",
        highlight=False,
    )


def _cells(score: Score) -> list[str]:
    low, high = (100 * value for value in score.interval)
    return [
        f"{score.learning_rate:g}",
        f"{100 * score.mean:.2f}",
        "-" if np.isnan(low) else f"{low:.2f} to {high:.2f}",
        f"{100 * score.worst:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
