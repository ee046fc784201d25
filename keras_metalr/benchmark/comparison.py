"""One method from several starting rates against a grid of constant rates."""

import math
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_metalr.benchmark.scoring import mean_and_interval

# A start counts as good when it ends this close to the best constant rate.
TOLERANCE = 0.01
# What runs that are compared differ in, and what comes with their method.
_COMPARED = ("method", "learning_rate", "seed")
_OF_METHOD = ("method_options", "controller")


@dataclass(frozen=True)
class Score:
    """Validation accuracy of one method at one rate, over seeds.

    Args:
        learning_rate: Float, the constant rate, or the one at the start.
        accuracies: Tuple of floats in [0, 1], in the order of the seeds.
    """

    learning_rate: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def worst(self) -> float:
        """The lowest accuracy of any seed."""
        return min(self.accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean; NaN for a single seed."""
        return mean_and_interval(self.accuracies)[1:]


@dataclass(frozen=True)
class Comparison:
    """What a grid of constant rates reached, and MetaLR from each start.

    Args:
        static: Tuple of `Score`, one for each rate of the grid, ascending.
        metalr: Tuple of `Score`, one for each start, ascending.
        seeds: Tuple of integers, the same for all.
    """

    static: tuple[Score, ...]
    metalr: tuple[Score, ...]
    seeds: tuple[int, ...]

    @property
    def best_static(self) -> Score:
        """The constant rate with the highest mean over the seeds."""
        return max(self.static, key=lambda score: score.mean)

    @property
    def num_trials(self) -> int:
        """Runs that the choice of the best constant rate took."""
        return len(self.static) * len(self.seeds)

    @property
    def spread(self) -> float:
        """Highest less lowest mean of MetaLR, over the starts."""
        means = [score.mean for score in self.metalr]
        return max(means) - min(means)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether every start's mean is at most one point below the best."""
        lowest = min(score.mean for score in self.metalr)
        # 1e-9: a difference of exactly one point is within it.
        return lowest >= self.best_static.mean - TOLERANCE - 1e-9


def check_settings(records: Iterable[Any]) -> None:
    """Refuse to compare runs that differ in more than they should.

    Args:
        records: Iterable of `RunResult`. They may differ in the method, with
            what is chosen for it, the learning rate and the seed.

    Raises:
        ValueError: If they differ in anything else.
    """
    expected: dict[str, dict[str, Any]] = {}
    for record in records:
        config = record.config
        own = (*_COMPARED, *_OF_METHOD)
        common = {name: config[name] for name in config if name not in own}
        of_method = {name: config.get(name) for name in _OF_METHOD}
        for kind, found in (("", common), (config["method"], of_method)):
            first = expected.setdefault(kind, found)
            for name in {**first, **found}:
                if first.get(name) != found.get(name):
                    raise ValueError(
                        "Runs that are compared must have the same settings. "
                        f"Received: {name} {first.get(name)!r} and "
                        f"{found.get(name)!r}. Give the ones or the others a "
                        "folder of their own."
                    )


def compare(records: Iterable[Any]) -> Comparison:
    """Sort runs by method and rate.

    Args:
        records: Iterable of `RunResult` of one workload, with methods
            `"static"` and `"metalr"` and the same seeds at every rate.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If a method is missing, or a rate lacks a seed, or they
            differ in more than `check_settings` allows.
    """
    records = list(records)
    check_settings(records)
    groups: dict[tuple[str, float], dict[int, float]] = defaultdict(dict)
    for record in records:
        config = record.config
        key = config["method"], config["learning_rate"]
        groups[key][config["seed"]] = final_accuracy(record)
    seeds = sorted({seed for group in groups.values() for seed in group})
    static = _scores(groups, "static", seeds)
    metalr = _scores(groups, "metalr", seeds)
    return Comparison(static=static, metalr=metalr, seeds=tuple(seeds))


def final_accuracy(record: Any) -> float:
    """Return the validation accuracy of a `RunResult`; 0 where it is NaN."""
    accuracy = float(record.results["eval_accuracy"])
    return 0.0 if math.isnan(accuracy) else accuracy


def _scores(
    groups: Mapping[tuple[str, float], Mapping[int, float]],
    method: str,
    seeds: Sequence[int],
) -> tuple[Score, ...]:
    scores = []
    for (name, rate), accuracies in sorted(groups.items()):
        if name != method:
            continue
        if sorted(accuracies) != list(seeds):
            raise ValueError(
                "Every rate must have been run with the same seeds. "
                f"Received: {method!r} at {rate:g} with seeds "
                f"{sorted(accuracies)}; expected {list(seeds)}. Run the "
                "benchmark again: it makes the runs that are missing."
            )
        scores.append(Score(rate, tuple(accuracies[seed] for seed in seeds)))
    if not scores:
        raise ValueError(
            f"There is no run of {method!r}. Received runs of: "
            f"{sorted({name for name, _ in groups})}."
        )
    return tuple(scores)
