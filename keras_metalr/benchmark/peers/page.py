"""`docs/benchmark.md` and its figures, from the records alone."""

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.peers import figures
from keras_metalr.benchmark.peers.packed import Packed
from keras_metalr.benchmark.peers.plan import SETS
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.regret_tables import apart_table
from keras_metalr.benchmark.peers.regret_tables import difference_table
from keras_metalr.benchmark.peers.regret_tables import main_table
from keras_metalr.benchmark.peers.regret_tables import workload_table
from keras_metalr.benchmark.peers.summary import RatePath
from keras_metalr.benchmark.peers.summary import Records
from keras_metalr.benchmark.peers.summary import Row
from keras_metalr.benchmark.peers.summary import Target
from keras_metalr.benchmark.peers.summary import rate_paths
from keras_metalr.benchmark.peers.summary import rows
from keras_metalr.benchmark.peers.summary import targets
from keras_metalr.benchmark.records import digest
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import markdown_table
from keras_metalr.workloads.suite import SUITE

SENSITIVITY_FIGURE = "benchmark-starts.png"
PROFILE_FIGURE = "benchmark-profile.png"
TIME_FIGURE = "benchmark-time.png"
OVERVIEW_FIGURE = "benchmark.png"
RATE_FIGURE = "benchmark-rates.png"
FIGURES = (
    OVERVIEW_FIGURE,
    SENSITIVITY_FIGURE,
    PROFILE_FIGURE,
    TIME_FIGURE,
    RATE_FIGURE,
)

# Of a run, where the rates are compared: before the schedules end at 0.
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)

_HEAD = """# Side by side

Written by `python -m keras_metalr.benchmark.peers` from the records; do not
edit. Every method trains the same Keras models on the same batches, on JAX.
"""
_READING = """
How to read it. A method starts from {scales} times its own start. That is its
tuned rate (column *trials*: {trials} runs on each workload, the same rates for
all), its own first guess, or for MetaLR the tuned constant rate. *Regret* is
the final validation loss: 0 is the best tuned baseline (constant, warmup and
cosine, warmup and linear: the lowest median), 1 is the loss before training,
which is also what a run that diverged counts as. *All starts* is its mean over
workloads and starts, *worst start* that of each workload's worst, *right start*
that of scale 1, all of medians over {seeds} seeds. In brackets 95 % bootstrap
intervals over seeds, targets and workloads as they are: they say nothing of
other workloads. *Score* is AlgoPerf's: the area under the performance profile
of the steps to the baseline's loss, from scale 1; a miss is infinite. *State*
is optimizer state in bytes per weight, on the largest network; *step time* is
relative to a constant rate, the methods taking turns in one process.

Losses are those of the validation data, which MetaLR reads once per evaluation,
as `reduce_on_plateau` does; there are no others. MetaLR's starts are one run up
to rounding, so that of its runs about one in seven is a new one.
"""
_DIFFERENCE_READING = """
Regrets as above: a method's less MetaLR's, both drawn on the same seeds; above
0 MetaLR is the better one. *Lower on*: on how many workloads the method's mean
over all starts is lower than MetaLR's.
"""
_APART_READING = """
Regret as above, over the {count} workloads that share neither data nor kind of
network nor optimizer with meta-training: {names}. The update rule was changed
for what it did on {looked_at}.
"""
_TIME_READING = """
From scale 1. *Reached*: workloads on which the median run came to the target.
*Steps*: to the target, over the steps of a run, median over the workloads.
*Seconds*: the steps to the target times the time that a step took in these
runs, which went side by side; median over the workloads. The last columns are
milliseconds a step, and in brackets the ratio to a constant rate, the methods
taking turns in one process.
"""
_RATE_READING = """
From scale 1, medians over the seeds: MetaLR's rate over that of the best tuned
baseline at the same step, when so much of the run was over. In the figure
MetaLR is red and the baseline grey; the number is MetaLR's regret. What is seen
there stands in docs/design.md, "Where it loses to tuned schedules".
"""


def write_figures(packed: Packed, folder: Path) -> None:
    """Write the figures as PNG.

    Args:
        packed: `Packed`.
        folder: Path.

    Raises:
        ImportError: If Matplotlib is missing.
    """
    table = rows(*packed)
    drawn = drawn_digest(packed)
    for name, figure in (
        (OVERVIEW_FIGURE, figures.overview(packed.plan, table)),
        (SENSITIVITY_FIGURE, figures.starts(packed.plan, table)),
        (PROFILE_FIGURE, figures.profiles(table)),
        (TIME_FIGURE, figures.times(table)),
        (RATE_FIGURE, figures.rates(rate_paths(packed.plan, packed.records))),
    ):
        # What they were drawn from, so that a check can tell.
        figure.savefig(folder / name, dpi=110, metadata={"Description": drawn})


