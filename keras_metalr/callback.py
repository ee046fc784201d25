"""`MetaLR`: the Keras hooks, and nothing else."""

import math
import os
import pathlib
import warnings
from typing import Any

import keras
import numpy as np

from keras_metalr.arguments import check_boolean
from keras_metalr.arguments import check_experience_dir
from keras_metalr.arguments import check_model
from keras_metalr.arguments import check_numbers
from keras_metalr.arguments import load_controller
from keras_metalr.checkpoint import check_checkpoint
from keras_metalr.checkpoint import load_run
from keras_metalr.decision import Settings
from keras_metalr.experience import Experience
from keras_metalr.experience import load as load_experiences
from keras_metalr.experience import next_shift
from keras_metalr.experience import save as save_experience
from keras_metalr.messages import FIRST_DECISIONS
from keras_metalr.messages import summary
from keras_metalr.messages import warn_of_events
from keras_metalr.messages import warn_of_no_decision
from keras_metalr.messages import warn_of_promises
from keras_metalr.session import Session
from keras_metalr.trace import Trace
from keras_metalr.update_rule import MAX_RATE
from keras_metalr.update_rule import MIN_RATE


@keras.saving.register_keras_serializable("keras_metalr")
class MetaLR(keras.callbacks.Callback):
    """Controls the learning rate of `model.fit` with a learned controller.

    Pass it to `fit` with whatever learning rate the optimizer was made with.
    Inside the compiled train step it measures the batch's loss, the gradient
    norm and how the weights move; about 200 times a run a small network reads
    these signals and moves the rate. No step waits for the host. Where `fit`
    has validation data, the network reads their loss, too, and where they tell
    that the model learns its examples by heart, the rate falls.

    `learning_rate` and `grad_norm` (both of the last step) join the logs of
    every epoch, so History, the progress bar, CSVLogger and TensorBoard show
    them. When `fit` ends, normally or not, the model is as it was compiled: the
    same optimizer with its own rate, and nothing of this package on it.

    Weights that were trained before (`keras_metalr.pretrained`) can be ruined
    by rates that suit new ones: on them the rate is held where the loss still
    falls almost as the gradient promised.

    With a `LearningRateSchedule` the controller scales the schedule; with a
    `MultiOptimizer` it scales all rates alike, and the largest is shown.
    Callbacks that set the rate themselves (`LearningRateScheduler`,
    `ReduceLROnPlateau`) are overruled.

    Args:
        controller: String, the name of a preset (`"general"`,
            `"supervised"`), string or path of a preset's folder, or a
            `keras.Model` from features of shape `(batch, 22)` to outputs of
            shape `(batch, 1)`, built and with trainable weights alone, such as
            `keras_metalr.Controller`. Defaults to `"general"`.
        total_steps: Integer (>= 1) or `None`, batches in the whole run. `None`
            takes it from `fit`: epochs times steps per epoch. Needed where the
            data have no length. Defaults to `None`.
        min_learning_rate: Float (> 0) or `None`, lower limit of the rate. A
            `LearningRateSchedule` has none: where it goes to 0, so does the
            rate. Defaults to `None` (1e-15).
        max_learning_rate: Float (> 0) or `None`, upper limit of the rate.
            Defaults to `None` (1e12).
        safe_start: Boolean. Whether to begin with updates of 3e-3 of the
            weights' length (1e-4 for pretrained weights), whatever rate the
            optimizer was made with. `False` begins with that rate. Defaults
            to `True`.
        guard: Boolean. Whether to skip steps whose loss or gradient is not
            finite, and to go back to the last good weights, with a smaller
            rate, when the run breaks or is being ruined. It keeps a copy of
            the weights and of the optimizer's slots, at times two of them.
            Defaults to `True`.
        feedback: Boolean. Whether the controller also learns within the run,
            from the cosine of the gradient with the updates before it
            (`keras_metalr.update_rule.corrected_bias`). What it was measured
            to gain is next to nothing. Defaults to `False`.
        experience_dir: String, path or `None`, a folder in which runs of one
            workload gather experience: each `fit` that comes to its end leaves
            its trace and its outcome there (the last validation loss, or the
            training loss at the end where there is none), and each `fit` shifts
            the controller's output by what the runs of this controller in the
            folder suggest (`keras_metalr.experience`). Made where it does not
            exist; give every workload its own. Defaults to `None`.
        pretrained: Boolean or `None`. Whether the weights were trained before
            and have something to lose. `None` sees it in them: in biases and
            scales, or where there are none in matrices, that are no longer what
            their initializers give. Say `False` for a new net that this cannot
            tell (random biases of PyTorch's modules, biases set to the
            classes' frequencies; without biases: layers of your own, a new
            model that was saved and loaded), `True` for a trained one whose
            biases and scales are frozen or all alike. Defaults to `None`.
        verbose: Integer, 0 (silent) or 1 (what the rate did, at the end).
            Defaults to `0`.

    Attributes:
        trace: `Trace`, one row per decision; brought up to date every epoch.

    Raises:
        ValueError: at construction for arguments out of range or a preset that
            is missing or damaged; when `fit` begins for a model that is not
            compiled or has nothing to train, for a length of the run that is
            not known; in the first steps for a loss or a gradient that is never
            finite.

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
        controller: str | os.PathLike[str] | keras.Model = "general",
        *,
        total_steps: int | None = None,
        min_learning_rate: float | None = None,
        max_learning_rate: float | None = None,
        safe_start: bool = True,
        guard: bool = True,
        feedback: bool = False,
        experience_dir: str | os.PathLike[str] | None = None,
        pretrained: bool | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__()
        check_numbers(
            total_steps, min_learning_rate, max_learning_rate, verbose
        )
        check_boolean("safe_start", safe_start)
        check_boolean("guard", guard)
        check_boolean("feedback", feedback)
        if pretrained is not None:
            check_boolean("pretrained", pretrained)
        self.controller = controller
        self.total_steps = total_steps
        self.min_learning_rate = min_learning_rate
        self.max_learning_rate = max_learning_rate
        self.safe_start = safe_start
        self.guard = guard
        self.feedback = feedback
        self.experience_dir = experience_dir
        self.pretrained = pretrained
        self.verbose = verbose
        self.trace = Trace()
        self._controller_model = load_controller(controller)
        if experience_dir is not None:
            check_experience_dir(experience_dir)
        self._session: Session | None = None
        self._training = False
        self._resume_from: pathlib.Path | None = None
        self._warned = False
        self._promises_checked = False
        self._validation_loss: float | None = None

    # -- Keras hooks. -------------------------------------------------------

    def set_model(self, model: keras.Model) -> None:
        """Install on the model; Keras calls this as `fit` begins."""
        if self._session is not None and self._session.is_of_running_fit():
            raise ValueError(
                "This MetaLR is controlling a `fit` that is still running. "
                "Received: another `fit` within it, with the same callback. "
                "Give each `fit` a MetaLR of its own."
            )
        super().set_model(model)
        self._remove()
        check_model(model)
        self._training = False
        self._warned = False
        self._promises_checked = False
        self._validation_loss = None
        self._epoch_steps: int | None = None
        self._steps_at_epoch = 0
        self._steps_lost = 0
        shift = 0.0
        if self.experience_dir is not None:
            shift = next_shift(
                load_experiences(self.experience_dir, self._controller_model)
            )
        session = Session(
            model,
            self._controller_model,
            Settings(
                min_learning_rate=self.min_learning_rate or MIN_RATE,
                max_learning_rate=self.max_learning_rate or MAX_RATE,
                safe_start=self.safe_start,
                guard=self.guard,
                feedback=self.feedback,
                pretrained=self.pretrained,
                output_shift=shift,
            ),
        )
        session.install()
        self._session = session

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse what cannot work before anything has been trained."""
        if self._session is None or not self._session.installed:
            # A `CallbackList` that has been used: `fit` does not set the model.
            self.set_model(self.model)
            self.model.make_train_function()
        self._training = True
        # Not in `set_model`, which `evaluate` and `predict` call, too.
        self.trace = Trace()
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
        """Set the horizon, and again where epochs turn out to be longer."""
        if self._session is None:
            return
        remaining, done = None, self._steps_done()
        taken, self._steps_at_epoch = done - self._steps_at_epoch, done
        lost = self._session.watch.steps_lost(done)
        if lost:
            self._steps_lost += lost
            remaining = self._remaining_steps(epoch, self._epoch_steps or 0)
        elif self._epoch_steps is None:
            self._session.optimizer.look_at_weights()
            self._epoch_steps = self._told("steps") or 0
            remaining = self._remaining_steps(epoch, self._epoch_steps)
        elif self.total_steps is None and taken > self._epoch_steps:
            # `steps_per_execution` that do not divide them take whole
            # executions, where the data go on.
            self._epoch_steps = taken
            remaining = self._remaining_steps(epoch, taken)
        self._session.begin_epoch(
            remaining, self._epoch_steps or 0, rewound=lost > 0
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Bring the trace to the host; report what the guard did."""
        if self._session is None:
            return
        try:
            self._session.watch.check_hopeful(steps=1)
        except ValueError:
            self._remove()
            raise
        self._flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Come off the model."""
        if self._session is None:
            return
        self._flush()
        if not len(self.trace) and self._session.steps_done():
            warn_of_no_decision(
                self._session.steps_done(), self._session.total_steps()
            )
        self._save_experience(self._session)
        if self.verbose and len(self.trace):
            print(summary(self.trace))
            if self.experience_dir is not None:
                print(
                    "MetaLR: experience shifted the controller's output by "
                    f"{self._session.output_shift():+.2f}."
                )
        self._remove()

    def on_test_begin(self, logs: dict | None = None) -> None:
        """`evaluate` alone: there is nothing to control."""
        if not self._training:
            self._remove()

    def on_test_end(self, logs: dict | None = None) -> None:
        """Within `fit`: the controller reads the loss on validation data.

        Here and not as the epoch ends, so that every checkpoint of the epoch
        knows of it, in whatever order the callbacks come.
        """
        loss = (logs or {}).get("loss")
        if self._session is not None and loss is not None:
            self._validation_loss = float(loss)
            self._session.note_validation(self._validation_loss)

    def on_predict_begin(self, logs: dict | None = None) -> None:
        """`predict` alone: there is nothing to control."""
        if not self._training:
            self._remove()

    # -- Resuming and saving. -----------------------------------------------

    def restore(self, path: str | os.PathLike[str]) -> "MetaLR":
        """Go on from a checkpoint that was saved during training.

        `BackupAndRestore` needs no help. But `keras.models.load_model` makes a
        new model, with a plain optimizer that knows nothing of MetaLR: give
        the same file to `restore`, and the next `fit` goes on where it was,
        with the controller that the run began with (`controller` of this
        callback is not used). The rate that the user compiled with comes from
        the file, too, and is what the optimizer has again when `fit` ends.

        Args:
            path: String or path of a `.keras` or `.weights.h5` file.

        Returns:
            The callback itself.

        Raises:
            ValueError: if there is no such file, if it is no checkpoint, or if
                it holds no run of MetaLR. `fit` raises it if the model is not
                built.

        Example:

        ```python
        model = keras.models.load_model("run.keras")
        metalr = MetaLR().restore("run.keras")
        model.fit(data, initial_epoch=3, epochs=10, callbacks=[metalr])
        ```
        """
        self._resume_from = check_checkpoint(path)
        return self

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        controller: Any = self.controller
        if isinstance(controller, keras.Model):
            controller = keras.saving.serialize_keras_object(controller)
        elif not isinstance(controller, str):
            # A folder, even where it has the name of a preset.
            controller = os.path.join(os.curdir, controller)
        folder = self.experience_dir
        limits = {
            "min_learning_rate": self.min_learning_rate,
            "max_learning_rate": self.max_learning_rate,
        }
        # Numbers may have come as NumPy's.
        return {
            "controller": controller,
            "total_steps": self.total_steps and int(self.total_steps),
            **{key: value and float(value) for key, value in limits.items()},
            "safe_start": self.safe_start,
            "guard": self.guard,
            "feedback": self.feedback,
            "experience_dir": folder if folder is None else str(folder),
            "pretrained": self.pretrained,
            "verbose": int(self.verbose),
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
        return self.total_steps is not None or bool(self._told("steps"))

    def _remaining_steps(self, epoch: int, epoch_steps: int) -> int:
        if self.total_steps is not None:
            done = self._steps_done() + self._steps_lost
            return max(1, self.total_steps - done)
        epochs = self._told("epochs") or 1
        return max(1, (epochs - epoch) * epoch_steps)

    def _told(self, name: str) -> int | None:
        """What `fit` says of itself; a list made by hand may not know."""
        value = (self.params or {}).get(name)
        return None if value is None else int(value)

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
        load_run(file, state)

    def _save_experience(self, session: Session) -> None:
        if self.experience_dir is None or len(self.trace) < 2:
            return
        # The last one, finite or not; of before a resume the controller's.
        outcome = self._validation_loss
        if outcome is None:
            outcome = session.validation_loss()
        monitor = "loss" if outcome is None else "val_loss"
        if outcome is None:
            loss = self.trace["loss"]
            outcome = float(np.mean(loss[-max(1, len(loss) // 10) :]))
        # With the guard, a step that is not finite has moved nothing.
        broken = not self.guard and not session.last_step_was_finite()
        if broken or not math.isfinite(outcome):
            outcome = math.inf
        experience = Experience(
            outcome,
            monitor,
            session.output_shift(),
            self.trace,
            session.controller_fingerprint(),
        )
        try:
            save_experience(self.experience_dir, experience)
        except OSError as error:
            # The run itself is none the worse for it.
            warnings.warn(
                f"MetaLR could not add this run to {self.experience_dir!r}: "
                f"{error}. The runs to come will not learn from it.",
                stacklevel=2,
            )

    def _flush(self) -> None:
        session = self._session
        if session is None:
            return
        self.trace = Trace(session.trace_rows())
        if not self._promises_checked and len(self.trace) >= FIRST_DECISIONS:
            self._promises_checked = True
            if self.safe_start:
                warn_of_promises(self.trace)
        skipped = session.count("skipped_steps")
        rollbacks = session.count("rollbacks")
        if self.guard and (skipped or rollbacks) and not self._warned:
            self._warned = True
            warn_of_events(skipped, rollbacks)

    def _remove(self) -> None:
        if self._session is not None:
            self._session.remove()
            self._session = None
        self._training = False
