"""What scripts share: their flags, one run, one-line errors, their command."""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.competitors import COMPETITORS
from keras_metalr.benchmark.precision import MODES
from keras_metalr.benchmark.records import DamagedRecordError
from keras_metalr.benchmark.records import NotSavedError
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import check_folder
from keras_metalr.benchmark.runner import RunConfig
from keras_metalr.benchmark.runner import run
from keras_metalr.benchmark.text import RESULTS_LINE
from keras_metalr.benchmark.text import environment_text
from keras_metalr.controller import Controller
from keras_metalr.workloads.optimizers import OPTIMIZER_NAMES
from keras_metalr.workloads.workload import DataNotAvailableError
from keras_metalr.workloads.workload import Workload

USAGE_ERROR = 2
STALE = 1
# What comes of flags, data, packages, presets and folders that cannot be used,
# before any work. A backend that does not do, and data that are not there, are
# a RuntimeError.
SETUP_ERRORS = (ImportError, OSError, RuntimeError, ValueError)
# What comes of data, packages, records and folders while runs are made. Any
# other ValueError is not about them, and keeps its traceback.
RUN_ERRORS = (
    DamagedRecordError,
    DataNotAvailableError,
    ImportError,
    OSError,
)
# What comes of records or pages that cannot be read, and of figures that cannot
# be drawn.
PAGE_ERRORS = (ImportError, KeyError, OSError, ValueError)

_SHOWN_RESULTS = (
    *RESULTS_LINE,
    "epochs_to_target",
    "train_runtime",
    "train_steps_per_second",
)


def add_run_arguments(parser: argparse.ArgumentParser, optimizer: str) -> None:
    """Add the flags of one training run.

    Args:
        parser: `argparse.ArgumentParser` to add to.
        optimizer: String, the default of `--optimizer`.
    """
    add = parser.add_argument
    add(
        "--method",
        choices=tuple(COMPETITORS),
        default="metalr",
        help="what sets the learning rate (default: %(default)s)",
    )
    add(
        "--learning-rate",
        type=float,
        help="static: the rate; cosine: the highest rate; metalr: the rate "
        "in the optimizer at the start (default: the task's usual rate)",
    )
    add(
        "--controller",
        help="metalr: name or folder of a controller preset "
        '(default: "general")',
    )
    add(
        "--optimizer",
        choices=OPTIMIZER_NAMES,
        default=optimizer,
        help="(default: %(default)s)",
    )
    add("--epochs", type=int, help="passes over the data")
    add(
        "--steps",
        type=int,
        help="training steps in all, in place of whole passes; with --epochs "
        "they are shared out over that many epochs, and rounded up to whole "
        "ones",
    )
    add("--batch-size", type=int, help="examples in a batch")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--train-examples", type=int, help="train on the first examples only")
    add(
        "--validation-examples",
        type=int,
        help="validate on the first examples only",
    )
    add(
        "--mixed-precision",
        choices=MODES,
        default="auto",
        help="auto: on when there is a GPU (default: %(default)s)",
    )
    add(
        "--record-steps",
        action="store_true",
        help="note the loss of every step (waits for the device each time)",
    )
    add(
        "--download",
        action="store_true",
        help="download the data set when it is not there",
    )
    add(
        "--output",
        default="runs",
        help="folder for the JSON record of the run; a run that is there "
        "already is not made again (default: %(default)s)",
    )


def check_published(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    outputs: Sequence[str],
    choices: Sequence[str],
) -> None:
    """End with a usage error where others would overwrite published figures.

    Args:
        parser: `argparse.ArgumentParser` that the arguments are of. Its
            defaults are what the published figures were made with.
        arguments: What it returned.
        outputs: Sequence of strings, the names of what says where figures are
            written to; by default to where the published ones are.
        choices: Sequence of strings, the names of what figures depend on.
    """

    def is_default(name: str) -> bool:
        value, default = getattr(arguments, name), parser.get_default(name)
        if isinstance(value, Path) and isinstance(default, Path):
            return value.resolve() == default.resolve()
        return bool(value == default)

    def flags(names: Sequence[str]) -> str:
        return " and ".join(f"--{name.replace('_', '-')}" for name in names)

    changed = [name for name in choices if not is_default(name)]
    if changed and any(is_default(name) for name in outputs):
        parser.error(
            f"the published figures are made without {flags(changed)}: name "
            f"{flags(outputs)} for others"
        )


