"""What a train step writes to beside the weights, and how it was before.

Running statistics, random seeds, what stateful layers carry on, and what
PyTorch's modules keep. It is put back where the step is refused or its batch
was not finite, and for as long as the batch is run again.
"""

import contextlib
import math
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_metalr import backend

Tensor = Any

# Elements of what is kept from one step to the next: running statistics (a
# codebook, a queue) up to the first number, and weights of frozen layers, which
# somebody may yet write to (a target network), up to the second.
MAX_STATISTIC = 2**20
MAX_FROZEN = 2**16


class StepState(NamedTuple):
    """Where it is kept in a model.

    Args:
        statistics: List of floating `keras.Variable`, `carried` among them.
        seeds: List of integer `keras.Variable`, random seeds and counts.
        carried: List of `keras.Variable` that stateful layers carry on and the
            model does not list.
        buffers: List of tensors of PyTorch's own modules.
    """

    statistics: list[keras.Variable]
    seeds: list[keras.Variable]
    carried: list[keras.Variable]
    buffers: list[Tensor]


def find_step_state(model: keras.Model) -> StepState:
    """What steps of a built model write to.

    Args:
        model: A `keras.Model`.
    """
    seeds = [
        variable
        for variable in model.non_trainable_variables
        # In 8 bits there are quantized weights.
        if str(variable.dtype).endswith(("int16", "int32", "int64"))
        and math.prod(variable.shape) <= MAX_STATISTIC
    ]
    carried = _carried_states(model)
    return StepState(
        statistics=running_statistics(model) + carried,
        seeds=seeds,
        carried=carried,
        buffers=backend.buffers(model),
    )


def running_statistics(model: keras.Model) -> list[keras.Variable]:
    """Floating variables that a step may write to without a gradient.

    Args:
        model: A built `keras.Model`.
    """
    frozen = frozen_weights(model)
    return [
        variable
        for variable in model.non_trainable_variables
        if keras.backend.is_float_dtype(variable.dtype)
        and math.prod(variable.shape)
        <= (MAX_FROZEN if id(variable) in frozen else MAX_STATISTIC)
    ]


def frozen_weights(model: keras.Model) -> set[int]:
    """Identities of variables that layers have for weights, frozen or not.

    Args:
        model: A `keras.Model`.
    """
    return {
        id(variable)
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
    }


def _carried_states(model: keras.Model) -> list[keras.Variable]:
    known = {id(v) for v in model.non_trainable_variables}
    states = [
        state
        for layer in model._flatten_layers()
        if getattr(layer, "stateful", False)
        for state in keras.tree.flatten(getattr(layer, "states", None))
    ]
    return [
        state
        for state in states
        if isinstance(state, keras.Variable) and id(state) not in known
    ]


class StateBefore:
    """The values that it has now, just before a step. Not for JAX.

    Args:
        state: `StepState`.
        data: The batch, which a model may change in place on PyTorch.
        replayed: Boolean, whether the batch may be run again: the state of
            random generators, on PyTorch a copy on the host, and the batch are
            kept then. Without it `again` cannot be called.
    """

    def __init__(self, state: StepState, data: Any, replayed: bool) -> None:
        self._state = state
        self._random = backend.random_state() if replayed else None
        self._batch = backend.mutable_parts(data) if replayed else []
        self._batch_values = [backend.copy_value(t) for t in self._batch]
        self._statistics = [ops.copy(v) for v in state.statistics]
        self._seeds = [ops.copy(v) for v in state.seeds]
        self._buffers = [backend.copy_value(b) for b in state.buffers]

    def put_back(self) -> None:
        """Undo what the step wrote: it is refused."""
        _assign(self._state.statistics, self._statistics)
        backend.overwrite(self._state.buffers, self._buffers)

    def put_back_unless(self, kept: Tensor) -> None:
        """Undo what the step learned from a batch that is not finite.

        Args:
            kept: Scalar boolean tensor, or what `backend.noted` returned for
                one: whether the batch is.
        """
        if isinstance(kept, np.bool_):
            if not kept:
                self.put_back()
            return
        # No branch: it would wait for the device.
        statistics, buffers = self._state.statistics, self._state.buffers
        _assign(statistics, _chosen(kept, statistics, self._statistics))
        backend.overwrite(buffers, _chosen(kept, buffers, self._buffers))

    def values(self, variables: Sequence[keras.Variable]) -> list[Tensor]:
        """The values that variables had, or have where the step leaves them."""
        kept = dict(
            zip(
                map(id, [*self._state.statistics, *self._state.seeds]),
                [*self._statistics, *self._seeds],
                strict=True,
            )
        )
        return [kept.get(id(v), ops.convert_to_tensor(v)) for v in variables]

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """While in it, generators, buffers and batch are as before the step."""
        after = backend.random_state()
        new_buffers = [backend.copy_value(b) for b in self._state.buffers]
        backend.set_random_state(self._random)
        backend.overwrite(self._state.buffers, self._buffers)
        backend.overwrite(self._batch, self._batch_values)
        yield
        backend.set_random_state(after)
        backend.overwrite(self._state.buffers, new_buffers)


def _chosen(
    kept: Tensor, after: Sequence[Any], before: Sequence[Tensor]
) -> list[Tensor]:
    pairs = zip(after, before, strict=True)
    return [ops.where(kept, new, old) for new, old in pairs]


def _assign(
    variables: Sequence[keras.Variable], values: Sequence[Tensor]
) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
