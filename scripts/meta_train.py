"""Meta-train the controller and write it as a preset.

    KERAS_BACKEND=jax python scripts/meta_train.py --config general \\
        --output keras_metalr/presets/general

Starts from a preset (the supervised fit of phases 1 and 2), evolves it on small
runs, and tests it on tasks that it was not trained on. An interrupted call goes
on where it was: banks of tuned tasks and the evolution are kept in `--work`.
"""

import argparse
import os
import pathlib
from collections.abc import Sequence

os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_metalr.benchmark.command_line import check_controller
from keras_metalr.benchmark.command_line import command_text
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.meta_training.arenas import kept_data
from keras_metalr.meta_training.configs import CONFIGS
from keras_metalr.meta_training.data import add_data_argument
from keras_metalr.meta_training.processes import is_first
from keras_metalr.meta_training.processes import join
from keras_metalr.meta_training.train import check_backend
from keras_metalr.meta_training.train import meta_train
from keras_metalr.meta_training.train import score_again
from keras_metalr.meta_training.train import scored_record
from keras_metalr.workloads.workload import DataNotAvailableError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", choices=sorted(CONFIGS), default="general")
    parser.add_argument(
        "--start", default="supervised", help="preset or folder"
    )
    parser.add_argument(
        "--work", type=pathlib.Path, default=pathlib.Path("runs/meta")
    )
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument(
        "--generations", type=int, help="instead of the configuration's"
    )
    parser.add_argument(
        "--pairs",
        type=int,
        help="antithetic pairs in a generation, instead of the "
        "configuration's; on a GPU many more cost little",
    )
    parser.add_argument(
        "--score-again",
        action="store_true",
        help="train nothing: score the preset in --output on the stages of "
        "--config as the package is now, and renew its card",
    )
    group = parser.add_argument_group(
        "several processes",
        "On one machine or many: the same command in each, with a number of "
        "its own, and a folder --work that all see.",
    )
    group.add_argument("--coordinator", help="HOST:PORT of process 0")
    group.add_argument("--num-processes", type=int)
    group.add_argument("--process-id", type=int, help="from 0")
    add_data_argument(parser)
    return parser


def _join(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    """Become one of several processes, where that is asked for."""
    told = (
        arguments.coordinator,
        arguments.num_processes,
        arguments.process_id,
    )
    if all(value is None for value in told):
        return
    if None in told or arguments.score_again:
        parser.error(
            "--coordinator, --num-processes and --process-id go together, and "
            "not with --score-again"
        )
    try:
        join(*told)
    except ValueError as error:
        parser.error(str(error))


def _check_nothing_else(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    """To score again, all else is as the preset's own record has it."""
    unused = ("start", "generations", "pairs", "data")
    given = [
        f"--{name}"
        for name in unused
        if getattr(arguments, name) != parser.get_default(name)
    ]
    if given:
        parser.error(
            f"--score-again scores what --output holds: leave {given} out"
        )


def _changes(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> dict[str, int]:
    """What of the configuration's evolution is to be otherwise."""
    changes = {
        "num_generations": arguments.generations,
        "num_pairs": arguments.pairs,
    }
    changes = {k: v for k, v in changes.items() if v is not None}
    if any(value < 1 for value in changes.values()):
        parser.error(
            f"--generations and --pairs must be 1 or more. Received: {changes}"
        )
    return changes


def _prepare(arguments: argparse.Namespace) -> None:
    """Find what the flags name to be missing before anything is run."""
    data = arguments.data
    if arguments.score_again:
        data = scored_record(arguments.output)["data"]
    else:
        check_controller(arguments.start)
    if is_first():
        kept_data(arguments.work, data)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the flags and train."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    check_backend()
    _join(parser, arguments)

    def say(line: str) -> None:
        print(line, flush=True)

    config = CONFIGS[arguments.config]
    if arguments.score_again:
        _check_nothing_else(parser, arguments)
    else:
        changes = _changes(parser, arguments)
        config = config._replace(evolution=config.evolution._replace(**changes))
    try:
        _prepare(arguments)
    except (DataNotAvailableError, ValueError) as error:
        raise SystemExit(report_error(error)) from error
    if arguments.score_again:
        score_again(arguments.output, arguments.work, config, say)
        return
    meta_train(
        arguments.output.name,
        config,
        arguments.start,
        arguments.work,
        arguments.output,
        command_text("scripts/meta_train.py", argv),
        say,
    )


if __name__ == "__main__":
    main()
