"""Each section of the report, from a budget to its parts."""

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_metalr import workloads
from keras_metalr.benchmark.ablation import ablation_jobs
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.full_report.cuts import cuts
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.parts import Ladder
from keras_metalr.benchmark.full_report.parts import Loop
from keras_metalr.benchmark.full_report.parts import Part
from keras_metalr.benchmark.full_report.tasks import Budget
from keras_metalr.benchmark.full_report.tasks import Feedback
from keras_metalr.benchmark.full_report.tasks import Phases
from keras_metalr.benchmark.full_report.tasks import Primary
from keras_metalr.benchmark.full_report.tasks import Task
from keras_metalr.benchmark.full_report.tasks import times
from keras_metalr.benchmark.records import digest
from keras_metalr.benchmark.runner import RunConfig
from keras_metalr.benchmark.runner import identity
from keras_metalr.workloads.workload import Workload

# One validation set for the report's two figures on SST-2: its first 500
# examples, and all.
EVALUATION_EXAMPLES = (500, None)
_FIRST_SEED = 1000


def _primary(
    section: str, primary: Primary, budget: Budget, choices: Choices
) -> Part:
    """A task with every method, over seeds."""
    make = _Making(primary.task, budget, choices)
    return make.part(
        section,
        section,
        jobs=tuple(
            make.job(
                method,
                seed,
                controller=choices.controller,
                learning_rate=times(make.workload.learning_rate, factor),
                # Every method's loss is of the same kind: one number a step.
                record_steps=True,
            )
            # Seeds outermost: an interrupted call leaves all the methods.
            for seed in range(choices.seeds or budget.seeds)
            for method, factor in primary.methods
        ),
    )


def _results_line(budget: Budget, choices: Choices) -> Part:
    """One run per method, evaluated on as many examples as the report did."""
    make = _Making(budget.results_line, budget, choices)
    return make.part(
        "results-line",
        "results-line",
        jobs=tuple(
            make.job(
                method,
                seed=0,
                controller=choices.controller,
                evaluation_examples=EVALUATION_EXAMPLES,
            )
            for method in ("static", "metalr")
        ),
    )


def _phases(phases: Phases, budget: Budget, choices: Choices) -> Part:
    """A ladder, a fit on it, and runs with what was fitted."""
    make = _Making(phases.task, budget, choices)
    name = f"phases-{phases.name}"
    ladder = Ladder(
        rates=phases.rates,
        seeds=phases.ladder_seeds,
        epochs=make.epochs,
        folder=make.folder(name, [phases.rates, phases.ladder_seeds]),
    )
    methods = (
        ("metalr", str(ladder.controller)),
        ("metalr", choices.controller),
        ("static", None),
    )
    return make.part(
        "phases",
        name,
        ladder=ladder,
        jobs=tuple(
            # The steps are noted as in the primary tasks: where these are the
            # same runs, they are found.
            make.job(method, seed, controller=controller, record_steps=True)
            for seed in range(phases.seeds)
            for method, controller in methods
        ),
    )


def _feedback(feedback: Feedback, budget: Budget, choices: Choices) -> Part:
    """Loops with experience, the same runs without, and the references."""
    make = _Making(feedback.task, budget, choices)
    name = f"feedback-{feedback.name}"
    first_seeds = [
        _FIRST_SEED * (number + 1) for number in range(feedback.repeats)
    ]
    references = [
        make.job(method, seed, learning_rate=rate, evaluation_examples=(None,))
        for seed in range(feedback.reference_seeds)
        for method in ("static", "cosine")
        for rate in feedback.reference_rates
    ]
    without = [
        make.job("metalr", first_seed + number, controller=feedback.controller)
        for first_seed in first_seeds
        for number in range(feedback.num_runs)
    ]
    within = [
        make.job(
            "metalr",
            first_seeds[0] + number,
            controller=feedback.controller,
            options={"feedback": True},
        )
        for number in range(min(feedback.within_seeds, feedback.num_runs))
    ]
    return make.part(
        "feedback",
        name,
        loops=tuple(
            Loop(
                controller=feedback.controller,
                first_seed=first_seed,
                num_runs=feedback.num_runs,
                epochs=make.epochs,
                folder=make.folder(name, first_seed),
            )
            for first_seed in first_seeds
        ),
        jobs=(*references, *without, *within),
    )


