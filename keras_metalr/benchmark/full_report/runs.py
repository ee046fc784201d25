"""Makes what a plan holds and is not there yet."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from keras_metalr import experience
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.experiment import JobProgress
from keras_metalr.benchmark.full_report.condensed import WITH_CURVES
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.condensed import load_all
from keras_metalr.benchmark.full_report.parts import Ladder
from keras_metalr.benchmark.full_report.parts import Loop
from keras_metalr.benchmark.full_report.parts import Part
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.page_command import recorded_runs
from keras_metalr.benchmark.precision import dtype_policy
from keras_metalr.benchmark.precision import policy_name
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import file_name
from keras_metalr.benchmark.runner import identity
from keras_metalr.benchmark.runner import run
from keras_metalr.benchmark.text import results_line
from keras_metalr.controller import CONFIG_FILE
from keras_metalr.controller import Controller
from keras_metalr.phases import Run
from keras_metalr.phases import collect
from keras_metalr.phases import fit_controller
from keras_metalr.phases import gather_experience
from keras_metalr.phases.fit import dataset
from keras_metalr.workloads.workload import Data

# The folder of the records, one a run.
RECORDS = "records"
# The report's own fit of the secondary model.
FIT: dict[str, Any] = {"learning_rate": 0.001, "batch_size": 64, "epochs": 10}


def make_parts(
    parts: Sequence[Part],
    data: Mapping[str, Data],
    output: Path,
    budget: str,
    console: Console,
) -> None:
    """Make every run that is missing, part by part.

    Each part is saved as soon as it is whole.

    Args:
        parts: Sequence of `Part`.
        data: Mapping from a part's name to its `Data`.
        output: Path of the folder for records, and, in `results`, for the
            condensed parts.
        budget: String, the budget's name.
        console: `rich.console.Console`.
    """
    weights = [weight for part in parts for weight in part.weights()]
    with JobProgress(console, weights) as progress:
        for part in parts:
            maker = _Maker(part, data[part.name], output, budget, progress)
            maker.make().save(output / "results")
        progress.start(f"{progress.num_made} made, {progress.num_found} found")


def resume(published: Path, output: Path, parts: Sequence[Part]) -> None:
    """Write one record a run again, from condensed parts.

    So that another controller, or a part that is made anew, makes only what is
    missing. What comes before the runs (ladders, loops) is made again.

    Args:
        published: Path of the folder with the condensed parts.
        output: Path of the folder that `make_parts` writes to; records there
            stay.
        parts: Sequence of `Part`, what is to be made. A run that one of them
            draws is not resumed from a part that kept no curves of it.
    """
    drawn = [
        identity(job.workload, job.config)
        for part in parts
        if part.section in WITH_CURVES
        for job in part.jobs
    ]
    for part in load_all(published):
        for record in part.runs:
            config = {
                name: value
                for name, value in record.config.items()
                if name != "controller"
            }
            if not record.curves and config in drawn:
                continue
            path = output / RECORDS / file_name(record.config)
            if not path.is_file():
                record.save(path)


def check_made(output: Path) -> None:
    """Read what is there already, to find before the runs what is damaged.

    Args:
        output: Path of the folder that `make_parts` writes to.

    Raises:
        ValueError: If a record, or a condensed part, is damaged.
    """
    recorded_runs(output / RECORDS)
    load_all(output / "results")


class _Maker:
    """Makes one part.

    Args:
        part: `Part`.
        data: `Data` of all its jobs.
        output: Path.
        budget: String.
        progress: `JobProgress`.
    """

    def __init__(
        self,
        part: Part,
        data: Data,
        output: Path,
        budget: str,
        progress: JobProgress,
    ) -> None:
        self._part = part
        self._data = data
        self._output = output
        self._budget = budget
        self._progress = progress

    def make(self) -> PartResult:
        """Return what came out."""
        part = self._part
        ladder: list[dict[str, Any]] = []
        fit: dict[str, Any] = {}
        with dtype_policy(policy_name(part.mixed_precision)):
            if part.ladder is not None:
                static_runs = self._collect(part.ladder)
                fit = self._fit(part.ladder, static_runs)
                ladder = [
                    {
                        "learning_rate": run.learning_rate,
                        "seed": run.seed,
                        "outcome": run.outcome,
                    }
                    for run in static_runs
                ]
            loops = [self._loop(loop) for loop in part.loops]
        runs = [self._run(job) for job in part.jobs]
        named = {
            job.config.method_options["controller"]
            for job in part.jobs
            if job.config.method == "metalr"
        }
        return PartResult(
            section=part.section,
            name=part.name,
            budget=self._budget,
            data_note=self._data.note,
            details=part.details,
            runs=runs,
            controllers={
                Path(name).name: controller_mark(name) for name in sorted(named)
            },
            ladder=ladder,
            fit=fit,
            loops=loops,
        )

    def _run(self, job: Job) -> RunResult:
        title = f"{self._part.name}: {job.title}"
        weight = self._part.weight(job)
        self._progress.start(title)
        result = run(
            job.workload,
            job.config,
            data=self._data,
            output=self._output / RECORDS,
        )
        if result.resumed:
            self._progress.found(weight)
            return result
        self._made(title, results_line(result.results), weight)
        for line in result.evaluations:
            self._progress.print(
                f"  {line['when']}, {line['num_examples']} examples: "
                f"{results_line(line)}"
            )
        return result

    def _collect(self, ladder: Ladder) -> list[Run]:
        """Phase 1."""
        title = f"{self._part.name}: phase 1"
        self._progress.start(title)
        weight = self._part.metalr_weight
        num_found = len(list(ladder.folder.glob("*.json")))
        num_seen = 0

        def progress(run: Run) -> None:
            nonlocal num_seen
            num_seen += 1
            if num_seen <= num_found:
                self._progress.found(weight)
                return
            rate = f"rate {run.learning_rate:.3g}, seed {run.seed}"
            outcome = f"eval_loss {run.outcome:.4g}"
            self._made(f"{title}, {rate}", outcome, weight)

        return collect(
            self._part.workload.compiled_model,
            # Validation is for the outcome alone.
            self._fit_arguments(ladder.epochs, validation_freq=ladder.epochs),
            learning_rates=ladder.rates,
            seeds=ladder.seeds,
            workload=self._part.workload.name,
            folder=ladder.folder,
            progress=progress,
        )

    def _fit(self, ladder: Ladder, runs: list[Run]) -> dict[str, Any]:
        """Phase 2."""
        self._progress.start(f"{self._part.name}: phase 2")
        folder = str(ladder.controller)
        if not (ladder.controller / CONFIG_FILE).is_file():
            fit_controller(runs, **FIT).save_to_preset(folder)
        controller = Controller.from_preset(folder)
        features, targets = dataset(runs)
        errors = controller.predict(features, verbose=0) - targets
        return {
            **FIT,
            "num_features": features.shape[1],
            "hidden_units": list(controller.hidden_units),
            "num_states": len(features),
            "mean_squared_error": float(np.mean(errors**2)),
        }

    def _loop(self, loop: Loop) -> dict[str, Any]:
        title = f"{self._part.name}: run with experience"
        self._progress.start(title)
        weight = self._part.metalr_weight
        # What was learned with one controller is of no use to another.
        mark = controller_mark(loop.controller, digits=8)
        folder = loop.folder / f"{Path(loop.controller).name}-{mark}"
        for _ in range(min(loop.num_runs, len(experience.load(folder)))):
            self._progress.found(weight)

        def progress(finished: experience.Experience) -> None:
            outcome = f"eval_loss {finished.outcome:.4g}"
            self._made(f"{title}, from seed {loop.first_seed}", outcome, weight)

        finished = gather_experience(
            self._part.workload.compiled_model,
            self._fit_arguments(loop.epochs),
            folder,
            num_runs=loop.num_runs,
            first_seed=loop.first_seed,
            controller=loop.controller,
            progress=progress,
        )
        return {
            "first_seed": loop.first_seed,
            "outcomes": [run.outcome for run in finished],
        }

    def _fit_arguments(
        self, epochs: int, **more: Any
    ) -> Callable[[int], dict[str, Any]]:
        return self._part.workload.fit_arguments(self._data, epochs, **more)

    def _made(self, title: str, figures: str, weight: float) -> None:
        keras.utils.clear_session(free_memory=True)
        self._progress.made(weight)
        self._progress.print(f"{title}: {figures}{self._progress.minutes_left}")
