"""Phase 1: static training that records what a controller would have seen."""

import math
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_metalr.arguments import check_folder
from keras_metalr.callback import MetaLR
from keras_metalr.controller import Controller
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.phases.fit_arguments import callbacks_of
from keras_metalr.run_files import read_run
from keras_metalr.run_files import recorded
from keras_metalr.run_files import write_run
from keras_metalr.trace import Trace

# Half a decade apart, over all that any optimizer in Keras needs.
LADDER = tuple(10.0 ** (exponent / 2.0) for exponent in range(-12, 3))


@dataclass(frozen=True)
class Run:
    """One training run at a constant rate.

    Args:
        workload: String, what was trained.
        learning_rate: Float (> 0), the rate.
        seed: Integer. Runs of one workload with one seed differ in the rate
            alone.
        outcome: Float, the monitored value at the end of the run, lower being
            better; infinite where the run diverged.
        trace: `Trace`, one row per decision.
        monitor: String, what the outcome is. Defaults to `"val_loss"`.

    Example:

    >>> run = Run("digits", 0.01, seed=0, outcome=0.3, trace=Trace())
    >>> run.monitor, len(run.trace)
    ('val_loss', 0)
    """

    workload: str
    learning_rate: float
    seed: int
    outcome: float
    trace: Trace
    monitor: str = "val_loss"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the run as a `.json` and a `.npz` file."""
        stem = _stem(folder, self.workload, self.learning_rate, self.seed)
        stem.parent.mkdir(parents=True, exist_ok=True)
        record = {name: getattr(self, name) for name in _RECORDED}
        record["feature_version"] = FEATURE_VERSION
        write_run(stem, self.trace, record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Run":
        """Read a run that `save` wrote.

        Args:
            path: String or path of its `.json` file.

        Raises:
            ValueError: if it is damaged, or of another version.
        """
        record, trace = read_run(path, _RECORDED | {"feature_version": int})
        version = record.pop("feature_version")
        if version != FEATURE_VERSION:
            raise ValueError(
                f"{str(path)!r} holds a run with version {version} of the "
                f"features; this keras_metalr computes {FEATURE_VERSION}. "
                "Collect it again, in another folder."
            )
        return cls(**record, trace=trace)


_RECORDED = recorded(Run)


def load_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """Read all runs that were saved in a folder, in the order of their names.

    Args:
        folder: String or path.

    Raises:
        ValueError: if the folder holds no run, or one that cannot be read.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> Run("digits", 0.01, seed=0, outcome=0.3, trace=Trace()).save(folder)
    >>> [run.learning_rate for run in load_runs(folder)]
    [0.01]
    """
    files = sorted(pathlib.Path(folder).glob("*.json"))
    runs = [Run.load(file) for file in files]
    if not runs:
        raise ValueError(
            f"There are no runs in {str(folder)!r}. Expected the files that "
            "`collect(..., folder=...)` writes."
        )
    return runs


def collect(
    make_model: Callable[[], keras.Model],
    fit_arguments: Callable[[int], dict[str, Any]],
    *,
    learning_rates: Sequence[float] = LADDER,
    seeds: Sequence[int] = (0,),
    workload: str = "workload",
    monitor: str = "val_loss",
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Train at each of a ladder of constant rates and keep the traces.

    Seeds Python's, NumPy's and the backend's global generators
    (`keras.utils.set_random_seed`).

    Args:
        make_model: Callable that returns a new, compiled model. The rate it was
            compiled with, a number, does not matter.
        fit_arguments: Callable from a seed to the keyword arguments of `fit`
            (`x`, `epochs`, `validation_data`, ...).
        learning_rates: Sequence of floats (> 0). Defaults to 15 rates from 1e-6
            to 10.
        seeds: Sequence of integers; each gets a whole ladder.
            Defaults to `(0,)`.
        workload: String, a name that tells these runs from others in the same
            folder. Defaults to `"workload"`.
        monitor: String, the key of `history` whose last value is the outcome,
            lower being better. Defaults to `"val_loss"`.
        folder: String or path to save the runs in, and to read back those that
            are there already, so that an interrupted call goes on where it
            was. What they were trained on is not compared: give another model,
            or another number of epochs, another folder or `workload`.
            Defaults to `None`, memory alone.
        progress: Callable that is given each finished run. Defaults to `None`.

    Returns:
        List of `Run`, one for each seed and rate.

    Raises:
        ValueError: for a rate that is not positive, a `workload` that names no
            file, a folder that cannot be written to, or a run in the folder
            whose outcome is another, all before the first step; for a `monitor`
            that `fit` does not report, after the first epoch.

    Example:

    >>> import keras, numpy as np
    >>> def make_model():
    ...     model = keras.Sequential([keras.layers.Dense(1)])
    ...     model.compile("sgd", loss="mse")
    ...     return model
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> runs = collect(
    ...     make_model,
    ...     lambda seed: {"x": x, "y": 2 * x, "epochs": 2, "verbose": 0},
    ...     learning_rates=(0.01, 0.1),
    ...     monitor="loss",
    ... )
    >>> len(runs)
    2
    """
    rates = [float(rate) for rate in learning_rates]
    if not rates or not all(0.0 < rate < math.inf for rate in rates):
        raise ValueError(
            "`learning_rates` must hold positive, finite numbers. "
            f"Received: learning_rates={learning_rates}."
        )
    if not workload or pathlib.PurePath(workload).name != workload:
        raise ValueError(
            "`workload` must be a name that files can have, without slashes. "
            f"Received: workload={workload!r}."
        )
    if folder is not None:
        check_folder("folder", folder)
    runs = []
    for seed in seeds:
        for rate in rates:
            stem = _stem(folder or "", workload, rate, seed)
            if folder is not None and os.path.isfile(f"{stem}.json"):
                run = Run.load(f"{stem}.json")
                if run.monitor != monitor:
                    raise ValueError(
                        f"'{stem}.json' holds the {run.monitor!r} of a run. "
                        f"Received: monitor={monitor!r}. Use another folder "
                        "or another `workload`: outcomes are compared."
                    )
            else:
                outcome, trace = _train(
                    make_model, fit_arguments, rate, seed, monitor
                )
                run = Run(workload, rate, seed, outcome, trace, monitor)
                if folder is not None:
                    run.save(folder)
            runs.append(run)
            if progress is not None:
                progress(run)
    return runs


