"""Regrets as tables: with intervals, paired with MetaLR's, by workload."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.peers.packed import Packed
from keras_metalr.benchmark.peers.plan import METALR
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.scores import bootstrap_interval
from keras_metalr.benchmark.peers.summary import Records
from keras_metalr.benchmark.peers.summary import Row
from keras_metalr.benchmark.peers.summary import mean_regret
from keras_metalr.benchmark.peers.summary import mean_worst_regret
from keras_metalr.benchmark.peers.summary import num_lower
from keras_metalr.benchmark.peers.summary import profile_scores
from keras_metalr.benchmark.peers.timing import is_of_shipped
from keras_metalr.benchmark.text import markdown_table

_REGRETS = ("regret, all starts", "worst start", "right start")


def main_table(packed: Packed, table: Sequence[Row]) -> str:
    """All methods in Markdown.

    Args:
        packed: `Packed`.
        table: Sequence of `Row`, its methods'.
    """
    plan, records, timing = packed
    profiles = profile_scores(table)
    text = markdown_table(
        (
            "method",
            *_REGRETS,
            "score",
            "failed",
            "trials",
            "state",
            "step time",
        ),
        (
            (
                row.method,
                *_regret_texts(plan, row.regrets),
                f"{profiles[row.method]:.2f}",
                f"{row.num_failed}/{row.num_runs}",
                _trials_text(row),
                f"{row.state_bytes:.0f}",
                f"{row.step_time:.1f}",
            )
            for row in table
        ),
    )
    if METALR not in plan.methods or (
        _is_of_shipped(records) and is_of_shipped(timing)
    ):
        return text
    return f"{text}\n\n{OTHER_CONTROLLER}"


def _is_of_shipped(records: Records) -> bool:
    """Whether all of MetaLR's runs were the shipped controller's."""
    shipped = controller_identity().items()
    return all(
        shipped <= record["config"].items()
        for (_, method), cell in records.items()
        if method == METALR
        for record in cell
    )


def _trials_text(row: Row) -> str:
    trials = str(row.training_runs - 1)
    return f"{trials} + {row.extra_steps} steps" if row.extra_steps else trials


def difference_table(plan: Plan, table: Sequence[Row]) -> str:
    """How every method's regret differs from MetaLR's, seed by seed.

    Args:
        plan: `Plan`.
        table: Sequence of `Row`, its methods'.

    Returns:
        String, Markdown; empty where MetaLR is none of the methods.
    """
    by_method = {row.method: row for row in table}
    ours = by_method.pop(METALR, None)
    if ours is None:
        return ""
    count = len(plan.workloads)
    return markdown_table(
        (
            "method",
            *(f"{name}, less MetaLR's" for name in _REGRETS),
            "lower on",
        ),
        (
            (
                row.method,
                *_difference_texts(plan, row.regrets, ours.regrets),
                f"{num_lower(row, ours)} of {count}",
            )
            for row in by_method.values()
        ),
    )


def _difference_texts(
    plan: Plan, regrets: np.ndarray, ours: np.ndarray
) -> list[str]:
    pairs = np.stack([regrets, ours], axis=1)

    def less(statistic: Any) -> Any:
        return lambda both: statistic(both[:, 0]) - statistic(both[:, 1])

    return [
        _with_interval(part, less(statistic))
        for part, statistic in _parts(plan, pairs)
    ]


def apart_table(
    plan: Plan, table: Sequence[Row], workloads: Sequence[str]
) -> str:
    """All methods on some of the workloads, in Markdown.

    Args:
        plan: `Plan`.
        table: Sequence of `Row`, its methods'.
        workloads: Sequence of strings, some of the plan's.
    """
    places = [plan.workloads.index(name) for name in workloads]
    parts = [(row.method, row.regrets[:, places]) for row in table]
    parts.sort(key=lambda part: mean_regret(part[1]))
    return markdown_table(
        ("method", *_REGRETS),
        ((method, *_regret_texts(plan, regrets)) for method, regrets in parts),
    )


def workload_table(plan: Plan, table: Sequence[Row]) -> str:
    """Every method's median regret from scale 1, workload by workload.

    Args:
        plan: `Plan`.
        table: Sequence of `Row`, its methods'.
    """
    place = plan.scales.index(1.0)
    return markdown_table(
        ("method", *plan.workloads),
        (
            (
                row.method,
                *(
                    f"{value:.2f}"
                    for value in np.median(row.regrets, 0)[:, place]
                ),
            )
            for row in table
        ),
    )


def _medians(row: Row, place: int) -> np.ndarray:
    return np.median(row.regrets[..., place], 0)


def _regret_texts(plan: Plan, regrets: np.ndarray) -> list[str]:
    """The cells under `_REGRETS`."""
    return [_with_interval(*part) for part in _parts(plan, regrets)]


def _parts(plan: Plan, regrets: np.ndarray) -> list[tuple[np.ndarray, Any]]:
    """Of which starts, and what of them, is under each of `_REGRETS`."""
    right = [plan.scales.index(1.0)]
    return [
        (regrets, mean_regret),
        (regrets, mean_worst_regret),
        (regrets[..., right], mean_regret),
    ]


def _with_interval(regrets: np.ndarray, statistic: Any) -> str:
    low, high = bootstrap_interval(regrets, statistic)
    text = f"{statistic(regrets):.2f}"
    # One seed has none.
    return text if math.isnan(low) else f"{text} [{low:.2f}, {high:.2f}]"
