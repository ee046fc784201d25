"""What each part of the control is worth, in regret, on fresh small tasks.

    KERAS_BACKEND=jax python scripts/meta_ablation.py

Takes parts of the control away from a shipped controller, one by one, and
writes the scores (JSON) and their page (Markdown).
"""

import argparse
import os
import pathlib
from collections.abc import Sequence

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax

from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_files
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.command_line import command_text
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.controller import Controller
from keras_metalr.meta_training.ablation import ablate
from keras_metalr.meta_training.ablation import make_page
from keras_metalr.meta_training.ablation import parts
from keras_metalr.meta_training.data import add_data_argument
from keras_metalr.meta_training.data import data_notes
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.train import check_backend


def main(argv: Sequence[str] | None = None) -> None:
    """Read the flags and measure."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    check_published(
        parser,
        arguments,
        ("json", "page"),
        ("controller", "start", "tasks", "families", "rows", "data"),
    )
    check_counts(parser, arguments, {"tasks": 1})
    try:
        check_backend()
        check_files(arguments.json, arguments.page)
        controller = Controller.from_preset(arguments.controller)
        start = Controller.from_preset(arguments.start)
        data, names = load_data(arguments.data)
    except SETUP_ERRORS as error:
        raise SystemExit(report_error(error)) from error
    table = ablate(
        controller,
        start,
        data,
        tuple(arguments.families),
        arguments.tasks,
        arguments.rows,
        say=lambda line: print(line, flush=True),
    )
    record = {
        "table": table,
        "command": command_text("scripts/meta_ablation.py", argv),
        "controller": controller_mark(arguments.controller, digits=8),
        "num_tasks": arguments.tasks,
        "data": names,
        "data_notes": data_notes(names),
        "device": jax.devices()[0].device_kind,
        "environment": environment(),
    }
    write_json(arguments.json, record)
    write_text(arguments.page, make_page(record))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--controller", default="general", help="preset or folder")
    add("--start", default="supervised", help="preset or folder")
    add("--tasks", type=int, default=32, help="of each family")
    add(
        "--families",
        nargs="+",
        choices=tuple(FAMILIES),
        default=["dense", "dense_batchnorm", "autoencoder"],
        help="of tasks",
    )
    add(
        "--rows",
        nargs="+",
        choices=[part.name for part in parts()],
        metavar="ROW",
        help="names of rows (default: all)",
    )
    add(
        "--json",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/ablation.json"),
    )
    add("--page", type=pathlib.Path, default=pathlib.Path("docs/ablation.md"))
    add_data_argument(parser)
    return parser


if __name__ == "__main__":
    main()
