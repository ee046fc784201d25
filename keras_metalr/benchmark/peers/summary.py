"""From the records of a plan to the figures of its tables. Pure."""

import statistics
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.competitors.rate_rules import warmup_cosine
from keras_metalr.benchmark.competitors.rate_rules import warmup_linear
from keras_metalr.benchmark.peers import scores
from keras_metalr.benchmark.peers.plan import BASELINES
from keras_metalr.benchmark.peers.plan import METALR
from keras_metalr.benchmark.peers.plan import Plan

# Baselines whose rate changes, and how.
_RULES = {"warmup_cosine": warmup_cosine, "warmup_linear": warmup_linear}
Records = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Target:
    """What a workload is measured against.

    Args:
        best: Float, median final loss of the best tuned baseline.
        baseline: String, which that was.
        initial: Float, median loss before training.
        num_steps: Integer, steps of a run.
    """

    best: float
    baseline: str
    initial: float
    num_steps: int


@dataclass(frozen=True)
class Row:
    """What one method did, over the workloads.

    Args:
        method: String.
        regrets: Array of shape `(num_seeds, num_workloads, num_scales)`.
        times: Array of shape `(num_workloads,)`, median steps to the target
            from scale 1, those of a range test included; a miss is infinite.
        num_failed: Integer, runs that ended no lower than they began, or with a
            loss that is not finite.
        num_runs: Integer, all runs of the sweep.
        training_runs: Integer, what one result on a workload took: trials, and
            the run itself.
        extra_steps: Integer, steps of a range test.
        state_bytes: Float, bytes of optimizer state a weight, on the workload
            with the most weights: what does not grow with them fades there.
        shares: Array of shape `(num_workloads,)`, `times` over the steps of a
            run.
        seconds: Array of shape `(num_workloads,)`, `times` in seconds, each
            step taking what it took in these runs, validation included and
            compiling left out.
        step_times: Dict from timed workload to the time of a step over that
            with a constant rate, see `peers.timing`.
    """

    method: str
    regrets: np.ndarray
    times: np.ndarray
    num_failed: int
    num_runs: int
    training_runs: int
    extra_steps: int
    state_bytes: float
    shares: np.ndarray
    seconds: np.ndarray
    step_times: Mapping[str, float]

    @property
    def num_reached(self) -> int:
        """On how many workloads the median run came to the target."""
        return int(np.sum(np.isfinite(self.times)))

    @property
    def step_time(self) -> float:
        """Time of a step over that with a constant rate, the median."""
        return statistics.median(self.step_times.values())

    @property
    def sensitivity(self) -> float:
        """Mean regret over workloads and starts, medians over the seeds."""
        return mean_regret(self.regrets)

    @property
    def by_scale(self) -> np.ndarray:
        """Shape `(num_scales,)`: mean over workloads of medians over seeds."""
        return np.median(self.regrets, 0).mean(0)


@dataclass(frozen=True)
class RatePath:
    """The rate that MetaLR drove on a workload, beside the best baseline's.

    Args:
        workload: String.
        steps: Array of shape `(num_evaluations,)`.
        rates: Array of the same shape: MetaLR's from scale 1 at those steps,
            the median over the seeds.
        baseline: String, which baseline set the target.
        baseline_rates: Array of the same shape, its rates from scale 1.
        regret: Float, of MetaLR from scale 1, the median over the seeds.
    """

    workload: str
    steps: np.ndarray
    rates: np.ndarray
    baseline: str
    baseline_rates: np.ndarray
    regret: float

    def ratio(self, share: float) -> float:
        """MetaLR's rate over the baseline's when `share` of the run is over."""
        place = int(np.argmin(np.abs(self.steps - share * self.steps[-1])))
        return float(self.rates[place] / self.baseline_rates[place])


def mean_regret(regrets: np.ndarray) -> float:
    """Median over seeds (axis 0), then the mean of all.

    The learning-rate sensitivity of Wortsman et al., arXiv 2309.14322, over
    starts that are even on a log scale; as regrets, so that workloads can be
    averaged.
    """
    return float(np.median(regrets, 0).mean())


def mean_worst_regret(regrets: np.ndarray) -> float:
    """Median over seeds (axis 0), largest over scales (axis 2), mean."""
    return float(np.median(regrets, 0).max(-1).mean())


def targets(plan: Plan, records: Records) -> dict[str, Target]:
    """The target of every workload: the best tuned baseline's median loss.

    With an even number of seeds it is the higher of the two in the middle, so
    that the baseline itself reaches it in more than half of its runs.

    Args:
        plan: `Plan`.
        records: Mapping from (workload, method) to the records of its sweep.
    """
    found = {}
    for workload in plan.workloads:
        medians = {
            method: statistics.median_high(
                counted_losses(_from_scale_1(records[workload, method]))
            )
            for method in plan.methods
            if method in BASELINES
        }
        baseline = min(medians, key=medians.__getitem__)
        results = [r["results"] for r in records[workload, baseline]]
        found[workload] = Target(
            best=medians[baseline],
            baseline=baseline,
            initial=statistics.median(r["initial_loss"] for r in results),
            num_steps=results[0]["num_steps"],
        )
    return found


def rows(plan: Plan, records: Records, timing: Mapping[str, Any]) -> list[Row]:
    """One row per method, the least sensitive first.

    Args:
        plan: `Plan`.
        records: Mapping from (workload, method) to the records of its sweep.
        timing: Mapping, the content of the file of `peers.timing`.
    """
    goals = targets(plan, records)
    made = [
        _row(
            plan,
            records,
            goals,
            {
                name: table["ratio"][method]
                for name, table in timing["workloads"].items()
            },
            method,
        )
        for method in plan.methods
    ]
    return sorted(made, key=lambda row: row.sensitivity)


