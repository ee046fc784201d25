"""The figures of the page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_metalr.benchmark.peers.plan import METALR
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.scores import MAX_RATIO
from keras_metalr.benchmark.peers.scores import performance_profile
from keras_metalr.benchmark.peers.scores import time_ratios
from keras_metalr.benchmark.peers.summary import RatePath
from keras_metalr.benchmark.peers.summary import Row

_COLUMNS = 5
_START_LABEL = "start, as a multiple of the tuned rate or of the first guess"
# Those that a reader will look for; the others stay grey.
_COLOURS = {
    METALR: "C3",
    "constant": "C0",
    "warmup_cosine": "C1",
    "prodigy": "C2",
    "schedule_free": "C4",
}
_OTHERS = "0.8"


def overview(plan: Plan, table: Sequence[Row]) -> Any:
    """Regret against the start, all methods in one panel.

    Args:
        plan: `Plan`.
        table: Sequence of `Row`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _figure_class()(figsize=(8.5, 4.2))
    axes = figure.subplots()
    for row in _others_first(table):
        marker = "." if row.method in _COLOURS else None
        axes.plot(plan.scales, row.by_scale, marker=marker, **_line(row))
    _name_the_others(axes)
    axes.set_xscale("log")
    axes.set_xlabel(_START_LABEL)
    axes.set_ylabel("regret, mean over the workloads")
    axes.set_ylim(min(-0.05, axes.get_ylim()[0]), 1.05)
    axes.axhline(0.0, color="0.3", linewidth=0.8, linestyle=":")
    axes.set_title("0: the best tuned baseline. 1: nothing learned", fontsize=9)
    return _with_legend(figure, axes)


def times(table: Sequence[Row]) -> Any:
    """Bars: workloads whose target was reached, and the time of a step.

    Args:
        table: Sequence of `Row`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = _figure_class()(figsize=(10, 0.26 * len(table) + 1.4))
    left, right = figure.subplots(1, 2)
    by_reached = sorted(table, key=lambda row: (row.num_reached, -_mean(row)))
    for place, row in enumerate(by_reached):
        left.barh(place, row.num_reached, color=_bar_colour(row))
        text = (
            f" {_mean(row):.2f} of the steps" if row.num_reached else " never"
        )
        left.text(row.num_reached, place, text, va="center", fontsize=7)
    # Room for the words beside a full bar.
    left.set_xlim(0, len(table[0].times) * 1.5)
    left.set_xticks(range(0, len(table[0].times) + 1, 2))
    left.set_xlabel("workloads whose target was reached, and when (mean)")
    by_time = sorted(table, key=lambda row: -row.step_time)
    for place, row in enumerate(by_time):
        right.barh(place, row.step_time, color=_bar_colour(row))
    right.axvline(1.0, color="0.3", linewidth=0.8, linestyle=":")
    right.set_xlabel("time of a step, times that with a constant rate")
    for axes, order in ((left, by_reached), (right, by_time)):
        axes.set_yticks(range(len(order)), [row.method for row in order])
        axes.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    return figure


def _mean(row: Row) -> float:
    reached = row.shares[np.isfinite(row.shares)]
    return float(np.mean(reached)) if len(reached) else math.inf


def _bar_colour(row: Row) -> str:
    return _COLOURS[METALR] if row.method == METALR else "0.7"


def starts(plan: Plan, table: Sequence[Row]) -> Any:
    """Regret against the start, one panel a method, MetaLR behind each.

    Args:
        plan: `Plan`.
        table: Sequence of `Row`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, panels = _panels(len(table), sharey=True)
    behind = {row.method: row.by_scale for row in table}.get(METALR)
    for panel, row in zip(panels, table, strict=True):
        if behind is not None:
            panel.plot(plan.scales, behind, color="0.75", linewidth=3)
        panel.plot(plan.scales, row.by_scale, marker=".", color="C0")
        panel.set_xscale("log")
        panel.set_title(row.method, fontsize=9)
        panel.grid(alpha=0.3)
    figure.supxlabel(_START_LABEL)
    figure.supylabel("regret (1: nothing learned)")
    return figure


def rates(paths: Sequence[RatePath]) -> Any:
    """MetaLR's rate beside the best baseline's, one panel a workload.

    Args:
        paths: Sequence of `RatePath`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure, panels = _panels(len(paths), sharey=False)
    for panel, path in zip(panels, paths, strict=True):
        share = path.steps / path.steps[-1]
        panel.plot(share, path.baseline_rates, color="0.6", linewidth=3)
        panel.plot(share, path.rates, color=_COLOURS[METALR])
        panel.set_yscale("log")
        # The end of a schedule is 0: its last rates say nothing.
        panel.set_ylim(
            bottom=0.3
            * min(path.rates.min(), float(np.median(path.baseline_rates)))
        )
        panel.set_title(f"{path.workload}: {path.regret:.2f}", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    figure.supxlabel("share of the run that is over")
    figure.supylabel("learning rate")
    return figure


def _panels(count: int, sharey: bool) -> tuple[Any, Sequence[Any]]:
    """A figure and so many panels in rows of five; there may be none."""
    num_lines = max(1, math.ceil(count / _COLUMNS))
    figure = _figure_class()(
        figsize=(11, 1.9 * num_lines + 0.6), layout="constrained"
    )
    axes = figure.subplots(
        num_lines, _COLUMNS, sharex=True, sharey=sharey, squeeze=False
    ).ravel()
    for panel in axes[count:]:
        panel.set_axis_off()
    return figure, axes[:count]


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
    by_method = dict(zip((row.method for row in table), ratios, strict=True))
    for row in _others_first(table):
        ratio = by_method[row.method]
        shares = [performance_profile(ratio, limit) for limit in limits]
        axes.plot(limits, shares, **_line(row))
    _name_the_others(axes)
    axes.set_xlabel("steps to the target, times those of the fastest")
    axes.set_ylabel("share of the workloads")
    axes.set_ylim(-0.02, 1.02)
    return _with_legend(figure, axes)


def _others_first(table: Sequence[Row]) -> list[Row]:
    """What has a colour is drawn over what has none, MetaLR over all."""
    order = list(reversed(_COLOURS))
    return sorted(
        table,
        key=lambda row: order.index(row.method) if row.method in order else -1,
    )


def _line(row: Row) -> dict[str, Any]:
    """How the line of a method looks, and its name in the legend."""
    return {
        "color": _COLOURS.get(row.method, _OTHERS),
        "linewidth": 4 if row.method == METALR else 1.6,
        "label": row.method if row.method in _COLOURS else None,
    }


def _name_the_others(axes: Any) -> None:
    axes.plot([], [], color=_OTHERS, label="the other methods")


def _with_legend(figure: Any, axes: Any) -> Any:
    """The figure, its legend beside the panel."""
    axes.legend(fontsize=8, bbox_to_anchor=(1.01, 1.0), loc="upper left")
    figure.tight_layout()
    return figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need Matplotlib. Install it with `pip install matplotlib`."
        ) from error
    return Figure
