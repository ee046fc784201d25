"""Nets that meta-training has not seen, beside tuned schedules.

    KERAS_BACKEND=jax python benchmarks/unfamiliar.py
    python benchmarks/unfamiliar.py --check    # is the page stale?

Word vectors, deep tanh layers, a vision transformer, RMSprop on an LSTM, Lion
and Muon on convnets; a likelihood, Huber's loss, noise to be told, large
batches: constant rates and cosines at nine rates each, and MetaLR. An hour on
two CPU cores. Runs that are there already are not made again.

They show where rules are missing, so that rules may be made by them: what is
measured here is no proof of a rule that came later.
"""

import os
import pathlib
import statistics
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_metalr.benchmark import RunConfig
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
from keras_metalr.workloads.unfamiliar import kind_nets
from keras_metalr.workloads.unfamiliar import loss_nets
from keras_metalr.workloads.unfamiliar.net import NUM_VALIDATIONS
from keras_metalr.workloads.unfamiliar.net import START
from keras_metalr.workloads.workload import Workload

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "unfamiliar"
PAGE = ROOT / "docs" / "unfamiliar.md"
COMMAND = "KERAS_BACKEND=jax python benchmarks/unfamiliar.py"
RATES = tuple(float(f"{rate:.2g}") for rate in np.geomspace(1e-4, 1.0, 9))
SCHEDULES = ("static", "cosine")
SEEDS = (0, 1)
NUM_STEPS = 400

HEAD = """
# Nets that meta-training has not seen

MetaLR, two seeds, beside the best of {count} runs with seed 0: a constant rate
and a cosine, each at {rates} rates from {low} to {high}. Loss and accuracy on
validation data at the end, which MetaLR reads, and which the best of the
schedules was chosen by. MetaLR's is the mean of its seeds; its *rate*: that at
half of the run, of seed 0.
"""
FOOT = """
Meta-training has seen none of these. Version 6 of the update rule was chosen
on sixteen other nets, of the kinds in the first table and of others: the nets
above are new to the controller, but their kinds no longer to the rule. The nets
of the second table were first tried at slightly other sizes, and version 7 was
chosen on most of these; that it leaves word vectors alone, on what it would
have done to `skip_gram` and `word_gru`; and version 8 on eleven others of the
kinds of both (`docs/design.md`). The products of word vectors have no biases,
and were first taken for pretrained; since that trial what initializers give is
seen to be new. Made by
`{command}` from
`{folder}`; {environment}.
"""
# Where MetaLR's rate at half of the run is lower than this share of the best
# schedule's, the page says so.
FAR_LOWER = 0.1
LOW_RATES = """
By half of the run MetaLR's rate is less than a tenth of the schedule's on:
{nets}.
What is known of it stands in `docs/design.md`, "Where it loses to tuned
schedules".
"""
COLUMNS = (
    "net",
    "steps",
    "best schedule",
    "loss",
    "accuracy",
    "MetaLR, rate",
    "loss",
    "accuracy",
)


