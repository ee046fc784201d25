"""Runs one training of one workload with one method, and records it."""

import math
import os
import time
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metalr.benchmark import scoring
from keras_metalr.benchmark.competitors import COMPETITORS
from keras_metalr.benchmark.competitors import Competitor
from keras_metalr.benchmark.curves import learning_rate_curve
from keras_metalr.benchmark.curves import loss_curve
from keras_metalr.benchmark.environment import environment
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.observers import EpochClock
from keras_metalr.benchmark.observers import StepLosses
from keras_metalr.benchmark.observers import StopWhenDiverged
from keras_metalr.benchmark.precision import check_mode
from keras_metalr.benchmark.precision import dtype_policy
from keras_metalr.benchmark.precision import policy_name
from keras_metalr.benchmark.records import NotSavedError
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import check_folder
from keras_metalr.benchmark.records import file_name
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

# What NumPy's generator takes.
_HIGHEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class RunConfig:
    """What one run is made with, besides its workload.

    Args:
        method: String, a key of
            `keras_metalr.benchmark.competitors.COMPETITORS`: `"static"`,
            `"cosine"` or `"metalr"`. Defaults to `"static"`.
        learning_rate: Float. Defaults to `None`, the workload's own rate.
        seed: Integer. Fixes the weights, the order of the examples and what
            is drawn in training. Defaults to `0`.
        epochs: Integer. Defaults to `None`, the workload's own number.
        steps: Integer, training steps in all. Defaults to `None`, `epochs`
            passes over the data. With both, the steps are shared out over
            `epochs` epochs, which sets how often validation is measured, or
            over `steps` where those are fewer. Rounded up to whole epochs.
        mixed_precision: String, `"auto"`, `"on"` or `"off"`. Defaults to
            `"off"`.
        record_steps: Boolean, whether to note the loss of every step, which
            costs a wait for the device a step. Defaults to `False`.
        method_options: Mapping of further arguments of the method. Defaults
            to an empty mapping.
        evaluation_examples: Tuple of integers or `None`. On so many of the
            first validation examples (`None`: on all) the model is evaluated
            before training and after it, beside the usual results. Defaults
            to `()`.

    Raises:
        ValueError: If a value is out of range.
    """

    method: str = "static"
    learning_rate: float | None = None
    seed: int = 0
    epochs: int | None = None
    steps: int | None = None
    mixed_precision: str = "off"
    record_steps: bool = False
    method_options: Mapping[str, Any] = field(default_factory=dict)
    evaluation_examples: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in COMPETITORS:
            raise ValueError(
                f"`method` must be one of {tuple(COMPETITORS)}. "
                f"Received: method={self.method!r}."
            )
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={value}."
                )
        check_mode(self.mixed_precision)
        if not 0 <= self.seed <= _HIGHEST_SEED:
            raise ValueError(
                f"`seed` must be from 0 to {_HIGHEST_SEED}. "
                f"Received: seed={self.seed}."
            )
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(
                "`learning_rate` must be a positive number. "
                f"Received: learning_rate={rate}."
            )


def run(
    workload: Workload,
    config: RunConfig,
    *,
    data: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    verbose: int = 0,
) -> RunResult:
    """Train once and return the record.

    Args:
        workload: `Workload`.
        config: `RunConfig`.
        data: `Data`, to load it once for many runs. Defaults to `None`:
            `workload.load_data()`.
        output: Folder to write the record to, as one JSON file. A run whose
            file is there already is read back and not run again, unless it was
            made on other data, by their note. Defaults to `None`, nothing is
            written.
        verbose: Integer, passed to `fit`. Defaults to `0`.

    Returns:
        A `RunResult`.

    Raises:
        DamagedRecordError: If the file that is there already holds no run.
        OSError: If nothing can be written to `output`; found before training.
            If the record cannot be written after all, it is a
            `keras_metalr.benchmark.records.NotSavedError`, which has the
            result.

    Example:

        result = run(
            workloads.get("digits"),
            RunConfig(method="metalr", learning_rate=10.0, epochs=5),
            output="runs",
        )
        print(result.results["eval_accuracy"])
    """
    choices = _choices(workload, config)
    data = workload.load_data() if data is None else data
    if output is not None:
        found = find_run(workload, config, data, output)
        if found is not None:
            return found
        check_folder(output)
    with dtype_policy(choices["mixed_precision"]):
        result = _train(workload, config, choices, data, verbose)
    if output is not None:
        path = Path(output) / file_name(choices)
        try:
            result.save(path)
        except OSError as error:
            raise NotSavedError(result, path, error) from error
        result = replace(result, path=path)
    return result


