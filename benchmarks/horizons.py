"""Runs far longer and far shorter than those that meta-training had.

    KERAS_BACKEND=jax python benchmarks/horizons.py
    python benchmarks/horizons.py --check    # is the page stale?

A dense net and a convnet on Fashion-MNIST for 50 and for 20,000 steps; a
residual net on CIFAR-10 and an LSTM on SST-2 for 3,000: MetaLR from two first
rates, cosines from four highest rates, and the usual constant rate. An hour or
two on two CPU cores. Runs that are there already are not made again.
"""

import functools
import os
import pathlib
import statistics
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_metalr import workloads
from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.comparison import check_settings
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import is_claimed_by_another
from keras_metalr.benchmark.page_command import folder_text
from keras_metalr.benchmark.page_command import make_or_check
from keras_metalr.benchmark.page_command import page_parser
from keras_metalr.benchmark.page_command import recorded_runs
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.text import METHOD_NAMES
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import markdown_table
from keras_metalr.benchmark.text import rate_text
from keras_metalr.workloads.suite import SUITE
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "horizons"
PAGE = ROOT / "docs" / "horizons.md"
COMMAND = "KERAS_BACKEND=jax python benchmarks/horizons.py"
NUM_VALIDATIONS = 10
# MetaLR's two starts, and what a cosine is tried at, over the usual rate.
STARTS = (1e-6, 10.0)
SCALES = (1.0, 3.0, 10.0, 30.0)
HEAD = """
# Short and long runs

The shipped controller was trained on runs of 50 to 1,000 steps of far smaller
nets. A cosine, like MetaLR, knows the length of the run; where the best of its
four rates is the first or the last, a better one may lie beyond. Means over the
seeds, on validation data that MetaLR reads; *lowest*: the lowest accuracy of
any seed; *highest rate*: the highest of any; *last rate*: the geometric mean.
"""
FOOT = """
Made by `KERAS_BACKEND=jax python benchmarks/horizons.py --seeds {seeds}` from
`{folder}`; {environment}.
"""
COLUMNS = (
    "method",
    "rate",
    "accuracy",
    "lowest",
    "loss",
    "highest rate",
    "last rate",
    "seeds",
)


class Task(NamedTuple):
    """What is trained, and for how many steps each time."""

    workload: Workload
    num_steps: tuple[int, ...]


def tasks() -> dict[str, Task]:
    """The nets by their titles."""

    def larger(name: str, load: Callable[..., Data], *counts: int) -> Workload:
        """A workload of the suite on more data, as long runs have them."""
        loaded = functools.partial(load, *counts)
        return SUITE[name].workload().replace(load_data=loaded)

    return {
        "Dense net, 784-64-10, Adam, batches of 32; Fashion-MNIST, 48,000 "
        "images": Task(
            workloads.get(
                "report_mlp", train_examples=48_000, validation_examples=10_000
            ),
            (50, 20_000),
        ),
        "Convnet with batch normalization, SGD with momentum, batches of 64; "
        "Fashion-MNIST at 14 pixels, 48,000 images": Task(
            larger(
                "fashion_batchnorm", media.load_fashion_halved, 48_000, 10_000
            ),
            (50, 20_000),
        ),
        "Residual convnet, AdamW, batches of 64; CIFAR-10 at 16 pixels, 40,000 "
        "images": Task(
            larger(
                "cifar10_residual", media.load_cifar10_halved, 40_000, 5_000
            ),
            (3_000,),
        ),
        "LSTM, Adam, batches of 64; SST-2, 60,000 phrases": Task(
            larger("sst2_recurrent", media.load_sst2_words, 60_000, 872),
            (3_000,),
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing and the page, or compare it."""
    parser = page_parser(__doc__, RESULTS, PAGE)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args(argv)
    check_counts(parser, arguments, {"seeds": 1})
    if not arguments.check:
        check_published(parser, arguments, ("output", "page"), ("seeds",))
    plan = (
        (
            workload,
            [
                job
                for num_steps in lengths
                for job in _jobs(title, workload, num_steps, arguments.seeds)
            ],
        )
        for title, (workload, lengths) in tasks().items()
    )
    return make_or_check(parser, arguments, plan, page, COMMAND)


def _jobs(
    title: str, workload: Workload, num_steps: int, num_seeds: int
) -> Iterator[Job]:
    usual = workload.learning_rate
    rates = {
        "metalr": STARTS,
        "cosine": tuple(scale * usual for scale in SCALES),
        "static": (usual,),
    }
    for method, rate, seed in (
        (method, rate, seed)
        for method, values in rates.items()
        for rate in values
        for seed in range(num_seeds)
    ):
        yield Job(
            title=f"{title}: {num_steps} steps, {method}, {rate:g}, {seed}",
            workload=workload,
            config=RunConfig(
                method=method,
                learning_rate=rate,
                seed=seed,
                steps=num_steps,
                epochs=NUM_VALIDATIONS,
            ),
        )


def page(folder: pathlib.Path) -> str:
    """Markdown of the records in a folder."""
    runs = recorded_runs(folder)
    seeds = {run.config["seed"] for run in runs}
    places = {environment_text(run.environment) for run in runs}
    parts = [HEAD.strip()]
    for title, (workload, _) in tasks().items():
        parts.append(f"## {title}")
        mine = [run for run in runs if run.config["workload"] == workload.name]
        notes = {run.data_note for run in mine} - {""}
        parts += [f"Data: {note}." for note in sorted(notes)]
        for num_steps in sorted({run.config["steps"] for run in mine}):
            chosen = [run for run in mine if run.config["steps"] == num_steps]
            check_settings(chosen)
            parts.append(f"{num_steps:,} steps:")
            parts.append(markdown_table(COLUMNS, _rows(chosen)))
    if is_claimed_by_another(folder):
        parts.append(OTHER_CONTROLLER)
    foot = FOOT.strip().format(
        seeds=len(seeds),
        folder=folder_text(folder, ROOT),
        environment="; ".join(sorted(places)),
    )
    return "\n\n".join([*parts, foot]) + "\n"


def _rows(runs: Sequence[RunResult]) -> Iterator[tuple[str, ...]]:
    """A row for each method and rate, in the order they are run in."""
    for method in ("metalr", "cosine", "static"):
        mine = [run for run in runs if run.config["method"] == method]
        for rate in sorted({run.config["learning_rate"] for run in mine}):
            yield _row(
                [run for run in mine if run.config["learning_rate"] == rate]
            )


def _row(runs: Sequence[RunResult]) -> tuple[str, ...]:
    accuracies = [run.results["eval_accuracy"] for run in runs]
    used = [run.curves["learning_rate"]["value"] for run in runs]
    config = runs[0].config
    return (
        METHOD_NAMES[config["method"]],
        rate_text(config["learning_rate"]),
        f"{statistics.fmean(accuracies):.4f}",
        f"{min(accuracies):.4f}",
        f"{statistics.fmean(run.results['eval_loss'] for run in runs):.3f}",
        f"{max(map(max, used)):.2g}",
        f"{_mean_of_last(used):.2g}",
        f"{len(runs)}",
    )


def _mean_of_last(curves: Sequence[Sequence[float]]) -> float:
    """Geometric mean; 0 where a schedule ends there."""
    last = [rates[-1] for rates in curves]
    return statistics.geometric_mean(last) if min(last) > 0.0 else 0.0


if __name__ == "__main__":
    sys.exit(main())