def groups() -> dict[str, dict[str, Workload]]:
    """By what is unfamiliar of them, the nets by their titles."""
    return {
        "Kinds of nets": kind_nets(),
        "Losses, batches and layers": loss_nets(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing and the page, or compare it."""
    parser = page_parser(__doc__, RESULTS, PAGE)
    nets = {
        title: workload
        for group in groups().values()
        for title, workload in group.items()
    }
    names = [workload.name for workload in nets.values()]
    parser.add_argument(
        "--nets", nargs="+", choices=names, default=names, help="to train"
    )
    arguments = parser.parse_args(argv)
    plan = (
        (workload, list(_jobs(title, workload)))
        for title, workload in nets.items()
        if workload.name in arguments.nets
    )
    return make_or_check(parser, arguments, plan, page, COMMAND)


def _jobs(title: str, workload: Workload) -> Iterator[Job]:
    choices = [(method, rate, 0) for method in SCHEDULES for rate in RATES] + [
        ("metalr", START, seed) for seed in SEEDS
    ]
    for method, rate, seed in choices:
        yield Job(
            title=f"{title}: {method}, {rate:g}, {seed}",
            workload=workload,
            config=RunConfig(
                method=method,
                learning_rate=rate,
                seed=seed,
                steps=NUM_STEPS,
                epochs=NUM_VALIDATIONS,
            ),
        )


def page(folder: pathlib.Path) -> str:
    """Markdown of the records in a folder."""
    runs = recorded_runs(folder)
    places = {environment_text(run.environment) for run in runs}
    tables = []
    for group, nets in groups().items():
        finished = {
            title: mine
            for title, workload in nets.items()
            if _is_finished(mine := _runs_of(workload, runs))
        }
        if finished:
            tables += [f"## {group}", *_group(finished)]
    head = HEAD.strip().format(
        count=len(SCHEDULES) * len(RATES),
        rates=len(RATES),
        low=rate_text(RATES[0]),
        high=rate_text(RATES[-1]),
    )
    foot = FOOT.strip().format(
        command=COMMAND,
        folder=folder_text(folder, ROOT),
        environment="; ".join(sorted(places)),
    )
    parts = [head, *tables, "## How they were made"]
    if is_claimed_by_another(folder):
        parts.append(OTHER_CONTROLLER)
    return "\n\n".join([*parts, foot]) + "\n"


def _runs_of(workload: Workload, runs: Sequence[RunResult]) -> list[RunResult]:
    return [run for run in runs if run.config["workload"] == workload.name]


def _is_finished(runs: Sequence[RunResult]) -> bool:
    """Whether MetaLR, which comes last, has made all of its runs."""
    return set(SEEDS) <= {run.config["seed"] for run in _controlled(runs)}


def _controlled(runs: Sequence[RunResult]) -> list[RunResult]:
    return [run for run in runs if run.config["method"] == "metalr"]


def _group(nets: Mapping[str, Sequence[RunResult]]) -> list[str]:
    """The table of some nets, by their titles, and what is to be said of it."""
    rows = []
    notes = set()
    low = []
    for title, runs in nets.items():
        check_settings(runs)
        rows.append(_row(title, runs))
        if _is_far_lower(runs):
            low.append(title.partition(";")[0])
        notes |= {
            f"Data of the {title}: {run.data_note}."
            for run in runs
            if run.data_note
        }
    parts = [markdown_table(COLUMNS, rows), *sorted(notes)]
    if low:
        parts.append(LOW_RATES.strip().format(nets="; ".join(low)))
    return parts


def _row(title: str, runs: Sequence[RunResult]) -> tuple[str, ...]:
    """The best of the schedules, and MetaLR's mean over its seeds."""
    controlled = _controlled(runs)
    best = _best_schedule(runs)
    config = best.config
    return (
        title,
        f"{best.results['num_steps']}",
        f"{METHOD_NAMES[config['method']]}, "
        f"{rate_text(config['learning_rate'])}",
        *_figures([best]),
        f"{_rate_at_half(controlled[0]):.2g}",
        *_figures(controlled),
    )


def _figures(runs: Sequence[RunResult]) -> tuple[str, str]:
    """Mean loss and accuracy at the end; a dash where there are no classes."""
    loss = statistics.fmean(map(_loss, runs))
    loss_text = f"{loss:.3f}" if abs(loss) >= 0.1 else f"{loss:.2g}"
    if any("eval_accuracy" not in run.results for run in runs):
        return loss_text, "-"
    accuracies = [run.results["eval_accuracy"] for run in runs]
    return loss_text, f"{statistics.fmean(accuracies):.3f}"


def _best_schedule(runs: Sequence[RunResult]) -> RunResult:
    return min(
        (run for run in runs if run.config["method"] in SCHEDULES), key=_loss
    )


def _rate_at_half(run: RunResult) -> float:
    rates = run.curves["learning_rate"]["value"]
    return float(rates[len(rates) // 2])


def _is_far_lower(runs: Sequence[RunResult]) -> bool:
    """Whether MetaLR is at half of the run, that of the first seed."""
    rate = _rate_at_half(_controlled(runs)[0])
    return rate < FAR_LOWER * _rate_at_half(_best_schedule(runs))


def _loss(run: RunResult) -> float:
    """The final loss; one that is not finite is worse than any."""
    loss = float(run.results["eval_loss"])
    return loss if np.isfinite(loss) else np.inf


if __name__ == "__main__":
    sys.exit(main())
