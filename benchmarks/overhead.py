"""What MetaLR costs: time and memory beside the plain compiled step.

    KERAS_BACKEND=jax python benchmarks/overhead.py --output overhead.json

Three copies of a model take the same batch in turn, plain, with MetaLR bare
(without guard and safe start) and as it comes, in one process: a machine whose
speed drifts slows all alike. Printed are medians of the ratios of such steps to
the plain one before; the guard's snapshot, a copy of the weights in 20
decisions, is too rare to show in one. A step on which a decision falls is
dearer than the others (one more forward pass, for the trust ratio), so both
kinds are timed and the mean over an interval is worked out for each horizon.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch  # noqa: F401 - must come before any other backend

import keras
import numpy as np

from keras_metalr import MetaLR
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_files
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.environment import git_revision
from keras_metalr.benchmark.records import read_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.controller import Controller
from keras_metalr.update_rule import RULE_VERSION
from keras_metalr.update_rule import decision_interval

HORIZONS = (200, 2_000, 10_000)
# Linux has it: what a process is told to forget its peak of memory by.
CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")
# Of the net with word vectors: how many there are, and how long a text is.
VOCABULARY = 500_000
WORDS = 8


class Setup(NamedTuple):
    """What is trained.

    Args:
        model: `keras.Model`, not compiled.
        optimizer: Its Keras optimizer.
        x: Array, a batch of inputs.
        y: Integer array, their classes.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    x: np.ndarray
    y: np.ndarray


def dense_setup() -> Setup:
    """A dense net of 1.0 M weights and a batch of 128."""
    from keras_metalr.workloads.suite.media_models import build_wide_dense

    adam = keras.optimizers.Adam(1e-3)
    return Setup(build_wide_dense(), adam, *_batch((128, 28, 28, 1)))


def resnet_setup() -> Setup:
    """ResNet-18 for 32x32 images and a batch of 64."""
    from keras_metalr.workloads.cifar10_resnet18 import build_resnet18

    adam = keras.optimizers.Adam(1e-3)
    return Setup(build_resnet18(), adam, *_batch((64, 32, 32, 3)))


def embedding_setup() -> Setup:
    """Half a million word vectors, of which a batch reads 512 at the most.

    With SGD, which on TensorFlow moves no others; Adam moves all of them.
    """
    model = keras.Sequential(
        [
            keras.Input((WORDS,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 32),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(10),
        ]
    )
    generator = np.random.default_rng(0)
    x = generator.integers(0, VOCABULARY, (64, WORDS))
    y = generator.integers(0, 10, 64)
    return Setup(model, keras.optimizers.SGD(1e-2), x.astype("int32"), y)


SETUPS = {
    "dense": dense_setup,
    "resnet18": resnet_setup,
    "embedding": embedding_setup,
}
# Of each kind of step, and processes whose memory is looked at; those of
# ResNet-18 take a hundred times as long.
PAIRS = {"dense": 200, "resnet18": 50, "embedding": 200}
SAMPLES = {"dense": 3, "resnet18": 1, "embedding": 3}
METHODS = ("plain", "bare", "metalr")
# What a step on JAX takes and returns.
_STATE = ("trainable", "non_trainable", "optimizer", "metrics")


def _batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=shape).astype("float32")
    return x, generator.integers(0, 10, shape[0])


class Stepper(NamedTuple):
    """A run that goes on step by step.

    Args:
        step: Callable that takes one compiled training step and waits for it.
        end: Callable that ends the run.
    """

    step: Callable[[], None]
    end: Callable[[], None]


def make_stepper(name: str, callback: MetaLR | None, jit: bool) -> Stepper:
    """Begin a run."""
    return _loop(*_prepared(name, callback, jit))


def _prepared(
    name: str, callback: MetaLR | None, jit: bool
) -> tuple[keras.Model, np.ndarray, np.ndarray, Any]:
    """A model that is about to be trained, a batch, and its callbacks."""
    keras.utils.set_random_seed(0)
    model, optimizer, x, y = SETUPS[name]()
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    model.optimizer.build(model.trainable_variables)
    callbacks = keras.callbacks.CallbackList(
        [callback] if callback else [], model=model, epochs=1, steps=10**6
    )
    model.train_on_batch  # noqa: B018 - names the path that is timed here
    model._symbolic_build(data_batch=(x, y))
    model.make_train_function()
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    return model, x, y, callbacks


