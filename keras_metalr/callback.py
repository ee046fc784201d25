"""`MetaLR`: the Keras hooks, and nothing else."""

import contextlib
import io
import math
import numbers
import pathlib
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import keras

from keras_metalr.controller import Controller
from keras_metalr.decision import Settings
from keras_metalr.features import NUM_FEATURES
from keras_metalr.session import Session
from keras_metalr.trace import Trace
from keras_metalr.train_step import check_trainable
from keras_metalr.update_rule import MAX_RATE
from keras_metalr.update_rule import MIN_RATE

STATE_PATH = "optimizer/metalr_state/vars"


@keras.saving.register_keras_serializable("keras_metalr")
class MetaLR(keras.callbacks.Callback):
    """Controls the learning rate of `model.fit` with a learned controller.

    Pass it to `fit` with whatever learning rate the optimizer was made with.
    Inside the compiled train step it measures the batch's loss, the gradient
    norm and how the weights move; about 200 times a run a small network reads
    these signals and moves the rate. Nothing leaves the device for a batch.

    `learning_rate` and `grad_norm` (both of the last step) join the logs of
    every epoch, so History, the progress bar, CSVLogger and TensorBoard show
    them. When `fit` ends, normally or not, the model is as it was compiled: the
    same optimizer with its own rate, and nothing of this package on it.

    With a `LearningRateSchedule` the controller scales the schedule; with a
    `MultiOptimizer` it scales all rates alike, and the first one is shown.
    Callbacks that set the rate themselves (`LearningRateScheduler`,
    `ReduceLROnPlateau`) are overruled.

    Args:
        controller: String, the name or folder of a preset, or a `keras.Model`
            from features of shape `(batch, 17)` to outputs of shape
            `(batch, 1)`, such as `keras_metalr.Controller`.
            Defaults to `"general"`.
        total_steps: Integer (>= 1) or `None`, batches in the whole run. `None`
            takes it from `fit`: epochs times steps per epoch. Needed where the
            data have no length. Defaults to `None`.
        min_learning_rate: Float (> 0) or `None`, lower limit of the rate.
            Defaults to `None` (1e-15).
        max_learning_rate: Float (> 0) or `None`, upper limit of the rate.
            Defaults to `None` (1e12).
        safe_start: Boolean. Whether to begin with updates of 1e-4 of the
            weights' length, whatever rate the optimizer was made with. `False`
            begins with that rate. Defaults to `True`.
        guard: Boolean. Whether to skip steps whose loss or gradient is not
            finite, and to go back to the last good weights, with a smaller
            rate, when the run breaks or is being ruined. It keeps a copy of
            the weights and of the optimizer's slots, at times two of them.
            Defaults to `True`.
        verbose: Integer, 0 (silent) or 1 (a line at the end of training).
            Defaults to `0`.

    Attributes:
        trace: `Trace`, one row a decision; brought up to date every epoch.

    Raises:
        ValueError: at construction for arguments out of range or a preset that
            is missing or damaged; when `fit` begins for a model that is not
            compiled or has nothing to train, for a length of the run that is
            not known; in the first steps for a loss that is never finite.

    References:
        - [Wu et al., 2018](https://arxiv.org/abs/1803.02021), why a controller
          must be trained on the end of a run.
        - [Metz et al., 2022](https://arxiv.org/abs/2211.09760), learned
          optimizers with features like these.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1000.0), loss="mse")
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> history = model.fit(x, 2 * x, epochs=3, verbose=0, callbacks=[MetaLR()])
    >>> sorted(history.history)
    ['grad_norm', 'learning_rate', 'loss']
    """

    def __init__(
        self,
        controller: str | keras.Model = "general",
        *,
        total_steps: int | None = None,
        min_learning_rate: float | None = None,
        max_learning_rate: float | None = None,
        safe_start: bool = True,
        guard: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__()
        _check_arguments(
            total_steps, min_learning_rate, max_learning_rate, verbose
        )
        _check_boolean("safe_start", safe_start)
        _check_boolean("guard", guard)
        self.controller = controller
        self.total_steps = total_steps
        self.min_learning_rate = min_learning_rate
        self.max_learning_rate = max_learning_rate
        self.safe_start = safe_start
        self.guard = guard
        self.verbose = verbose
        self.trace = Trace()
        self._controller_model = _load_controller(controller)
        self._session: Session | None = None
        self._training = False
        self._resume_from: pathlib.Path | None = None
        self._warned = False

    # -- Keras hooks. -------------------------------------------------------

    def set_model(self, model: keras.Model) -> None:
        """Install on the model; Keras calls this as `fit` begins."""
        super().set_model(model)
        self._remove()
        _check_model(model)
        self._training = False
        self._warned = False
        self._first_epoch = True
        self.trace = Trace()
        session = Session(
            model,
            self._controller_model,
            Settings(
                min_learning_rate=self.min_learning_rate or MIN_RATE,
                max_learning_rate=self.max_learning_rate or MAX_RATE,
                safe_start=self.safe_start,
                guard=self.guard,
            ),
        )
        session.install()
        self._session = session

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse what cannot work before anything has been trained."""
        self._training = True
        if not self._steps_known():
            self._remove()
            raise ValueError(
                "MetaLR must know how long the run is, and these data have no "
                "length. Pass `steps_per_epoch` to `fit`, or "
                "`MetaLR(total_steps=...)`, the number of batches in all."
            )
        if self._resume_from is not None:
            self._load_state(self._resume_from)
            self._resume_from = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the horizon, once the first epoch is known."""
        if self._session is None:
            return
        remaining = None
        if self._first_epoch:
            self._first_epoch = False
            remaining = self._remaining_steps(epoch)
        self._session.begin_epoch(remaining)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Bring the trace to the host; report what the guard did."""
        if self._session is None:
            return
        try:
            self._session.check_hopeful(steps=1)
        except ValueError:
            self._remove()
            raise
        self._flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Come off the model."""
        if self._session is None:
            return
        self._flush()
        if self.verbose and len(self.trace):
            rate = self.trace["learning_rate"]
            print(
                f"MetaLR: {len(self.trace)} decisions, learning rate "
                f"{rate[0]:.3g} at first, {rate.max():.3g} at most, "
                f"{rate[-1]:.3g} at last."
            )
        self._remove()

    def on_test_begin(self, logs: dict | None = None) -> None:
        """`evaluate` alone: there is nothing to control."""
        if not self._training:
            self._remove()

    def on_predict_begin(self, logs: dict | None = None) -> None:
        """`predict` alone: there is nothing to control."""
        if not self._training:
            self._remove()

    # -- Resuming and saving. -----------------------------------------------

    def restore(self, path: str) -> "MetaLR":
        """Go on from a checkpoint that was saved during training.

        `BackupAndRestore` needs no help. But `keras.models.load_model` makes a
        new model, with a plain optimizer that knows nothing of MetaLR: give
        the same file to `restore`, and the next `fit` goes on where it was.

        Args:
            path: String, a `.keras` or `.weights.h5` file.

        Returns:
            The callback itself.

        Raises:
            ValueError: if the file holds no run of MetaLR.

        Example:

        ```python
        model = keras.models.load_model("run.keras")
        metalr = MetaLR().restore("run.keras")
        model.fit(data, initial_epoch=3, epochs=10, callbacks=[metalr])
        ```
        """
        file = pathlib.Path(path)
        with _open_weights(file) as weights:
            if STATE_PATH not in weights:
                raise ValueError(
                    f"{str(path)!r} holds no run of MetaLR. Expected a "
                    "checkpoint saved while MetaLR was training."
                )
        self._resume_from = file
        return self

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        controller = self.controller
        if not isinstance(controller, (str, pathlib.Path)):
            controller = keras.saving.serialize_keras_object(controller)
        return {
            "controller": controller,
            "total_steps": self.total_steps,
            "min_learning_rate": self.min_learning_rate,
            "max_learning_rate": self.max_learning_rate,
            "safe_start": self.safe_start,
            "guard": self.guard,
            "verbose": self.verbose,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MetaLR":
        """The callback that `get_config` describes.

        A controller given as a model comes back with new weights: save it with
        `save_to_preset` and pass the folder, if they are to be kept.
        """
        config = dict(config)
        if isinstance(config["controller"], dict):
            config["controller"] = keras.saving.deserialize_keras_object(
                config["controller"]
            )
        return cls(**config)

    # -- Details. -----------------------------------------------------------

    def _steps_known(self) -> bool:
        steps = (self.params or {}).get("steps")
        return self.total_steps is not None or bool(steps)

    def _remaining_steps(self, epoch: int) -> int:
        if self.total_steps is not None:
            return max(1, self.total_steps - self._steps_done())
        epochs = int(self.params.get("epochs", 1))
        return max(1, (epochs - epoch) * int(self.params["steps"]))

    def _steps_done(self) -> int:
        return self._session.steps_done() if self._session else 0

    def _load_state(self, file: pathlib.Path) -> None:
        state = self._session.optimizer.metalr_state if self._session else None
        if state is None:
            raise ValueError(
                "To go on from a checkpoint the model must be built before "
                "`fit`. Load it with `keras.models.load_model`, or call it "
                "on a batch first."
            )
        with _open_weights(file) as weights:
            group = weights[STATE_PATH]
            state.load_own_variables({key: group[key][()] for key in group})

    def _flush(self) -> None:
        session = self._session
        if session is None:
            return
        self.trace = Trace(session.trace_rows())
        skipped = session.count("skipped_steps")
        rollbacks = session.count("rollbacks")
        if self.guard and (skipped or rollbacks) and not self._warned:
            self._warned = True
            warnings.warn(
                f"MetaLR skipped {skipped} step(s) whose loss or gradient was "
                f"not finite and went back to earlier weights {rollbacks} "
                "time(s). The `event` column of `MetaLR.trace` says when.",
                stacklevel=2,
            )

    def _remove(self) -> None:
        if self._session is not None:
            self._session.remove()
            self._session = None
        self._training = False


def _check_arguments(
    total_steps: Any, low: Any, high: Any, verbose: Any
) -> None:
    if total_steps is not None and (
        isinstance(total_steps, bool)
        or not isinstance(total_steps, numbers.Integral)
        or total_steps < 1
    ):
        raise ValueError(
            "`total_steps` must be a positive integer (batches in the whole "
            f"run) or None. Received: total_steps={total_steps!r}. "
            "Use None to take it from `fit`."
        )
    for name, value in (
        ("min_learning_rate", low),
        ("max_learning_rate", high),
    ):
        if value is not None and (
            isinstance(value, bool)
            or not isinstance(value, numbers.Real)
            or not math.isfinite(value)
            or value <= 0
        ):
            raise ValueError(
                f"`{name}` must be a positive, finite number or None. "
                f"Received: {name}={value!r}."
            )
    low = MIN_RATE if low is None else low
    high = MAX_RATE if high is None else high
    if low > high:
        raise ValueError(
            "`min_learning_rate` must not exceed `max_learning_rate` (which "
            f"are {MIN_RATE} and {MAX_RATE} where they are None). "
            f"Received: {low} and {high}."
        )
    if isinstance(verbose, bool) or verbose not in (0, 1):
        raise ValueError(
            f"`verbose` must be 0 or 1. Received: verbose={verbose!r}."
        )


def _check_boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r}."
        )