def _ablation(budget: Budget, choices: Choices) -> Part:
    """Every variant with a static rate and with MetaLR."""
    ablation = budget.ablation
    jobs = ablation_jobs(
        ablation.variants,
        ("static", "metalr"),
        ablation.seeds,
        controller=choices.controller,
        epochs=ablation.task.epochs,
        mixed_precision=budget.mixed_precision,
        # A run of a few epochs has too few losses for a variance.
        record_steps=True,
        download=choices.download,
        **ablation.task.options,
    )
    # Two names of the same settings are one run.
    unique: dict[str, Job] = {}
    for _, job in jobs:
        unique.setdefault(digest(identity(job.workload, job.config)), job)
    make = _Making(ablation.task, budget, choices)
    return make.part("ablation", "ablation", jobs=tuple(unique.values()))


# Each gives the parts of a section.
MAKERS: dict[str, Callable[[Budget, Choices], list[Part]]] = {
    "cifar10": lambda b, c: [_primary("cifar10", b.cifar10, b, c)],
    "sst2": lambda b, c: [_primary("sst2", b.sst2, b, c)],
    "results-line": lambda b, c: [_results_line(b, c)],
    "phases": lambda b, c: [_phases(phases, b, c) for phases in b.phases],
    "feedback": lambda b, c: [_feedback(loop, b, c) for loop in b.feedback],
    "ablation": lambda b, c: [_ablation(b, c)],
}


@dataclass(frozen=True)
class _Making:
    """What the runs of a part have in common."""

    task: Task
    budget: Budget
    choices: Choices

    @property
    def workload(self) -> Workload:
        """The task's workload, with what the task and a person chose."""
        task = self.task
        options = dict(task.options)
        if task.workload != "digits":
            options["download"] = self.choices.download
        if task.workload == "sst2_bert":
            options["preset"] = self.choices.preset
        changes = {
            name: value
            for name in ("batch_size", "target_accuracy")
            if (value := getattr(task, name)) is not None
        }
        return workloads.get(task.workload, **options).replace(**changes)

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        return self.task.epochs or self.workload.epochs

    def part(self, section: str, name: str, **work: Any) -> Part:
        """The part; `work` is its `jobs`, `ladder` and `loops`."""
        workload = self.workload
        return Part(
            section=section,
            name=name,
            workload=workload,
            mixed_precision=self.budget.mixed_precision,
            seconds=self.task.seconds,
            details={
                "cuts": cuts(self.task, workload),
                "report_rate": workload.learning_rate,
                "target_accuracy": workload.target_accuracy,
            },
            **work,
        )

    def job(
        self,
        method: str,
        seed: int,
        *,
        controller: str | None = None,
        options: Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        **config: Any,
    ) -> Job:
        """One run; `controller` and `options` are of the method `metalr`."""
        workload = self.workload
        rate = (
            workload.learning_rate if learning_rate is None else learning_rate
        )
        name, method_options = method, dict(options or {})
        if method == "metalr":
            name += (
                f" ({', '.join([Path(str(controller)).name, *method_options])})"
            )
            method_options["controller"] = controller
        return Job(
            title=f"{name}, {rate:g}, seed {seed}",
            workload=workload,
            config=RunConfig(
                method=method,
                learning_rate=rate,
                seed=seed,
                epochs=self.task.epochs,
                steps=self.task.steps,
                mixed_precision=self.budget.mixed_precision,
                method_options=method_options,
                **config,
            ),
        )

    def folder(self, name: str, more: Any) -> Path:
        """A folder for what has no record: other settings, another folder."""
        config = RunConfig(mixed_precision=self.budget.mixed_precision)
        settings = identity(self.workload, config)
        key = digest([settings, self.task.epochs, more])
        return self.choices.output / f"{name}-{key}"
