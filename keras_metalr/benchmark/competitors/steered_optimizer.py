"""A Keras optimizer whose rate a rule sets at every step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_metalr.benchmark.competitors.rate_rules import RateRule

Tensor = Any


class SteeredOptimizer(keras.optimizers.Optimizer):
    """Sets the wrapped optimizer's rate by a `RateRule`, then lets it step.

    A `LearningRateSchedule` of Keras is a constant of the compiled step. Here
    the start is the variable `learning_rate`, so that one compiled step serves
    all starts, and what the rule remembers are variables too.

    Args:
        inner: `keras.optimizers.Optimizer` with a rate that is a number.
        rule: `RateRule`.
        start: Float, what the rule starts from.
    """

    def __init__(
        self, inner: keras.optimizers.Optimizer, rule: RateRule, start: float
    ) -> None:
        super().__init__(learning_rate=start, name="steered")
        self.inner = inner
        self.rule = rule
        self.loss: Tensor = None
        self._memory: list[keras.Variable] = []

    @property
    def needs_loss(self) -> bool:
        """Whether `see_loss` must be called in every step."""
        return self.rule.needs_loss or getattr(self.inner, "needs_loss", False)

    def see_loss(self, loss: Tensor) -> None:
        """Take the loss of the batch that the next gradient is of."""
        self.loss = loss
        if getattr(self.inner, "needs_loss", False):
            self.inner.see_loss(loss)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the wrapped optimizer and the rule's memory."""
        if self.built:
            return
        self.inner.build(variables)
        super().build(variables)
        for number, value in enumerate(self.rule.init()):
            variable = self.add_variable(
                value.shape, "zeros", str(value.dtype), name=f"memory_{number}"
            )
            variable.assign(value)
            self._memory.append(variable)

    @property
    def variables(self) -> list[keras.Variable]:
        """Own variables, then the wrapped optimizer's."""
        return [*super().variables, *self.inner.variables]

    def apply(
        self,
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Set the rate, update the weights."""
        if not self.built:
            self.build(list(trainable_variables or ()))
        memory = [ops.convert_to_tensor(variable) for variable in self._memory]
        step = ops.cast(self.iterations, "float32")
        start = ops.convert_to_tensor(self.learning_rate)
        rate, memory = self.rule.update(memory, start, step, self.loss)
        for variable, value in zip(self._memory, memory, strict=True):
            variable.assign(value)
        self.inner.learning_rate.assign(rate)
        self.inner.apply(grads, trainable_variables)
        self.iterations.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        """The wrapped optimizer's; a rule is a function and not part of it."""
        return dict(self.inner.get_config())
