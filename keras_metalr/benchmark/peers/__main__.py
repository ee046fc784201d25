"""Writes the page of the side-by-side benchmark, or checks it.

python -m keras_metalr.benchmark.peers            # write docs/benchmark.md
python -m keras_metalr.benchmark.peers --check    # fail if it is stale
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.command_line import PAGE_ERRORS
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.command_line import report_stale
from keras_metalr.benchmark.peers.packed import PAGE
from keras_metalr.benchmark.peers.packed import RECORDS
from keras_metalr.benchmark.peers.packed import load_packed
from keras_metalr.benchmark.peers.packed import no_plan
from keras_metalr.benchmark.peers.page import FIGURES
from keras_metalr.benchmark.peers.page import drawn_digest
from keras_metalr.benchmark.peers.page import is_drawn_from
from keras_metalr.benchmark.peers.page import page
from keras_metalr.benchmark.peers.page import write_figures
from keras_metalr.benchmark.records import read_text
from keras_metalr.benchmark.records import write_text

COMMAND = "python -m keras_metalr.benchmark.peers"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and its figures, or with `--check` compare them.

    Returns:
        Exit code: 0; 1 when `--check` found a stale or missing file; 2 when a
        file cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--records",
        type=Path,
        default=RECORDS,
        help="folder of the packed runs (default: %(default)s)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=PAGE,
        help="the figures lie beside it (default: %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args(argv)
    folder = arguments.page.parent
    try:
        packed = load_packed(arguments.records)
        if packed is None:
            raise ValueError(no_plan(arguments.records))
        text = page(packed)
        if not arguments.check:
            # The page names the figures that it goes with: those first.
            write_figures(packed, folder)
            write_text(arguments.page, text)
            return 0
        is_fresh = read_text(arguments.page) == text
    except PAGE_ERRORS as error:
        return report_error(error)
    stale = [] if is_fresh else [arguments.page]
    drawn = drawn_digest(packed)
    stale += [
        path
        for name in FIGURES
        if not is_drawn_from(path := folder / name, drawn)
    ]
    if stale:
        return report_stale(", ".join(map(str, stale)), COMMAND)
    return 0


if __name__ == "__main__":
    sys.exit(main())
