"""The command of a benchmark that makes runs, and one page of them."""

import argparse
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from keras_metalr.benchmark.command_line import PAGE_ERRORS
from keras_metalr.benchmark.command_line import check_files
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.command_line import report_stale
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.experiment import claim_folder
from keras_metalr.benchmark.experiment import make_runs
from keras_metalr.benchmark.identity import CONTROLLER_FILE
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import check_records
from keras_metalr.benchmark.records import read_text
from keras_metalr.benchmark.records import write_text
from keras_metalr.workloads.workload import DataNotAvailableError
from keras_metalr.workloads.workload import Workload


def page_parser(
    description: str, output: Path, page: Path
) -> argparse.ArgumentParser:
    """A parser with `--check`, `--output` and `--page`.

    Args:
        description: String, what the script says of itself.
        output: Path, the default folder of records.
        page: Path, the default page.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--check", action="store_true", help="run nothing: is the page stale?")
    add("--output", type=Path, default=output)
    add("--page", type=Path, default=page)
    return parser


def folder_text(folder: Path, root: Path) -> str:
    """What a page calls the folder of its records.

    Its path in the checkout; of any other its name, since where it lies is
    nobody's business.

    Args:
        folder: Path.
        root: Path of the checkout.
    """
    folder, root = folder.resolve(), root.resolve()
    if folder.is_relative_to(root):
        return folder.relative_to(root).as_posix()
    return folder.name


def make_or_check(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    plan: Iterable[tuple[Workload, Sequence[Job]]],
    make_page: Callable[[Path], str],
    command: str,
) -> int:
    """Make the runs that are missing and the page, or compare it.

    Ends with a usage error where of the folder and the page one is the
    published one and the other is not.

    Args:
        parser: A `page_parser`.
        arguments: What it has read.
        plan: Iterable of workloads and their jobs.
        make_page: Callable from the folder of records to the page, Markdown.
        command: String, what makes the page, for the one who has a stale one.

    Returns:
        The exit status: 0; 1 for a stale page; 2 where something is missing
        or damaged, which is said in a line.
    """
    if arguments.check:
        try:
            check_records(arguments.output)
            fresh = make_page(arguments.output)
            is_fresh = read_text(arguments.page) == fresh
        except PAGE_ERRORS as error:
            return report_error(error)
        return 0 if is_fresh else report_stale(str(arguments.page), command)
    check_published(parser, arguments, ("page",), ("output",))
    check_published(parser, arguments, ("output",), ("page",))
    try:
        check_files(arguments.page)
        claim_folder(arguments.output)
        # The page has all of them: one that is damaged is found before runs.
        recorded_runs(arguments.output)
        for workload, jobs in plan:
            data = workload.load_data()
            make_runs(jobs, data, arguments.output, Console())
    except (DataNotAvailableError, ImportError, OSError, ValueError) as error:
        return report_error(error)
    try:
        write_text(arguments.page, make_page(arguments.output))
    except PAGE_ERRORS as error:
        return report_error(error)
    return 0


def recorded_runs(folder: Path) -> list[RunResult]:
    """The records of a folder, by their names.

    Args:
        folder: Path.
    """
    return [
        RunResult.load(path)
        for path in sorted(folder.glob("*.json"))
        if path.name != CONTROLLER_FILE
    ]
