"""The pages of the experiment report, made from what is recorded.

python -m keras_metalr.benchmark.full_report           # write them again
python -m keras_metalr.benchmark.full_report --check   # fail if they are stale
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.command_line import PAGE_ERRORS
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.command_line import report_stale
from keras_metalr.benchmark.full_report.pages import PAGES
from keras_metalr.benchmark.full_report.pages import RESULTS
from keras_metalr.benchmark.full_report.pages import stale_pages
from keras_metalr.benchmark.full_report.pages import write_pages

COMMAND = "python -m keras_metalr.benchmark.full_report"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` compare them.

    Returns:
        Exit code: 0; 1 when `--check` found a stale page; 2 when a file
        cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="folder of the JSON files (default: %(default)s)",
    )
    parser.add_argument(
        "--pages",
        type=Path,
        default=PAGES,
        help="folder of the pages (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        if not arguments.check:
            for path in write_pages(arguments.results, arguments.pages):
                print(path)
            return 0
        stale = stale_pages(arguments.results, arguments.pages)
    except PAGE_ERRORS as error:
        return report_error(error)
    if stale:
        return report_stale(", ".join(map(str, stale)), COMMAND)
    print(f"{arguments.pages}: the pages say what {arguments.results} says.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