def rate_paths(plan: Plan, records: Records) -> list[RatePath]:
    """MetaLR's rates beside the best baseline's, one per workload.

    Args:
        plan: `Plan`. Without MetaLR in it there are none.
        records: Mapping from (workload, method) to the records of its sweep.
    """
    if METALR not in plan.methods:
        return []
    return [
        _rate_path(
            name,
            goal,
            _from_scale_1(records[name, METALR]),
            _from_scale_1(records[name, goal.baseline])[0],
        )
        for name, goal in targets(plan, records).items()
    ]


def _rate_path(
    workload: str,
    goal: Target,
    driven: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Any],
) -> RatePath:
    steps = np.array(driven[0]["history"]["step"], "float32")
    start = baseline["config"]["learning_rate"]
    regrets = [_regret(record, goal) for record in driven]
    return RatePath(
        workload=workload,
        steps=steps,
        rates=np.median([r["history"]["learning_rate"] for r in driven], 0),
        baseline=goal.baseline,
        baseline_rates=_baseline_rates(goal, start, steps),
        regret=statistics.median(regrets),
    )


def _baseline_rates(
    goal: Target, start: float, steps: np.ndarray
) -> np.ndarray:
    if goal.baseline not in _RULES:
        return np.full(steps.shape, start)
    rule = _RULES[goal.baseline](goal.num_steps)
    # Step `k` is the one that `k - 1` others were before.
    rates, _ = rule.update(rule.init(), start, steps - 1.0, None)
    return np.asarray(keras.ops.convert_to_numpy(rates))


def _from_scale_1(
    records: Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    return [record for record in records if record["config"]["scale"] == 1.0]


def profile_scores(table: Sequence[Row]) -> dict[str, float]:
    """AlgoPerf's score of every method, among those of the table."""
    ratios = scores.time_ratios(np.stack([row.times for row in table]))
    return {
        row.method: scores.profile_score(ratio)
        for row, ratio in zip(table, ratios, strict=True)
    }


def _row(
    plan: Plan,
    records: Records,
    goals: Mapping[str, Target],
    step_times: Mapping[str, float],
    method: str,
) -> Row:
    peer = PEERS[method]
    cells = [records[workload, method] for workload in plan.workloads]
    every = [record["results"] for cell in cells for record in cell]
    finals = np.array([result["final_loss"] for result in every], "float64")
    initials = np.array([result["initial_loss"] for result in every])
    times = np.array(
        [
            peer.extra_steps + _time(cell, goals[workload].best)
            for workload, cell in zip(plan.workloads, cells, strict=True)
        ]
    )
    num_steps = [goals[workload].num_steps for workload in plan.workloads]
    largest = max(cells, key=lambda cell: cell[0]["results"]["num_weights"])
    return Row(
        method=method,
        regrets=_regrets(plan, records, goals, method),
        times=times,
        # What is not a number is not lower, either.
        num_failed=int(np.sum(~(finals < initials))),
        num_runs=len(every),
        training_runs=1 + plan.num_trials * peer.is_tuned,
        extra_steps=peer.extra_steps,
        state_bytes=_median(largest, "state_bytes_per_weight"),
        shares=times / np.array(num_steps),
        seconds=times * [_median(cell, "step_seconds") for cell in cells],
        step_times=step_times,
    )


def _regrets(
    plan: Plan, records: Records, goals: Mapping[str, Target], method: str
) -> np.ndarray:
    shape = plan.seeds, len(plan.workloads), len(plan.scales)
    regrets = np.full(shape, np.nan)
    for number, workload in enumerate(plan.workloads):
        for record in records[workload, method]:
            config = record["config"]
            place = plan.scales.index(config["scale"])
            regrets[config["seed"], number, place] = _regret(
                record, goals[workload]
            )
    return regrets


def _regret(record: Mapping[str, Any], goal: Target) -> float:
    results = record["results"]
    return scores.regret(
        results["final_loss"], results["initial_loss"], goal.best
    )


def num_lower(row: Row, other: Row) -> int:
    """On how many workloads a method has the lower mean regret than another.

    Args:
        row: `Row`.
        other: `Row`.
    """
    ours, theirs = (np.median(r.regrets, 0).mean(-1) for r in (row, other))
    return int(np.sum(ours < theirs))


def best_start(trials: Iterable[Mapping[str, Any]]) -> float:
    """The start whose trials have the lowest mean loss.

    Args:
        trials: Iterable of the records of a tuning.
    """
    losses: dict[float, list[float]] = {}
    for trial in trials:
        start = trial["config"]["learning_rate"]
        losses.setdefault(start, []).extend(counted_losses([trial]))
    means = {start: statistics.fmean(losses[start]) for start in sorted(losses)}
    return min(means, key=means.__getitem__)


def counted_losses(records: Iterable[Mapping[str, Any]]) -> list[float]:
    """The final loss of each run, as `scores.counted_loss` counts it.

    Args:
        records: Iterable of mappings with `results`.
    """
    return [
        scores.counted_loss(
            record["results"]["final_loss"], record["results"]["initial_loss"]
        )
        for record in records
    ]


def _time(records: Sequence[Mapping[str, Any]], target: float) -> float:
    times = [
        scores.steps_to_target(
            record["history"]["step"], record["history"]["val_loss"], target
        )
        for record in _from_scale_1(records)
    ]
    return float(np.median(times))


def _median(records: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [record["results"][name] for record in records]
    return float(np.nanmedian(values))
