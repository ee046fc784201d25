"""How the pages name tasks, files and figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_metalr.benchmark.ablation import Summary
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.scoring import mean_and_interval
from keras_metalr.benchmark.text import OPTIMIZERS
from keras_metalr.benchmark.text import epochs_text
from keras_metalr.benchmark.text import mean_text
from keras_metalr.benchmark.text import stability_text

_TITLES = {
    "cifar10_resnet18": "ResNet-18 on CIFAR-10",
    "sst2_bert": "{encoder} on GLUE SST-2",
    "digits": "Small convnet on the digits, {optimizer}",
    "report_mlp": "Dense net on Fashion-MNIST",
}


class Source:
    """Names the file that figures came from.

    Args:
        folder: String, the folder of the files, seen from the page.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def link(self, part: PartResult) -> str:
        """A link to the file of a part."""
        return f"[{part.file}]({self._folder}/{part.file})"

    def beside(self, name: str) -> str:
        """The path of what lies beside the folder, seen from the page."""
        return f"{Path(self._folder).parent.as_posix()}/{name}"

    def caption(self, part: PartResult, text: str) -> str:
        """A caption: which task, where all the figures are from, and `text`."""
        return f"{task_title(part)}. All figures from {self.link(part)}. {text}"

    def lead(self, part: PartResult) -> str:
        """What a part is of: task, budget, cuts and controllers."""
        cuts = "; ".join(part.details["cuts"]) or "nothing"
        text = (
            f"**{task_title(part)}**, from {self.link(part)}. Budget "
            f"`{part.budget}`, which cut: {cuts}. "
        )
        controllers = ", ".join(
            f"`{name}` ({mark[:8]})" for name, mark in part.controllers.items()
        )
        return text + f"MetaLR with the controller {controllers}."


def task_title(part: PartResult) -> str:
    """Name of the task, with what its data or encoder really are."""
    config = part.runs[0].config
    options = dict(config["options"])
    optimizer = options.get("optimizer", "")
    options["optimizer"] = OPTIMIZERS.get(optimizer, optimizer)
    name = config["workload"]
    title = _TITLES.get(name, name).format(**options)
    return f"{title} ({part.data_note})" if part.data_note else title


def summary_note() -> str:
    """Say what the columns of `summary_cells` are."""
    return (
        "Validation, mean over seeds ± half of the 95 % interval (none for one "
        "seed). F1: mean over classes. Epochs: validations until the target, "
        "median; a missed one counts as infinity. Stability: variance of the "
        "training loss (of every step), over the whole run and over its last "
        "half; smaller is steadier. s/run: seconds, with compiling and "
        "validation, not taken in turn: for what MetaLR costs see the README."
    )


def summary_heads(target: float) -> tuple[str, ...]:
    """Heads of the columns of `summary_cells`."""
    return (
        "seeds",
        "accuracy, %",
        "cross-entropy",
        "F1",
        f"epochs to {target:.0%}",
        "stability, whole",
        "last half",
        "s/run",
    )


def summary_cells(summary: Summary) -> tuple[Any, ...]:
    """The figures of one row of a table."""
    return (
        summary.num_seeds,
        mean_text(summary.accuracy, summary.interval, scale=100, digits=2),
        mean_text(summary.loss, summary.loss_interval, scale=1, digits=3),
        mean_text(summary.f1, summary.f1_interval, scale=1, digits=3),
        epochs_text(summary.epochs_to_target),
        stability_text(summary.whole_stability),
        stability_text(summary.stability),
        f"{summary.seconds:.1f}",
    )


def interval_text(values: Sequence[float] | np.ndarray) -> str:
    """Mean of some values and half of its 95 % interval."""
    mean, low, high = mean_and_interval(list(values))
    return mean_text(mean, (low, high), scale=1, digits=3)


def difference_text(
    interval: Sequence[float], scale: float = 1, digits: int = 3
) -> str:
    """Return a difference with its sign and its 95 % interval.

    Args:
        interval: Sequence `(mean, low, high)`, as `scores.paired` returns it.
        scale: Float, what all three are multiplied by. Defaults to `1`.
        digits: Integer, places after the point. Defaults to `3`.
    """
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in interval)
    if math.isnan(interval[1]):
        return mean
    return f"{mean} (95 %: {low} to {high})"


def verdict(interval: Sequence[float]) -> str:
    """Say whether a difference of losses or regrets is below 0.

    Args:
        interval: Sequence `(mean, low, high)`, as `scores.paired` returns it.
    """
    mean, _, high = interval
    if mean >= 0:
        return "not lower"
    if math.isnan(high):
        return "lower (one observation, no interval)"
    return "lower" if high < 0 else "lower (but the interval holds 0)"