def _jax_state(model: Any, purge: bool) -> tuple:
    """What a step takes; with `purge` the model lets go of it, as in `fit`."""
    return tuple(
        model._get_jax_state(
            **{f"{kind}_variables": True for kind in _STATE},
            purge_model_variables=purge,
        )
    )


def _loop(model: Any, x: Any, y: Any, callbacks: Any) -> Stepper:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensors((x, y)).repeat()
        iterator = iter(data)

        def step() -> None:
            float(model.train_function(iterator)["loss"])

    elif backend == "jax":
        import jax

        batch = (jax.device_put(x), jax.device_put(y))
        state = list(_jax_state(model, purge=True))

        def step() -> None:
            logs, new = model.train_function(tuple(state), iter([batch]))
            state[:] = new
            jax.block_until_ready((logs, new))

    else:
        pairs = [
            (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y))
        ]

        def step() -> None:
            float(model.train_function(pairs)["loss"])

    def end() -> None:
        if backend == "jax":
            # As `fit` does: MetaLR comes off variables that have values.
            names = [f"{kind}_variables" for kind in _STATE]
            model._jax_state = dict(zip(names, state, strict=True))
            model._jax_state_synced = False
            model.jax_state_sync()
        callbacks.on_train_end()

    return Stepper(step, end)


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(name: str, pairs: int, jit: bool) -> dict[str, Any]:
    """Time plain steps and MetaLR's, interleaved: pairs of each kind of step.

    The run is told a horizon at which every second step decides, so that every
    other pair times the one kind of step.
    """
    steppers = [
        make_stepper(name, _callback(method, steps=400), jit)
        for method in METHODS
    ]
    plain, *others = (stepper.step for stepper in steppers)
    for step in 4 * [plain, *others]:
        step()
    plain_times: list[float] = []
    ratios: list[tuple[float, ...]] = []
    for _ in range(2 * pairs):
        plain_times.append(_timed(plain))
        ratios.append(tuple(_timed(step) / plain_times[-1] for step in others))
    for stepper in steppers:
        stepper.end()
    bare, usual = map(statistics.median, zip(*ratios[::2], strict=True))
    decision = statistics.median(ratio for _, ratio in ratios[1::2])
    result = {
        "pairs": pairs,
        "plain_milliseconds": 1e3 * statistics.median(plain_times),
        "ratio_bare_step": bare,
        "ratio_step": usual,
        "ratio_decision_step": decision,
    }
    for horizon in HORIZONS:
        interval = decision_interval(horizon)
        result[f"ratio_horizon_{horizon}"] = (
            (interval - 1) * usual + decision
        ) / interval
        result[f"interval_horizon_{horizon}"] = interval
    return result


def _callback(method: str, steps: int) -> MetaLR | None:
    """Nothing for `"plain"`; MetaLR, less of it for `"bare"`."""
    if method == "plain":
        return None
    usual = method == "metalr"
    return MetaLR(
        Controller(), total_steps=steps, guard=usual, safe_start=usual
    )


def start(name: str, method: str, jit: bool) -> tuple[float, int, int]:
    """What this process, a fresh one, needs to begin with training.

    Returns:
        Tuple: seconds of the first step, which compiles; peak resident memory
        in bytes, in all; and once compiled, since compiling takes memory that
        is given back.
    """
    # Kept whole: MetaLR comes off the model once nobody holds its callbacks.
    stepper = make_stepper(name, _callback(method, steps=20), jit)
    seconds = _timed(stepper.step)
    stepper.step()
    in_all = _peak()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # See proc(5): the peak is forgotten, and begins at what is resident.
    CLEAR_REFS.write_text("5")
    for _ in range(3):
        stepper.step()
    return seconds, max(in_all, _peak()), _peak()


def _peak() -> int:
    # Not `getrusage`: a process inherits the peak of the one that started it.
    status = pathlib.Path("/proc/self/status").read_text("utf-8")
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if peak is None:
        raise OSError("/proc/self/status names no peak of memory (VmHWM).")
    return 1024 * int(peak[1])


