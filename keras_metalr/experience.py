"""Experience across runs: finished runs, and what the next one makes of them.

One number is learned: how much bolder or more careful the controller should be
on this workload, a shift of its output. Each run tries a shift and leaves what
came of it. A Gaussian process over the shifts, better runs lying lower, says
which one the next run tries: the one that may be the best, unknown ones having
the benefit of the doubt (the lower confidence bound of Srinivas et al., 2010,
https://arxiv.org/abs/0912.3995).
"""

import math
import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import keras
import numpy as np

from keras_metalr.controller import fingerprint
from keras_metalr.run_files import read_run
from keras_metalr.run_files import recorded
from keras_metalr.run_files import write_run
from keras_metalr.trace import Trace

# The shifts that can be tried: close together near 0 and further apart far from
# it, since one controller answers in tenths and another in whole numbers.
SHIFT_UNIT = 0.5
POSITIONS = np.linspace(-3.0, 3.0, 49)
# Outcomes count by rank, as normal scores. How far apart two positions are
# before one says little of the other, and the variance of chance.
LENGTH_SCALE = 1.0
NOISE = 0.5
# What is thought of a position before anything is known, times its square: a
# controller is not thrown over for a whim.
CAUTION = 0.05
# How many standard deviations the unknown is given; later runs give less, by
# the square root of their number over the first few.
CURIOSITY = 1.0
CURIOUS_RUNS = 5


@dataclass(frozen=True)
class Experience:
    """One finished run.

    Args:
        outcome: Float, lower being better; infinite where the run failed.
        monitor: String, what the outcome is: `"val_loss"` or `"loss"`.
        shift: Float, what was added to the controller's output all the run.
        trace: `Trace`, one row per decision.
        controller: String, the controller's `fingerprint`. Defaults to
            `""`, not known.
    """

    outcome: float
    monitor: str
    shift: float
    trace: Trace
    controller: str = ""


_RECORDED = recorded(Experience)


def save(
    folder: str | os.PathLike[str], experience: Experience
) -> pathlib.Path:
    """Add a run to a folder, under the next free number.

    Runs that end at the same time get numbers of their own.

    Args:
        folder: String or path, made where it does not exist.
        experience: `Experience`.

    Returns:
        The path of its `.json` file.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    record = {name: getattr(experience, name) for name in _RECORDED}
    return write_run(_claim_number(path), experience.trace, record)


def _claim_number(folder: pathlib.Path) -> pathlib.Path:
    """The stem of the next run, which no other process is given."""
    numbers = [_number(file) for file in folder.glob("run-*.json")]
    number = max(numbers, default=0)
    while True:
        number += 1
        stem = folder / f"run-{number:05d}"
        try:
            stem.with_suffix(".npz").touch(exist_ok=False)
        except FileExistsError:
            # Of a run that is being saved, or was given up half-way.
            continue
        return stem


def load(
    folder: str | os.PathLike[str], controller: keras.Model | None = None
) -> list[Experience]:
    """The runs of a folder, in the order they came.

    Args:
        folder: String or path; one that does not exist holds no runs.
        controller: `keras.Model`, to load its runs alone. Defaults to `None`,
            the runs of all.

    Raises:
        ValueError: if a file is damaged, or of another version.
    """
    found = []
    for file in sorted(pathlib.Path(folder).glob("run-*.json"), key=_number):
        record, trace = read_run(file, _RECORDED)
        found.append(Experience(**record, trace=trace))
    if controller is None:
        return found
    own = fingerprint(controller)
    return [run for run in found if run.controller == own]


def _number(file: pathlib.Path) -> int:
    match = re.fullmatch(r"run-(\d+)", file.stem)
    return int(match[1]) if match else 0


def next_shift(experiences: Sequence[Experience]) -> float:
    """What the next run adds to its controller's output.

    The same runs always give the same shift; of no runs it is 0.

    Args:
        experiences: Sequence of `Experience` of one workload and one
            controller. Those with another monitor than the last one's are
            left out, since their outcomes cannot be compared.

    Returns:
        Float in [-5.01, 5.01].

    Example:

    >>> next_shift([])
    0.0
    """
    usable = [
        run for run in experiences if run.monitor == experiences[-1].monitor
    ]
    if not usable:
        return 0.0
    tried = np.arcsinh([run.shift / SHIFT_UNIT for run in usable])
    scores = normal_scores([run.outcome for run in usable])
    mean, deviation = posterior(tried, scores - _expected(tried), POSITIONS)
    doubt = CURIOSITY * min(1.0, math.sqrt(CURIOUS_RUNS / len(usable)))
    bound = mean + _expected(POSITIONS) - doubt * deviation
    return float(SHIFT_UNIT * np.sinh(POSITIONS[np.argmin(bound)]))


def _expected(positions: np.ndarray) -> np.ndarray:
    return CAUTION * np.square(positions)


def normal_scores(outcomes: Sequence[float]) -> np.ndarray:
    """Where each outcome's rank lies in a normal distribution.

    Args:
        outcomes: Sequence of floats, infinite ones allowed, none of them NaN;
            equal ones have equal scores.

    Returns:
        Array of the same length, lowest for the lowest outcome.
    """
    values = np.asarray(outcomes, "float64")
    lower = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    shares = (lower + 0.5 * equal) / len(values)
    return np.asarray([NormalDist().inv_cdf(share) for share in shares])


def posterior(
    tried: np.ndarray, values: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a Gaussian process knows at some positions.

    Of unit variance, with a squared exponential kernel (Rasmussen and
    Williams, 2006, algorithm 2.1).

    Args:
        tried: Array `(num_runs,)`, positions with a value.
        values: Array `(num_runs,)`, their noisy values, 0 being expected.
        positions: Array `(num_positions,)`.

    Returns:
        Tuple of arrays `(num_positions,)`: mean and standard deviation.
    """
    known = _kernel(tried, tried) + NOISE * np.eye(len(tried))
    across = _kernel(tried, positions)
    weights = np.linalg.solve(known, across)
    variance = 1.0 - np.sum(across * weights, axis=0)
    return values @ weights, np.sqrt(np.maximum(variance, 0.0))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = (a[:, None] - b[None, :]) / LENGTH_SCALE
    return np.exp(-0.5 * np.square(distance))
