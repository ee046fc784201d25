"""What each part of the control is worth, in regret, on fresh small tasks.

    KERAS_BACKEND=jax python scripts/meta_ablation.py

Takes parts of the control away from a shipped controller, one by one, and
writes the scores (JSON) and their page (Markdown).
"""

import argparse
import os
import pathlib
import shlex
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax

from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.controller import Controller
from keras_metalr.meta_training.ablation import ablate
from keras_metalr.meta_training.ablation import make_page
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.train import check_backend


def main(arguments: list[str] | None = None) -> None:
    """Read the flags and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--controller", default="general", help="preset or folder")
    add("--start", default="supervised", help="preset or folder")
    add("--tasks", type=int, default=64, help="of each family")
    add(
        "--families",
        nargs="+",
        default=["dense", "dense_batchnorm", "autoencoder"],
    )
    add("--rows", nargs="+", help="names of rows (default: all)")
    add(
        "--json",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/ablation.json"),
    )
    add("--page", type=pathlib.Path, default=pathlib.Path("docs/ablation.md"))
    options = parser.parse_args(arguments)
    check_backend()
    data, names = load_data()
    table = ablate(
        Controller.from_preset(options.controller),
        Controller.from_preset(options.start),
        data,
        tuple(options.families),
        options.tasks,
        options.rows,
        say=lambda line: print(line, flush=True),
    )
    words = sys.argv[1:] if arguments is None else arguments
    record = {
        "table": table,
        "command": shlex.join(["python", "scripts/meta_ablation.py", *words]),
        "controller": controller_mark(options.controller, digits=8),
        "num_tasks": options.tasks,
        "data": names,
        "device": jax.devices()[0].device_kind,
    }
    write_json(options.json, record)
    write_text(options.page, make_page(record))


if __name__ == "__main__":
    main()
