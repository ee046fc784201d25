"""Pictures of what a run did: loss and learning rate against the step."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from keras_metalr.decision import EVENT_ROLLBACK

# Okabe and Ito's colours, which stay apart for colour-blind readers; their
# yellow is left out, it is too pale on white.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
_LINE_STYLES = ("-", "--", "-.", ":")
_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
# In the `event` column of a trace: went back to the last good weights.
_ROLLBACK = int(EVENT_ROLLBACK)
# A curve is drawn smoothed when it has more points than this.
_MAX_RAW_POINTS = 60


def plot_trace(trace: Any, ax: Any = None) -> Any:
    """Draw the loss and, on a second axis, the learning rate of one run.

    Dotted lines mark the steps at which the guard went back to earlier
    weights.

    Args:
        trace: `keras_metalr.Trace`, as `MetaLR.trace`.
        ax: `matplotlib.axes.Axes` to draw into. Defaults to `None`, a new
            figure.

    Returns:
        The `matplotlib.axes.Axes` of the loss.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the trace is empty.

    Example:

        metalr = keras_metalr.MetaLR()
        model.fit(x, y, callbacks=[metalr])
        ax = keras_metalr.plot_trace(metalr.trace)
        ax.figure.savefig("trace.png")
    """
    plt = import_pyplot()
    steps, losses = _curve(trace, "loss")
    _, rates = _curve(trace, "learning_rate")
    if not len(steps):
        raise ValueError(
            "`trace` holds no decision: it fills at the end of each epoch, "
            "from the first decision on, of which a run has about 200. Plot it "
            "after `fit`."
        )
    with _style(plt):
        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        rate_ax = ax.twinx()
        rate_ax.grid(False)
        rate_ax.spines["right"].set_visible(True)
        loss_colour, rate_colour = _COLOURS[0], _COLOURS[1]
        line = {"color": loss_colour, "label": "loss"}
        _draw_losses(ax, steps, losses, line)
        rate_ax.step(steps, rates, where="post", color=rate_colour)
        rate_ax.set_yscale("log")
        _mark_rollbacks(ax, trace)
        _label(ax, "loss", loss_colour)
        _label(rate_ax, "learning rate", rate_colour)
        ax.set_xlabel("step")
    return ax


def plot_comparison(runs: Mapping[str, Any], title: str | None = None) -> Any:
    """Draw runs side by side: loss above, learning rate below.

    All panels of a row share their scale, so that columns can be compared.
    A label has the same colour in every column. A cross marks the last finite
    loss of a run that diverged; losses far above the start are cut off.

    Args:
        runs: Mapping from a label to a run, drawn in one column, or from the
            title of a column to such a mapping. A run is a
            `keras_metalr.benchmark.RunResult`, a `keras_metalr.Trace`, or
            what `fit` returns. Its learning rate is drawn where it was logged:
            MetaLR does so, and so do Keras's own schedulers.
        title: String or `None`. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If a run is of an unknown kind.
        ValueError: If there are no runs, or one is the `History` of data
            without a length.

    Example:

        figure = keras_metalr.plot_comparison(
            {
                "static": {"from 0.1": run_a, "from 10": run_b},
                "MetaLR": {"from 0.1": run_c, "from 10": run_d},
            }
        )
        figure.savefig("comparison.png")
    """
    plt = import_pyplot()
    columns = _as_columns(runs)
    labels = list(dict.fromkeys(n for group in columns.values() for n in group))
    with _style(plt):
        figure, axes = plt.subplots(
            2,
            len(columns),
            figsize=(1.2 + 3.2 * len(columns), 5.2),
            sharex="col",
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for (heading, group), loss_ax, rate_ax in zip(
            columns.items(), axes[0], axes[1], strict=True
        ):
            for label, run in group.items():
                number = labels.index(label)
                width = _width(number, len(labels))
                _draw_run(run, label, number, width, loss_ax, rate_ax)
            if not rate_ax.lines:
                _say_not_logged(rate_ax)
            loss_ax.set_title(heading)
            rate_ax.set_xlabel("step")
            rate_ax.set_yscale("log")
        axes[0, 0].set_yscale("log")
        _limit_losses(axes[0, 0], columns)
        for group, loss_ax in zip(columns.values(), axes[0], strict=True):
            for label, run in group.items():
                _mark_diverged(loss_ax, run, _colour(labels.index(label)))
        axes[0, 0].set_ylabel("training loss")
        axes[1, 0].set_ylabel("learning rate")
        _add_legend(figure, axes[0])
        if title:
            figure.suptitle(title)
    return figure


def _draw_run(
    run: Any,
    label: str,
    number: int,
    width: float,
    loss_ax: Any,
    rate_ax: Any,
) -> None:
    colour = _colour(number)
    line_style = _LINE_STYLES[number // len(_COLOURS) % len(_LINE_STYLES)]
    steps, losses = _curve(run, "loss")
    line = {
        "color": colour,
        "linestyle": line_style,
        "linewidth": width,
        "label": label,
    }
    _draw_losses(loss_ax, steps, losses, line)
    steps, rates = _curve(run, "learning_rate")
    if len(rates):
        rate_ax.plot(steps, rates, **line)


def _say_not_logged(ax: Any) -> None:
    middle = {"ha": "center", "va": "center", "transform": ax.transAxes}
    ax.text(0.5, 0.5, "not logged", **middle)


def _mark_rollbacks(ax: Any, trace: Any) -> None:
    names = list(trace.columns)
    rows = np.asarray(trace.rows, "float64")
    events = np.nan_to_num(rows[:, names.index("event")]).astype(int)
    is_rollback = (events & _ROLLBACK) != 0
    label = "back to earlier weights"
    for step in rows[is_rollback, names.index("step")]:
        ax.axvline(step, color="#666666", linestyle=":", label=label)
        label = "_nolegend_"
    if np.any(is_rollback):
        ax.legend(loc="upper right")


def _width(number: int, count: int) -> float:
    """Wider for what is drawn first, so that equal curves all show."""
    return 1.2 + 1.6 * (count - 1 - number) / max(1, count - 1)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _draw_losses(
    ax: Any,
    steps: np.ndarray,
    losses: np.ndarray,
    line: dict[str, Any],
) -> None:
    """Draw a loss, smoothed over its own faint points when it is long."""
    smooth = losses
    if len(losses) > _MAX_RAW_POINTS:
        ax.plot(steps, losses, color=line["color"], alpha=0.2, linewidth=0.8)
        smooth = _smoothed(losses)
    ax.plot(steps, smooth, **line)


def _mark_diverged(ax: Any, run: Any, colour: str) -> None:
    """Put a cross where the loss was finite last, inside the axis."""
    steps, losses = _curve(run, "loss")
    finite = np.flatnonzero(np.isfinite(losses))
    if not len(finite) or finite[-1] == len(losses) - 1:
        return
    low, high = ax.get_ylim()
    height = float(np.clip(losses[finite[-1]], low, high))
    ax.plot(
        steps[finite[-1]],
        height,
        "X",
        color=colour,
        markersize=9,
        markeredgecolor="white",
        clip_on=False,
        zorder=5,
    )


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Centred mean of the logarithm: no lag, and one spike does not fill it.

    Of the values themselves where not all have a logarithm.
    """
    is_known = np.isfinite(losses)
    window = np.ones(max(3, len(losses) // 25) | 1)
    values = np.where(is_known, losses, 1.0)
    is_log = _are_positive([losses])
    values = np.log(values) if is_log else values
    total = np.convolve(np.where(is_known, values, 0.0), window, mode="same")
    count = np.convolve(is_known, window, mode="same")
    smooth = total / np.maximum(count, 1.0)
    return np.where(is_known, np.exp(smooth) if is_log else smooth, np.nan)


def _are_positive(curves: Iterable[np.ndarray]) -> bool:
    """Whether every loss that is finite has a logarithm."""
    return all(np.all(losses[np.isfinite(losses)] > 0) for losses in curves)


def _limit_losses(ax: Any, columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Cut the axis ten times above the losses that the runs started from.

    Where not all losses are positive it is no axis of logarithms, and whole.
    """
    curves = [
        _curve(run, "loss")[1]
        for group in columns.values()
        for run in group.values()
    ]
    finite = [losses[np.isfinite(losses)] for losses in curves]
    finite = [losses for losses in finite if len(losses)]
    if not finite or not _are_positive(finite):
        ax.set_yscale("linear")
        return
    start = float(np.median([losses[0] for losses in finite]))
    lowest = min(float(np.percentile(losses, 2)) for losses in finite)
    # A run that is ruined at once has none lower than where it started.
    lowest = min(lowest, start)
    highest = max(float(np.max(losses)) for losses in finite)
    ax.set_ylim(lowest / 1.5, min(10.0 * start, 1.5 * highest))


def _add_legend(figure: Any, axes: Any) -> None:
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(4, max(1, len(handles))),
    )


def _as_columns(runs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if not runs:
        raise ValueError(
            f"`runs` must hold at least one run. Received: {runs}."
        )
    if all(isinstance(group, Mapping) for group in runs.values()):
        return dict(runs)
    return {"": runs}


def _curve(run: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a run, whatever kind of run it is."""
    if hasattr(run, "curves"):
        curve = run.curves[name]
        return (
            np.asarray(curve["step"], "float64"),
            np.asarray(curve["value"], "float64"),
        )
    if hasattr(run, "rows") and hasattr(run, "columns"):
        rows = np.asarray(run.rows, "float64")
        names = list(run.columns)
        return rows[:, names.index("step")], rows[:, names.index(name)]
    if hasattr(run, "history"):
        values = np.asarray(run.history.get(name, []), "float64")
        steps = (run.params or {}).get("steps")
        if not steps:
            raise ValueError(
                "The `History` of data without a length does not say how many "
                "steps an epoch had. Pass `metalr.trace` in its place."
            )
        epochs = np.asarray(run.epoch[: len(values)], "float64")
        return steps * (epochs + 1.0), values
    raise TypeError(
        "A run must be a RunResult, a Trace or the History that `fit` "
        f"returns. Received: {type(run).__name__}."
    )


def _label(ax: Any, text: str, colour: str) -> None:
    ax.set_ylabel(text, color=colour)
    ax.tick_params(axis="y", colors=colour)


@contextmanager
def _style(plt: Any) -> Iterator[None]:
    with plt.rc_context(_STYLE):
        yield


def import_pyplot() -> Any:
    """Return `matplotlib.pyplot`, or say how to install it."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib. Install it with `pip install matplotlib`."
        ) from error
    return pyplot
