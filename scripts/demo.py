"""Trains small networks from four starting rates, with and without MetaLR.

Takes about two minutes on two CPU cores. Prints a table and saves a picture,
`demo.png`. The digits come with scikit-learn; Fashion-MNIST is used when
TensorFlow Datasets has it already (nothing is downloaded).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STARTING_RATES = (1e-5, 1e-3, 1e-1, 10.0)
# Below it next to nothing was learned: both data sets have ten classes of about
# one size.
FAILED = 0.2
METHODS = {"static": "static", "metalr": "MetaLR"}
FASHION_MNIST_COMMAND = (
    'python -c "import tensorflow_datasets as tfds; '
    "tfds.load('fashion_mnist')\""
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs, print the table, save the picture."""
    arguments = _parser().parse_args(argv)
    # TensorFlow tells of CPU features.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from rich.console import Console

    from keras_metalr import plotting
    from keras_metalr.benchmark import command_line
    from keras_metalr.benchmark.records import check_folder

    command_line.quiet_tensorflow()
    console = Console()
    # Everything that can be missing is looked for before the first run.
    try:
        plotting.import_pyplot()
        command_line.check_controller(arguments.controller)
        configs = _configs(arguments)
        tasks = {
            title: (workload, workload.load_data())
            for title, workload in _workloads(
                arguments.digits_only, console
            ).items()
        }
        check_folder(arguments.output)
        if arguments.save_json is not None:
            command_line.check_files(arguments.save_json)
    except (ImportError, OSError, ValueError) as error:
        return command_line.report_error(error)
    columns = _make_runs(tasks, configs, console)
    for table in _tables(columns):
        console.print(table)
    path = _save_picture(columns, Path(arguments.output))
    console.print(f"Picture: {path}")
    if arguments.save_json is not None:
        _save_rows(columns, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", default=".", help="folder for demo.png (default: here)"
    )
    parser.add_argument(
        "--epochs", type=int, default=8, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=240,
        help="training steps of each run, rounded up to whole epochs "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--controller",
        default="general",
        help="name or folder of a controller preset (default: %(default)s)",
    )
    parser.add_argument(
        "--digits-only", action="store_true", help="leave out Fashion-MNIST"
    )
    parser.add_argument(
        "--save-json", type=Path, help="file to write the table to, as JSON"
    )
    return parser


def _workloads(digits_only: bool, console: Any) -> dict[str, Any]:
    from keras_metalr import workloads
    from keras_metalr.workloads import tfds_source

    chosen = {"Digits": workloads.get("digits")}
    if digits_only:
        return chosen
    if tfds_source.is_prepared("fashion_mnist"):
        chosen["Fashion-MNIST"] = workloads.get(
            "fashion_mnist_cnn", train_examples=3000, validation_examples=500
        )
    else:
        console.print(
            "Fashion-MNIST is not on this machine and is left out. To have "
            f"it: {FASHION_MNIST_COMMAND}",
            highlight=False,
        )
    return chosen


