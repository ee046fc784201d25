"""The pages of the experiment report, made from what is recorded.

python -m keras_metalr.benchmark.full_report           # write them again
python -m keras_metalr.benchmark.full_report --check   # fail if they are stale
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.full_report.pages import stale_pages
from keras_metalr.benchmark.full_report.pages import write_pages

RESULTS = Path("benchmarks/results/report")
PAGES = Path("docs")


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
    except (ImportError, KeyError, OSError, ValueError) as error:
        return report_error(error)
    if stale:
        print(
            f"error: {', '.join(map(str, stale))}: not what "
            f"{arguments.results} says. Run "
            "`python -m keras_metalr.benchmark.full_report`.",
            file=sys.stderr,
        )
        return 1
    print(f"{arguments.pages}: the pages say what {arguments.results} says.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
