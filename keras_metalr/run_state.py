"""Everything a run remembers, as variables that Keras threads and saves."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metalr import backend
from keras_metalr.controller import fingerprint
from keras_metalr.decision import INITIAL
from keras_metalr.decision import TRACE_COLUMNS
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.update_rule import NUM_DECISIONS

Tensor = Any

# A run whose interval was rounded down has up to 1.5 times `NUM_DECISIONS`
# decisions; after more than this (a horizon that was wrong) rows are reused.
TRACE_ROWS = 2 * NUM_DECISIONS
_NAMES = tuple(INITIAL)
# What stands where in a run's `counters`.
STEP, TOTAL_STEPS, INTERVAL, EPOCH_STEPS = range(4)


def _next_row(rows: Tensor, operations: Any) -> Tensor:
    """The next free row of a trace, or the oldest, integer.

    Args:
        rows: Tensor or array, the trace.
        operations: `keras.ops` or NumPy, whichever these are of.
    """
    steps = rows[:, 0]
    free_first = operations.where(operations.isnan(steps), -1.0, steps)
    return operations.argmin(free_first)


class RunState(keras.layers.Layer):
    """The variables of one run.

    The scalars live in one vector, because the train step of a small network
    would otherwise spend its time on reading and writing dozens of variables.

    Args:
        sample_size: Integer, number of sampled coordinates.
        rates: Sequence of floats, the user's own rate of each optimizer.
        scheduled: Sequence of booleans, whether each has a schedule, which its
            `rates` says nothing of.
        controller: `keras.Model` whose weights are copied. The run works on the
            copy: feedback never changes the user's controller.
        horizon: Tuple of integers `(total_steps, interval, epoch_steps)`.
        ramping: Boolean, whether the run begins with the safe start.
        pretrained: Boolean, whether the weights were trained before.
        output_shift: Float, what is added to the controller's output.
    """

    def __init__(
        self,
        sample_size: int,
        rates: Sequence[float],
        scheduled: Sequence[bool],
        controller: keras.Model,
        horizon: tuple[int, int, int],
        ramping: bool,
        pretrained: bool,
        output_shift: float,
    ) -> None:
        # Not the global policy: under mixed_float16 sums would overflow.
        super().__init__(name="metalr_state", dtype="float32", trainable=False)
        scalars = {
            **INITIAL,
            "ramping": float(ramping),
            "pretrained": float(pretrained),
            "output_shift": float(output_shift),
        }
        make = self._make
        self.counters = make("counters", np.array([0, *horizon], "int32"))
        self.scalars = make(
            "scalars", np.array(list(scalars.values()), "float32")
        )
        self.base_rates = make("base_rates", np.array(rates, "float32"))
        self._scheduled = np.array(scheduled, "int32")
        self.start = make("start", np.zeros(sample_size, "float32"))
        self.last_update = make("last_update", np.zeros(sample_size, "float32"))
        self.trace = make(
            "trace",
            np.full((TRACE_ROWS, len(TRACE_COLUMNS)), np.nan, "float32"),
        )
        self.controller = [
            make(f"controller_{i}", np.asarray(backend.eager_value(variable)))
            for i, variable in enumerate(controller.trainable_variables)
        ]
        # Of the controller that the run began with; feedback moves the copy.
        self.controller_fingerprint = fingerprint(controller)
        self.built = True

    def _make(self, name: str, value: np.ndarray) -> keras.Variable:
        # Values come by the initializer: inside TensorFlow's variable-creating
        # trace an assignment would never run.
        return self.add_weight(
            shape=value.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(
                value, dtype=dtype
            ),
            dtype=str(value.dtype),
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def read(self) -> dict[str, Tensor]:
        """The scalars by name."""
        return self.unpack(backend.read(self.scalars))

    def write(self, scalars: dict[str, Tensor]) -> None:
        """Store scalars that `read` returned, changed."""
        backend.assign(self.scalars, backend.whole(self.pack(scalars)))

    def empty_row(self) -> Tensor:
        """A row of the trace that holds nothing."""
        return ops.zeros((self.trace.shape[1],), dtype="float32")

    def write_row(self, row: Tensor, wanted: Tensor) -> None:
        """Where `wanted` is true, write to the next free row of the trace.

        When all have been used, to the oldest. Not to a row that the clock
        says: a run that is resumed may decide less often than before.
        """
        rows = backend.noted(ops.convert_to_tensor(self.trace))
        if isinstance(rows, np.ndarray):
            # A view, and the host knows what is wanted.
            if wanted:
                rows[_next_row(rows, np)] = row
            return
        index = _next_row(rows, ops)
        here = ops.logical_and(
            ops.equal(
                ops.arange(rows.shape[0], dtype="int32"),
                ops.cast(index, "int32"),
            ),
            wanted,
        )
        self.trace.assign(ops.where(here[:, None], row[None, :], rows))

    @staticmethod
    def unpack(vector: Tensor) -> dict[str, Tensor]:
        """Vector in the order of `INITIAL` -> scalars by name."""
        vector = backend.noted(vector)
        parts = backend.native_ops().unstack(vector, len(_NAMES))
        return dict(zip(_NAMES, parts, strict=True))

    @staticmethod
    def pack(scalars: dict[str, Tensor]) -> Tensor:
        """Scalars by name -> vector in the order of `INITIAL`."""
        values = [scalars[name] for name in _NAMES]
        return backend.native(backend.native_ops().stack(values))

    @staticmethod
    def get(vector: Tensor, name: str) -> Tensor:
        """One scalar of the vector, on the device or on the host."""
        return vector[_NAMES.index(name)]

    def save_own_variables(self, store: Any) -> None:
        """Save by name, with the version of the features."""
        for variable in self.variables:
            store[variable.name] = ops.convert_to_numpy(variable)
        store["feature_version"] = np.array(FEATURE_VERSION)
        store["scheduled"] = self._scheduled
        store["fingerprint"] = np.frombuffer(
            self.controller_fingerprint.encode(), "uint8"
        )

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved.

        A checkpoint that was saved without MetaLR has nothing for it: the run
        then starts fresh. One of a run with another controller goes on with
        that.

        Raises:
            ValueError: if the checkpoint is of another version or model.
        """
        if not list(store.keys()):
            return
        version = int(np.asarray(store["feature_version"]))
        if version != FEATURE_VERSION:
            raise ValueError(
                f"The checkpoint holds a run with version {version} of the "
                f"features; this keras_metalr computes {FEATURE_VERSION}. "
                "Resume it with the keras_metalr it was saved by."
            )
        scheduled = np.asarray(store["scheduled"])
        if not np.array_equal(scheduled, self._scheduled):
            raise ValueError(
                "The checkpoint's run and this one do not have the same kind "
                "of learning rates. 1 for each optimizer with a schedule, 0 "
                f"for one with a number: the checkpoint has {scheduled}, this "
                f"model {self._scheduled}. Compile the model as it was."
            )
        wanted = ["fingerprint", *(v.name for v in self.variables)]
        missing = [name for name in wanted if name not in store]
        if missing:
            raise ValueError(
                f"The checkpoint's MetaLR state lacks {', '.join(missing)}. It "
                "was saved with another controller or version of keras_metalr."
            )
        values = [np.asarray(store[v.name]) for v in self.variables]
        # All of them before the first is written: a refusal changes nothing.
        for variable, value in zip(self.variables, values, strict=True):
            if value.shape != tuple(variable.shape):
                raise ValueError(
                    f"The checkpoint's MetaLR state {variable.name!r} has "
                    f"shape {value.shape}; expected {tuple(variable.shape)}. "
                    "It was saved with another model or controller."
                )
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        self.controller_fingerprint = bytes(
            np.asarray(store["fingerprint"])
        ).decode()
