"""Which runs the benchmark is made of."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.workloads.suite import SUITE

SCALES = tuple(10.0**power for power in range(-3, 4))
# Half decades from 1e-4 to 10: what Adam and what SGD need. A linear model with
# SGD is at its best above 1.
TUNING_RATES = tuple(10.0 ** (power / 2) for power in range(-8, 3))
# Far from the seeds that are compared.
FIRST_TUNING_SEED = 1000
BASELINES = ("constant", "warmup_cosine", "warmup_linear")
METALR = "metalr"
TUNING, SWEEP = "tuning", "sweep"
# A net of a million weights, for timing alone.
WIDE_DENSE = "wide_dense"


@dataclass(frozen=True)
class Plan:
    """A set of runs.

    Args:
        workloads: Tuple of keys of the suite.
        methods: Tuple of keys of `PEERS`. The baselines among them set the
            target, and `"constant"` the rate from which others start.
        seeds: Integer (>= 1): 0, 1, ...
        scales: Tuple of floats (> 0), what the starts are multiplied by.
        tuning_rates: Tuple of floats, the trials of a method that is tuned.
        tuning_seeds: Integer (>= 1), runs a trial.
        share: Float (> 0), of each workload's own number of steps.
        num_evaluations: Integer (>= 1), how often a run is validated.
        timed: Tuple of keys of the suite, or `"wide_dense"`: where the time of
            a step is measured.
        timing_turns: Integer (>= 1), how often each method is timed.

    Raises:
        ValueError: For what is not known, named twice, or out of range.
    """

    workloads: tuple[str, ...] = tuple(SUITE)
    methods: tuple[str, ...] = tuple(PEERS)
    seeds: int = 5
    scales: tuple[float, ...] = SCALES
    tuning_rates: tuple[float, ...] = TUNING_RATES
    tuning_seeds: int = 1
    share: float = 1.0
    num_evaluations: int = 20
    timed: tuple[str, ...] = (
        WIDE_DENSE,
        "cifar10_residual",
        "sst2_transformer",
    )
    timing_turns: int = 5

    def __post_init__(self) -> None:
        for name, table in (
            ("workloads", tuple(SUITE)),
            ("methods", tuple(PEERS)),
            ("timed", (*SUITE, WIDE_DENSE)),
        ):
            unknown = set(getattr(self, name)) - set(table)
            if unknown:
                raise ValueError(
                    f"`{name}` must be of {table}. Received: {sorted(unknown)}."
                )
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(
                    f"`{name}` must name each once. "
                    f"Received: {getattr(self, name)}."
                )
        for name in (
            "seeds",
            "tuning_seeds",
            "num_evaluations",
            "timing_turns",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be 1 or more. "
                    f"Received: {name}={getattr(self, name)}."
                )
        if not self.share > 0:
            raise ValueError(
                f"`share` must be above 0. Received: share={self.share}."
            )
        rates = self.tuning_rates
        if not rates or not min(*rates, *self.scales, math.inf) > 0:
            raise ValueError(
                "`tuning_rates` and `scales` must be above 0, and there must "
                f"be at least one rate. Received: tuning_rates={rates}, "
                f"scales={self.scales}."
            )
        if BASELINES[0] not in self.methods or 1.0 not in self.scales:
            raise ValueError(
                "`methods` must hold 'constant' and `scales` 1.0: starts and "
                f"targets come from them. Received: methods={self.methods}, "
                f"scales={self.scales}."
            )

    @property
    def num_trials(self) -> int:
        """Runs that the start of a tuned method took on one workload."""
        return len(self.tuning_rates) * self.tuning_seeds


SETS = {
    "smoke": Plan(
        workloads=("wine_linear", "digits_dense"),
        methods=("constant", "warmup_cosine", "prodigy", METALR),
        seeds=2,
        scales=(1e-3, 1.0, 1e3),
        tuning_rates=(1e-3, 1e-2, 1e-1),
        share=0.25,
        num_evaluations=5,
        timed=("digits_dense",),
        timing_turns=2,
    ),
    # 300 to 420 steps a run.
    "cpu": Plan(share=1.5, tuning_seeds=3),
    "full": Plan(seeds=10, share=4.0, num_evaluations=40, tuning_seeds=3),
}


@dataclass(frozen=True)
class Cell:
    """The runs of one workload with one method, made in one process.

    Args:
        workload: String.
        method: String.
        purpose: String, `"tuning"` or `"sweep"`.
        starts: Tuple of `(scale, start)`. In a tuning the scale is 1.
        seeds: Tuple of integers.
        share: Float, as in `Plan`.
        num_evaluations: Integer, as in `Plan`.
    """

    workload: str
    method: str
    purpose: str
    starts: tuple[tuple[float, float], ...]
    seeds: tuple[int, ...]
    share: float
    num_evaluations: int

    @property
    def num_runs(self) -> int:
        """How many runs it is made of."""
        return len(self.starts) * len(self.seeds)

    def runs(self) -> Iterator[dict[str, object]]:
        """What identifies each run, for its record."""
        for seed in self.seeds:
            for scale, start in self.starts:
                yield {
                    "workload": self.workload,
                    "method": self.method,
                    "purpose": self.purpose,
                    "scale": scale,
                    "learning_rate": start,
                    "seed": seed,
                    "share": self.share,
                    "num_evaluations": self.num_evaluations,
                }


def tuning_cells(plan: Plan) -> list[Cell]:
    """The trials of every method that is tuned; equally many for each."""
    first = FIRST_TUNING_SEED
    return [
        Cell(
            workload,
            method,
            TUNING,
            tuple((1.0, rate) for rate in plan.tuning_rates),
            tuple(range(first, first + plan.tuning_seeds)),
            plan.share,
            plan.num_evaluations,
        )
        for workload in plan.workloads
        for method in plan.methods
        if PEERS[method].is_tuned
    ]


def sweep_cells(plan: Plan, tuned: dict[tuple[str, str], float]) -> list[Cell]:
    """The runs that are compared.

    Args:
        plan: `Plan`.
        tuned: Dict from (workload, method) to the best start of its trials.
    """
    cells = []
    for workload in plan.workloads:
        for method in plan.methods:
            centre = centre_of(workload, method, tuned)
            starts = tuple((scale, scale * centre) for scale in plan.scales)
            cell = Cell(
                workload,
                method,
                SWEEP,
                starts,
                tuple(range(plan.seeds)),
                plan.share,
                plan.num_evaluations,
            )
            cells.append(cell)
    return cells


def centre_of(
    workload: str, method: str, tuned: dict[tuple[str, str], float]
) -> float:
    """The start of scale 1: tuned, the method's own, or the tuned rate."""
    peer = PEERS[method]
    if peer.is_tuned:
        return tuned[workload, method]
    return peer.default_start or tuned[workload, BASELINES[0]]
