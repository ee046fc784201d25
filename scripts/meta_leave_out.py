"""What the controller reaches on a family of tasks that was left out.

    KERAS_BACKEND=jax python scripts/meta_leave_out.py

Evolves a controller without each family, and one with all of them, and writes
the scores on held-out tasks (JSON) and their page (Markdown). An interrupted
call goes on where it was: banks and evolutions are kept in `--work`.
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
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.controller import Controller
from keras_metalr.meta_training.arenas import kept_data
from keras_metalr.meta_training.arenas import kept_notes
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.configs import Stage
from keras_metalr.meta_training.data import add_data_argument
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.leave_out import leave_out
from keras_metalr.meta_training.leave_out import make_page
from keras_metalr.meta_training.train import check_backend
from keras_metalr.update_rule import RULE_VERSION

RESULTS = pathlib.Path("benchmarks/results")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the flags, evolve and score."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    check_published(
        parser,
        arguments,
        ("json", "page"),
        (
            "start",
            "families",
            "among",
            "generations",
            "pairs",
            "tasks",
            "held_out",
            "decisions",
            "data",
        ),
    )
    _check_flags(parser, arguments)
    try:
        check_backend()
        check_files(arguments.json, arguments.page)
        start = Controller.from_preset(arguments.start)
        data, names = kept_data(arguments.work, arguments.data)
    except SETUP_ERRORS as error:
        raise SystemExit(report_error(error)) from error
    config = EvolutionConfig(arguments.generations, arguments.pairs)
    numbers = arguments.decisions, 1, arguments.tasks, arguments.held_out
    table = leave_out(
        [Stage(family, *numbers) for family in arguments.among],
        arguments.families,
        start,
        config,
        data,
        names,
        arguments.work,
        say=lambda line: print(line, flush=True),
    )
    record = {
        "table": table,
        "command": command_text("scripts/meta_leave_out.py", argv),
        "evolution": config._asdict(),
        "num_steps": arguments.decisions,
        "num_tasks": arguments.tasks,
        "num_held_out": arguments.held_out,
        "data": names,
        "data_notes": kept_notes(arguments.work),
        "rule_version": RULE_VERSION,
        "device": jax.devices()[0].device_kind,
        "environment": environment(),
    }
    write_json(arguments.json, record)
    write_text(arguments.page, make_page(record))


def _check_flags(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    counts = ("generations", "pairs", "tasks", "held_out", "decisions")
    check_counts(parser, arguments, dict.fromkeys(counts, 1))
    unknown = sorted(set(arguments.families) - set(arguments.among))
    if unknown or len(set(arguments.among)) < 2:
        parser.error(
            "--among must be two families or more, with all of --families. "
            f"Received: {arguments.among}"
            + (f", without {unknown}" if unknown else "")
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--start", default="supervised", help="preset or folder")
    add(
        "--families",
        nargs="+",
        choices=tuple(FAMILIES),
        default=list(FAMILIES),
        help="each is left out once",
    )
    add(
        "--among",
        nargs="+",
        choices=tuple(FAMILIES),
        default=list(FAMILIES),
        help="all there are",
    )
    add("--generations", type=int, default=120)
    add("--pairs", type=int, default=32, help="antithetic, in a generation")
    add("--tasks", type=int, default=64, help="of each family to train on")
    add("--held-out", type=int, default=32, help="tasks of each to test on")
    add("--decisions", type=int, default=200, help="steps of a run")
    add("--work", type=pathlib.Path, default=pathlib.Path("runs/leave-out"))
    add("--json", type=pathlib.Path, default=RESULTS / "leave_out.json")
    add("--page", type=pathlib.Path, default=pathlib.Path("docs/leave_out.md"))
    add_data_argument(parser)
    return parser


if __name__ == "__main__":
    main()