def _stem(
    folder: str | os.PathLike[str], workload: str, rate: float, seed: int
) -> pathlib.Path:
    return pathlib.Path(folder) / f"{workload}-seed{seed}-rate{rate!r}"


class _MonitorCheck(keras.callbacks.Callback):
    """Stops a run in its first epochs that will not report its outcome."""

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self._monitor = monitor

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        found = sorted(logs or {})
        of_validation = self._monitor.startswith("val_")
        # Not every epoch need validate.
        if of_validation and not any(key.startswith("val_") for key in found):
            return
        _check_reported(self._monitor, found)


def _check_reported(monitor: str, found: Sequence[str]) -> None:
    if monitor not in found:
        raise ValueError(
            f"`fit` reports no {monitor!r}. Received: monitor={monitor!r}; "
            f"expected one of {found}."
        )


def _train(
    make_model: Callable[[], keras.Model],
    fit_arguments: Callable[[int], dict[str, Any]],
    rate: float,
    seed: int,
    monitor: str,
) -> tuple[float, Trace]:
    keras.utils.set_random_seed(seed)
    model = make_model()
    model.optimizer.learning_rate = rate
    # A controller that has learned nothing: it measures and changes nothing.
    # No guard: what happens beyond the edge is what the fit must see.
    metalr = MetaLR(Controller(), safe_start=False, guard=False)
    arguments = dict(fit_arguments(seed))
    # Given, but as nothing, they do not count.
    validates = arguments.get("validation_data") is not None or bool(
        arguments.get("validation_split")
    )
    if monitor.startswith("val_") and not validates:
        raise ValueError(
            f"`fit` reports no {monitor!r} without validation data. Received: "
            f"monitor={monitor!r}; give `fit` such data, or name another "
            "`monitor`, such as 'loss'."
        )
    callbacks = [
        *callbacks_of(arguments),
        metalr,
        _MonitorCheck(monitor),
    ]
    history = model.fit(callbacks=callbacks, **arguments).history
    _check_reported(monitor, sorted(history))
    outcome = float(history[monitor][-1])
    # A run that diverged is worse than any that did not.
    return outcome if math.isfinite(outcome) else math.inf, metalr.trace