def is_drawn_from(path: Path, drawn: str) -> bool:
    """Whether a figure is there, and was drawn from such records.

    Args:
        path: Path of a file that `write_figures` writes.
        drawn: String, the `drawn_digest` of the records.
    """
    return path.is_file() and drawn.encode() in path.read_bytes()


def drawn_digest(packed: Packed) -> str:
    """What tells apart all that the figures show.

    Args:
        packed: `Packed`.
    """
    plan, records, _ = packed
    return digest(
        {
            row.method: [
                row.by_scale.tolist(),
                str(row.times),
                dict(row.step_times),
            ]
            for row in rows(*packed)
        }
        | {
            path.workload: path.rates.tolist()
            for path in rate_paths(plan, records)
        }
    )


def page(packed: Packed) -> str:
    """The page in Markdown.

    Args:
        packed: `Packed`.
    """
    plan, records, timing = packed
    table = rows(plan, records, timing)
    goals = targets(plan, records)
    paths = rate_paths(plan, records)
    reading = _READING.format(
        scales=f"{plan.scales[0]:g} to {plan.scales[-1]:g}",
        trials=plan.num_trials,
        seeds=plan.seeds,
    )
    parts = [
        _HEAD,
        f"![All methods: regret against the start]({OVERVIEW_FIGURE})\n",
        main_table(packed, table),
        reading,
        "## Beside MetaLR\n",
        difference_table(plan, table),
        _DIFFERENCE_READING,
        *_apart(plan, table),
        f"![Regret against the start]({SENSITIVITY_FIGURE})\n",
        f"![Performance profiles]({PROFILE_FIGURE})\n",
        "## Time\n",
        _time_table(table, timing),
        _TIME_READING,
        f"![Steps to the target, and time of a step]({TIME_FIGURE})\n",
        "## From scale 1, on each workload\n",
        workload_table(plan, table),
        "\nMedian regret over the seeds.\n",
        "## MetaLR's rate beside the best baseline's\n",
        _rate_table(paths),
        _RATE_READING,
        f"![MetaLR's rate and the best baseline's]({RATE_FIGURE})\n",
        "## Workloads\n",
        _targets_table(plan, goals),
        *_at_the_edge(packed),
        "\n*Shared*: with the tasks that the shipped controller was evolved "
        "on. Its digits were all there are, those that the workloads validate "
        "on among them. The update rule was changed for what it did on "
        f"{_looked_at(plan.workloads)}.\n",
        "## Methods\n",
        _methods_table(plan),
        _made_with(packed),
    ]
    return "\n".join(parts)


def _rate_table(paths: Sequence[RatePath]) -> str:
    return markdown_table(
        (
            "workload",
            "regret",
            "baseline",
            *(f"at {share:.0%}" for share in _SHARES),
        ),
        (
            (
                path.workload,
                f"{path.regret:.3f}",
                path.baseline,
                *(f"{path.ratio(share):.2g}" for share in _SHARES),
            )
            for path in paths
        ),
    )


def _time_table(table: Sequence[Row], timing: Mapping[str, Any]) -> str:
    timed = timing["workloads"]
    return markdown_table(
        (
            "method",
            "reached",
            "steps",
            "seconds",
            *(
                f"{name}, {timed[name]['num_weights']:,} weights"
                for name in timed
            ),
        ),
        (
            (
                row.method,
                f"{row.num_reached}/{len(row.times)}",
                _median_text(row.shares),
                _median_text(row.seconds),
                *(
                    f"{timed[name]['milliseconds'][row.method]:.1f} "
                    f"({row.step_times[name]:.2f})"
                    for name in timed
                ),
            )
            for row in sorted(table, key=lambda row: -row.num_reached)
        ),
    )


def _median_text(values: Any) -> str:
    median = float(np.median(values))
    return f"{median:.2f}" if math.isfinite(median) else "missed"


