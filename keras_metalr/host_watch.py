"""The host's part in a run: it looks now and then, and acts on what it sees.

What is decided is decided on the device (`guard.py`); what takes a copy of the
weights, or an exception, is done here, from values that are long computed.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metalr import backend
from keras_metalr import safe_start
from keras_metalr.guard import TROUBLES
from keras_metalr.guard import look_steps
from keras_metalr.optimizer import MeasuredOptimizer
from keras_metalr.rates import accumulation_steps
from keras_metalr.rates import gathered
from keras_metalr.rates import is_loss_scaled
from keras_metalr.run_state import INTERVAL
from keras_metalr.run_state import STEP
from keras_metalr.run_state import RunState
from keras_metalr.snapshot import Snapshot

# Steps without a finite loss, from the very first on, that call for an error.
HOPELESS_STEPS = 10
# Decisions from one snapshot of the weights to the next, and from a snapshot to
# when it is known to be of a healthy run.
SNAPSHOT_DECISIONS = 20
CONFIRM_DECISIONS = 10


class HostWatch:
    """Counts the steps of a run, keeps its last good weights, goes back.

    Args:
        model: The compiled `keras.Model`.
        optimizer: `MeasuredOptimizer`, which it is trained with.
    """

    def __init__(
        self, model: keras.Model, optimizer: MeasuredOptimizer
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._snapshot = Snapshot(model) if optimizer.settings.guard else None
        self._snapshot_at = 0
        self._step: int | None = None
        self._interval = 1
        self._steps_ahead = 0
        # What the last look saw, still on the device.
        self._seen: Any = None
        self._rollbacks_done = 0.0
        self._rollbacks_before = 0.0

    def steps_lost(self, done: int) -> int:
        """How many steps back the run was put since the epoch began, or 0.

        Weights that are loaded in mid-run bring the clock of their time.

        Args:
            done: Integer, steps that the device has counted.
        """
        if self._step is None:
            return 0
        lost = self._step - done
        # Here an execution counts whole, and one that found no more data, too.
        return lost if lost > 2 * self._model.steps_per_execution else 0

    def begin_epoch(self, rewound: bool) -> None:
        """Count anew from what the device has counted.

        Args:
            rewound: Boolean, whether that is less than before. The weights of
                that time are then the last good ones.
        """
        self._step = None
        if rewound:
            self._seen = None

    def before_step(self, state: tuple | None) -> tuple | None:
        """Count, and act on what the device decided a while ago.

        Args:
            state: On JAX the state that goes into the train step; else `None`.

        Returns:
            The state to go on with; else `None`.
        """
        optimizer = self._optimizer
        self._rollbacks_before = self._rollbacks_done
        if optimizer.metalr_state is None:
            return state
        is_new = self._step is None
        if self._step is None:
            counters = ops.convert_to_numpy(
                self._value(optimizer.metalr_state.counters, state)
            )
            self._step = int(counters[STEP])
            self._interval = int(counters[INTERVAL])
        step, interval = self._step, self._interval
        self._step += self._model.steps_per_execution
        if backend.name() == "torch":
            # Under a loss scale it counts no step that it skips.
            if is_new or is_loss_scaled(optimizer.inner):
                self._steps_ahead = self._count_ahead(step)
            due = (step + 1 + self._steps_ahead) % interval == 0
            optimizer.step_context.host_due = due
            optimizer.step_context.host_first = step == 0
            longest = safe_start.longest(accumulation_steps(optimizer.inner))
            optimizer.step_context.host_starting = step < longest
        snapshot = self._snapshot
        if snapshot is None:
            return state
        stride = self._model.steps_per_execution
        if step % look_steps(interval) >= stride and self._seen is not None:
            return state
        return self._look(snapshot, state, step // interval)

    def undo_rollback(self) -> None:
        """Nobody took the state of the last `before_step`, where it is passed.

        What it may have gone back to is gone: it is to be done again.
        """
        self._rollbacks_done = self._rollbacks_before

    def _count_ahead(self, step: int) -> int:
        """`rates.gathered`, on the host."""
        optimizer = self._optimizer
        accumulation = accumulation_steps(optimizer.inner)
        if accumulation == 1:
            return 0
        # A part of the optimizer that has nothing to update stays at 0.
        taken = max(
            int(ops.convert_to_numpy(rate.optimizer._iterations))
            for rate in optimizer.rates
        )
        return int(gathered(taken, step, accumulation))

    def _look(
        self, snapshot: Snapshot, state: tuple | None, decision: int
    ) -> tuple | None:
        # What is read now was computed by the time of the last look: waiting
        # for the newest value would stall the device.
        seen, fresh = self._seen, self._vector(state)
        self._seen = fresh
        if seen is None:
            # Also after a resume, when the counters have come from a file.
            vector = ops.convert_to_numpy(fresh)
            self._rollbacks_done = _scalar(vector, "rollbacks")
            self._rollbacks_before = self._rollbacks_done
            snapshot.take(state)
            snapshot.confirm()
            self._snapshot_at = decision
            return state
        vector = ops.convert_to_numpy(seen)
        if self._must_go_back(vector, decision):
            return snapshot.restore(state)
        self.check_hopeful(vector)
        age = decision - self._snapshot_at
        if not _is_healthy(vector):
            return state
        if snapshot.has_candidate and age >= CONFIRM_DECISIONS:
            snapshot.confirm()
        elif not snapshot.has_candidate and age >= SNAPSHOT_DECISIONS:
            snapshot.take(state)
            self._snapshot_at = decision
        return state

    def _must_go_back(self, vector: Any, decision: int) -> bool:
        """Whether that was decided anew; it is taken as done."""
        rollbacks = _scalar(vector, "rollbacks")
        if rollbacks <= self._rollbacks_done:
            return False
        self._rollbacks_done = rollbacks
        self._snapshot_at = decision
        return True

    def go_back_if_due(self) -> None:
        """Between epochs, act on what was decided since the last look.

        Else the weights that are validated, saved, and left by the last epoch
        would be those that the run was to go back from.
        """
        if self._snapshot is None or self._seen is None:
            return
        self._seen = self._vector(None)
        decision = (self._step or 0) // self._interval
        if self._must_go_back(ops.convert_to_numpy(self._seen), decision):
            self._snapshot.restore(None)

    def check_hopeful(
        self, vector: Any = None, steps: int = HOPELESS_STEPS
    ) -> None:
        """Raise if no loss was ever finite.

        Args:
            vector: Array of the run's scalars. Defaults to the present ones.
            steps: Integer, steps to wait for one. Defaults to `10`.

        Raises:
            ValueError: after `steps` steps none of which had a finite loss
                and gradient.
        """
        if vector is None:
            vector = self.scalars()
        skipped = _scalar(vector, "skipped_steps")
        if _scalar(vector, "good_steps") == 0.0 and skipped >= steps:
            guard = self._optimizer.settings.guard
            where = "NaN or inf in the inputs, the targets, the sample weights"
            if np.isfinite(_scalar(vector, "step_loss")):
                what = "gradient"
                where = (
                    "NaN or inf in the inputs (a ReLU may hide it from the "
                    "loss), a square root, a norm, a logarithm or a division "
                    "at 0 in the model, a norm above 1e19 (then scale the loss "
                    "down)"
                )
            else:
                # Without the guard a gradient has made the weights so.
                what = "loss" if guard else "loss or the gradient"
            unmoved = ", though no step has moved the weights" * guard
            raise ValueError(
                f"The {what} of all of the first {int(skipped)} steps is not "
                f"finite{unmoved}. No learning rate can help: look for {where} "
                "or the loss function."
            )

    def _value(self, variable: keras.Variable, state: tuple | None) -> Any:
        if state is None:
            return variable.value
        # The run's own are the last ones: what comes before may be long.
        own = self._optimizer.control.state.variables
        index = [id(v) for v in own].index(id(variable))
        return state[2][index - len(own)]

    def scalars(self) -> np.ndarray:
        """The run's present scalars, which a step must have made."""
        return ops.convert_to_numpy(self._vector(None))

    def _vector(self, state: tuple | None) -> Any:
        value = self._value(self._optimizer.control.state.scalars, state)
        return backend.copy_value(value)


def _scalar(vector: np.ndarray, name: str) -> float:
    return float(RunState.get(vector, name))


def _is_healthy(vector: np.ndarray) -> bool:
    return all(_scalar(vector, name) == 0.0 for name in TROUBLES)
