"""Draws the figures of the report, as SVG that fits a light and a dark page."""

import io
import re
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from keras_metalr.benchmark.full_report.document import INK
from keras_metalr.plotting import import_pyplot

# After Okabe and Ito: they stay apart for colour-blind readers, and show on
# white and on black.
_ORANGE, _GREEN, _BLUE, _SKY, _PINK = (
    "#D55E00",
    "#009E73",
    "#1F83C6",
    "#56B4E9",
    "#CC79A7",
)
_LINES = (
    {"color": _ORANGE},
    {"color": _GREEN},
    # The starts of MetaLR, which may be one curve: wide below narrow.
    {"color": _SKY, "linewidth": 4.5},
    {"color": _BLUE, "linewidth": 2.2},
    {"color": _PINK, "linestyle": "--", "linewidth": 1.2},
)
_STYLE = {
    "svg.fonttype": "none",
    # The same ids whenever it is drawn.
    "svg.hashsalt": "keras_metalr",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_WIDTH = 5.0
_FEW_POINTS = 5


def draw_methods(data: Mapping[str, Any]) -> str:
    """Loss, accuracy and learning rate against the step.

    Args:
        data: Mapping with `title`, `target_accuracy` and `methods`, a list of
            `label`, `number` (of its colour) and `runs` (one a seed: `loss`,
            `accuracy`, `learning_rate`, each a list of steps and a list of
            values).
    """
    names = ("loss", "accuracy", "learning_rate")
    with _axes(len(names), height=7.5) as (figure, axes):
        for method in data["methods"]:
            line = _LINES[method["number"] % len(_LINES)]
            for name, ax in zip(names, axes, strict=True):
                curves = [run[name] for run in method["runs"]]
                _draw_seeds(ax, curves, method["label"], line, name == "loss")
        axes[1].axhline(
            data["target_accuracy"], color=INK, linestyle=":", linewidth=1
        )
        axes[0].set_yscale("log")
        axes[2].set_yscale("log")
        for ax, label in zip(
            axes,
            ("training loss", "validation accuracy", "learning rate"),
            strict=True,
        ):
            ax.set_ylabel(label)
        axes[2].set_xlabel("step")
        return _finish(figure, axes[0], data["title"])


def draw_ladder(data: Mapping[str, Any]) -> str:
    """Validation loss of the ladder of phase 1, and of phase 3 beside it.

    Args:
        data: Mapping with `title`, `rates`, `losses` (one a rate) and `lines`,
            a mapping from a label to a loss.
    """
    with _axes(1, height=3.6) as (figure, (ax,)):
        losses = np.array(data["losses"], "float64")
        ax.plot(
            data["rates"],
            np.where(np.isfinite(losses), losses, np.nan),
            "o-",
            color=_ORANGE,
            label="constant rate (phase 1)",
        )
        for number, (label, loss) in enumerate(data["lines"].items()):
            line = _LINES[3 + number % 2]
            if np.isfinite(loss):
                ax.axhline(loss, label=label, **line)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("final validation loss")
        return _finish(figure, ax, data["title"])


def draw_feedback(data: Mapping[str, Any]) -> str:
    """Regret of run k against k, with and without experience.

    Args:
        data: Mapping with `title` and `lines`, a mapping from a label to
            `mean`, `low` and `high`, each a list of one number a run (`None`
            where it is not known).
    """
    with _axes(1, height=3.8) as (figure, (ax,)):
        colours = (_BLUE, _ORANGE)
        for (label, curve), colour in zip(
            data["lines"].items(), colours, strict=True
        ):
            mean, low, high = (
                np.array(curve[key], "float64")
                for key in ("mean", "low", "high")
            )
            number = np.arange(1, len(mean) + 1)
            ax.plot(number, mean, "o-", markersize=4, color=colour, label=label)
            ax.fill_between(
                number, low, high, color=colour, alpha=0.15, linewidth=0
            )
        means = [v for curve in data["lines"].values() for v in curve["mean"]]
        spread = max(max(means) - min(means), 1e-3)
        # The intervals of few repeats would leave no room for the means.
        ax.set_ylim(min(means) - spread, max(means) + spread)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("run")
        ax.set_ylabel("regret")
        return _finish(figure, ax, data["title"])


def _draw_seeds(
    ax: Any,
    curves: list[Any],
    label: str,
    line: dict[str, Any],
    is_noisy: bool,
) -> None:
    """One faint line a seed, and their mean where all have the same steps.

    A run that diverged stops early: a mean would be over fewer seeds from
    there.
    """
    faint = {**line, "alpha": 0.35, "linewidth": 0.8}
    for steps, values in curves:
        ax.plot(steps, values, **faint)
    steps = curves[0][0]
    if any(curve[0] != steps for curve in curves):
        ax.plot([], [], label=label, **line)
        return
    mean = np.mean([curve[1] for curve in curves], axis=0)
    ax.plot(
        steps,
        _smoothed(mean) if is_noisy else mean,
        label=label,
        marker="o" if len(steps) <= _FEW_POINTS else None,
        markersize=4,
        **line,
    )


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a twentieth of the curve."""
    window = np.ones(max(1, len(values) // 20) | 1)
    total = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones(len(values)), window, mode="same")


@contextmanager
def _axes(count: int, height: float) -> Iterator[tuple[Any, Any]]:
    plt = import_pyplot()
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            count,
            1,
            figsize=(_WIDTH, height),
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        try:
            yield figure, axes[:, 0]
        finally:
            plt.close(figure)


def _finish(figure: Any, ax: Any, title: str) -> str:
    """Add title and legend; return the SVG without what no page needs."""
    words, lines = title.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 60:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    figure.suptitle("\n".join(lines), fontsize=11, color=INK)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    file = io.StringIO()
    # No date: drawn again, it is the same file.
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    return re.sub(
        r' id="([\w-]+)"',
        lambda match: match[0] if match[1] in used else "",
        text,
    )
