"""Four changes to a dense net on Fashion-MNIST, with and without MetaLR.

    python scripts/train_mlp.py
    python scripts/train_mlp.py --variants original +larger-batch --seeds 2
    python scripts/train_mlp.py --train-examples 2000 --epochs 2  # a quick look

A wider net (128-64 for 64), dropout 0.5, Adam at 0.0005 for 0.001, batches of
64 for 32: `+NAME` is a change on top of all before it, `NAME` the change alone.
One JSON per run; runs that are there already are not made again, so an
interrupted call goes on where it was.
"""

import argparse
import os
import pathlib
import sys
from collections import defaultdict
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console

from keras_metalr.benchmark import COMPETITORS
from keras_metalr.benchmark.ablation import ablation_jobs
from keras_metalr.benchmark.ablation import ablation_table
from keras_metalr.benchmark.ablation import summarize
from keras_metalr.benchmark.command_line import RUN_ERRORS
from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_controller
from keras_metalr.benchmark.command_line import quiet_tensorflow
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.experiment import claim_folder
from keras_metalr.benchmark.experiment import make_runs
from keras_metalr.workloads.report_mlp import VARIANTS


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing; print what came out."""
    arguments = _parser().parse_args(argv)
    quiet_tensorflow()
    console = Console()
    # Everything that can be missing is looked for before the first run.
    try:
        jobs = _jobs(arguments)
        workload = jobs[0][1].workload
        data = workload.load_data()
        if "metalr" in arguments.methods:
            check_controller(arguments.controller or "general")
            claim_folder(arguments.output, arguments.controller or "general")
    except SETUP_ERRORS as error:
        return report_error(error)
    output = arguments.output
    try:
        results = make_runs([job for _, job in jobs], data, output, console)
    except RUN_ERRORS as error:
        return report_error(error)
    groups = defaultdict(list)
    for (row, _), result in zip(jobs, results, strict=True):
        groups[row].append(result)
    title = (
        f"Fashion-MNIST, {data.num_train} images, {arguments.seeds} seed(s), "
        f"{arguments.epochs or workload.epochs} epoch(s): validation"
    )
    summaries = {row: summarize(group) for row, group in groups.items()}
    console.print(ablation_table(title, summaries, workload.target_accuracy))
    console.print(f"Records: {output}", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--variants",
        nargs="+",
        choices=tuple(VARIANTS),
        default=list(VARIANTS),
        metavar="VARIANT",
        help=f"of {', '.join(VARIANTS)} (default: all)",
    )
    add(
        "--methods",
        nargs="+",
        choices=tuple(COMPETITORS),
        default=["static", "metalr"],
        help="what sets the learning rate (default: static metalr)",
    )
    add("--seeds", type=int, default=5, help="(default: %(default)s)")
    add("--epochs", type=int, help="passes over the data (default: 10)")
    add("--train-examples", type=int, help="train on the first examples only")
    add(
        "--validation-examples",
        type=int,
        help="validate on the last examples only",
    )
    add(
        "--controller",
        help="metalr: name or folder of a controller preset "
        '(default: "general")',
    )
    add(
        "--download",
        action="store_true",
        help="download the data set when it is not there",
    )
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/report_mlp"),
        help="folder for the records (default: %(default)s)",
    )
    return parser


def _jobs(
    arguments: argparse.Namespace,
) -> list[tuple[tuple[str, str], Job]]:
    if arguments.seeds < 1:
        raise ValueError(
            f"`--seeds` must be at least 1. Received: {arguments.seeds}."
        )
    if arguments.controller is not None and "metalr" not in arguments.methods:
        raise ValueError(
            "`--controller` goes with `--methods metalr`. Received: "
            f"--methods {' '.join(arguments.methods)}."
        )
    return ablation_jobs(
        arguments.variants,
        arguments.methods,
        arguments.seeds,
        controller=arguments.controller,
        epochs=arguments.epochs,
        train_examples=arguments.train_examples,
        validation_examples=arguments.validation_examples,
        download=arguments.download,
    )


if __name__ == "__main__":
    sys.exit(main())
