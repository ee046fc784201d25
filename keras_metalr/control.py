"""The measurement around one update, and the control that follows from it.

before the update: gradient norm, safe start, the rate that is to be used
after it:          what moved, how far; the interval's sums
end of the step:   a decision, where one is due
"""

import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_metalr import backend
from keras_metalr import safe_start
from keras_metalr import schedule
from keras_metalr.decision import Clock
from keras_metalr.decision import LastBatch
from keras_metalr.decision import Settings
from keras_metalr.decision import bounded
from keras_metalr.decision import count_step
from keras_metalr.decision import decide
from keras_metalr.guard import decisions_until_restored
from keras_metalr.rates import Rate
from keras_metalr.rates import accumulation_steps
from keras_metalr.rates import gathered
from keras_metalr.rates import gradient_scale
from keras_metalr.rates import is_loss_scaled
from keras_metalr.run_state import EPOCH_STEPS
from keras_metalr.run_state import INTERVAL
from keras_metalr.run_state import STEP
from keras_metalr.run_state import TOTAL_STEPS
from keras_metalr.run_state import RunState
from keras_metalr.signals import TINY
from keras_metalr.signals import CoordinateSample
from keras_metalr.signals import inner_products
from keras_metalr.signals import squared_norm
from keras_metalr.signals import step_signals
from keras_metalr.signals import weight_norm
from keras_metalr.step_context import StepContext

ops = backend.native_ops()
Tensor = Any
Scalars = dict[str, Tensor]

# What joins the logs of a step, and the scalar that it is.
LOGGED = {"learning_rate": "learning_rate", "grad_norm": "gradient_norm"}


