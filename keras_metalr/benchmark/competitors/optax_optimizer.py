"""An optax transformation as a Keras optimizer, on the JAX backend."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any

_MISSING = (
    "This method is an optax transformation, which runs on JAX. Install both "
    "with `pip install jax optax`."
)


class OptaxOptimizer(keras.optimizers.Optimizer):
    """Drives an optax transformation; its state is Keras variables.

    The transformation is made anew in every step, from the variable
    `learning_rate`: its authors' own code, and one compiled step for every
    start. Keras threads, saves and restores the state as it does its own.

    Args:
        transformation: Callable from the start (float, or a traced scalar) to
            an `optax.GradientTransformation`.
        start: Float, its learning rate or its first guess.
        name: String.
        needs_loss: Boolean, whether the transformation takes the loss as
            `value`. Defaults to `False`.

    Raises:
        ImportError: If optax is missing.
    """

    def __init__(
        self,
        transformation: Callable[[Any], Any],
        start: float,
        name: str,
        needs_loss: bool = False,
    ) -> None:
        super().__init__(learning_rate=start, name=name)
        self._transformation = transformation
        self.needs_loss = needs_loss
        self.loss: Tensor = None
        self._structure: Any = None
        self._leaves: list[keras.Variable] = []

    def see_loss(self, loss: Tensor) -> None:
        """Take the loss of the batch that the next gradient is of."""
        self.loss = loss

    @property
    def state(self) -> Any:
        """The transformation's state, in its own structure."""
        import jax

        leaves = [ops.convert_to_tensor(leaf) for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, leaves)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the state, from the weights as they are."""
        if self.built:
            return
        import jax

        super().build(variables)
        weights = [ops.convert_to_tensor(variable) for variable in variables]
        state = self._make(float(ops.convert_to_numpy(self.learning_rate)))
        leaves, self._structure = jax.tree.flatten(state.init(weights))
        for number, leaf in enumerate(leaves):
            leaf = ops.convert_to_tensor(leaf)
            dtype = keras.backend.standardize_dtype(leaf.dtype)
            variable = self.add_variable(
                leaf.shape, "zeros", dtype, name=f"state_{number}"
            )
            # A copy: some states hold the weights, and JAX donates buffers.
            variable.assign(ops.copy(leaf))
            self._leaves.append(variable)

    def apply(
        self,
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """One update."""
        import jax

        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        weights = [ops.convert_to_tensor(variable) for variable in variables]
        transformation = self._make(ops.convert_to_tensor(self.learning_rate))
        extra = {"value": self.loss} if self.needs_loss else {}
        updates, state = transformation.update(
            list(grads), self.state, weights, **extra
        )
        leaves = jax.tree.leaves(state)
        for leaf, value in zip(self._leaves, leaves, strict=True):
            leaf.assign(value)
        for variable, update in zip(variables, updates, strict=True):
            variable.assign_add(update)
        self.iterations.assign_add(1)

    def _make(self, start: Any) -> Any:
        try:
            import optax
        except ImportError as error:
            raise ImportError(_MISSING) from error
        return optax.with_extra_args_support(self._transformation(start))
