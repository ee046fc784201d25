"""How much of each task is trained: every number that a budget chooses.

`full` is the report's own setup. `cpu` and `smoke` cut it; what they cut is
worked out by `plan.cuts` and stands on the pages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
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


@dataclass(frozen=True)
class Task:
    """A workload, and how much of it is used.

    Args:
        workload: String, a name in `keras_metalr.workloads`.
        seconds: Float, roughly what a run at a constant rate takes on two CPU
            cores. For the time that is left, not for any result.
        options: Mapping, what the workload is made with. Defaults to none.
        epochs: Integer. Defaults to `None`, the workload's own number.
        steps: Integer, training steps in all, shared out over `epochs`.
            Defaults to `None`, whole passes.
        batch_size: Integer. Defaults to `None`, the workload's own.
        target_accuracy: Float. Defaults to `None`, the workload's own.
    """

    workload: str
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    target_accuracy: float | None = None


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
            starts with. Defaults to `"supervised"`, which is not at its best
            everywhere: there is something to learn.
        num_runs: Integer, how many follow one another. Defaults to `20`.
        repeats: Integer, how often, from other seeds. Defaults to `2`.
        within_seeds: Integer, runs with feedback within the run.
            Defaults to `10`.
        reference_seeds: Integer, seeds of each reference. Defaults to `2`.
    """

    task: Task
    name: str
    reference_rates: tuple[float, ...]
    controller: str = "supervised"
    num_runs: int = 20
    repeats: int = 2
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


def _feedback(
    epochs: tuple[int, int], seconds: float, **changes: Any
) -> tuple[Feedback, ...]:
    """The two tasks of the feedback loop. Change them here.

    Args:
        epochs: Tuple of two integers, one a task.
        seconds: Float, as in `Task`.
        **changes: Other arguments of both `Feedback`.
    """
    adam, sgd = epochs
    return (
        Feedback(
            Task("digits", seconds, {"optimizer": "adam"}, epochs=adam),
            name="digits-adam",
            reference_rates=(1e-3, 3e-3, 1e-2, 3e-2),
            **changes,
        ),
        Feedback(
            Task("digits", seconds, {"optimizer": "sgd"}, epochs=sgd),
            name="digits-sgd",
            reference_rates=(0.03, 0.1, 0.3, 1.0),
            **changes,
        ),
    )


_CPU_SST2 = {"sequence_length": 32, "train_examples": 2880}

BUDGETS = {
    "smoke": Budget(
        seeds=1,
        cifar10=Primary(
            Task(
                "cifar10_resnet18",
                seconds=6,
                options={"train_examples": 64, "validation_examples": 32},
                epochs=2,
                steps=2,
                batch_size=8,
            ),
            methods=(("static", 1.0), ("metalr", 1.0)),
        ),
        sst2=Primary(
            Task(
                "sst2_bert",
                seconds=3,
                options={
                    "sequence_length": 16,
                    "train_examples": 64,
                    "validation_examples": 64,
                },
                epochs=2,
                steps=4,
                batch_size=8,
            ),
            methods=(("static", 1.0), ("cosine", 1.0), ("metalr", 1.0)),
        ),
        results_line=Task(
            "sst2_bert",
            seconds=4,
            options={"sequence_length": 16, "train_examples": 64},
            epochs=1,
            steps=4,
        ),
        phases=(
            Phases(
                Task("digits", seconds=1.5, epochs=1),
                name="digits",
                rates=(1e-3, 1e-2, 1e-1),
                ladder_seeds=(100,),
                seeds=1,
            ),
        ),
        feedback=tuple(
            replace(feedback, reference_rates=feedback.reference_rates[2:3])
            for feedback in _feedback(
                epochs=(1, 1),
                seconds=1.5,
                num_runs=2,
                repeats=1,
                within_seeds=1,
                reference_seeds=1,
            )
        ),
        ablation=Ablation(
            Task(
                "report_mlp",
                seconds=2,
                options={"train_examples": 320, "validation_examples": 100},
                epochs=1,
            ),
            variants=("original", "+larger-batch"),
            seeds=1,
        ),
    ),
    "cpu": Budget(
        seeds=3,
        cifar10=Primary(
            Task(
                "cifar10_resnet18",
                seconds=90,
                options={"train_examples": 2304, "validation_examples": 256},
                epochs=3,
                steps=36,
                target_accuracy=0.3,
            )
        ),
        sst2=Primary(
            Task(
                "sst2_bert",
                seconds=100,
                options=_CPU_SST2,
                epochs=3,
                steps=84,
                target_accuracy=0.75,
            )
        ),
        results_line=Task(
            "sst2_bert", seconds=100, options=_CPU_SST2, epochs=1, steps=60
        ),
        phases=(Phases(Task("digits", seconds=2.5, epochs=5), name="digits"),),
        feedback=_feedback(epochs=(5, 2), seconds=2.5),
        ablation=Ablation(
            Task(
                "report_mlp",
                seconds=4,
                options={"train_examples": 6000, "validation_examples": 2000},
                epochs=2,
            ),
            seeds=3,
        ),
    ),
    "full": Budget(
        seeds=3,
        cifar10=Primary(Task("cifar10_resnet18", seconds=60_000)),
        sst2=Primary(Task("sst2_bert", seconds=60_000)),
        results_line=Task("sst2_bert", seconds=20_000, epochs=1),
        phases=(
            Phases(Task("digits", seconds=15), name="digits"),
            Phases(
                Task("cifar10_resnet18", seconds=60_000),
                name="cifar10",
                ladder_seeds=(100,),
                seeds=3,
            ),
        ),
        feedback=_feedback(epochs=(20, 5), seconds=12, repeats=5),
        ablation=Ablation(Task("report_mlp", seconds=30)),
        mixed_precision="auto",
    ),
}
