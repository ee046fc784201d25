"""The two figures of the page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.scores import MAX_RATIO
from keras_metalr.benchmark.peers.scores import performance_profile
from keras_metalr.benchmark.peers.scores import time_ratios
from keras_metalr.benchmark.peers.summary import Row

_COLUMNS = 5
_HIGHLIGHTED = "metalr"


def starts(plan: Plan, table: Sequence[Row]) -> Any:
    """Regret against the start, one panel a method, MetaLR behind each.

    Args:
        plan: `Plan`.
        table: Sequence of `Row`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure_class = _figure_class()
    num_lines = math.ceil(len(table) / _COLUMNS)
    figure = figure_class(figsize=(11, 1.9 * num_lines + 0.6))
    axes = figure.subplots(
        num_lines, _COLUMNS, sharex=True, sharey=True, squeeze=False
    )
    behind = {row.method: row.by_scale for row in table}.get(_HIGHLIGHTED)
    for panel, row in zip(axes.flat, table, strict=False):
        if behind is not None:
            panel.plot(plan.scales, behind, color="0.75", linewidth=3)
        panel.plot(plan.scales, row.by_scale, marker=".", color="C0")
        panel.set_xscale("log")
        panel.set_title(row.method, fontsize=9)
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(table) :]:
        panel.set_axis_off()
    figure.supxlabel("start, times the tuned rate or the own first guess")
    figure.supylabel("regret (1: nothing learned)")
    figure.tight_layout()
    return figure


def profiles(table: Sequence[Row]) -> Any:
    """Share of workloads within a factor of the fastest method.

    Args:
        table: Sequence of `Row`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _figure_class()(figsize=(8, 4.5))
    axes = figure.subplots()
    limits = np.linspace(1.0, MAX_RATIO, 200)
    ratios = time_ratios(np.stack([row.times for row in table]))
    for number, (row, ratio) in enumerate(zip(table, ratios, strict=True)):
        axes.plot(
            limits,
            [performance_profile(ratio, limit) for limit in limits],
            label=row.method,
            linestyle=("-", "--", ":")[number // 10 % 3],
            linewidth=3 if row.method == _HIGHLIGHTED else 1.2,
        )
    axes.set_xlabel("steps to the target, times those of the fastest")
    axes.set_ylabel("share of the workloads")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=7, bbox_to_anchor=(1.01, 1.0), loc="upper left")
    figure.tight_layout()
    return figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need Matplotlib. Install it with "
            '`pip install "keras_metalr[plots]"`.'
        ) from error
    return Figure
