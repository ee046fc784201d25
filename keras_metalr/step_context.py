"""What one train step passes from the loss to the optimizer."""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_metalr import backend

Tensor = Any


class StepContext:
    """The loss of the step in progress, and how it was computed.

    On torch the host counts the steps, so that no step waits for the device:
    `host_due` says there whether a decision falls on the step, `host_first`
    whether it is the first of the run, `host_starting` whether the safe start
    may still be going on. Elsewhere they are `None`.

    `promised_drop` is set by the update: a function from the weights it led to,
    by the identity of their variables, to the drop in loss that the gradient
    had promised for it, scalar. So is `gradient`, what a `CoordinateSample`
    gathered of it.
    """

    def __init__(self) -> None:
        self.active = False
        self._weights: Sequence[Tensor] = ()
        self.loss: Tensor = None
        self.arguments: dict[str, Any] = {}
        self.promised_drop: Callable[[Mapping[int, Tensor]], Tensor] | None
        self.promised_drop = None
        self.gradient: Tensor = None
        self.applied = False
        self.due: Any = False
        self.host_due: bool | None = None
        self.host_first: bool | None = None
        self.host_starting: bool | None = None

    @contextlib.contextmanager
    def step(self, weights: Sequence[Tensor] = ()) -> Iterator[None]:
        """One train step of the model.

        Args:
            weights: Sequence of tensors that the step is given, on JAX.
        """
        self._weights = weights
        self.active, self.applied = True, False
        self.loss, self.arguments, self.promised_drop = None, {}, None
        self.gradient = None
        try:
            yield
        finally:
            self.active, self._weights = False, ()

    def see_loss(self, loss: Tensor, arguments: dict[str, Any]) -> None:
        """Note a loss that `compute_loss` returned, and its arguments.

        The last one before the update: what a `train_step` computes after it is
        for its own use.
        """
        if self.active and not self.applied:
            # On JAX this takes the gradient's tracer off: the loss leaves the
            # function that is being differentiated.
            self.loss, self.arguments = ops.stop_gradient(loss), arguments

    def check_first_update(self) -> None:
        """Refuse a second update in one step.

        The safe start would take each for a step, and the gradient norm, trust
        and the rest would be those of a part.

        Raises:
            ValueError: if the step has applied gradients before.
        """
        if self.active and self.applied:
            raise ValueError(
                "MetaLR measures one update a step, but this model's "
                "`train_step` applied gradients by `self.optimizer` more than "
                "once. Apply those of all weights in one call. For several "
                "updates give `fit` as many batches."
            )

    def take_loss(self) -> Tensor:
        """The batch's loss, scalar float32.

        Raises:
            ValueError: if the train step computed none, or none that can be
                read outside a function that it was computed in.
        """
        if self.loss is None:
            raise ValueError(
                "MetaLR needs the loss of each batch, but this model's "
                "`train_step` applied gradients without calling "
                "`self.compute_loss(x=..., y=..., y_pred=...)`. Compute the "
                "loss through `compute_loss` (override it if need be)."
            )
        try:
            backend.check_of_one_trace(self.loss, self._weights)
            return backend.loss_scalar(self.loss)
        except Exception as error:
            raise ValueError(
                "MetaLR cannot read the loss that this model's `train_step` "
                "computes: it calls `compute_loss` within a function that has "
                "a graph of its own (`tf.function`, `tf.map_fn`, `jax.jit`, "
                "`jax.checkpoint`, `jax.lax.scan`, `jax.vmap`). Call it in "
                f"`train_step` itself. {type(error).__name__}: {error}"
            ) from error

    def num_examples(self) -> Tensor:
        """Examples in the step's batch, scalar float32; 0 where none is seen.

        A loss of a user's own may be given no predictions, or no inputs.
        """
        given = [self.arguments.get(name) for name in ("y_pred", "y", "x")]
        for value in keras.tree.flatten(given):
            if len(getattr(value, "shape", ())) > 0:
                return ops.cast(ops.shape(value)[0], "float32")
        return ops.zeros((), dtype="float32")

    def take_promised_drop(self, weights: Mapping[int, Tensor]) -> Tensor:
        """The drop in loss promised for the step to `weights`, scalar.

        Raises:
            RuntimeError: if the step made no update.
        """
        if self.promised_drop is None:
            raise RuntimeError("The step made no update.")
        return self.promised_drop(weights)


class ThreadedStepContext(StepContext, threading.local):
    """The same, one for each thread.

    A `tf.distribute.MirroredStrategy` traces every replica in a thread of its
    own. (torch.compile, on the other hand, cannot follow thread-local state.)
    """


def make_step_context() -> StepContext:
    """The kind of context that this process's backend needs."""
    if backend.name() == "tensorflow":
        return ThreadedStepContext()
    return StepContext()
