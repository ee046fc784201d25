"""Many runs into one folder, with a bar that says how long they still take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress
from rich.progress import TextColumn
from rich.progress import TimeRemainingColumn

from keras_metalr.benchmark.identity import CONTROLLER_FILE
from keras_metalr.benchmark.identity import claimed_backend
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.identity import is_claimed_by_another
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import check_folder
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.runner import RunConfig
from keras_metalr.benchmark.runner import find_run
from keras_metalr.benchmark.runner import run
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Job:
    """One run that is to be made.

    Args:
        title: String, what the progress bar calls it.
        workload: `Workload`.
        config: `RunConfig`.
    """

    title: str
    workload: Workload
    config: RunConfig


def claim_folder(folder: Path, controller: str = "general") -> None:
    """Note in a folder which controller and backend its records are made with.

    A page has all the records of a folder in one table, where those of two
    controllers, or of two backends, do not belong.

    Args:
        folder: Path.
        controller: String, name or folder of a preset. Defaults to
            `"general"`.

    Raises:
        ValueError: If the folder holds runs of another controller, or of
            another backend.
    """
    if is_claimed_by_another(folder, controller):
        raise ValueError(
            f"The runs in {folder} are of another controller than "
            f"{controller!r}. Delete the folder, or name another with "
            "`--output`."
        )
    backend = keras.backend.backend()
    claimed = claimed_backend(folder)
    if claimed not in (None, backend):
        raise ValueError(
            f"The runs in {folder} are of the backend {claimed!r}, not "
            f"{backend!r}. Set KERAS_BACKEND={claimed}, or name another folder "
            "with `--output`."
        )
    write_json(
        folder / CONTROLLER_FILE,
        {**controller_identity(controller), "backend": backend},
    )


class JobProgress:
    """A bar over jobs, with the time that is left for all of them.

    Use it in a `with` block. Jobs may differ in length: what counts for the
    time is their weight, such as the seconds that each is expected to take.

    Args:
        console: `rich.console.Console`.
        weights: Sequence of floats (> 0), one a job.
    """

    def __init__(self, console: Console, weights: Sequence[float]) -> None:
        self.num_made = self.num_found = 0
        self._count = len(weights)
        self._total = sum(weights)
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[made]}"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            # By default the speed is that of the last 30 seconds: less than a
            # run.
            speed_estimate_period=_DAY,
        )
        self._task = self._progress.add_task("", total=self._total, made="")

    def __enter__(self) -> "JobProgress":
        self._progress.__enter__()
        self._update()
        self._mark()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.__exit__(*exception)

    @property
    def seconds_left(self) -> float | None:
        """The estimate; `None` before the first job was made."""
        (task,) = self._progress.tasks
        return task.time_remaining

    @property
    def minutes_left(self) -> str:
        """The same to end a line with; empty before the first job was made."""
        left = self.seconds_left
        return "" if left is None else f" ({left / 60:.0f} min left)"

    def start(self, title: str) -> None:
        """Say which job is on."""
        self._progress.update(self._task, description=title)

    def made(self, weight: float = 1.0) -> None:
        """Count a job that was made."""
        self.num_made += 1
        self._progress.advance(self._task, weight)
        self._update()

    def found(self, weight: float = 1.0) -> None:
        """Count a job that took no time: it says nothing about the others."""
        self.num_found += 1
        self._total -= weight
        self._update()
        # Rich forgets the speed where the total changes.
        self._mark()

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)

    def _mark(self) -> None:
        """A mark in time: from here, one job is enough for an estimate."""
        self._progress.advance(self._task, 0)

    def _update(self) -> None:
        made = f"{self.num_made}/{self._count - self.num_found}"
        self._progress.update(self._task, total=self._total, made=made)


def make_runs(
    jobs: Sequence[Job], data: Data, output: Path, console: Console
) -> list[RunResult]:
    """Make the runs that are missing, and read the others back.

    Args:
        jobs: Sequence of `Job`.
        data: `Data` of all of them.
        output: Path of the folder for the records, one JSON per run.
        console: `rich.console.Console` for the progress bar.

    Returns:
        List of `RunResult`, in the order of the jobs.

    Raises:
        DamagedRecordError: If a file that is there already holds no run; found
            before any is made.
        OSError: If nothing can be written to the folder.
    """
    check_folder(output)
    for job in jobs:
        find_run(job.workload, job.config, data, output)
    results = []
    with JobProgress(console, [1.0] * len(jobs)) as progress:
        for job in jobs:
            progress.start(job.title)
            result = run(job.workload, job.config, data=data, output=output)
            results.append(result)
            if result.resumed:
                progress.found()
            else:
                keras.utils.clear_session(free_memory=True)
                progress.made()
        progress.start(f"made, {progress.num_found} found")
    return results
