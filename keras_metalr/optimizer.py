"""The wrapping optimizer: measures every update and sets the rate for it.

It has the shape of Keras's own `LossScaleOptimizer`, because that is the one
place where all three backends hand over the gradients, and because the
variables of `model.optimizer` are threaded through the compiled step on JAX.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_metalr import backend
from keras_metalr.decision import Clock, Settings, count_step, decide
from keras_metalr.rates import (
    Rate,
    accumulation_steps,
    gradient_scale,
    innermost,
    is_loss_scaled,
)
from keras_metalr.run_state import RunState
from keras_metalr.signals import (
    SAMPLE_SIZE,
    CoordinateSample,
    inner_products,
    norm,
    squared_norm,
    step_signals,
)
from keras_metalr.update_rule import (
    START_STEPS,
    bound,
    decision_interval,
    first_log_rate,
    ramp,
)

Tensor = Any


class MeasuredOptimizer(keras.optimizers.Optimizer):
    """An optimizer, measured and steered. It lives for one `fit`.

    Everything that is not measurement is the wrapped optimizer's: unknown
    attributes are looked up there, its variables are saved in its own layout,
    and with a multiplier of 1 the weights move exactly as without it.

    Args:
        inner: The user's Keras optimizer.
        controller: `keras.Model` from features to the output.
        settings: `Settings` of the run.
        total_steps: Integer (>= 1), steps in the run.
        sample_size: Integer (>= 1), coordinates to sample.
            Defaults to `8192`.
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        controller: keras.Model,
        settings: Settings,
        total_steps: int = 1,
        sample_size: int = SAMPLE_SIZE,
    ) -> None:
        super().__init__(learning_rate=0.0, name="metalr")
        self._inner = inner
        self.controller_model = _Unsaved(controller)
        self.settings = settings
        self.total_steps = total_steps
        self.sample_size = sample_size
        threaded = backend.name() == "tensorflow"
        self.step_context = (
            ThreadedStepContext() if threaded else StepContext()
        )
        # A callable map of `MultiOptimizer` makes its parts when it is built;
        # all others are known, and refused if need be, before the first step.
        self.rates = [Rate(leaf) for leaf in innermost(inner)]
        self.metalr_state: RunState | None = None
        self._measure_before = backend.uncompiled(self._before)
        self._measure_after = backend.uncompiled(self._after)
        self.finish_step = backend.uncompiled(self._finish_step)

    # -- The optimizer's interface, passed on. ------------------------------

    @property
    def inner(self) -> keras.optimizers.Optimizer:
        """The user's optimizer."""
        return self._inner

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("_inner")
        if inner is None or name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        return getattr(inner, name)

    def __dir__(self) -> list[str]:
        # The saver finds children by name: those of the wrapped optimizer must
        # be found where they are without the wrapper.
        own = ["metalr_state"]
        return sorted({*dir(self.__dict__.get("_inner")), *own})

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the wrapped optimizer and the run's own variables."""
        if self.built:
            return
        if not self._inner.built:
            self._inner.build(variables)
        known = {id(rate.optimizer) for rate in self.rates}
        for leaf in innermost(self._inner):
            if id(leaf) not in known:
                self.rates.append(Rate(leaf))
        self._trainable_variables = list(variables)
        self.sample = CoordinateSample(
            [tuple(v.shape) for v in variables], self.sample_size
        )
        self.accumulation_steps = accumulation_steps(self._inner)
        self.metalr_state = RunState(
            sample_size=self.sample.size,
            rates=[rate.initial for rate in self.rates],
            controller=self.controller_model.value,
            horizon=self.horizon(self.total_steps),
            ramping=self.settings.safe_start,
        )
        self.built = True

    def horizon(self, total_steps: int) -> tuple[int, int]:
        """`(total_steps, interval)` for a run of that many steps."""
        steps = accumulation_steps(self._inner)
        return total_steps, decision_interval(total_steps, steps)[0]

    @property
    def variables(self) -> list[keras.Variable]:
        """The run's variables, then the wrapped optimizer's."""
        own = self.metalr_state.variables if self.metalr_state else []
        return list(own) + self._inner.variables

    @property
    def learning_rate(self) -> Any:
        """The rate in use; a schedule, scaled as in the last step."""
        rate = self._inner.learning_rate
        if self.rates[0].scheduled and self.metalr_state is not None:
            return rate * ops.exp(self.metalr_state.read()["log_multiplier"])
        return rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._inner.learning_rate = value

    @property
    def iterations(self) -> Any:
        """Updates so far, as the wrapped optimizer counts them."""
        return self._inner.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The wrapped optimizer's loss scaling."""
        return self._inner.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """The wrapped optimizer's last act (weight averages)."""
        self._inner.finalize_variable_values(var_list)

    def save_own_variables(self, store: Any) -> None:
        """Save the wrapped optimizer, so that plain Keras can load it."""
        self._inner.save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the wrapped optimizer, from plain Keras's file too."""
        self._inner.load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """The wrapped optimizer's config."""
        return dict(self._inner.get_config())

    def restore_rates(self) -> None:
        """Give the wrapped optimizer back the user's own rates."""
        values: list[float | None] = [None] * len(self.rates)
        if self.metalr_state is not None:
            bases = backend.eager_value(self.metalr_state.base_rates)
            values = [float(base) for base in bases]
        for rate, value in zip(self.rates, values, strict=True):
            rate.restore(value)

    # -- One update. --------------------------------------------------------

    def apply(
        self,
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Measure, set the rate, update the weights, measure."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        if not self.built:
            with backend.strategy_scope(self.step_context.model):
                self.build(trainable_variables)
        grads, before = self._measure_before(grads, trainable_variables)
        with backend.measuring(after=[before["weights"]]):
            self._inner.apply(grads, trainable_variables)
            self._measure_after(before)
        for rate in self.rates:
            rate.release()

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Tensor],
        grads: Sequence[Tensor],
        trainable_variables: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`apply` for JAX: takes all state, returns all state."""
        variables = self.variables
        weights = self._trainable_variables
        mapping = list(zip(variables, optimizer_variables, strict=True))
        mapping += list(zip(weights, trainable_variables, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            grads, before = self._measure_before(grads, weights)
        own = len(self.metalr_state.variables)
        values = [scope.get_current_value(v) for v in variables]
        new_weights, inner_values = self._inner.stateless_apply(
            values[own:], grads, trainable_variables
        )
        values = values[:own] + list(inner_values)
        mapping = list(zip(variables, values, strict=True))
        mapping += list(zip(weights, new_weights, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._measure_after(before)
        for rate in self.rates:
            rate.release()
        return new_weights, [scope.get_current_value(v) for v in variables]

    def _before(
        self, grads: Sequence[Tensor], variables: Sequence[keras.Variable]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """Measure the gradient, choose and set the rate of this step."""
        loss = self.step_context.take_loss()
        with backend.measuring():
            scale = gradient_scale(self._inner)
            grads = list(grads)
            by_id = dict(zip(map(id, variables), grads, strict=True))
            aligned = backend.across_replicas(
                [
                    backend.dense(by_id.get(id(v)))
                    for v in self._trainable_variables
                ]
            )
            loss = backend.across_replicas([loss])[0]
            state = self.metalr_state
            scalars = state.read()
            gradient_norm = ops.sqrt(squared_norm(aligned)) / scale
            is_finite = ops.logical_and(
                ops.isfinite(gradient_norm), ops.isfinite(loss)
            )
            sampled = self.sample.gather(self._trainable_variables)
            step = ops.convert_to_tensor(state.counters)[0]
            start = ops.where(
                ops.equal(step, 0), sampled, ops.convert_to_tensor(state.start)
            )
            scalars = self._begin(scalars, step, sampled, gradient_norm)
            rate = self._assign_rates(scalars)
            due = self._due()
            dots = backend.cond(
                due,
                lambda: inner_products(aligned, self._trainable_variables),
                lambda: ops.zeros((len(aligned),), dtype="float32"),
            )
            before = {
                "scalars": scalars,
                "weights": sampled,
                "start": start,
                "aligned": aligned,
                "gradient": self.sample.gather(aligned) / scale,
                "scale": scale,
                "loss": loss,
                "norm": gradient_norm,
                "finite": is_finite,
                "rate": rate,
                "due": due,
                "dots": dots,
            }
            if self.settings.guard and not is_loss_scaled(self._inner):
                grads = [backend.masked(g, is_finite) for g in grads]
            return grads, before

    def _begin(
        self, scalars: dict[str, Tensor], step: Any, weights: Any, gradient_norm: Any
    ) -> dict[str, Tensor]:
        """At the first step of a safe start, forget the user's rate."""
        if not self.settings.safe_start:
            return scalars
        log_rate = first_log_rate(
            norm(weights), gradient_norm, self.sample.num_coordinates
        )
        usable = ops.logical_and(ops.equal(step, 0), ops.isfinite(log_rate))
        wanted = self._bounded(log_rate - self._log_reference())
        return {
            **scalars,
            "log_multiplier": ops.where(
                usable, wanted, scalars["log_multiplier"]
            ),
        }

    def _log_reference(self) -> Tensor:
        base = self.rates[0].base(
            ops.convert_to_tensor(self.metalr_state.base_rates)[0]
        )
        return ops.log(ops.maximum(base, 1e-30))

    def _bounded(self, log_multiplier: Tensor) -> Tensor:
        limits = (
            self.settings.min_learning_rate,
            self.settings.max_learning_rate,
        )
        low, high = (ops.log(ops.cast(limit, "float32")) for limit in limits)
        return bound(log_multiplier, self._log_reference(), low, high)

    def _assign_rates(self, scalars: dict[str, Tensor]) -> Tensor:
        """Set every rate; returns the first one, scalar float32."""
        multiplier = ops.exp(scalars["log_multiplier"])
        initial = ops.convert_to_tensor(self.metalr_state.base_rates)
        first = None
        for i, rate in enumerate(self.rates):
            value = rate.base(initial[i]) * multiplier
            rate.assign(value, multiplier)
            first = value if first is None else first
        return first

    def _due(self) -> Tensor:
        """Whether a decision falls on this step."""
        known = self.step_context.host_due
        if known is not None:
            return known
        counters = ops.convert_to_tensor(self.metalr_state.counters)
        return ops.equal(ops.mod(counters[0] + 1, counters[2]), 0)

    def _is_update(self) -> Tensor:
        """1.0 where the step just taken was to move the weights."""
        if self.accumulation_steps == 1:
            return ops.ones((), dtype="float32")
        taken = ops.convert_to_tensor(self.rates[0].optimizer._iterations)
        return ops.cast(
            ops.equal(ops.mod(taken, self.accumulation_steps), 0), "float32"
        )

    def _after(self, before: dict[str, Any]) -> None:
        """Measure what the update did and book the step."""
        with backend.measuring():
            weights = self.sample.gather(self._trainable_variables)
            state = self.metalr_state
            measured = step_signals(
                before["gradient"],
                before["weights"],
                weights,
                before["start"],
                ops.convert_to_tensor(state.last_update),
            )
            promised = backend.cond(
                before["due"],
                lambda: ops.sum(
                    before["dots"]
                    - inner_products(
                        before["aligned"], self._trainable_variables
                    )
                ),
                lambda: ops.zeros((), dtype="float32"),
            )
            measured["promised_drop"] = promised / before["scale"]
            measured["loss"] = before["loss"]
            measured["gradient_norm"] = before["norm"]
            measured["learning_rate"] = before["rate"]
            finite = ops.cast(before["finite"], "float32")
            is_update = self._is_update()
            scalars = count_step(
                before["scalars"], measured, finite, is_update
            )
            if self.settings.safe_start:
                scalars = self._ramp(scalars, measured, finite * is_update)
            state.write(scalars)
            state.start.assign(before["start"])
            moved = ops.logical_and(before["finite"], is_update > 0.5)
            state.last_update.assign(
                ops.where(
                    moved,
                    weights - before["weights"],
                    ops.convert_to_tensor(state.last_update),
                )
            )
        self.step_context.applied = True

    def _ramp(
        self, scalars: dict[str, Tensor], measured: dict[str, Tensor], moved: Any
    ) -> dict[str, Tensor]:
        """The safe start: a few steps that find how long an update is."""
        factor, done = ramp(
            measured["update_norm"],
            measured["weight_norm"],
            self.sample.num_coordinates,
        )
        active = scalars["ramping"] * moved
        steps = scalars["ramp_steps"] + active
        over = ops.maximum(done, ops.cast(steps >= START_STEPS, "float32"))
        wanted = self._bounded(scalars["log_multiplier"] + factor)
        return {
            **scalars,
            "log_multiplier": ops.where(
                active > 0.5, wanted, scalars["log_multiplier"]
            ),
            "ramp_steps": steps,
            "ramping": scalars["ramping"] * (1.0 - active * over),
        }

    # -- The end of one step. -----------------------------------------------

    def _finish_step(
        self, loss_after: Callable[[], Tensor], resolution: float
    ) -> dict[str, Tensor]:
        """Decide, if a decision is due; returns what goes into the logs.

        Args:
            loss_after: Callable without arguments that runs the batch again
                and returns its loss, not a number where that cannot be done.
            resolution: Float, see `signals.trust_ratio`.
        """
        with backend.measuring():
            state = self.metalr_state
            counters = ops.convert_to_tensor(state.counters)
            scalars = state.read()
            step, total, interval = (counters[i] for i in range(3))
            rows = ops.convert_to_tensor(state.trace)
            clock = Clock(
                ops.cast(step + 1, "float32"),
                ops.cast(total, "float32"),
                ops.cast(interval, "float32"),
            )

            def decided() -> tuple[Tensor, ...]:
                new, row = decide(
                    scalars,
                    loss_after(),
                    clock,
                    self._control,
                    self.settings,
                    resolution,
                )
                index = ops.mod((step + 1) // interval - 1, rows.shape[0])
                here = ops.equal(ops.arange(rows.shape[0]), index)
                written = ops.where(here[:, None], row[None, :], rows)
                return tuple(new[key] for key in scalars) + (written,)

            def undecided() -> tuple[Tensor, ...]:
                return tuple(scalars[key] for key in scalars) + (rows,)

            *values, rows = backend.cond(self._due(), decided, undecided)
            new = dict(zip(scalars, values, strict=True))
            state.write(new)
            state.trace.assign(rows)
            state.counters.assign(
                counters + ops.convert_to_tensor([1, 0, 0], "int32")
            )
            return {
                "learning_rate": new["learning_rate"],
                "grad_norm": new["gradient_norm"],
            }

    def _control(self, features: Tensor) -> Tensor:
        weights = [
            ops.convert_to_tensor(v) for v in self.metalr_state.controller
        ]
        outputs, _ = self.controller_model.value.stateless_call(
            weights, [], features[None, :]
        )
        return ops.reshape(outputs, ())


class StepContext:
    """What one train step passes from the loss to the optimizer."""

    def __init__(self) -> None:
        self.model: Any = None
        self.active = False
        self.loss: Tensor = None
        self.arguments: dict[str, Any] = {}
        self.applied = False
        # On torch the host counts the steps, so that no step waits for one.
        self.host_due: bool | None = None

    @contextlib.contextmanager
    def step(self, model: Any) -> Iterator[None]:
        """One train step of the model."""
        self.model, self.active = model, True
        self.loss, self.arguments, self.applied = None, {}, False
        try:
            yield
        finally:
            self.active = False

    def see_loss(self, loss: Tensor, arguments: dict[str, Any]) -> None:
        """Note a loss that `compute_loss` returned."""
        if self.active:
            self.loss, self.arguments = ops.stop_gradient(loss), arguments

    def take_loss(self) -> Tensor:
        """The batch's loss, scalar float32."""
        if self.loss is None:
            raise ValueError(
                "MetaLR needs the loss of each batch, but this model's "
                "`train_step` applied gradients without calling "
                "`self.compute_loss(x=..., y=..., y_pred=...)`. Compute the "
                "loss through `compute_loss` (override it if need be)."
            )
        return ops.cast(ops.reshape(self.loss, ()), "float32")


class ThreadedStepContext(StepContext, threading.local):
    """The same, one for each thread.

    A `tf.distribute.MirroredStrategy` traces every replica in a thread of its
    own. (torch.compile, on the other hand, cannot follow thread-local state.)
    """


class _Unsaved:
    """Keeps the saver from walking into what is not part of a checkpoint."""

    def __init__(self, value: Any) -> None:
        self.value = value
