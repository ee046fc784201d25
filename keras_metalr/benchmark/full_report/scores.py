"""From the kept runs of a part to the figures of its tables."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.scoring import block_size
from keras_metalr.benchmark.scoring import epochs_to_target
from keras_metalr.benchmark.scoring import mean_and_interval

# A run that failed counts as this much regret: 1 is no progress at all.
HIGHEST_REGRET = 5.0
# What can be gained at the least, as a share of the loss before training, as in
# `meta_training.bank.regret`: where there is less, regret has no scale.
_LEAST_GAIN = 0.02


def method_groups(
    part: PartResult,
) -> dict[tuple[str, float], list[RunResult]]:
    """Runs by method and rate, in the order that they were planned."""
    groups: dict[tuple[str, float], list[RunResult]] = defaultdict(list)
    for run in part.runs:
        config = run.config
        groups[config["method"], config["learning_rate"]].append(run)
    return dict(groups)


def controller_groups(part: PartResult) -> dict[str, list[RunResult]]:
    """Runs by what sets their rate: a controller's name, or the method."""
    groups: dict[str, list[RunResult]] = defaultdict(list)
    for run in part.runs:
        method = run.config["method"]
        name = run.config["method_options"].get("controller", method)
        groups[Path(name).name].append(run)
    return dict(groups)


def variant_groups(part: PartResult) -> dict[tuple[str, str], list[RunResult]]:
    """Runs by variant and method."""
    groups: dict[tuple[str, str], list[RunResult]] = defaultdict(list)
    for run in part.runs:
        key = run.config["options"]["variant"], run.config["method"]
        groups[key].append(run)
    return dict(groups)


def ladder_outcomes(part: PartResult) -> dict[float, list[float]]:
    """Outcomes of phase 1 by rate, ascending, one a seed."""
    outcomes: dict[float, list[float]] = defaultdict(list)
    for rung in part.ladder:
        outcomes[rung["learning_rate"]].append(rung["outcome"])
    return dict(sorted(outcomes.items()))


@dataclass(frozen=True)
class Reference:
    """What regret is measured against.

    Args:
        method: String, of the best reference.
        learning_rate: Float, of the best reference.
        best: Float, its validation loss at the end, mean over seeds.
        initial: Float, the validation loss before training, mean over seeds.
        num_references: Integer, how many it is the best of.
        num_seeds: Integer.
    """

    method: str
    learning_rate: float
    best: float
    initial: float
    num_references: int
    num_seeds: int

    def regret(self, loss: float) -> float:
        """0 is the best reference, 1 no progress; at most 5."""
        least = _LEAST_GAIN * abs(self.initial) + 1e-8
        share = (loss - self.best) / max(self.initial - self.best, least)
        return min(share, HIGHEST_REGRET) if share == share else HIGHEST_REGRET


@dataclass(frozen=True)
class Block:
    """Mean regret of some runs of the feedback loop, one value a repeat.

    The runs of a repeat learn from one another, so that a repeat is one
    observation, not as many as it has runs.

    Args:
        name: String.
        gathered: Array `(repeats,)`, with experience.
        without: Array `(repeats,)`, the same seeds.
    """

    name: str
    gathered: np.ndarray
    without: np.ndarray


@dataclass(frozen=True)
class Loops:
    """The feedback loop beside the same runs without it.

    Args:
        reference: `Reference`.
        gathered: Array of regrets `(repeats, num_runs)`, with experience.
        without: Array of regrets `(repeats, num_runs)`, the same seeds.
        within: Mapping from seed to regret, with feedback within the run.
        plain: Mapping from seed to regret, without any feedback.
    """

    reference: Reference
    gathered: np.ndarray
    without: np.ndarray
    within: Mapping[int, float]
    plain: Mapping[int, float]

    def blocks(self) -> list[Block]:
        """The first runs, the last, and by how much the last are higher."""
        num_runs = self.gathered.shape[1]
        size = block_size(num_runs)
        first, last = (
            Block(
                name,
                self.gathered[:, runs].mean(axis=1),
                self.without[:, runs].mean(axis=1),
            )
            for name, runs in (
                (f"first {size}", slice(None, size)),
                (f"last {size}", slice(num_runs - size, None)),
            )
        )
        change = Block(
            "last - first",
            last.gathered - first.gathered,
            last.without - first.without,
        )
        return [first, last, change]


def feedback_loops(part: PartResult) -> Loops:
    """Turn the losses of a part of the section `feedback` into regrets.

    Args:
        part: `PartResult`.
    """
    references = {
        key: runs
        for key, runs in method_groups(part).items()
        if key[0] != "metalr"
    }
    reference = _reference(references)
    plain: dict[int, float] = {}
    within: dict[int, float] = {}
    for run in part.runs:
        if run.config["method"] == "metalr":
            is_within = run.config["method_options"].get("feedback", False)
            target = within if is_within else plain
            target[run.config["seed"]] = reference.regret(
                run.results["eval_loss"]
            )
    gathered = [
        [reference.regret(outcome) for outcome in loop["outcomes"]]
        for loop in part.loops
    ]
    without = [
        [
            plain[loop["first_seed"] + number]
            for number in range(len(loop["outcomes"]))
        ]
        for loop in part.loops
    ]
    return Loops(
        reference=reference,
        gathered=np.asarray(gathered),
        without=np.asarray(without),
        within=within,
        plain=plain,
    )


def _reference(
    groups: Mapping[tuple[str, float], Sequence[RunResult]],
) -> Reference:
    means = {
        key: float(np.mean([run.results["eval_loss"] for run in runs]))
        for key, runs in groups.items()
    }
    finite = {key: mean for key, mean in means.items() if math.isfinite(mean)}
    if not finite:
        raise ValueError(
            "All references of the feedback loop diverged. Give it lower "
            "`reference_rates`."
        )
    method, rate = min(finite, key=lambda key: finite[key])
    initial = [
        line["eval_loss"]
        for runs in groups.values()
        for run in runs
        for line in run.evaluations
        if line["when"] == "before training"
    ]
    return Reference(
        method=method,
        learning_rate=rate,
        best=finite[method, rate],
        initial=float(np.mean(initial)),
        num_references=len(groups),
        num_seeds=len(groups[method, rate]),
    )


def median_epochs_to_end_of(
    others: Sequence[RunResult], runs: Sequence[RunResult]
) -> float:
    """Median number of epochs until runs are as accurate as others end.

    Args:
        others: Sequence of `RunResult`.
        runs: Sequence of `RunResult`; each is compared with that of the others
            that has its seed.

    Returns:
        Float; infinity where more than half of the runs never were.
    """
    ends = {
        run.config["seed"]: run.history["val_accuracy"][-1] for run in others
    }
    epochs = [
        epochs_to_target(run.history["val_accuracy"], ends[run.config["seed"]])
        for run in runs
    ]
    return statistics.median(epochs)


def paired(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> tuple[float, float, float]:
    """Mean of `first - second`, with its 95 % interval.

    Args:
        first: Sequence of floats.
        second: Sequence of floats, of the same seeds.

    Returns:
        Tuple `(mean, low, high)`; the last two are NaN for a single pair.
    """
    return mean_and_interval(list(np.subtract(first, second)))