def check_counts(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    least: Mapping[str, int],
) -> None:
    """End with a usage error where a number is too low.

    Args:
        parser: `argparse.ArgumentParser` that the arguments are of.
        arguments: What it returned.
        least: Mapping from names of arguments to the lowest number that each
            may be; one that was not given, `None`, is not looked at.
    """
    for name, lowest in least.items():
        value = getattr(arguments, name)
        if value is not None and value < lowest:
            parser.error(
                f"--{name.replace('_', '-')} must be {lowest} or more. "
                f"Received: {value}"
            )


def check_files(*paths: Path) -> None:
    """Find before any work that a file cannot be written.

    Args:
        *paths: Paths of the files; the folders that they lie in are made.

    Raises:
        OSError: If a path is that of a folder, or nothing can be written
            beside it.
    """
    for path in paths:
        if path.is_dir():
            raise OSError(f"{str(path)!r} is a folder. Name a file.")
        check_folder(path.parent)


def run_from_arguments(
    make_workload: Callable[[], Workload], arguments: argparse.Namespace
) -> int:
    """Make the run that the flags describe, and print its results.

    Args:
        make_workload: Callable without arguments that returns the workload.
        arguments: What the parser returned.

    Returns:
        Exit code: 0, or 2 after a one-line message when the data, the preset,
        a package, the folder or a value of a flag is at fault.
    """
    try:
        workload = make_workload()
        if arguments.batch_size is not None:
            workload = workload.replace(batch_size=arguments.batch_size)
        config = _run_config(arguments)
    except (DataNotAvailableError, ImportError, ValueError) as error:
        return report_error(error)
    try:
        result = run(
            workload,
            config,
            output=arguments.output,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except NotSavedError as error:
        _print_results(error.result)
        return report_error(error)
    except RUN_ERRORS as error:
        return report_error(error)
    _print_results(result)
    return 0


def quiet_tensorflow() -> None:
    """TensorFlow is not to warn of functions that are traced anew.

    Where many runs are made, each has its own model.
    """
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def report_error(error: Exception) -> int:
    """Print an error on one line; return the exit code for it."""
    # The text of a KeyError is the key alone.
    text = repr(error) if isinstance(error, KeyError) else str(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return USAGE_ERROR


def report_stale(what: str, command: str) -> int:
    """Say what is stale, and the command that mends it.

    Args:
        what: String, the pages that do not say what the records say.
        command: String, what writes them again.

    Returns:
        Exit code: 1.
    """
    print(
        f"error: {what}: stale, not what the records say. Run `{command}`.",
        file=sys.stderr,
    )
    return STALE


def command_text(script: str, argv: Sequence[str] | None) -> str:
    """The command that a script was called with, to be kept in what it wrote.

    Args:
        script: String, its path in a checkout, such as `"scripts/demo.py"`.
        argv: Sequence of strings, its flags, or `None`: those that this process
            was called with.
    """
    flags = sys.argv[1:] if argv is None else argv
    return shlex.join(["python", script, *flags])


def check_controller(controller: str) -> None:
    """Load a controller preset, to find it missing before anything is run.

    Args:
        controller: String, the name or the folder of a preset.

    Raises:
        ValueError: If the preset is missing or damaged.
    """
    Controller.from_preset(controller)


def _run_config(arguments: argparse.Namespace) -> RunConfig:
    options = {}
    if arguments.method == "metalr":
        check_controller(arguments.controller or "general")
    if arguments.controller is not None:
        if arguments.method != "metalr":
            raise ValueError(
                "`--controller` goes with `--method metalr`. "
                f"Received: --method {arguments.method}."
            )
        options["controller"] = arguments.controller
    return RunConfig(
        method=arguments.method,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        epochs=arguments.epochs,
        steps=arguments.steps,
        mixed_precision=arguments.mixed_precision,
        record_steps=arguments.record_steps,
        method_options=options,
    )


def _print_results(result: RunResult) -> None:
    if result.resumed:
        print("This run was made before; these are its results.")
    if result.diverged:
        print("The run diverged: its final loss is not a finite number.")
    for name in _SHOWN_RESULTS:
        print(f"{name:24} {result.results[name]:.6g}")
    print(f"{'made with':24} {environment_text(result.environment)}")
    print(f"{'record':24} {result.path or 'not written'}")
