"""MetaLR from four starting rates against a grid of constant rates.

    python benchmarks/digits.py

The digits convnet, 20 epochs, seeds 0 to 4: 12 constant rates from 1e-5 to 3,
and MetaLR with the shipped controller from 1e-6, 1e-3, 1 and 10. About ten
minutes on two CPU cores. One JSON per run; runs that are there already are not
made again, so an interrupted call goes on where it was.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_metalr import workloads
from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark.command_line import RUN_ERRORS
from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.command_line import quiet_tensorflow
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.comparison import Comparison
from keras_metalr.benchmark.comparison import Score
from keras_metalr.benchmark.comparison import compare
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.experiment import claim_folder
from keras_metalr.benchmark.experiment import make_runs
from keras_metalr.workloads.optimizers import OPTIMIZER_NAMES

STARTING_RATES = (1e-6, 1e-3, 1.0, 10.0)
LOWEST_RATE, HIGHEST_RATE, NUM_RATES = 1e-5, 3.0, 12
RESULTS = pathlib.Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing; print what came out."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    # The runs of each optimizer have a folder of their own.
    parser.set_defaults(output=RESULTS / _folder_name(arguments.optimizer))
    output = arguments.output = arguments.output or parser.get_default("output")
    check_counts(parser, arguments, {"seeds": 1, "rates": 2, "epochs": 1})
    others = {_folder_name(name) for name in OPTIMIZER_NAMES}
    others -= {_folder_name(arguments.optimizer)}
    if output.resolve() in {(RESULTS / name).resolve() for name in others}:
        parser.error(f"{output} is of another optimizer: name another --output")
    # Other runs are not to lie among those of the README.
    check_published(
        parser, arguments, ("output",), ("seeds", "rates", "epochs")
    )
    quiet_tensorflow()
    console = Console()
    try:
        jobs = _jobs(arguments)
        data = jobs[0].workload.load_data()
        claim_folder(output)
    except SETUP_ERRORS as error:
        return report_error(error)
    try:
        runs = make_runs(jobs, data, output, console)
    except RUN_ERRORS as error:
        return report_error(error)
    _print(compare(runs), console)
    return 0


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    grid = constant_rates(arguments.rates)
    workload = workloads.get("digits", optimizer=arguments.optimizer)
    return [
        Job(
            title=f"{method}, {rate:g}, seed {seed}",
            workload=workload,
            config=RunConfig(
                method=method,
                learning_rate=rate,
                seed=seed,
                epochs=arguments.epochs,
            ),
        )
        for seed in range(arguments.seeds)
        for method, rates in (("static", grid), ("metalr", STARTING_RATES))
        for rate in rates
    ]


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
        "--epochs",
        type=int,
        help="passes over the data, with an --output of its own (default: 20)",
    )
    add(
        "--output",
        type=pathlib.Path,
        help="folder for the records (default: benchmarks/results/digits)",
    )
    return parser


def _folder_name(optimizer: str) -> str:
    return "digits" if optimizer == "adam" else f"digits-{optimizer}"


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
