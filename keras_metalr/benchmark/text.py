"""How figures are written, in terminals and on pages."""

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

# What an evaluation reports, in the order of the Hugging Face Trainer.
RESULTS_LINE = (
    "eval_loss",
    "eval_accuracy",
    "eval_f1",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_steps_per_second",
    "epoch",
)
METHOD_NAMES = {"static": "static", "cosine": "cosine", "metalr": "MetaLR"}
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
OPTIMIZERS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "momentum": "SGD with momentum",
    "sgd": "SGD",
}


def results_line(results: Mapping[str, Any]) -> str:
    """Return the figures of one evaluation on one line.

    Args:
        results: Mapping with the keys of `RESULTS_LINE`.
    """
    return ", ".join(f"{name} {results[name]:.4g}" for name in RESULTS_LINE)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown.

    Args:
        heads: Sequence of strings.
        rows: Iterable of sequences, each as long as `heads`.
    """

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(_cell(cell) for cell in cells) + " |"

    return "\n".join([line(heads), "|---" * len(heads) + "|", *map(line, rows)])


def mean_text(
    mean: float, interval: tuple[float, float], scale: float, digits: int
) -> str:
    """Return `mean ± half of the interval`; without `±` if it is unknown.

    Args:
        mean: Float; what is not finite reads "diverged".
        interval: Tuple of floats, lower and upper end.
        scale: Float, what both are multiplied by.
        digits: Integer, places after the point.
    """
    if not math.isfinite(mean):
        return "diverged"
    half = scale * (interval[1] - mean)
    text = f"{scale * mean:.{digits}f}"
    return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def figure_text(value: float, scale: float = 1, digits: int = 3) -> str:
    """Return one figure; what is not finite reads "diverged".

    Args:
        value: Float.
        scale: Float, what it is multiplied by. Defaults to `1`.
        digits: Integer, places after the point. Defaults to `3`.
    """
    return mean_text(value, (math.nan, math.nan), scale, digits)


def bounds_text(values: Mapping[str, float]) -> str:
    """Return a mean with its interval, such as `"0.021 [0.013, 0.030]"`.

    Args:
        values: Mapping with the keys `mean`, `low` and `high`.
    """
    return f"{values['mean']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


def count_text(count: int, noun: str) -> str:
    """Return a number with its noun: `"1 seed"`, `"2,000 seeds"`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def stability_text(stability: float) -> str:
    """Return a variance of losses, `"-"` where there were too few for one."""
    return "-" if math.isnan(stability) else f"{stability:.2g}"


def epochs_text(epochs: float) -> str:
    """Return a number of epochs; infinity reads "missed"."""
    return f"{epochs:g}".replace("inf", "missed")


def rate_text(rate: float) -> str:
    """Return a learning rate, such as `"1e-5"`."""
    return f"{rate:g}".replace("e-0", "e-")


def environment_text(environment: Mapping[str, Any]) -> str:
    """Return the backend, the versions and the device of a run.

    Args:
        environment: Mapping as `keras_metalr.benchmark.environment` makes it.
    """
    backend = environment["backend"]
    versions = environment["versions"]
    device = (
        environment["accelerator"] or f"{environment['num_cores']} CPU cores"
    )
    return (
        f"{BACKENDS[backend]} {versions.get(backend, '')}, "
        f"Keras {versions['keras']}, {device}"
    )


def _cell(value: Any) -> str:
    # A bar ends a cell, even inside `code`.
    return str(value).replace("|", "\\|")
