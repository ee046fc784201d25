"""How the pages name tasks, files and figures."""

import math
from collections.abc import Sequence
from typing import Any

from keras_metalr.benchmark.ablation import Summary
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.scoring import mean_and_interval
from keras_metalr.benchmark.text import OPTIMIZERS
from keras_metalr.benchmark.text import epochs_text
from keras_metalr.benchmark.text import mean_text

_TITLES = {
    "cifar10_resnet18": "ResNet-18 on CIFAR-10",
    "sst2_bert": "{encoder} on GLUE SST-2",
    "digits": "Small convnet on the digits, {optimizer}",
    "report_mlp": "Dense net on Fashion-MNIST",
}
METHOD_NAMES = {"static": "static", "cosine": "cosine", "metalr": "MetaLR"}


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

    def caption(self, part: PartResult, text: str = "") -> str:
        """A caption: which task, where all the figures are from, and `text`."""
        return (
            f"{task_title(part)}. All figures from {self.link(part)}. {text}"
        ).strip()


def task_title(part: PartResult) -> str:
    """Name of the task, with what its data or encoder really are."""
    config = part.runs[0].config
    options = dict(config["options"])
    optimizer = options.get("optimizer", "")
    options["optimizer"] = OPTIMIZERS.get(optimizer, optimizer)
    name = config["workload"]
    title = _TITLES.get(name, name).format(**options)
    return f"{title} ({part.data_note})" if part.data_note else title


def summary_note(per: str) -> str:
    """Say what the columns of `summary_cells` are.

    Args:
        per: String, what one training loss is of, such as `"of every step"`.
    """
    return (
        "Validation, mean over seeds ± half of the 95 % interval (none for one "
        "seed). F1: mean over classes. Epochs: median until the target, a "
        "missed one counts as infinity. Stability: variance of the training "
        f"loss ({per}), over the whole run and over its last half; smaller is "
        "steadier. s/run: seconds, with compiling and validation."
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
        f"{summary.whole_stability:.2g}",
        f"{summary.stability:.2g}",
        f"{summary.seconds:.1f}",
    )


def interval_text(values: Sequence[float]) -> str:
    """Mean of some values and half of its 95 % interval."""
    mean, low, high = mean_and_interval(values)
    return mean_text(mean, (low, high), scale=1, digits=3)


def points_text(interval: Sequence[float]) -> str:
    """A difference of accuracies in points, with its 95 % interval."""
    mean, low, high = (100 * value for value in interval)
    if math.isnan(low):
        return f"{mean:+.2f}"
    return f"{mean:+.2f} (95 %: {low:+.2f} to {high:+.2f})"


def difference_text(interval: Sequence[float]) -> str:
    """A difference of regrets, with its 95 % interval."""
    mean, low, high = interval
    if math.isnan(low):
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