def _apart(plan: Plan, table: Sequence[Row]) -> list[str]:
    """The workloads that have nothing in common with meta-training."""
    names = [name for name in plan.workloads if SUITE[name].shares_nothing]
    if not names:
        return []
    return [
        "## Where nothing is shared with meta-training\n",
        apart_table(plan, table, names),
        _APART_READING.format(
            count=len(names),
            names=", ".join(names),
            looked_at=_looked_at(names),
        ),
    ]


def _looked_at(names: Iterable[str]) -> str:
    found = [f"`{name}`" for name in names if SUITE[name].was_looked_at]
    return " and ".join(found) or "none of them"


def _at_the_edge(packed: Packed) -> list[str]:
    """Tuned starts beyond which there may be better ones."""
    plan, records, _ = packed
    edges = {
        "lowest": min(plan.tuning_rates),
        "highest": max(plan.tuning_rates),
    }
    starts = {
        (workload, method): record["config"]["learning_rate"]
        for (workload, method), cell in records.items()
        for record in cell
        if PEERS[method].is_tuned and record["config"]["scale"] == 1.0
    }
    found = [
        f"`{method}` on `{workload}` ({name})"
        for (workload, method), start in starts.items()
        for name, edge in edges.items()
        if math.isclose(start, edge, rel_tol=1e-5)
    ]
    if not found:
        return []
    return [
        "\nOf the tuned rates, those at an edge of the grid, beyond which a "
        f"better one may lie: {', '.join(found)}."
    ]


def _targets_table(plan: Plan, goals: Mapping[str, Target]) -> str:
    return markdown_table(
        (
            "workload",
            "network",
            "optimizer",
            "shared",
            "steps",
            "loss before",
            "target",
            "set by",
        ),
        (
            (
                name,
                SUITE[name].kind,
                SUITE[name].optimizer,
                SUITE[name].shared or "nothing",
                goals[name].num_steps,
                f"{goals[name].initial:.3f}",
                f"{goals[name].best:.4f}",
                goals[name].baseline,
            )
            for name in plan.workloads
        ),
    )


def _methods_table(plan: Plan) -> str:
    return markdown_table(
        ("method", "source", "its start", "at scale 1", "remark"),
        (
            (
                name,
                PEERS[name].source,
                PEERS[name].start,
                _centre_text(name),
                PEERS[name].note,
            )
            for name in plan.methods
        ),
    )


def _centre_text(name: str) -> str:
    peer = PEERS[name]
    if peer.is_tuned:
        return "tuned"
    if peer.default_start is None:
        return "tuned constant rate"
    return f"{peer.default_start:.3g}"


def _part_text(plan: Plan) -> list[str]:
    """What of the set `cpu` is not there yet."""
    whole = SETS["cpu"]
    missing = [name for name in whole.workloads if name not in plan.workloads]
    if not missing and plan.seeds >= whole.seeds:
        return []
    found = len(whole.workloads) - len(missing)
    return [
        f"\nSo far {found} of the {len(whole.workloads)} workloads and "
        f"{plan.seeds} of the {whole.seeds} seeds of the set `cpu`; missing: "
        f"{', '.join(missing) or 'seeds'}."
    ]


def _made_with(packed: Packed) -> str:
    plan, records, timing = packed
    every = [record for cell in records.values() for record in cell]
    texts = sorted({_environment_text(r["environment"]) for r in every})
    timed = timing["environment"]
    revisions = sorted(
        {_short(str(r["environment"]["git_revision"])) for r in every}
    )
    lines = [
        *_part_text(plan),
        f"\n{len(every)} runs, made with {'; '.join(texts)}; code of "
        f"{', '.join(revisions)}. Step times: {_environment_text(timed)}; "
        f"code of {_short(str(timed['git_revision']))}.",
        *data_notes(records),
    ]
    return "\n".join(lines) + "\n"


def data_notes(records: Records) -> list[str]:
    """How data differ from what the names of workloads promise, a line each.

    Args:
        records: Mapping from (workload, method) to the records of its sweep.
    """
    found = {
        (workload, record["data_note"])
        for (workload, _), cell in records.items()
        for record in cell
        if record["data_note"]
    }
    return [f"Data of `{name}`: {note}." for name, note in sorted(found)]


def _environment_text(environment: Mapping[str, Any]) -> str:
    """With the version of optax, which most methods come from."""
    version = environment["versions"].get("optax", "none")
    return f"{environment_text(environment)}, optax {version}"


def _short(revision: str) -> str:
    """Eight characters, and the mark of a changed checkout."""
    return revision[:8] + "+" * revision.endswith("+")
