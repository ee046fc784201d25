"""What a budget is made of: tasks, and how much of each is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from keras_metalr.phases.collect import LADDER
from keras_metalr.workloads.report_mlp import VARIANTS

# A method, and what the report's own rate is multiplied by.
METHODS = (
    ("static", 1.0),
    ("cosine", 1.0),
    ("metalr", 0.01),
    ("metalr", 1.0),
    ("metalr", 100.0),
)


def times(rate: float, factor: float) -> float:
    """The rate that a row of `METHODS` starts from.

    Args:
        rate: Float, the report's own.
        factor: Float.

    Returns:
        Float of three digits, so that it reads the same wherever it is printed.
    """
    return float(f"{rate * factor:.3g}")


@dataclass(frozen=True)
class Task:
    """A workload, and how much of it is used.

    Args:
        workload: String, a name in `keras_metalr.workloads`.
        seconds: Tuple of two floats, roughly what a run takes on two CPU cores
            at a constant rate, and with MetaLR, which compiles more and runs
            the forward pass again. For the time that is left, not for any
            result.
        options: Mapping, what the workload is made with. Defaults to none.
        epochs: Integer. Defaults to `None`, the workload's own number.
        steps: Integer, training steps in all, shared out over `epochs`.
            Defaults to `None`, whole passes.
        batch_size: Integer. Defaults to `None`, the workload's own.
        target_accuracy: Float. Defaults to `None`, the workload's own.
        report_epochs: Integer, what the report trained this for. Defaults to
            `None`, the workload's own number.
    """

    workload: str
    seconds: tuple[float, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    target_accuracy: float | None = None
    report_epochs: int | None = None


@dataclass(frozen=True)
class Primary:
    """One of the two tasks that every method is tried on, over seeds."""

    task: Task
    methods: tuple[tuple[str, float], ...] = METHODS


@dataclass(frozen=True)
class Phases:
    """Phases 1 to 3 on one task.

    Args:
        task: `Task`.
        name: String, for the file.
        rates: Tuple of floats, the ladder of phase 1.
        ladder_seeds: Tuple of integers, seeds of phase 1.
        seeds: Integer, how many seeds phase 3 has.
    """

    task: Task
    name: str
    rates: tuple[float, ...] = LADDER
    ladder_seeds: tuple[int, ...] = (100, 101)
    seeds: int = 5


@dataclass(frozen=True)
class Feedback:
    """The feedback loop on one task.

    Args:
        task: `Task`.
        name: String, for the file.
        reference_rates: Tuple of floats: regret is measured against the best
            of these, constant or with a cosine.
        controller: String, name or folder of the preset that the first run
            starts with. Defaults to `"supervised"`.
        num_runs: Integer, how many follow one another. Defaults to `20`.
        repeats: Integer, how often, from other seeds. Defaults to `3`: the
            interval of two has no use.
        within_seeds: Integer, runs with feedback within the run.
            Defaults to `10`.
        reference_seeds: Integer, seeds of each reference. Defaults to `2`.
    """

    task: Task
    name: str
    reference_rates: tuple[float, ...]
    controller: str = "supervised"
    num_runs: int = 20
    repeats: int = 3
    within_seeds: int = 10
    reference_seeds: int = 2


@dataclass(frozen=True)
class Ablation:
    """The changes to a dense net, each without and with MetaLR."""

    task: Task
    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 5


@dataclass(frozen=True)
class Budget:
    """All that a budget chooses.

    Args:
        seeds: Integer, seeds of the two primary tasks.
        cifar10: `Primary`.
        sst2: `Primary`.
        results_line: `Task`, one epoch of SST-2.
        phases: Tuple of `Phases`.
        feedback: Tuple of `Feedback`.
        ablation: `Ablation`.
        mixed_precision: String, as in `RunConfig`. Defaults to `"off"`.
    """

    seeds: int
    cifar10: Primary
    sst2: Primary
    results_line: Task
    phases: tuple[Phases, ...]
    feedback: tuple[Feedback, ...]
    ablation: Ablation
    mixed_precision: str = "off"
