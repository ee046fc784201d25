"""Parts of the report with figures made by hand: nothing is trained."""

from pathlib import Path

from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.plan import make_plan
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.runner import identity
from tests.benchmark.environment import ENVIRONMENT

NOTES = {
    "cifar10": "lossy JPEG copy of the images",
    "sst2": "a sentence embedder, not BERT Base",
    "results-line": "a sentence embedder, not BERT Base",
}
CHOICES = Choices(output=Path("runs/made-up"), preset="someone/encoder")


def part_results(budget="cpu", steps=36):
    """One result for each part of the plan."""
    return [
        _part_result(part, budget, steps) for part in make_plan(budget, CHOICES)
    ]


def _part_result(part, budget, steps):
    note = NOTES.get(part.section, "")
    ladder = fit = None
    if part.ladder is not None:
        ladder = [
            {"learning_rate": rate, "seed": seed, "outcome": 0.3 + rate}
            for seed in part.ladder.seeds
            for rate in part.ladder.rates
        ]
        fit = {"learning_rate": 0.001, "batch_size": 64, "epochs": 10}
        fit |= {"num_features": 22, "hidden_units": [64, 32]}
        fit |= {"num_states": 3300, "mean_squared_error": 0.05}
    return PartResult(
        section=part.section,
        name=part.name,
        budget=budget,
        data_note=note,
        details=part.details,
        runs=[
            run_result(job, note, number, steps)
            for number, job in enumerate(part.jobs)
        ],
        controllers={
            name: controller_mark(name)
            for name in ("general", "supervised")
            if any(
                job.config.method_options.get("controller") == name
                for job in part.jobs
            )
        },
        ladder=ladder or [],
        fit=fit or {},
        loops=[
            {
                "first_seed": loop.first_seed,
                "outcomes": [0.5 - 0.01 * n for n in range(loop.num_runs)],
            }
            for loop in part.loops
        ],
    )


def run_result(job, note, number, steps):
    """A record in which every figure is another one."""
    line = {
        "eval_loss": 0.4 + number / 1000,
        "eval_accuracy": 0.8 + number / 10_000,
        "eval_f1": 0.7 + number / 10_000,
        "eval_runtime": 1.5,
        "eval_samples_per_second": 100.0,
        "eval_steps_per_second": 10.0,
        "epoch": 1.0,
    }
    config = identity(job.workload, job.config)
    losses = [2.0 / (1 + step) + number / 1000 for step in range(steps)]
    counts = [500, 872] if config.get("evaluation_examples") else []
    return RunResult(
        config=config,
        environment=ENVIRONMENT,
        data_note=note,
        history={
            "loss": [1.0, 0.5],
            "val_loss": [1.1, 0.6],
            "val_accuracy": [0.4, 0.8],
        },
        curves={
            name: {
                "per": "step",
                "step": list(range(1, steps + 1)),
                "value": losses,
            }
            for name in ("loss", "learning_rate")
        },
        results={
            **line,
            "num_steps": steps,
            "epochs_to_target": 2.0,
            "stability": 0.25,
            "stability_last_half": 0.125,
            "train_runtime": 12.5,
            "num_train": 2880,
        },
        evaluations=[
            {"when": when, "num_examples": count, **line, "eval_loss": loss}
            for when, loss in (("before training", 2.4), ("after training", 1))
            for count in counts
        ],
    )
