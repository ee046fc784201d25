"""Writes the page of the side-by-side benchmark, or checks it.

python -m keras_metalr.benchmark.peers            # write docs/benchmark.md
python -m keras_metalr.benchmark.peers --check    # fail if it is stale
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.peers.packed import load_packed
from keras_metalr.benchmark.peers.page import FIGURES
from keras_metalr.benchmark.peers.page import page
from keras_metalr.benchmark.peers.page import write_figures
from keras_metalr.benchmark.records import write_text

RECORDS = Path("benchmarks/results/peers")
PAGE = Path("docs/benchmark.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its figures, or with `--check` compare them.

    Returns:
        Exit code: 0; 1 when `--check` found a stale or missing file.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    packed = load_packed(options.records)
    text = page(packed)
    folder = options.page.parent
    if not options.check:
        write_text(options.page, text)
        if packed is not None:
            write_figures(packed, folder)
        return 0
    names = () if packed is None else FIGURES
    is_fresh = options.page.is_file() and (
        options.page.read_text(encoding="utf-8") == text
    )
    if is_fresh and all((folder / name).is_file() for name in names):
        return 0
    print(
        f"{options.page} or its figures differ from the records in "
        f"{options.records}. Run `python -m keras_metalr.benchmark.peers`.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