def _load_controller(controller: Any) -> keras.Model:
    if isinstance(controller, (str, pathlib.Path)):
        return Controller.from_preset(str(controller))
    if not isinstance(controller, keras.Model):
        raise ValueError(
            "`controller` must be a preset's name, the path of a preset "
            "folder, or a keras.Model. Received: controller="
            f"{controller!r} of type {type(controller).__name__}."
        )
    try:
        shape = controller.compute_output_shape((None, NUM_FEATURES))
    except Exception as error:
        raise ValueError(
            f"`controller` must take inputs of shape (batch, {NUM_FEATURES}). "
            f"Received one that does not: {error} "
            "Use keras_metalr.Controller()."
        ) from error
    if not controller.built or shape != (None, 1):
        raise ValueError(
            f"`controller` must map inputs of shape (batch, {NUM_FEATURES}) to "
            f"outputs of shape (batch, 1). Received a model that gives {shape}."
            " Use keras_metalr.Controller()."
        )
    if controller.non_trainable_variables:
        raise ValueError(
            "`controller` must have trainable weights alone (no "
            "BatchNormalization, no Dropout, no frozen layer). Received: "
            f"{[v.path for v in controller.non_trainable_variables]}."
        )
    return controller


def _check_model(model: keras.Model) -> None:
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(
            "MetaLR controls a compiled model's optimizer, and this model has "
            "none. Call `model.compile(optimizer=..., loss=...)` first."
        )
    if model.built:
        check_trainable(model)


@contextlib.contextmanager
def _open_weights(path: pathlib.Path) -> Iterator[Any]:
    """The weights of a `.keras` or `.weights.h5` file, an open `h5py.File`."""
    import h5py

    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    source: Any = str(path)
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        file = h5py.File(source, "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} is no checkpoint of Keras ({error}). "
            "Expected a .keras or .weights.h5 file that was saved while "
            "MetaLR was training."
        ) from error
    with file:
        yield file
