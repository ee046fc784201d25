"""Each section of the report, from a budget to a part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_metalr import workloads
from keras_metalr.benchmark.ablation import ablation_jobs
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.full_report.budgets import Budget
from keras_metalr.benchmark.full_report.budgets import Feedback
from keras_metalr.benchmark.full_report.budgets import Phases
from keras_metalr.benchmark.full_report.budgets import Primary
from keras_metalr.benchmark.full_report.budgets import Task
from keras_metalr.benchmark.full_report.cuts import cuts
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.parts import Ladder
from keras_metalr.benchmark.full_report.parts import Loop
from keras_metalr.benchmark.full_report.parts import Part
from keras_metalr.benchmark.records import digest
from keras_metalr.benchmark.runner import RunConfig
from keras_metalr.benchmark.runner import identity
from keras_metalr.workloads.workload import Workload

# One validation set for the report's two figures on SST-2: its first 500
# examples, and all.
EVALUATION_EXAMPLES = (500, None)
_FIRST_SEED = 1000


def primary_part(
    section: str, primary: Primary, budget: Budget, choices: Choices
) -> Part:
    task = primary.task
    workload = _workload(task, choices)
    return _part(
        section,
        section,
        task,
        workload,
        budget,
        jobs=tuple(
            _job(
                task,
                workload,
                budget,
                method,
                seed,
                controller=choices.controller,
                learning_rate=_times(workload.learning_rate, factor),
                # Every method's loss is of the same kind: one number a step.
                record_steps=True,
            )
            # Seeds outermost: an interrupted call leaves all the methods.
            for seed in range(choices.seeds or budget.seeds)
            for method, factor in primary.methods
        ),
    )


def results_line_part(budget: Budget, choices: Choices) -> Part:
    task = budget.results_line
    workload = _workload(task, choices)
    return _part(
        "results-line",
        "results-line",
        task,
        workload,
        budget,
        jobs=tuple(
            _job(
                task,
                workload,
                budget,
                method,
                seed=0,
                controller=choices.controller,
                evaluation_examples=EVALUATION_EXAMPLES,
            )
            for method in ("static", "metalr")
        ),
    )


def phases_part(phases: Phases, budget: Budget, choices: Choices) -> Part:
    task = phases.task
    workload = _workload(task, choices)
    name = f"phases-{phases.name}"
    ladder = Ladder(
        rates=phases.rates,
        seeds=phases.ladder_seeds,
        epochs=task.epochs or workload.epochs,
        folder=_folder(
            name,
            workload,
            budget,
            choices,
            [task.epochs, phases.rates, phases.ladder_seeds],
        ),
    )
    methods = (
        ("metalr", str(ladder.controller)),
        ("metalr", choices.controller),
        ("static", None),
    )
    return _part(
        "phases",
        name,
        task,
        workload,
        budget,
        ladder=ladder,
        jobs=tuple(
            _job(
                task,
                workload,
                budget,
                method,
                seed,
                controller=controller,
                # As in the primary tasks: where these are the same runs, they
                # are found.
                record_steps=True,
            )
            for seed in range(phases.seeds)
            for method, controller in methods
        ),
    )


def feedback_part(feedback: Feedback, budget: Budget, choices: Choices) -> Part:
    task = feedback.task
    workload = _workload(task, choices)
    name = f"feedback-{feedback.name}"
    first_seeds = [
        _FIRST_SEED * (number + 1) for number in range(feedback.repeats)
    ]
    loops = tuple(
        Loop(
            controller=feedback.controller,
            first_seed=first_seed,
            num_runs=feedback.num_runs,
            epochs=task.epochs or workload.epochs,
            folder=_folder(
                name, workload, budget, choices, [task.epochs, first_seed]
            ),
        )
        for first_seed in first_seeds
    )

    def metalr(seed: int, **options: Any) -> Job:
        return _job(
            task,
            workload,
            budget,
            "metalr",
            seed,
            controller=feedback.controller,
            options=options,
        )

    references = [
        _job(
            task,
            workload,
            budget,
            method,
            seed,
            learning_rate=rate,
            evaluation_examples=(None,),
        )
        for seed in range(feedback.reference_seeds)
        for method in ("static", "cosine")
        for rate in feedback.reference_rates
    ]
    without = [
        metalr(first_seed + number)
        for first_seed in first_seeds
        for number in range(feedback.num_runs)
    ]
    within = [
        metalr(first_seeds[0] + number, feedback=True)
        for number in range(min(feedback.within_seeds, feedback.num_runs))
    ]
    return _part(
        "feedback",
        name,
        task,
        workload,
        budget,
        loops=loops,
        jobs=(*references, *without, *within),
    )


def ablation_part(budget: Budget, choices: Choices) -> Part:
    ablation = budget.ablation
    task = ablation.task
    jobs = ablation_jobs(
        ablation.variants,
        ("static", "metalr"),
        ablation.seeds,
        controller=choices.controller,
        epochs=task.epochs,
        mixed_precision=budget.mixed_precision,
        download=choices.download,
        **task.options,
    )
    # Two names of the same settings are one run.
    unique: dict[str, Job] = {}
    for _, job in jobs:
        unique.setdefault(digest(identity(job.workload, job.config)), job)
    return _part(
        "ablation",
        "ablation",
        task,
        _workload(task, choices),
        budget,
        jobs=tuple(unique.values()),
    )


# -- Details. ----------------------------------------------------------------


def _part(
    section: str,
    name: str,
    task: Task,
    workload: Workload,
    budget: Budget,
    **work: Any,
) -> Part:
    return Part(
        section=section,
        name=name,
        workload=workload,
        mixed_precision=budget.mixed_precision,
        seconds=task.seconds,
        details={
            "cuts": cuts(task),
            "report_rate": workload.learning_rate,
            "target_accuracy": workload.target_accuracy,
        },
        **work,
    )


def _workload(task: Task, choices: Choices) -> Workload:
    options = dict(task.options)
    if task.workload != "digits":
        options["download"] = choices.download
    if task.workload == "sst2_bert":
        options["preset"] = choices.preset
    changes = {
        name: value
        for name in ("batch_size", "target_accuracy")
        if (value := getattr(task, name)) is not None
    }
    return workloads.get(task.workload, **options).replace(**changes)


def _job(
    task: Task,
    workload: Workload,
    budget: Budget,
    method: str,
    seed: int,
    *,
    controller: str | None = None,
    options: Mapping[str, Any] | None = None,
    learning_rate: float | None = None,
    **config: Any,
) -> Job:
    method_options = dict(options or {})
    if method == "metalr":
        method_options["controller"] = controller
    rate = workload.learning_rate if learning_rate is None else learning_rate
    name = method
    if method == "metalr":
        marks = [Path(str(controller)).name, *(options or {})]
        name += f" ({', '.join(marks)})"
    return Job(
        title=f"{name}, {rate:g}, seed {seed}",
        workload=workload,
        config=RunConfig(
            method=method,
            learning_rate=rate,
            seed=seed,
            epochs=task.epochs,
            steps=task.steps,
            mixed_precision=budget.mixed_precision,
            method_options=method_options,
            **config,
        ),
    )


def _times(rate: float, factor: float) -> float:
    # Three digits, so that a rate reads the same wherever it is printed.
    return float(f"{rate * factor:.3g}")


def _folder(
    name: str, workload: Workload, budget: Budget, choices: Choices, more: Any
) -> Path:
    """A folder for what has no record of its own: other settings, another."""
    settings = identity(
        workload, RunConfig(mixed_precision=budget.mixed_precision)
    )
    return choices.output / f"{name}-{digest([settings, more])}"