def find_run(
    workload: Workload,
    config: RunConfig,
    data: Data,
    output: str | os.PathLike[str],
) -> RunResult | None:
    """The record of a run that was made before, on the same data, by its note.

    Args:
        workload: `Workload`.
        config: `RunConfig`.
        data: `Data`.
        output: Folder of the records.

    Returns:
        A `RunResult`; `None` where there is none.

    Raises:
        DamagedRecordError: If the file of its name holds no run.
    """
    choices = _choices(workload, config)
    path = Path(output) / file_name(choices)
    if not path.is_file():
        return None
    recorded = RunResult.load(path)
    # A copy of the data that has lost something is other data.
    is_same = (recorded.config, recorded.data_note) == (choices, data.note)
    return recorded if is_same else None


def _choices(workload: Workload, config: RunConfig) -> dict[str, Any]:
    """The identity, and what MetaLR's controller is."""
    choices = identity(workload, config)
    if config.method == "metalr":
        # A preset's name does not say what is in it, nor by which rule it runs.
        preset = config.method_options.get("controller", "general")
        choices["controller"] = controller_mark(preset)
    return choices


def identity(workload: Workload, config: RunConfig) -> dict[str, Any]:
    """Everything that was chosen, defaults filled in.

    Two runs of one identity are the same run: it becomes the record's `config`,
    to which `run` adds what MetaLR's controller is. Of the controller's folder
    it has the name alone: a run is the same from wherever it is called.

    Args:
        workload: `Workload`.
        config: `RunConfig`.
    """
    rate = config.learning_rate
    epochs = config.epochs
    if epochs is None and config.steps is None:
        epochs = workload.epochs
    method_options = dict(config.method_options)
    if "controller" in method_options:
        folder = os.path.abspath(method_options["controller"])
        method_options["controller"] = os.path.basename(folder)
    choices = {
        "workload": workload.name,
        "options": dict(workload.options),
        "method": config.method,
        "method_options": method_options,
        "learning_rate": workload.learning_rate if rate is None else rate,
        "seed": config.seed,
        "epochs": epochs,
        "steps": config.steps,
        "batch_size": workload.batch_size,
        "target_accuracy": workload.target_accuracy,
        "mixed_precision": policy_name(config.mixed_precision),
        "backend": keras.backend.backend(),
        "record_steps": config.record_steps,
    }
    # Left out where there are none, as in the records of before there were.
    if config.evaluation_examples:
        choices["evaluation_examples"] = list(config.evaluation_examples)
    return choices


def _budget(
    epochs: int | None, steps: int | None, pass_steps: int
) -> tuple[int, int]:
    """Return the number of epochs and the steps in each."""
    if steps is None:
        return epochs or 1, pass_steps
    # An epoch has a step at least.
    epochs = min(epochs or math.ceil(steps / pass_steps), steps)
    return epochs, math.ceil(steps / epochs)


def _train(
    workload: Workload,
    config: RunConfig,
    choices: dict[str, Any],
    data: Data,
    verbose: int,
) -> RunResult:
    batch_size = choices["batch_size"]
    epochs, steps_per_epoch = _budget(
        choices["epochs"], choices["steps"], data.steps_per_epoch(batch_size)
    )
    keras.utils.set_random_seed(choices["seed"])
    # The model comes first, so that its weights depend on the seed alone.
    model = workload.build_model()
    competitor = COMPETITORS[choices["method"]](
        choices["learning_rate"],
        epochs * steps_per_epoch,
        **config.method_options,
    )
    workload.compile(model, competitor.learning_rate)
    counts = choices.get("evaluation_examples", ())
    evaluations = _evaluations("before training", model, data, choices, counts)
    step_losses = StepLosses() if choices["record_steps"] else None
    clock = EpochClock()
    observers = [clock, *([step_losses] if step_losses else [])]
    if not competitor.recovers:
        observers.append(StopWhenDiverged())
    fit_arguments = workload.fit_arguments(
        data, epochs, steps_per_epoch=steps_per_epoch
    )(choices["seed"])
    fit_arguments["callbacks"] = [*competitor.callbacks, *observers]
    history = model.fit(**{**fit_arguments, "verbose": verbose}).history
    history["elapsed_seconds"] = clock.elapsed_seconds
    result = _record(
        choices,
        data,
        model,
        competitor,
        {name: [float(v) for v in logs] for name, logs in history.items()},
        step_losses.losses if step_losses else None,
        steps_per_epoch,
    )
    evaluations += _evaluations("after training", model, data, choices, counts)
    for evaluation in evaluations:
        is_after = evaluation["when"] == "after training"
        evaluation["epoch"] = is_after * result.results["epoch"]
    return replace(result, evaluations=evaluations)