def _is_overwritten(variable: keras.Variable) -> bool:
    """Whether Keras's optimizer puts its gradient in its place."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def _noted(variable: keras.Variable) -> Any:
    return backend.noted(backend.read(variable))


def _largest(values: Sequence[Tensor]) -> Tensor:
    return functools.reduce(ops.maximum, values)


class RunControl:
    """Measures and steers one run; its memory is a `RunState`.

    Args:
        optimizer: The user's Keras optimizer, built.
        variables: Sequence of the `keras.Variable` that it updates.
        rates: Sequence of `Rate`, the optimizer's.
        controller: `keras.Model` from features to the output.
        settings: `Settings` of the run.
        horizon: Tuple of integers `(total_steps, interval, epoch_steps)`.
        context: `StepContext` that the loss comes by.
        pretrained: Boolean, whether the weights were trained before.
        steps_per_execution: Integer (>= 1), the model's.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
        rates: Sequence[Rate],
        controller: keras.Model,
        settings: Settings,
        horizon: tuple[int, int, int],
        context: StepContext,
        pretrained: bool,
        steps_per_execution: int,
    ) -> None:
        self._optimizer = optimizer
        self._steps_per_execution = steps_per_execution
        # Scales of float8 are set by what stands for their gradients, and are
        # no weights.
        self._variables = [v for v in variables if not _is_overwritten(v)]
        self._all_measured = len(self._variables) == len(variables)
        self._rates = list(rates)
        self._controller = controller
        self._scheduled = any(rate.scheduled for rate in rates)
        if self._scheduled:
            # A schedule may go to 0. A factor that held it above the limit
            # there would still be in force when it rises again.
            settings = settings._replace(min_learning_rate=TINY)
        self._settings = settings
        self._context = context
        self._accumulation_steps = accumulation_steps(optimizer)
        self._longest_start = safe_start.longest(self._accumulation_steps)
        self._one_step = backend.constant(np.array([1, 0, 0, 0], "int32"))
        shapes = [tuple(variable.shape) for variable in self._variables]
        self.sample = CoordinateSample(shapes)
        self.state = RunState(
            sample_size=self.sample.size,
            rates=[rate.initial for rate in rates],
            scheduled=[rate.scheduled for rate in rates],
            controller=controller,
            horizon=horizon,
            ramping=settings.safe_start,
            pretrained=pretrained,
            output_shift=settings.output_shift,
        )

    # -- Around the update. -------------------------------------------------

    def before(
        self, grads: Sequence[Tensor], variables: Sequence[keras.Variable]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Measure the gradient, choose and set the rate of this step.

        Args:
            grads: Sequence of gradients, as the train step hands them over.
            variables: Sequence of `keras.Variable`, one for each gradient.

        Returns:
            Tuple of the gradients to apply, and what `after` needs to know.
        """
        self._context.check_first_update()
        with backend.measuring():
            scale = gradient_scale(self._optimizer)
            by_id = dict(zip(map(id, variables), grads, strict=True))
            gradients = backend.across_replicas(
                [
                    backend.measurable(by_id.get(id(v)), v.shape)
                    for v in self._variables
                ]
            )
            loss = backend.across_replicas([self._context.take_loss()])[0]
            loss = backend.noted(loss)
            gradient_norm = ops.sqrt(squared_norm(gradients)) / scale
            finite = ops.isfinite(gradient_norm + loss)
            found = self._within_constraints()
            weights = self.sample.gather(found)
            first = self._first()
            bases = self._bases()
            stored = self.state.read()
            scalars = self._within_bounds(stored, bases, weights, gradient_norm)
            untouched: Tensor | bool = True
            if any(rate.is_ftrl for rate in self._rates):
                untouched = ops.logical_and(
                    ops.equal(stored["log_multiplier"], 0.0),
                    ops.equal(scalars["log_multiplier"], 0.0),
                )
            self._context.due = due = self._due()
            products: Sequence[Tensor] = ()
            # Where the host knows that nothing is due, nobody asks for them.
            if due is not False:
                products = backend.cond(
                    due,
                    lambda: inner_products(gradients, found),
                    lambda: ops.zeros((len(gradients),), dtype="float32"),
                )
            # The weights are written once they have been read.
            rate = self._assign_rates(
                scalars, bases, untouched, after=(weights, products)
            )
            measured = {
                "scalars": scalars,
                "loss": loss,
                "gradient_norm": gradient_norm,
                "finite": finite,
                "rate": rate,
                "scale": scale,
                "due": due,
                "gradients": gradients,
                "gradient": self.sample.gather(gradients) / scale,
                "weights": weights,
                "start": backend.choose(
                    first, weights, _noted(self.state.start)
                ),
                "products": products,
            }
            # A LossScaleOptimizer skips such steps itself, and must see them.
            if self._settings.guard and not is_loss_scaled(self._optimizer):
                grads = self._masked(grads, variables, finite)
            return list(grads), measured

    def after(self, before: dict[str, Any]) -> None:
        """Measure what the update did and book the step.

        Args:
            before: Dict that `before` returned.
        """
        with backend.measuring():
            state = self.state
            weights = self.sample.gather(self._variables)
            last_update = _noted(state.last_update)
            measured = step_signals(
                before["gradient"],
                before["weights"],
                weights,
                before["start"],
                last_update,
                self.sample.num_coordinates,
            )
            measured["loss"] = before["loss"]
            measured["gradient_norm"] = before["gradient_norm"]
            measured["learning_rate"] = before["rate"]
            finite = ops.cast(before["finite"], "float32")
            # Where nothing pulls (weights of 0, a margin that is kept), and at
            # a rate of 0, where a schedule may begin, a step says nothing of
            # how long steps should be.
            told = ops.logical_and(
                before["gradient_norm"] > 0.0, before["rate"] > 0.0
            )
            is_update = self._is_update() * ops.cast(told, "float32")
            moved = finite * is_update
            scalars = count_step(
                before["scalars"],
                measured,
                finite,
                is_update,
                self._bad(before["loss"], finite),
            )
            if self._starting():
                taken = self._counters()[STEP] + 1
                scalars = safe_start.advance(
                    scalars,
                    measured,
                    moved,
                    ops.cast(taken >= self._longest_start, "float32"),
                )
            state.write(scalars)
            # Where the host knows the first step, no other writes this.
            if self._context.host_first is not False:
                state.start.assign(before["start"])
            backend.assign(
                state.last_update,
                ops.where(
                    moved > 0.5, weights - before["weights"], last_update
                ),
            )
        for rate in self._rates:
            rate.release()
        promised_drop = functools.partial(self._promised_drop, before)
        self._context.promised_drop = promised_drop
        self._context.gradient = before["gradient"]
        self._context.applied = True

    def _promised_drop(
        self, before: dict[str, Any], weights: Mapping[int, Tensor]
    ) -> Tensor:
        """The drop in loss that the gradient promised for these weights."""
        updated = [
            weights[id(variable)]
            if id(variable) in weights
            # What is no part of the model, or has just been frozen.
            else backend.read(variable)
            for variable in self._variables
        ]
        products = inner_products(before["gradients"], updated)
        return ops.sum(before["products"] - products) / before["scale"]

    def _masked(
        self,
        grads: Sequence[Tensor],
        variables: Sequence[keras.Variable],
        finite: Tensor,
    ) -> list[Tensor]:
        """Gradients that move nothing where the step is not finite."""
        masked = backend.masked(grads, finite)
        if self._all_measured:
            return masked
        return [
            ops.where(finite, grad, ops.convert_to_tensor(variable))
            if _is_overwritten(variable)
            else still
            for grad, still, variable in zip(
                grads, masked, variables, strict=True
            )
        ]

    def _within_constraints(self) -> list[Tensor]:
        """The weights that a step finds.

        Keras applies constraints after each update. How far the first one
        brings new weights by that alone is no sign of the rate.
        """
        if self._context.host_first is False:
            return self._variables
        return [
            v if v.constraint is None else v.constraint(v)
            for v in self._variables
        ]

    def _first(self) -> Any:
        """Whether this is the first step of the run."""
        if self._context.host_first is not None:
            return self._context.host_first
        return ops.equal(self._counters()[STEP], 0)

    def _starting(self) -> bool:
        """Whether the safe start is, or may be, going on."""
        host = self._context.host_starting
        return self._settings.safe_start and host is not False

    def _within_bounds(
        self,
        scalars: Scalars,
        bases: Sequence[Tensor],
        weights: Tensor,
        gradient_norm: Tensor,
    ) -> Scalars:
        """Before a step: the factor as the safe start and schedules have it."""
        # Else the rate has not moved since the last decision. At first the
        # user's own may lie beyond the limits.
        if not self._scheduled and self._context.host_starting is False:
            return scalars
        log_base = ops.log(ops.maximum(_largest(bases), TINY))
        if self._scheduled:
            scalars = schedule.follow(scalars, log_base)
        if self._starting():
            scalars = safe_start.begin(
                scalars,
                weight_norm(weights, self.sample.num_coordinates),
                gradient_norm,
                log_base,
                self.sample.num_coordinates,
            )
        multiplier = bounded(
            scalars["log_multiplier"], log_base, self._settings
        )
        return {**scalars, "log_multiplier": multiplier}

    def _bases(self) -> list[Tensor]:
        """The user's own rates at this step."""
        initial = _noted(self.state.base_rates)
        return [
            backend.noted(rate.base(initial[i]))
            for i, rate in enumerate(self._rates)
        ]

    def _assign_rates(
        self,
        scalars: Scalars,
        bases: Sequence[Tensor],
        untouched: Tensor | bool,
        after: Sequence[Tensor],
    ) -> Tensor:
        """Set every rate; returns the largest one, scalar float32."""
        multiplier = ops.exp(scalars["log_multiplier"])
        multiplier = backend.computed_after(multiplier, after)
        values = [base * multiplier for base in bases]
        for rate, value in zip(self._rates, values, strict=True):
            rate.assign(value, untouched)
        return _largest(values)

    def _counters(self) -> Tensor:
        return _noted(self.state.counters)

    def _due(self) -> Tensor:
        """Whether a decision falls on this step."""
        if self._context.host_due is not None:
            return self._context.host_due
        counters = self._counters()
        done = counters[STEP]
        step = done + 1
        if self._accumulation_steps > 1:
            # The optimizer may have gathered some when the run began, and
            # gathers none where it skips a step.
            taken = ops.cast(self._updates_taken(), "int32")
            step = step + gathered(taken, done, self._accumulation_steps)
        return ops.equal(ops.mod(step, counters[INTERVAL]), 0)

    def _bad(self, loss: Tensor, finite: Tensor) -> Tensor:
        """1.0 where the step just taken was at fault for not being finite."""
        if is_loss_scaled(self._optimizer):
            # A gradient that overflows is how the loss scale is found.
            return 1.0 - ops.cast(ops.isfinite(loss), "float32")
        return 1.0 - finite

    def _is_update(self) -> Tensor | float:
        """1.0 where the step just taken was to move the weights."""
        if self._accumulation_steps == 1:
            return 1.0
        taken = self._updates_taken()
        whole = ops.equal(ops.mod(taken, self._accumulation_steps), 0)
        return ops.cast(whole, "float32")

    def _updates_taken(self) -> Tensor:
        """Batches that the optimizer has counted, integer."""
        # A part of the optimizer that has nothing to update stays at 0.
        return _largest(
            [_noted(rate.optimizer._iterations) for rate in self._rates]
        )

    # -- The end of the step. -----------------------------------------------

    def finish_step(
        self,
        try_again: Callable[[], tuple[Tensor, Tensor]],
        resolution: float,
    ) -> dict[str, Tensor]:
        """Decide, if a decision is due; returns what goes into the logs.

        Args:
            try_again: Callable without arguments that runs the batch again
                and returns its loss, not a number where that cannot be done (on
                a replica, its share of the loss), and the drop in loss that had
                been promised.
            resolution: Float, see `signals.trust_ratio`.
        """
        with backend.measuring():
            state, counters = self.state, self._counters()
            # A value of its own: what goes into the logs must not change later.
            vector = backend.read(state.scalars) + 0.0
            due = self._context.due
            # Where the host knows that nothing is due, nothing is written.
            if due is not False:
                unknown = ops.full((), float("nan"), dtype="float32")
                loss, promised = backend.cond(
                    due, try_again, lambda: (unknown, unknown)
                )
                # Not within a branch: replicas cannot meet in there.
                summed = backend.across_replicas(
                    [loss, self._context.num_examples()]
                )
                loss, promised, num_examples = map(
                    backend.noted, (summed[0], promised, summed[1])
                )
                before, gradient = vector, self._context.gradient
                vector, row = backend.cond(
                    due,
                    lambda: self._decide(
                        before,
                        counters,
                        LastBatch(
                            loss,
                            promised,
                            num_examples,
                            self.sample.sparsity(gradient),
                            resolution,
                        ),
                    ),
                    lambda: (before, state.empty_row()),
                )
                backend.assign(state.scalars, vector)
                state.write_row(row, due)
            backend.assign(state.counters, counters + self._one_step)
            return {
                name: state.get(vector, key) for name, key in LOGGED.items()
            }

    def _decide(
        self,
        vector: Tensor,
        counters: Tensor,
        batch: LastBatch,
    ) -> tuple[Tensor, Tensor]:
        """One decision; returns the new scalars and its row of the trace."""
        places = (STEP, TOTAL_STEPS, INTERVAL, EPOCH_STEPS)
        step, *others = (counters[place] for place in places)
        # An update is made of several batches.
        num_examples = batch.num_examples * self._accumulation_steps
        batch = batch._replace(num_examples=num_examples)
        clock = Clock(
            *(ops.cast(value, "float32") for value in (step + 1, *others))
        )
        scalars, row = decide(
            self.state.unpack(vector),
            batch,
            clock,
            self._control,
            self._settings,
            until_restored=decisions_until_restored(
                clock.interval, self._steps_per_execution
            ),
        )
        return self.state.pack(scalars), row

    def _control(self, features: Tensor) -> Tensor:
        weights = [ops.convert_to_tensor(v) for v in self.state.controller]
        outputs, _ = self._controller.stateless_call(
            weights, [], backend.native(features)[None, :]
        )
        # A controller of one's own may compute in half precision.
        return backend.noted(ops.cast(ops.reshape(outputs, ()), "float32"))
