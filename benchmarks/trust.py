"""How much of what the gradient promises comes, at rates good and bad.

    python benchmarks/trust.py --preset FOLDER

ResNet-18 with SGD on images of 16 pixels, from new weights, and a pretrained
encoder with AdamW on SST-2: 80 steps at each of some constant rates, with the
mean trust ratio of the second half beside the validation loss at the end. Some
fifteen minutes on two CPU cores. What is there already is not made again.
"""

import argparse
import math
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_metalr import phases
from keras_metalr import workloads
from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_files
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.command_line import command_text
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.records import check_folder
from keras_metalr.benchmark.records import write_json
from keras_metalr.workloads.sst2_bert import encoder_name
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

NUM_STEPS = 80
RESNET_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
ENCODER_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
RESULT = pathlib.Path(__file__).parent / "results" / "trust.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing; print and store what came out."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    check_counts(parser, arguments, {"steps": 1, "rates": 1})
    check_published(parser, arguments, ("output",), ("steps", "rates"))
    console = Console()
    # The record says which backend made them.
    runs = arguments.runs / keras.backend.backend()
    try:
        check_files(arguments.output)
        check_folder(runs)
        tasks = _tasks(arguments.preset)
        data = {name: task.load_data() for name, (task, _) in tasks.items()}
    except SETUP_ERRORS as error:
        return report_error(error)
    try:
        rows = [
            row
            for name, (task, rates) in tasks.items()
            for row in _measure(
                name,
                task,
                data[name],
                rates[: arguments.rates],
                arguments.steps,
                runs,
                console,
            )
        ]
    # A run that is there already may be damaged.
    except (OSError, ValueError) as error:
        return report_error(error)
    record = {
        "command": _command(arguments),
        "environment": environment(),
        "num_steps": arguments.steps,
        "rows": rows,
    }
    write_json(arguments.output, record)
    _print(rows, console)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", required=True, help="encoder: KerasHub preset, or a folder")
    add("--runs", type=pathlib.Path, default=pathlib.Path("runs/trust"))
    add("--output", type=pathlib.Path, default=RESULT)
    add(
        "--steps",
        type=int,
        default=NUM_STEPS,
        help="of each run (default: %(default)s)",
    )
    add("--rates", type=int, help="the first of each net's (default: all)")
    return parser


def _tasks(preset: str) -> dict[str, tuple[Workload, Sequence[float]]]:
    """Each net's workload, and the rates to train it at."""
    return {
        "ResNet-18 on CIFAR-10, new": (
            workloads.get(
                "cifar10_resnet18",
                train_examples=5120,
                validation_examples=512,
                image_size=16,
            ),
            RESNET_RATES,
        ),
        f"{encoder_name(preset)} on SST-2, pretrained": (
            workloads.get(
                "sst2_bert",
                preset=preset,
                sequence_length=32,
                train_examples=2560,
                validation_examples=384,
            ),
            ENCODER_RATES,
        ),
    }


def _command(arguments: argparse.Namespace) -> str:
    """What made a record. Where the encoder lies is nobody's business."""
    flags = ["--preset", "FOLDER"]
    if arguments.steps != NUM_STEPS:
        flags += ["--steps", str(arguments.steps)]
    if arguments.rates is not None:
        flags += ["--rates", str(arguments.rates)]
    return command_text("benchmarks/trust.py", flags)


def _measure(
    name: str,
    workload: Workload,
    data: Data,
    rates: Sequence[float],
    num_steps: int,
    folder: pathlib.Path,
    console: Console,
) -> list[dict[str, Any]]:
    def progress(run: phases.Run) -> None:
        console.print(f"{name}: {run.learning_rate:g}: {run.outcome:.4g}")

    runs = phases.collect(
        workload.compiled_model,
        workload.fit_arguments(data, 1, steps_per_epoch=num_steps),
        learning_rates=rates,
        # Runs of another length, or encoder, are other runs.
        workload="-".join(
            filter(
                None,
                (
                    workload.name,
                    str(num_steps),
                    workload.options.get("encoder_digest"),
                ),
            )
        ),
        folder=folder,
        progress=progress,
    )
    return [
        {
            "task": name,
            "note": data.note,
            "learning_rate": run.learning_rate,
            "trust_ratio": _mean_of_second_half(run.trace["trust_ratio"]),
            "validation_loss": run.outcome,
        }
        for run in runs
    ]


def _mean_of_second_half(ratios: np.ndarray) -> float:
    """Of those that could be measured; NaN where none could."""
    half = ratios[len(ratios) // 2 :]
    known = half[~np.isnan(half)]
    return round(float(known.mean()), 4) if len(known) else math.nan


def _print(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(
            *(
                f"{v:.4g}" if isinstance(v, float) else str(v)
                for v in row.values()
            )
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
