"""The last good weights: a copy on the device, refreshed rarely.

A rollback must restore what the optimizer remembers too: momentum that has been
gathered on the way to a cliff leads over it again.
"""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from keras_metalr import backend
from keras_metalr.optimizer import MeasuredOptimizer
from keras_metalr.step_state import frozen_weights

Tensor = Any


class _Copy(NamedTuple):
    """What was copied: of variables by their identity, and of buffers.

    Layers may be frozen, or thawed, between a copy and its use: what stands in
    which list is another then.
    """

    values: dict[int, tuple[keras.Variable, Tensor]]
    buffers: list[Tensor]


class Snapshot:
    """Copies of a model's weights, statistics and optimizer slots.

    On PyTorch with the statistics that its own modules keep (buffers).

    Ruin shows only some decisions after it was done, so what is copied is a
    candidate at first, and becomes what `restore` goes back to by `confirm`.
    That costs the memory of the trainable weights and the optimizer's slots
    once more (twice, while there is a candidate), and the time of a copy at
    each `take`.

    Args:
        model: The compiled `keras.Model`, its optimizer being
            a `MeasuredOptimizer`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._good: _Copy | None = None
        self._candidate: _Copy | None = None

    @property
    def has_candidate(self) -> bool:
        """Whether there is a copy that waits to be confirmed."""
        return self._candidate is not None

    def confirm(self) -> None:
        """From now on, go back to what was taken last."""
        self._good, self._candidate = self._candidate, None

    def take(self, state: tuple | None) -> None:
        """Copy the present values, as a candidate.

        Args:
            state: On JAX the state that goes into the train step; else `None`.
        """
        groups = self._groups()
        current = self._current(groups, state)
        self._candidate = _Copy(
            {
                id(variable): (variable, backend.copy_value(value))
                for values, group in zip(current, groups, strict=True)
                for value, (variable, kept) in zip(values, group, strict=True)
                if kept
            },
            [backend.copy_value(buffer) for buffer in self._buffers()],
        )

    def restore(self, state: tuple | None) -> tuple | None:
        """Put the confirmed values back, into the variables or the JAX state.

        Args:
            state: On JAX, within an epoch, the state that goes into the train
                step; else `None`.

        Returns:
            The new state on JAX; else `None`.
        """
        self._candidate = None
        if self._good is None:
            return state
        good, buffers = self._good
        if state is None:
            for variable, value in good.values():
                # On JAX the next step frees what is assigned.
                variable.assign(backend.copy_value(value))
            backend.overwrite(self._buffers(), buffers)
            return None
        groups = self._groups()
        current = self._current(groups, state)
        merged = [
            [
                backend.copy_value(good[id(variable)][1])
                if id(variable) in good
                else old
                for old, (variable, _) in zip(values, group, strict=True)
            ]
            for values, group in zip(current, groups, strict=True)
        ]
        return (*merged, *state[3:])

    def _groups(self) -> list[list[tuple[keras.Variable, bool]]]:
        """Variables in the order of the JAX state, and which are copied."""
        model, optimizer = self._model, self._model.optimizer
        own = {id(v) for v in optimizer.metalr_state.variables}
        frozen = frozen_weights(model)
        return [
            [(v, True) for v in model.trainable_variables],
            [
                (v, _is_float(v) and id(v) not in frozen)
                for v in model.non_trainable_variables
            ],
            [
                (v, id(v) not in own and _is_slot(optimizer, v))
                for v in optimizer.variables
            ],
        ]

    def _buffers(self) -> list[Tensor]:
        # What counts batches goes on counting, as Keras's own counters do.
        found = backend.buffers(self._model)
        return [buffer for buffer in found if buffer.is_floating_point()]

    def _current(
        self, groups: Sequence[Sequence[tuple]], state: tuple | None
    ) -> list[list[Tensor]]:
        if state is not None:
            return [list(part) for part in state[:3]]
        return [[v.value for v, _ in group] for group in groups]


def _is_float(variable: keras.Variable) -> bool:
    return bool(keras.backend.is_float_dtype(variable.dtype))


def _is_slot(optimizer: MeasuredOptimizer, variable: keras.Variable) -> bool:
    rates = {id(rate.original) for rate in optimizer.rates}
    return _is_float(variable) and id(variable) not in rates