def _configs(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """The runs of every method, one for each starting rate."""
    from keras_metalr.benchmark import RunConfig

    options = {"static": {}, "metalr": {"controller": arguments.controller}}
    return {
        method: [
            RunConfig(
                method=method,
                learning_rate=rate,
                seed=arguments.seed,
                epochs=arguments.epochs,
                steps=arguments.steps,
                record_steps=True,
                method_options=options[method],
            )
            for rate in STARTING_RATES
        ]
        for method in METHODS
    }


def _make_runs(
    tasks: dict[str, tuple[Any, Any]],
    configs: dict[str, list[Any]],
    console: Any,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the runs by (data, method), then by starting rate."""
    from rich.progress import BarColumn
    from rich.progress import MofNCompleteColumn
    from rich.progress import Progress
    from rich.progress import TextColumn
    from rich.progress import TimeElapsedColumn

    from keras_metalr.benchmark import run

    columns: dict[tuple[str, str], dict[str, Any]] = {}
    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
    )
    with progress:
        num_runs = len(tasks) * sum(map(len, configs.values()))
        task = progress.add_task("", total=num_runs)
        for title, (workload, data) in tasks.items():
            for method, method_configs in configs.items():
                group = columns.setdefault((title, METHODS[method]), {})
                for config in method_configs:
                    start = f"from {config.learning_rate:g}"
                    text = f"{title}, {METHODS[method]}, {start}"
                    progress.update(task, description=text)
                    group[start] = run(workload, config, data=data)
                    progress.advance(task)
        progress.update(task, description="done")
    return columns


def _tables(columns: dict[tuple[str, str], dict[str, Any]]) -> list[Any]:
    """One table a data set; a run that learned nothing is red."""
    from rich.table import Table

    tables: dict[str, Any] = {}
    for (title, method_title), group in columns.items():
        table = tables.get(title)
        if table is None:
            first = next(iter(group.values()))
            target = first.config["target_accuracy"]
            table = tables[title] = Table(
                title=f"{title}: validation after training",
                title_justify="left",
            )
            table.add_column("method")
            for name in (
                "start",
                "accuracy",
                "loss",
                "F1",
                f"epochs to {target:.0%}",
                "stability",
            ):
                table.add_column(name, justify="right")
        for label, result in group.items():
            table.add_row(
                method_title,
                label.removeprefix("from "),
                *_cells(result),
                style="red" if _has_failed(result) else None,
            )
        table.add_section()
    shown = list(tables.values())
    shown[-1].caption = (
        "Start: learning rate in the optimizer. F1: mean over the "
        "classes. Stability: variance of the training "
        "loss over the second half of the run; smaller is steadier. "
        f"Red: diverged, or an accuracy below {FAILED}; guessing has 0.1."
    )
    return shown


def _cells(result: Any) -> list[str]:
    from keras_metalr.benchmark.text import stability_text

    figures = result.results
    is_missed = figures["epochs_to_target"] == float("inf")
    return [
        f"{figures['eval_accuracy']:.3f}",
        "diverged" if result.diverged else f"{figures['eval_loss']:.3g}",
        f"{figures['eval_f1']:.3f}",
        "missed" if is_missed else f"{figures['epochs_to_target']:.0f}",
        stability_text(figures["stability_last_half"]),
    ]


def _has_failed(result: Any) -> bool:
    return result.diverged or result.results["eval_accuracy"] < FAILED


def _save_picture(
    columns: dict[tuple[str, str], dict[str, Any]], folder: Path
) -> Path:
    from keras_metalr.plotting import plot_comparison

    figure = plot_comparison(
        {
            f"{title}: {method}": runs
            for (title, method), runs in columns.items()
        }
    )
    path = folder / "demo.png"
    figure.savefig(path)
    return path


def _save_rows(
    columns: dict[tuple[str, str], dict[str, Any]],
    arguments: argparse.Namespace,
) -> None:
    from keras_metalr.benchmark.environment import environment
    from keras_metalr.benchmark.identity import controller_identity
    from keras_metalr.benchmark.records import write_json

    rows = [
        {
            "data": title,
            "method": method,
            "optimizer": result.config["options"]["optimizer"],
            "learning_rate": result.config["learning_rate"],
            "accuracy": result.results["eval_accuracy"],
            "loss": result.results["eval_loss"],
            "f1": result.results["eval_f1"],
            "epochs_to_target": result.results["epochs_to_target"],
            "stability": result.results["stability_last_half"],
        }
        for (title, method), group in columns.items()
        for result in group.values()
    ]
    write_json(
        arguments.save_json,
        {
            # The whole run's: one that diverges ends before.
            "steps": max(
                int(result.results["num_steps"])
                for group in columns.values()
                for result in group.values()
            ),
            "seed": arguments.seed,
            "controller": controller_identity(arguments.controller),
            "environment": environment(),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