def _record(
    choices: dict[str, Any],
    data: Data,
    model: keras.Model,
    competitor: Competitor,
    history: dict[str, list[float]],
    step_losses: list[float | None] | None,
    steps_per_epoch: int,
) -> RunResult:
    trace = next(
        (c.trace for c in competitor.callbacks if hasattr(c, "trace")), None
    )
    num_steps = len(history["loss"]) * steps_per_epoch
    return RunResult(
        config=choices,
        environment=environment(),
        history=history,
        curves={
            "loss": loss_curve(
                history["loss"], steps_per_epoch, step_losses, trace
            ),
            "learning_rate": learning_rate_curve(
                competitor.learning_rate, num_steps, trace
            ),
        },
        results={
            **_evaluate(model, data, choices["batch_size"]),
            # As the share of the data that was seen: an epoch may be short, and
            # no batch is larger than the data.
            "epoch": num_steps
            * min(choices["batch_size"], data.num_train)
            / data.num_train,
            "num_steps": num_steps,
            "num_train": data.num_train,
            "num_validation": data.num_validation,
            "num_weights": sum(
                math.prod(weight.shape) for weight in model.trainable_weights
            ),
            "train_steps_per_second": num_steps
            / history["elapsed_seconds"][-1],
            **_score(history, choices["target_accuracy"], step_losses),
        },
        data_note=data.note,
    )


def _evaluations(
    when: str,
    model: keras.Model,
    data: Data,
    choices: Mapping[str, Any],
    counts: Sequence[int | None],
) -> list[dict[str, Any]]:
    evaluations = []
    for count in counts:
        part = data.first_validation_examples(count)
        figures = _evaluate(model, part, choices["batch_size"])
        evaluations.append(
            {"when": when, "num_examples": part.num_validation, **figures}
        )
    return evaluations


def _evaluate(
    model: keras.Model, data: Data, batch_size: int
) -> dict[str, float]:
    start = time.perf_counter()
    logs = model.evaluate(
        data.validation_batches(batch_size), verbose=0, return_dict=True
    )
    seconds = time.perf_counter() - start
    figures = {"eval_loss": float(logs["loss"])}
    if "accuracy" in logs:
        logits = model.predict(
            data.x_validation, batch_size=batch_size, verbose=0
        )
        predictions = np.argmax(np.asarray(logits), axis=-1)
        figures["eval_accuracy"] = float(logs["accuracy"])
        figures["eval_f1"] = scoring.macro_f1(
            data.y_validation.ravel(), predictions.ravel()
        )
    num_steps = math.ceil(data.num_validation / batch_size)
    return {
        **figures,
        "eval_runtime": seconds,
        "eval_samples_per_second": data.num_validation / seconds,
        "eval_steps_per_second": num_steps / seconds,
    }


def _score(
    history: dict[str, list[float]],
    target_accuracy: float,
    step_losses: list[float | None] | None,
) -> dict[str, float]:
    """Figures of the whole run, from what was noted on the way."""
    losses: Sequence[float | None] = history["loss"]
    if step_losses is not None:
        losses = step_losses
    reached = {}
    if "val_accuracy" in history:
        reached["epochs_to_target"] = scoring.epochs_to_target(
            history["val_accuracy"], target_accuracy
        )
    return {
        "train_loss": history["loss"][-1],
        "train_runtime": history["elapsed_seconds"][-1],
        **reached,
        "stability": scoring.stability(losses),
        "stability_last_half": scoring.stability(losses, last_half=True),
    }
