"""How long a step takes with each method, measured in turn in one process.

A machine whose speed drifts slows all methods alike when they take turns, so
that ratios hold where times do not.
"""

import functools
import itertools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_metalr.benchmark.competitors import PEERS
from keras_metalr.benchmark.competitors import Setting
from keras_metalr.benchmark.competitors import Trainee
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.environment import git_revision
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.observers import EpochClock
from keras_metalr.benchmark.peers.compilation import keep_compiled
from keras_metalr.benchmark.peers.plan import BASELINES
from keras_metalr.benchmark.peers.plan import WIDE_DENSE
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.records import write_json
from keras_metalr.workloads.fashion_mnist_cnn import load_fashion_mnist
from keras_metalr.workloads.suite import SUITE
from keras_metalr.workloads.suite.media_models import build_wide_dense
from keras_metalr.workloads.workload import Workload

TIMING_FILE = "timing.json"
# The horizon that methods are told: MetaLR decides every tenth step of it.
_HORIZON = 2_000
_STEPS_PER_EPOCH = 20
# The first epoch of a turn compiles and is not counted.
_EPOCHS = 4
_START = 1e-4


def time_methods(plan: Plan, folder: Path) -> None:
    """Measure and write one JSON.

    A file that is there stays if it has all methods of the plan, the shipped
    controller and rule, and was made on such a machine with such libraries as
    here. Nothing else should run on the machine meanwhile.

    Args:
        plan: `Plan`.
        folder: Path of its folder.
    """
    path = folder / TIMING_FILE
    if path.is_file():
        timing = load_timing(folder)
        if _is_made_here(timing) and _has_all(timing, plan):
            return
    keep_compiled()
    tables = {name: _time(name, plan) for name in plan.timed}
    record = {
        "environment": {**environment(), "git_revision": git_revision()},
        "controller": controller_identity(),
        "workloads": tables,
    }
    write_json(path, record)


def load_timing(folder: Path) -> dict[str, Any]:
    """Read what `time_methods` wrote to a folder."""
    content: dict[str, Any] = json.loads(
        (folder / TIMING_FILE).read_text(encoding="utf-8")
    )
    return content


def is_of_shipped(timing: Mapping[str, Any]) -> bool:
    """Whether MetaLR was timed with the shipped controller and rule.

    Args:
        timing: Mapping, what `load_timing` returned.
    """
    return bool(timing.get("controller") == controller_identity())


def _is_made_here(timing: Mapping[str, Any]) -> bool:
    return bool(environment().items() <= timing["environment"].items())


def _has_all(timing: Mapping[str, Any], plan: Plan) -> bool:
    return is_of_shipped(timing) and all(
        name in timing["workloads"]
        and set(plan.methods) <= timing["workloads"][name]["ratio"].keys()
        for name in plan.timed
    )


def _time(name: str, plan: Plan) -> dict[str, Any]:
    workload = timed_workload(name)
    data = workload.load_data()
    trainees = {
        method: Trainee(
            PEERS[method],
            Setting(workload.make_optimizer, _HORIZON),
            workload.build_model(),
            workload.loss,
        )
        for method in plan.methods
    }
    turns = [
        {
            method: _turn(trainee, workload, data, seed)
            for method, trainee in trainees.items()
        }
        for seed in range(plan.timing_turns)
    ]
    ratios = {
        method: [turn[method] / turn[BASELINES[0]] for turn in turns]
        for method in plan.methods
    }
    keras.utils.clear_session(free_memory=True)
    return {
        "num_weights": next(iter(trainees.values())).num_weights,
        "batch_size": workload.batch_size,
        "milliseconds": {
            method: 1e3 * statistics.median(turn[method] for turn in turns)
            for method in plan.methods
        },
        "ratio": {
            method: statistics.median(values)
            for method, values in ratios.items()
        },
    }


def _turn(trainee: Trainee, workload: Workload, data: Any, seed: int) -> float:
    """Median seconds a step over the epochs of one short `fit`."""
    clock = EpochClock()
    size = workload.batch_size
    batches = data.train_batches(size, seed)
    trainee.fit(
        _START,
        batches=batches.take(trainee.peer.extra_steps).as_numpy_iterator(),
        callbacks=[clock],
        x=batches.take(_EPOCHS * _STEPS_PER_EPOCH),
        epochs=_EPOCHS,
        steps_per_epoch=_STEPS_PER_EPOCH,
        verbose=0,
    )
    lengths = [
        after - before
        for before, after in itertools.pairwise(clock.elapsed_seconds)
    ]
    return statistics.median(lengths) / _STEPS_PER_EPOCH


def timed_workload(name: str) -> Workload:
    """What a name of `Plan.timed` stands for."""
    return _wide_dense() if name == WIDE_DENSE else SUITE[name].workload()


def _wide_dense() -> Workload:
    """A dense net of a million weights, on Fashion-MNIST."""
    return Workload(
        name=WIDE_DENSE,
        load_data=functools.partial(load_fashion_mnist, 4000, 1000),
        build_model=build_wide_dense,
        make_optimizer=keras.optimizers.Adam,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=128,
        epochs=1,
        learning_rate=1e-3,
        target_accuracy=0.0,
    )
