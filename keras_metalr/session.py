"""One `fit`: what is put on the model, and how it comes off again."""

import functools
import sys
import types
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metalr import backend
from keras_metalr.control import LOGGED
from keras_metalr.decision import Settings
from keras_metalr.features import record_validation
from keras_metalr.host_watch import HostWatch
from keras_metalr.optimizer import MeasuredOptimizer
from keras_metalr.run_state import STEP
from keras_metalr.run_state import TOTAL_STEPS
from keras_metalr.run_state import RunState
from keras_metalr.train_step import hooked_compute_loss
from keras_metalr.train_step import is_built
from keras_metalr.train_step import measured_train_step

# What is put on the instance of the model.
_HOOKED = (
    "compute_loss",
    "train_step",
    "make_train_function",
    "evaluate",
    "_get_metrics_result_or_logs",
)


class Session:
    """Installs measurement and control on a compiled model, and removes them.

    Args:
        model: The compiled `keras.Model`.
        controller: `keras.Model` from features to the output.
        settings: `Settings` of the run.

    Raises:
        ValueError: if the optimizer's rate cannot be controlled, or another
            session of the same `fit` does so.
    """

    def __init__(
        self, model: keras.Model, controller: keras.Model, settings: Settings
    ) -> None:
        leftover = model.__dict__.get("make_train_function")
        leftover = getattr(leftover, "__self__", None)
        if isinstance(leftover, Session):
            if leftover.is_of_innermost_fit():
                raise ValueError(
                    "One `fit` takes one MetaLR. Received: two of them in "
                    "`callbacks`."
                )
            leftover.check_not_running()
            leftover.remove()
        self.model = model
        self.optimizer = MeasuredOptimizer(
            model.optimizer, model, controller, settings
        )
        self.optimizer.when_interrupted = self.remove
        self.installed = False
        self.watch = HostWatch(model, self.optimizer)
        self._fit_frame: int | None = None
        self._owner: weakref.ref[keras.callbacks.CallbackList] | None = None
        self._users_own: dict[str, Any] = {}

    # -- On and off. --------------------------------------------------------

    def install(self) -> None:
        """Put the optimizer and the hooks on the model."""
        try:
            self._install()
        except BaseException:
            self.remove()
            raise

    def _install(self) -> None:
        model = self.model
        self._train_function = model.train_function
        self._make_train_function = model.make_train_function
        # A user may have put functions of their own on the instance.
        self._users_own = {
            name: model.__dict__[name]
            for name in _HOOKED
            if name in model.__dict__
        }
        self.installed = True
        compute_loss = hooked_compute_loss(model, self.optimizer)
        train_step = measured_train_step(model, self.optimizer)
        built = model.trainable_variables and is_built(model)
        model.optimizer = self.optimizer
        if built:
            self.optimizer.build(model.trainable_variables)
        # Attributes of the instance come before the methods of its class, so
        # that taking them off leaves the model as it was.
        model.compute_loss = compute_loss
        model.train_step = train_step
        model.make_train_function = self._hooked_make_train_function
        if backend.name() != "jax":
            model.evaluate = self._watched_evaluate(model.evaluate)
        result_or_logs = model._get_metrics_result_or_logs
        if backend.name() == "tensorflow":
            result_or_logs = _with_measured(model)
        model._get_metrics_result_or_logs = self._watched_results(
            result_or_logs
        )
        model.train_function = None
        self._remove_with_fit()

    def remove(self) -> None:
        """Leave the model as it was before `install`; safe to call again."""
        if not self.installed:
            return
        self.installed = False
        model = self.model
        for name in _HOOKED:
            model.__dict__.pop(name, None)
        for name, value in self._users_own.items():
            setattr(model, name, value)
        if model.optimizer is self.optimizer:
            model.optimizer = self.optimizer.inner
            model.train_function = self._train_function
        self.optimizer.restore_rates()

    def is_of_running_fit(self) -> bool:
        """Whether it was installed by a call of `fit` that is running."""
        frames = [id(frame) for frame in _fit_frames()]
        return self.installed and self._fit_frame in frames

    def check_not_running(self) -> None:
        """Raise where another `fit` of the model is running already.

        What that one trains with would be gone when this one has ended.
        """
        if self.is_of_running_fit():
            raise ValueError(
                f"MetaLR is controlling a `fit` of {self.model.name!r} that is "
                "still running. Received: another `fit` of the same model "
                "within it, from a callback. Call `train_on_batch` there, or "
                "`fit` once the first has ended."
            )

    def is_of_innermost_fit(self) -> bool:
        """Whether it was installed by the innermost of the running ones."""
        frames = [id(frame) for frame in _fit_frames()]
        return self.installed and frames[:1] == [self._fit_frame]

    def _remove_with_fit(self) -> None:
        """Come off when the `fit` ends that was begun, however it ends.

        After an exception Keras calls no hook of a callback. So the hooks of
        the list of callbacks are watched for one; and where it comes from
        elsewhere, the list dies with the call of `fit` that made it.
        """
        frame = next(_fit_frames(), None)
        if frame is not None:
            self._note_fit(frame)
        owner = _callback_list()
        if owner is None:
            return
        self._owner = weakref.ref(owner)
        # Not as the interpreter exits, when variables are gone already.
        weakref.finalize(owner, _remove, weakref.ref(self)).atexit = False
        for name in dir(owner):
            if name.startswith("on_"):
                setattr(owner, name, self._watched_hook(owner, name))

    def _note_fit(self, frame: types.FrameType) -> None:
        self._fit_frame = id(frame)
        if backend.name() == "torch":
            self._watch_data(frame.f_locals.get("epoch_iterator"))

    def _watch_data(self, epoch_iterator: Any) -> None:
        """On torch an exception in the data passes through nothing of ours."""
        batches = getattr(epoch_iterator, "_get_iterator", None)
        if batches is None:
            return

        def watched(iterator: Iterator[Any]) -> Iterator[Any]:
            try:
                yield from iterator
            except GeneratorExit:
                raise
            except BaseException:
                self.remove()
                raise

        # Begun at once, as without us: a loader draws its seed as it begins.
        epoch_iterator._get_iterator = lambda: watched(iter(batches()))

    def _watched_hook(self, owner: Any, name: str) -> Callable[..., Any]:
        # No reference to the list itself, which must be free to die.
        function, reference = getattr(type(owner), name), weakref.ref(owner)

        def hook(*arguments: Any, **kwargs: Any) -> Any:
            try:
                return function(reference(), *arguments, **kwargs)
            except BaseException:
                # Inside the loop on JAX, `fit` has yet to put the state back;
                # see `MeasuredOptimizer.finalize_variable_values`.
                outside = name in ("on_train_begin", "on_train_end")
                if backend.name() != "jax" or outside:
                    self.remove()
                raise

        return hook

    def _watched_evaluate(
        self, evaluate: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Validation may end `fit` with an exception, too."""

        @functools.wraps(evaluate)
        def watched(*arguments: Any, **kwargs: Any) -> Any:
            try:
                return evaluate(*arguments, **kwargs)
            except BaseException:
                # A callback that evaluates may know what to do about it.
                if id(sys._getframe(1)) == self._fit_frame:
                    self.remove()
                raise

        return watched

    def _watched_results(
        self, result_or_logs: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        """What `fit` calls after an epoch's last batch, before all callbacks.

        Whatever these save is then what the run goes on with.
        """

        @functools.wraps(result_or_logs)
        def watched(logs: Any) -> Any:
            # And not by a callback that evaluates.
            if id(sys._getframe(1)) == self._fit_frame:
                self.watch.go_back_if_due()
            return result_or_logs(logs)

        return watched

    def _hooked_make_train_function(self, force: bool = False) -> Any:
        """Keras asks for the train function: watch what it makes."""
        frame = next(_fit_frames(), None)
        if self._fit_frame is None and frame is not None:
            # The list of callbacks was made before `fit`, and given to it.
            owner = None if self._owner is None else self._owner()
            if owner is not None and frame.f_locals.get("callbacks") is owner:
                self._note_fit(frame)
        if (None if frame is None else id(frame)) != self._fit_frame:
            # Another `fit`: an exception ended ours, and is still being held.
            self.check_not_running()
            self.remove()
            return self.model.make_train_function(force=force)
        try:
            if self.model.optimizer is not self.optimizer:
                raise ValueError(
                    f"{self.model.name!r} was compiled again, or given another "
                    "optimizer, while MetaLR was training it. Do so between "
                    "two calls of `fit`."
                )
            result = self._make_train_function(force=force)
        except BaseException:
            self.remove()
            raise
        function = self.model.train_function
        if not getattr(function, "metalr", False):
            self.model.train_function = self._watching(function)
        return result

    # -- On the host, around the compiled step. -----------------------------

    def _watching(self, function: Callable[..., Any]) -> Callable[..., Any]:
        stateless = backend.name() == "jax"
        end_of_data = backend.end_of_data()

        def train_function(*arguments: Any) -> Any:
            state = arguments[0] if stateless else None
            try:
                state = self.watch.before_step(state)
                if stateless:
                    arguments = (state, *arguments[1:])
                return function(*arguments)
            except end_of_data:
                if stateless:
                    self.watch.undo_rollback()
                raise
            except BaseException:
                self._recover(state)
                self.remove()
                raise

        train_function.metalr = True  # type: ignore[attr-defined]
        return train_function

    def _recover(self, state: tuple | None) -> None:
        """On JAX, give the model its values back before coming off it.

        Keras takes them off the variables while the step runs, and only gives
        back what a finished step returned.
        """
        if state is None:
            return
        names = (
            "trainable_variables",
            "non_trainable_variables",
            "optimizer_variables",
            "metrics_variables",
        )
        if not any(value.is_deleted() for part in state for value in part):
            self.model._jax_state = dict(zip(names, state, strict=True))
            self.model._jax_state_synced = False
            self.model.jax_state_sync()

    # -- Between epochs. ----------------------------------------------------

    def begin_epoch(
        self,
        remaining_steps: int | None,
        epoch_steps: int,
        rewound: bool = False,
    ) -> None:
        """Tell the run how long it is; the host counts anew from here.

        Args:
            remaining_steps: Integer, steps from here to the end of the run;
                `None` leaves the horizon as it is.
            epoch_steps: Integer, steps to one pass over the data; 0 where it
                is not known, and each step counts as one then.
            rewound: Boolean, whether the run's state was put back to what it
                had been. Defaults to `False`.
        """
        self.watch.begin_epoch(rewound)
        optimizer = self.optimizer
        if remaining_steps is None:
            return
        state = optimizer.metalr_state
        if state is None:
            optimizer.total_steps = remaining_steps
            optimizer.epoch_steps = max(1, epoch_steps)
            return
        counters = ops.convert_to_numpy(state.counters.value)
        total = int(counters[STEP]) + remaining_steps
        horizon = optimizer.horizon(total, max(1, epoch_steps))
        state.counters.assign(np.array([counters[STEP], *horizon], "int32"))

    def note_validation(self, loss: float) -> None:
        """Let the controller read a loss on validation data.

        Args:
            loss: Float, the mean over the validation data.
        """
        state = self.optimizer.metalr_state
        if state is not None:
            noted = backend.noted(ops.convert_to_tensor(loss, dtype="float32"))
            state.write(record_validation(state.read(), noted))

    def validation_loss(self) -> float | None:
        """The last loss on validation data, `None` where there was none."""
        if not self.count("validations"):
            return None
        return self._present("validation_loss")

    def last_step_was_finite(self) -> bool:
        """Whether the last step had a finite loss and gradient."""
        return bool(self._present("finite"))

    def trace_rows(self) -> np.ndarray:
        """The trace so far, shape `(num_decisions, num_columns)`."""
        state = self.optimizer.metalr_state
        if state is None:
            return np.zeros((0, 0), "float32")
        rows = ops.convert_to_numpy(state.trace.value)
        rows = rows[np.isfinite(rows[:, 0])]
        return rows[np.argsort(rows[:, 0], kind="stable")]

    def count(self, name: str) -> int:
        """A count among the run's scalars, 0 before the first step.

        Args:
            name: String, `"skipped_steps"`, `"rollbacks"` or `"validations"`.
        """
        return int(self._present(name))

    def output_shift(self) -> float:
        """What is added to the controller's output, 0 before the first step."""
        return self._present("output_shift")

    def controller_fingerprint(self) -> str:
        """The run's controller's `fingerprint`, `""` before it is built."""
        state = self.optimizer.metalr_state
        return "" if state is None else state.controller_fingerprint

    def _present(self, name: str) -> float:
        """One of the run's scalars, 0 before the first step."""
        if self.optimizer.metalr_state is None:
            return 0.0
        return float(RunState.get(self.watch.scalars(), name))

    def total_steps(self) -> int:
        """Steps of the whole run, 0 before the first of them."""
        return self._counter(TOTAL_STEPS)

    def steps_done(self) -> int:
        """Steps of the run so far, those before a resume too."""
        return self._counter(STEP)

    def _counter(self, index: int) -> int:
        state = self.optimizer.metalr_state
        if state is None:
            return 0
        return int(ops.convert_to_numpy(state.counters.value)[index])


def _callback_list() -> keras.callbacks.CallbackList | None:
    """The list of callbacks that is calling us."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None


def _fit_frames() -> Iterator[types.FrameType]:
    """The calls of a model's `fit` that are running, innermost first."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and isinstance(
            frame.f_locals.get("self"), keras.Model
        ):
            yield frame
        frame = frame.f_back


def _with_measured(model: keras.Model) -> Callable[[Any], Any]:
    """Keras's choice of an epoch's logs, which what is added must not change.

    It takes the metrics themselves, which know all replicas, where the logs of
    a step have their names and no others.
    """
    result_or_logs = model._get_metrics_result_or_logs

    @functools.wraps(result_or_logs)
    def chosen(logs: Any) -> Any:
        if not isinstance(logs, dict):
            return result_or_logs(logs)
        own = model.get_metrics_result()
        added = {k: logs[k] for k in LOGGED if k in logs and k not in own}
        rest = {name: v for name, v in logs.items() if name not in added}
        return {**result_or_logs(rest), **added}

    return chosen


def _remove(reference: "weakref.ref[Session]") -> None:
    session = reference()
    if session is not None:
        session.remove()
