"""Tables within pages that are else written by hand, from recorded results.

    python -m keras_metalr.benchmark.report           # rewrite the tables
    python -m keras_metalr.benchmark.report --check   # fail if one is stale

A table stands between `<!-- table:NAME -->` and `<!-- end -->`. Nothing there
is written by hand, so that no figure outlives the run that it came from.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.command_line import PAGE_ERRORS
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.command_line import report_stale
from keras_metalr.benchmark.records import check_records
from keras_metalr.benchmark.records import write_text
from keras_metalr.benchmark.tables import tables

COMMAND = "python -m keras_metalr.benchmark.report"
PAGES = (Path("README.md"), Path("docs/design.md"))
_BLOCK = re.compile(
    r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL
)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the tables of all pages, or with `--check` compare them.

    Returns:
        Exit code: 0; 1 when `--check` found a stale table; 2 when a file
        cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES)
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results")
    )
    arguments = parser.parse_args(argv)
    try:
        check_records(arguments.results)
        old = {
            page: page.read_text(encoding="utf-8") for page in arguments.pages
        }
        bodies = tables(arguments.results)
        new = {page: filled(text, bodies) for page, text in old.items()}
    except PAGE_ERRORS as error:
        return report_error(error)
    code = 0
    for page in old:
        stale = ", ".join(stale_tables(old[page], new[page]))
        if stale and arguments.check:
            code = report_stale(f"{page}, tables {stale}", COMMAND)
            continue
        if stale:
            write_text(page, new[page])
        print(f"{page}: {stale or 'nothing'} changed.")
    return code


def filled(text: str, bodies: Mapping[str, str]) -> str:
    """Put the tables between their markers.

    Args:
        text: String, Markdown with markers.
        bodies: Mapping from a table's name to its Markdown.

    Returns:
        The new text.

    Raises:
        ValueError: If a marker names no table, or lacks its end.
    """

    def replacement(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in bodies:
            raise ValueError(
                f"There is no table {name!r}. Expected one of {list(bodies)}."
            )
        return f"{match[1]}{bodies[name].strip()}\n{match[4]}"

    num_markers = text.count("<!-- table:")
    if num_markers != len(_BLOCK.findall(text)):
        raise ValueError(
            "Every `<!-- table:NAME -->` needs a line end after it and an "
            f"`<!-- end -->` of its own. Received: {num_markers} markers, "
            f"{len(_BLOCK.findall(text))} of them whole."
        )
    return _BLOCK.sub(replacement, text)


def stale_tables(old: str, new: str) -> list[str]:
    """Names of the tables that differ between two texts."""
    pairs = zip(_BLOCK.finditer(old), _BLOCK.finditer(new), strict=True)
    return [a["name"] for a, b in pairs if a["body"] != b["body"]]


if __name__ == "__main__":
    sys.exit(main())
