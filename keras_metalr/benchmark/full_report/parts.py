"""What a plan is made of: the parts, and what a person chose for them."""

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from keras_metalr.benchmark.experiment import Job
from keras_metalr.workloads.workload import Workload

# What the controller of phase 2 is called.
FITTED = "fitted"


@dataclass(frozen=True)
class Ladder:
    """Phase 1: constant rates; and phase 2, the fit on them.

    Args:
        rates: Tuple of floats.
        seeds: Tuple of integers.
        epochs: Integer.
        folder: Path for the runs, and, in `FITTED`, the controller.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int
    folder: Path

    @property
    def controller(self) -> Path:
        """The folder of the controller that phase 2 fits."""
        return self.folder / FITTED


@dataclass(frozen=True)
class Loop:
    """Runs that follow one another and share their experience.

    Args:
        controller: String, the preset of the first one.
        first_seed: Integer; the others have the next ones.
        num_runs: Integer.
        epochs: Integer.
        folder: Path for the experience.
    """

    controller: str
    first_seed: int
    num_runs: int
    epochs: int
    folder: Path


@dataclass(frozen=True)
class Part:
    """What goes into one JSON file.

    Args:
        section: String, one of `plan.SECTIONS`.
        name: String, the stem of the file.
        workload: `Workload` whose data all jobs share.
        mixed_precision: String, as in `RunConfig`.
        seconds: Tuple of two floats, expected for a run at a constant rate,
            and with MetaLR.
        jobs: Tuple of `Job`.
        ladder: `Ladder` or `None`. Made before the jobs.
        loops: Tuple of `Loop`. Made before the jobs.
        details: Mapping, facts about the part that its file keeps.
    """

    section: str
    name: str
    workload: Workload
    mixed_precision: str
    seconds: tuple[float, float]
    jobs: tuple[Job, ...] = ()
    ladder: Ladder | None = None
    loops: tuple[Loop, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def weight(self, job: Job) -> float:
        """Seconds that a job is expected to take."""
        return self.seconds[job.config.method == "metalr"]

    @property
    def metalr_weight(self) -> float:
        """Seconds of a run with MetaLR: a loop's, or the ladder's, where it
        measures, hands off.
        """
        return self.seconds[1]

    def weights(self) -> Iterator[float]:
        """Seconds of everything in the part, one number a run."""
        if self.ladder is not None:
            for _ in range(len(self.ladder.rates) * len(self.ladder.seeds)):
                yield self.metalr_weight
        for loop in self.loops:
            for _ in range(loop.num_runs):
                yield self.metalr_weight
        for job in self.jobs:
            yield self.weight(job)


@dataclass(frozen=True)
class Choices:
    """What a person chooses besides the budget.

    Args:
        output: Path of the folder for everything that is made.
        preset: String, KerasHub preset or folder of the encoder.
        controller: String, preset that MetaLR uses. Defaults to `"general"`.
        seeds: Integer, seeds of the two primary tasks. Defaults to `None`, the
            budget's number.
        download: Boolean, whether data may be downloaded. Defaults to `False`.

    Raises:
        ValueError: If the controller's name is that of another, or the number
            of seeds is out of range.
    """

    output: Path
    preset: str
    controller: str = "general"
    seeds: int | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(
                f"`seeds` must be at least 1. Received: seeds={self.seeds}."
            )
        if Path(self.controller).name == FITTED:
            raise ValueError(
                f"A controller named {FITTED!r} is taken for the one that "
                "phase 2 fits. Rename its folder. Received: "
                f"controller={self.controller!r}."
            )
