"""Experience across runs: finished runs, and what the next one makes of them.

Each run tries something: its controller's outputs lie a little off what was
learned so far, by an offset that is the same all the run, so that its effect
shows in the outcome. The next controller is refit to answer, in the states of
the better runs, as those runs did, better ones weighing more. That is the
cross-entropy method (Rubinstein and Kroese, 2004) with a network as its mean.
"""

import json
import math
import os
import pathlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_metalr.controller import Controller
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.fitting import fit_on_states
from keras_metalr.trace import Trace

# The share of the runs that is learned from, and at least so many of them.
ELITE_SHARE = 0.25
MIN_ELITE = 2
# How far off a run's outputs lie, one standard deviation, at first; later runs
# less, by the square root of their number over the first few.
EXPLORATION = 0.5
EXPLORING_RUNS = 5
# Beyond this tanh has nothing left to give.
OUTPUT_LIMIT = 3.0
# Updates of the refit, as many for few states as for many.
FIT_STEPS = 1000
FIT_BATCH_SIZE = 64


@dataclass(frozen=True)
class Experience:
    """One finished run.

    Args:
        outcome: Float, lower being better; infinite where the run failed.
        monitor: String, what the outcome is: `"val_loss"` or `"loss"`.
        trace: `Trace`, one row a decision.
    """

    outcome: float
    monitor: str
    trace: Trace


def save(
    folder: str | os.PathLike[str], experience: Experience
) -> pathlib.Path:
    """Add a run to a folder, under the next free number.

    The JSON is written last and renamed into place: a run is there whole or not
    at all.

    Args:
        folder: String or path, made where it does not exist.
        experience: `Experience`.

    Returns:
        The path of its `.json` file.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    numbers = [_number(file) for file in path.glob("run-*.json")]
    stem = path / f"run-{max(numbers, default=0) + 1:05d}"
    experience.trace.save(f"{stem}.npz")
    outcome = experience.outcome
    record = {
        "monitor": experience.monitor,
        "outcome": outcome if math.isfinite(outcome) else None,
    }
    temporary = pathlib.Path(f"{stem}.json.tmp")
    temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return temporary.replace(f"{stem}.json")


def load(folder: str | os.PathLike[str]) -> list[Experience]:
    """The runs of a folder, in the order they came.

    Args:
        folder: String or path; one that does not exist holds no runs.

    Raises:
        ValueError: if a file is damaged, or of another version.
    """
    found = []
    for file in sorted(pathlib.Path(folder).glob("run-*.json"), key=_number):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            monitor, outcome = str(record["monitor"]), record["outcome"]
            outcome = math.inf if outcome is None else float(outcome)
            trace = Trace.load(file.with_suffix(".npz"))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{str(file)!r} holds no run that can be read ({error}). "
                "Delete it and the .npz file beside it, or use another folder."
            ) from error
        found.append(Experience(outcome, monitor, trace))
    return found


def _number(file: pathlib.Path) -> int:
    match = re.fullmatch(r"run-(\d+)", file.stem)
    return int(match[1]) if match else 0


def rank_weights(outcomes: Sequence[float]) -> np.ndarray:
    """Weight of each run, by rank, 0 outside the elite; sum 1.

    As in the CMA evolution strategy (Hansen, 2016,
    https://arxiv.org/abs/1604.00772, eq. 49).

    Args:
        outcomes: Sequence of floats (at least one), lower being better.
    """
    values = np.asarray(outcomes, "float64")
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
    elite = max(MIN_ELITE, round(ELITE_SHARE * len(values)))
    weights = np.maximum(np.log(elite + 0.5) - np.log(ranks), 0.0)
    weights = np.where(np.isfinite(values), weights, 0.0)
    return weights / weights.sum()


def offset(outcomes: Sequence[float], progress: np.ndarray) -> np.ndarray:
    """What the next run tries: an offset of the outputs, and its tilt.

    Args:
        outcomes: Sequence of floats, those of the runs so far. The same
            outcomes always give the same offset.
        progress: Array, share of the run that is over, in [0, 1].
    """
    seed = zlib.crc32(repr([float(value) for value in outcomes]).encode())
    level, tilt = np.random.default_rng(seed).normal(size=2)
    spread = EXPLORATION * min(1.0, math.sqrt(EXPLORING_RUNS / len(outcomes)))
    return spread * (level + 0.5 * tilt * (2.0 * progress - 1.0))


def learn(controller: Controller, experiences: Sequence[Experience]) -> None:
    """Refit a controller on the runs of a workload, in place.

    Args:
        controller: `Controller`, as it was before any of them.
        experiences: Sequence of `Experience` of one workload; of none, nothing
            is learned. Those with another monitor than the last one's are left
            out, since their outcomes cannot be compared.
    """
    usable = [
        run
        for run in experiences
        if len(run.trace) > 1 and run.monitor == experiences[-1].monitor
    ]
    outcomes = [run.outcome for run in usable]
    if not np.any(np.isfinite(outcomes)):
        return
    states, answers, weights = [], [], []
    for run, weight in zip(usable, rank_weights(outcomes), strict=True):
        trace = run.trace
        states.append(np.stack([trace[name] for name in FEATURE_NAMES], -1))
        tried = offset(outcomes, trace["progress"] + 0.5)
        answers.append(np.clip(trace["output"], -OUTPUT_LIMIT, OUTPUT_LIMIT))
        answers[-1] = answers[-1] + tried
        weights.append(np.full(len(trace), weight / len(trace)))
    features = np.concatenate(states).astype("float32")
    targets = np.concatenate(answers).astype("float32")[:, None]
    weight = np.concatenate(weights).astype("float32")
    known = np.isfinite(features).all(1) & np.isfinite(targets[:, 0])
    # Drawn here, since the user's random state is not ours to draw from; and as
    # one long epoch, since beginning an epoch takes longer than a step.
    chosen = np.flatnonzero(known & (weight > 0.0))
    size = FIT_STEPS * FIT_BATCH_SIZE
    chosen = np.random.default_rng(0).choice(chosen, size)
    fit_on_states(
        controller,
        features[chosen],
        targets[chosen],
        fresh=False,
        sample_weight=weight[chosen] / weight[chosen].mean(),
        batch_size=FIT_BATCH_SIZE,
        epochs=1,
        shuffle=False,
    )
