"""Makes the runs of one workload with one method; compiles once for all."""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.competitors import Setting
from keras_metalr.benchmark.competitors import Trainee
from keras_metalr.benchmark.competitors.trainee import first_values
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.environment import git_revision
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.observers import EpochClock
from keras_metalr.benchmark.observers import StopWhenDiverged
from keras_metalr.benchmark.peers.compilation import keep_compiled
from keras_metalr.benchmark.peers.plan import METALR
from keras_metalr.benchmark.peers.plan import Cell
from keras_metalr.benchmark.records import decode
from keras_metalr.benchmark.records import file_name
from keras_metalr.benchmark.records import read_json
from keras_metalr.benchmark.records import write_json
from keras_metalr.workloads.suite import SUITE
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

FORMAT_VERSION = 1
_CALIBRATION_BATCHES = 20
# A range test sees other batches than the training.
_FINDER_SEED_OFFSET = 10_000
# Validation sets are small: one batch, or two, costs least.
_VALIDATION_BATCH_SIZE = 1000


def identity(run: dict[str, Any]) -> dict[str, Any]:
    """What a run's record is found by: the run, the backend, the controller."""
    choices = {**run, "backend": keras.backend.backend()}
    if run["method"] == METALR:
        choices |= controller_identity()
    return choices


def path_of(run: dict[str, Any], output: Path) -> Path:
    """Where the record of a run is."""
    return output / file_name(identity(run))


def missing_runs(cell: Cell, output: Path) -> list[dict[str, Any]]:
    """Those that have no record yet."""
    return [run for run in cell.runs() if not path_of(run, output).is_file()]


def read_runs(cell: Cell, output: Path) -> list[dict[str, Any]]:
    """The records of a cell, all of which must be there.

    Raises:
        ValueError: If one is damaged, or of another format.
    """
    records = []
    for run in cell.runs():
        path = path_of(run, output)
        try:
            record = read_json(path)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}). Delete it, and its run is made "
                "again."
            ) from error
        if record["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path} must have `format_version` {FORMAT_VERSION}. "
                f"Received: {record['format_version']!r}. Delete it."
            )
        results, history = record["results"], record["history"]
        record |= {"results": decode(results), "history": decode(history)}
        records.append(record)
    return records


def run_cell(cell: Cell, output: Path) -> int:
    """Make the runs that are missing, and write one JSON each.

    Args:
        cell: `Cell`.
        output: Path of the folder for the records.

    Returns:
        Integer, how many runs were made.
    """
    missing = missing_runs(cell, output)
    if not missing:
        return 0
    keep_compiled()
    workload = SUITE[cell.workload].workload()
    data = _data_of(cell.workload)
    steps_per_epoch = _steps_per_epoch(cell, workload, data)
    trainee = _trainee(cell, workload, data, steps_per_epoch)
    by_seed = itertools.groupby(missing, key=lambda run: run["seed"])
    for seed, runs in by_seed:
        keras.utils.set_random_seed(seed)
        values = first_values(workload.build_model())
        for run in runs:
            record = _record(
                run, trainee, workload, data, values, steps_per_epoch
            )
            write_json(path_of(run, output), record)
    keras.utils.clear_session(free_memory=True)
    return len(missing)


@functools.lru_cache(maxsize=1)
def _data_of(workload: str) -> Data:
    """The cells of one workload follow each other, often in one process."""
    return SUITE[workload].load_data()


def _steps_per_epoch(cell: Cell, workload: Workload, data: Data) -> int:
    """Steps from one validation to the next."""
    steps = workload.epochs * data.steps_per_epoch(workload.batch_size)
    return max(1, round(cell.share * steps / cell.num_evaluations))


def _trainee(
    cell: Cell, workload: Workload, data: Data, steps_per_epoch: int
) -> Trainee:
    size = workload.batch_size
    count = min(_CALIBRATION_BATCHES, data.steps_per_epoch(size))
    return Trainee(
        PEERS[cell.method],
        Setting(
            workload.make_optimizer, cell.num_evaluations * steps_per_epoch
        ),
        workload.build_model(),
        workload.loss,
        workload.metrics,
        [data.x_train[i * size : (i + 1) * size] for i in range(count)],
    )


def _record(
    run: dict[str, Any],
    trainee: Trainee,
    workload: Workload,
    data: Data,
    values: Sequence[Any],
    steps_per_epoch: int,
) -> dict[str, Any]:
    seed, epochs = run["seed"], run["num_evaluations"]
    keras.utils.set_random_seed(seed)
    trainee.reset(run["learning_rate"], values)
    fit_arguments = workload.fit_arguments(
        data,
        epochs,
        steps_per_epoch=steps_per_epoch,
        validation_batch_size=_VALIDATION_BATCH_SIZE,
    )(seed)
    before = trainee.model.evaluate(
        fit_arguments["validation_data"], verbose=0, return_dict=True
    )
    finder = data.train_batches(
        workload.batch_size, seed + _FINDER_SEED_OFFSET
    ).take(trainee.peer.extra_steps)
    clock = EpochClock()
    history = trainee.fit(
        run["learning_rate"],
        values,
        finder.as_numpy_iterator(),
        [clock, *([] if trainee.peer.recovers else [StopWhenDiverged()])],
        **fit_arguments,
    )
    losses = history["val_loss"]
    steps = [steps_per_epoch * (k + 1) for k in range(len(losses))]
    return {
        "format_version": FORMAT_VERSION,
        "config": identity(run),
        "environment": {**environment(), "git_revision": git_revision()},
        "data_note": data.note,
        "results": {
            "initial_loss": float(before["loss"]),
            # One that was stopped has diverged, whatever validation says.
            "final_loss": losses[-1] if len(losses) == epochs else math.nan,
            "final_accuracy": history.get("val_accuracy", [math.nan])[-1],
            "num_steps": epochs * steps_per_epoch,
            "extra_steps": trainee.peer.extra_steps,
            "seconds": clock.elapsed_seconds[-1],
            "step_seconds": _step_seconds(clock, steps_per_epoch),
            "num_weights": trainee.num_weights,
            "state_bytes_per_weight": trainee.bytes_per_weight,
        },
        "history": {"step": steps, **history},
    }


def _step_seconds(clock: EpochClock, steps_per_epoch: int) -> float:
    """Without the first epoch, which compiles; NaN where it is the only one."""
    elapsed = clock.elapsed_seconds
    if len(elapsed) < 2:
        return math.nan
    num_steps = steps_per_epoch * (len(elapsed) - 1)
    return (elapsed[-1] - elapsed[0]) / num_steps
