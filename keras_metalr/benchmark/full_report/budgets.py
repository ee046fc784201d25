"""How much of each task is trained: every number that a budget chooses.

`full` is the report's own setup. `cpu` and `smoke` cut it; what they cut is
worked out by `cuts.cuts` and stands on the pages.
"""

from dataclasses import replace
from typing import Any

from keras_metalr.benchmark.full_report.tasks import Ablation
from keras_metalr.benchmark.full_report.tasks import Budget
from keras_metalr.benchmark.full_report.tasks import Feedback
from keras_metalr.benchmark.full_report.tasks import Phases
from keras_metalr.benchmark.full_report.tasks import Primary
from keras_metalr.benchmark.full_report.tasks import Task


def _feedback(
    epochs: tuple[int, int], seconds: tuple[float, float], **changes: Any
) -> tuple[Feedback, ...]:
    """The two tasks of the feedback loop. Change them here.

    One begins with the controller of phase 2, the other is one that the shipped
    controller is poor at (`digits_conv` in docs/benchmark.md).

    Args:
        epochs: Tuple of two integers, one a task.
        seconds: Tuple of two floats, as in `Task`.
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
            controller="general",
            **changes,
        ),
    )


_CPU_SST2 = {"sequence_length": 32, "train_examples": 2560}

BUDGETS = {
    "smoke": Budget(
        seeds=1,
        cifar10=Primary(
            Task(
                "cifar10_resnet18",
                seconds=(25, 35),
                options={
                    "image_size": 8,
                    "train_examples": 64,
                    "validation_examples": 32,
                },
                epochs=2,
                steps=2,
                batch_size=8,
            ),
            methods=(("static", 1.0), ("metalr", 1.0)),
        ),
        sst2=Primary(
            Task(
                "sst2_bert",
                seconds=(5, 8),
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
            seconds=(8, 11),
            options={"sequence_length": 16, "train_examples": 64},
            epochs=1,
            steps=4,
            report_epochs=1,
        ),
        phases=(
            Phases(
                Task("digits", seconds=(1.5, 4), epochs=1),
                name="digits",
                rates=(1e-3, 1e-2, 1e-1),
                ladder_seeds=(100,),
                seeds=1,
            ),
        ),
        # The first of the two tasks: the other is the same code.
        feedback=tuple(
            replace(feedback, reference_rates=feedback.reference_rates[2:3])
            for feedback in _feedback(
                epochs=(1, 1),
                seconds=(1.5, 4),
                num_runs=2,
                repeats=1,
                within_seeds=1,
                reference_seeds=1,
            )[:1]
        ),
        ablation=Ablation(
            Task(
                "report_mlp",
                seconds=(2, 4.5),
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
                seconds=(80, 112),
                options={
                    "image_size": 16,
                    "train_examples": 5120,
                    "validation_examples": 512,
                },
                epochs=8,
                steps=80,
                target_accuracy=0.25,
            )
        ),
        sst2=Primary(
            Task(
                "sst2_bert",
                seconds=(85, 119),
                # Whole batches: another size would be compiled, too.
                options={**_CPU_SST2, "validation_examples": 256},
                epochs=4,
                steps=80,
                target_accuracy=0.75,
            )
        ),
        results_line=Task(
            "sst2_bert",
            seconds=(95, 110),
            options=_CPU_SST2,
            epochs=1,
            steps=80,
            report_epochs=1,
        ),
        phases=(
            Phases(
                Task("digits", seconds=(2, 4.5), epochs=3),
                name="digits",
                seeds=3,
            ),
        ),
        feedback=_feedback(
            epochs=(3, 10), seconds=(2.5, 4.5), repeats=4, within_seeds=5
        ),
        ablation=Ablation(
            Task(
                "report_mlp",
                seconds=(2.4, 4.4),
                options={"train_examples": 6000, "validation_examples": 2000},
                epochs=2,
            ),
        ),
    ),
    "full": Budget(
        seeds=3,
        cifar10=Primary(Task("cifar10_resnet18", seconds=(60_000, 80_000))),
        sst2=Primary(Task("sst2_bert", seconds=(60_000, 80_000))),
        results_line=Task(
            "sst2_bert", seconds=(20_000, 27_000), epochs=1, report_epochs=1
        ),
        phases=(
            Phases(Task("digits", seconds=(12, 20)), name="digits"),
            Phases(
                Task("cifar10_resnet18", seconds=(60_000, 80_000)),
                name="cifar10",
                ladder_seeds=(100,),
                seeds=3,
            ),
        ),
        feedback=_feedback(epochs=(20, 20), seconds=(8, 14), repeats=5),
        ablation=Ablation(Task("report_mlp", seconds=(20, 30))),
        mixed_precision="auto",
    ),
}