def planned_memory(name: str, method: str) -> int:
    """What XLA plans for a step on JAX, bytes: state, batch, all between."""
    import jax

    # The callbacks take MetaLR off the model when they are gone.
    callback = _callback(method, steps=20)
    model, x, y, callbacks = _prepared(name, callback, jit=True)
    step = jax.jit(model.train_step, donate_argnums=0)
    state = _jax_state(model, purge=False)
    plan = step.lower(state, (x, y)).compile().memory_analysis()
    del callbacks
    return int(
        plan.argument_size_in_bytes
        + plan.temp_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )


def compare_starts(name: str, jit: bool) -> dict[str, float]:
    """Fresh processes: seconds of the first step, and peaks of memory.

    Of the memory MetaLR's over the plain one, as it comes and bare.
    """
    seconds, in_all, once_compiled = {}, {}, {}
    for method in METHODS:
        command = [sys.executable, __file__, "--start", name, method]
        command += ["--no-jit"] if not jit else []
        samples = [
            subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.split()[-3:]
            for _ in range(SAMPLES[name])
        ]
        seconds[method], in_all[method], once_compiled[method] = (
            statistics.median(map(float, column))
            for column in zip(*samples, strict=True)
        )
    planned = {}
    if keras.backend.backend() == "jax":
        peaks = {method: planned_memory(name, method) for method in METHODS}
        planned = _memory_ratios("planned_memory", peaks)
    return {
        **planned,
        "plain_first_step_seconds": seconds["plain"],
        "metalr_first_step_seconds": seconds["metalr"],
        "plain_peak_mebibytes": in_all["plain"] / 2**20,
        "plain_compiled_peak_mebibytes": once_compiled["plain"] / 2**20,
        **_memory_ratios("peak_memory", in_all),
        **_memory_ratios("compiled_peak_memory", once_compiled),
    }


def _memory_ratios(name: str, peaks: Mapping[str, float]) -> dict[str, float]:
    return {
        f"ratio_{name}": peaks["metalr"] / peaks["plain"],
        f"ratio_{name}_bare": peaks["bare"] / peaks["plain"],
    }


def made() -> dict[str, Any]:
    """Where, and of what, a half of a row was measured."""
    return {
        "environment": environment(),
        "git_revision": git_revision(),
        "rule_version": RULE_VERSION,
    }


def _stored(
    path: pathlib.Path, models: Sequence[str], backend: str, jit: bool
) -> dict[str, dict[str, Any]]:
    """The rows of a file by their models, if those of `models` may join them.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If it is damaged, of another backend, or has rows of
            `models` that are compiled where these are not, or the other way
            round: a half of a row may stay.
    """
    check_files(path)
    if not path.is_file():
        return {}
    stored = read_json(path)
    if stored.get("backend") != backend:
        raise ValueError(
            f"{path} is of the backend {stored.get('backend')}, not {backend}: "
            "name another --output"
        )
    results = {row["model"]: row for row in stored["results"]}
    for name in models:
        if results.get(name, {}).get("jit_compile", jit) != jit:
            raise ValueError(
                f"{path} has {name} with jit_compile={not jit}, not {jit}: "
                "name another --output"
            )
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print one line a result, write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="+",
        choices=tuple(SETUPS),
        default=list(SETUPS),
        help="(default: all)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        help=f"of each kind of step (default, for each model: {PAIRS})",
    )
    parser.add_argument("--no-jit", action="store_true")
    parser.add_argument("--no-start", action="store_true")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="JSON; what is in it of other models and measurements stays",
    )
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    check_counts(parser, arguments, {"pairs": 1})
    backend = keras.backend.backend()
    jit = not arguments.no_jit and backend != "torch"
    if arguments.start:
        name, method = arguments.start
        print(*start(name, method, jit))
        return
    path = arguments.output
    try:
        results = _stored(path, arguments.models, backend, jit) if path else {}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with_start = not arguments.no_start
    if with_start and not CLEAR_REFS.exists():
        print(f"No memory and first steps: there is no {CLEAR_REFS} here.")
        with_start = False
    for name in arguments.models:
        row: dict[str, Any] = {"model": name, "jit_compile": jit}
        if not arguments.no_time:
            row |= measure(name, arguments.pairs or PAIRS[name], jit)
            row["times_made"] = made()
        if with_start:
            row |= compare_starts(name, jit)
            row["start_made"] = made()
        results[name] = results.get(name, {}) | row
        print(json.dumps({"backend": backend, **row}), flush=True)
        # After each, since one takes many minutes.
        if path is not None:
            record = {"backend": backend, "results": list(results.values())}
            write_text(path, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
