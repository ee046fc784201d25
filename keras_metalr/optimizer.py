"""The wrapping optimizer: measures every update and sets the rate for it.

It has the shape of Keras's own `LossScaleOptimizer`, because that is the one
place where all three backends hand over the gradients, and because the
variables of `model.optimizer` are threaded through the compiled step on JAX.
"""

import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_metalr import backend
from keras_metalr.control import RunControl
from keras_metalr.decision import Settings
from keras_metalr.pretrained import is_pretrained
from keras_metalr.rates import Rate
from keras_metalr.rates import accumulation_steps
from keras_metalr.rates import innermost
from keras_metalr.run_state import STEP
from keras_metalr.run_state import RunState
from keras_metalr.step_context import make_step_context
from keras_metalr.update_rule import decision_interval

Tensor = Any
# Steps are counted in int32.
MAX_STEPS = 2**31 - 1
# What Keras's own constructor puts on the instance, and is the user's.
_PASSED_ON = (
    "name",
    "weight_decay",
    "clipnorm",
    "global_clipnorm",
    "clipvalue",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


class MeasuredOptimizer(keras.optimizers.Optimizer):
    """An optimizer, measured and steered. It lives for one `fit`.

    Everything that is not measurement is the wrapped optimizer's: unknown
    attributes are looked up there, its variables are saved in its own layout,
    and with a multiplier of 1 the weights move exactly as without it.

    Args:
        inner: The user's Keras optimizer.
        model: The compiled `keras.Model` that is being trained.
        controller: `keras.Model` from features to the output.
        settings: `Settings` of the run.
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        model: keras.Model,
        controller: keras.Model,
        settings: Settings,
    ) -> None:
        super().__init__(learning_rate=0.0, name="metalr")
        for name in _PASSED_ON:
            self.__dict__.pop(name, None)
        self._inner = inner
        self._unsaved = _Unsaved(model, controller)
        self.settings = settings
        # What there is by now was there before the run; what a model builds in
        # its first step is new.
        self._had_weights = bool(model.trainable_variables)
        self._pretrained = bool(settings.pretrained)
        self.total_steps = self.epoch_steps = 1
        self.step_context = make_step_context()
        # A callable map of `MultiOptimizer` makes its parts when it is built;
        # all others are known, and refused if need be, before the first step.
        self.rates = [Rate(leaf) for leaf in innermost(inner)]
        self.when_interrupted: Callable[[], None] | None = None
        self._control: RunControl | None = None

    # -- The optimizer's interface, passed on. ------------------------------

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The user's class: what Keras writes into an `.h5` file, asks for."""
        inner = self.__dict__.get("_inner")
        return MeasuredOptimizer if inner is None else type(inner)

    @property
    def inner(self) -> keras.optimizers.Optimizer:
        """The user's optimizer."""
        return self._inner

    @property
    def metalr_state(self) -> RunState | None:
        """The run's memory; `None` before the optimizer is built."""
        return None if self._control is None else self._control.state

    @property
    def control(self) -> RunControl:
        """The run's control.

        Raises:
            RuntimeError: before the optimizer is built.
        """
        if self._control is None:
            raise RuntimeError("The optimizer is not built yet.")
        return self._control

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("_inner")
        if inner is None or name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("_inner")
        is_own = (
            inner is None
            or name.startswith("_")
            or name in self.__dict__
            or hasattr(MeasuredOptimizer, name)
            or not hasattr(inner, name)
        )
        if is_own:
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    def __dir__(self) -> list[str]:
        # The saver finds children by name: those of the wrapped optimizer must
        # be found where they are without the wrapper.
        return sorted({*dir(self.__dict__.get("_inner")), "metalr_state"})

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build the wrapped optimizer and the run's own variables."""
        if self._control is not None:
            return
        with backend.strategy_scope(self._unsaved.model):
            if not self._inner.built:
                self._inner.build(variables)
            known = {id(rate.optimizer) for rate in self.rates}
            for leaf in innermost(self._inner):
                if id(leaf) not in known:
                    self.rates.append(Rate(leaf))
            self._trainable_variables = self._updated(variables)
            control = RunControl(
                optimizer=self._inner,
                variables=self._trainable_variables,
                rates=self.rates,
                controller=self._unsaved.controller,
                settings=self.settings,
                horizon=self.horizon(self.total_steps, self.epoch_steps),
                context=self.step_context,
                pretrained=self._pretrained,
                steps_per_execution=self._unsaved.model.steps_per_execution,
            )
        self._before = backend.uncompiled(control.before)
        self._after = backend.uncompiled(control.after)
        self.finish_step = backend.uncompiled(control.finish_step)
        self._control = control
        self.built = True

    def _updated(
        self, variables: Sequence[keras.Variable]
    ) -> list[keras.Variable]:
        """Those that the wrapped optimizer, which is built, has slots for.

        A `train_step` may update a part of the weights, by an optimizer that
        was built for them.
        """
        built_for = [
            variable
            for leaf in innermost(self._inner)
            for variable in leaf._trainable_variables
        ]
        given, known = set(map(id, variables)), set(map(id, built_for))
        if given <= known:
            return list(variables)
        return [v for v in built_for if id(v) in given]

    def horizon(
        self, total_steps: int, epoch_steps: int
    ) -> tuple[int, int, int]:
        """`(total_steps, interval, epoch_steps)` for a run of that length.

        Args:
            total_steps: Integer, steps in the run.
            epoch_steps: Integer, steps to one pass over the data.
        """
        total_steps, epoch_steps = (
            min(steps, MAX_STEPS) for steps in (total_steps, epoch_steps)
        )
        interval = decision_interval(
            total_steps, accumulation_steps(self._inner)
        )
        return total_steps, interval, epoch_steps

    def look_at_weights(self) -> None:
        """See whether weights are pretrained, once callbacks have loaded them.

        Not in a run that goes on where it was.
        """
        if self.settings.pretrained is not None or not self._had_weights:
            return
        state = self.metalr_state
        if state is not None and int(backend.eager_value(state.counters)[STEP]):
            return
        self._pretrained = is_pretrained(self._unsaved.model)
        if state is not None:
            seen = ops.convert_to_tensor(
                float(self._pretrained), dtype="float32"
            )
            state.write({**state.read(), "pretrained": backend.noted(seen)})

    @property
    def variables(self) -> list[keras.Variable]:
        """The wrapped optimizer's variables, then the run's.

        In this order, so that a list of them, as an `.h5` file has it, is one
        of the wrapped optimizer's and a rest.
        """
        state = self.metalr_state
        own = [] if state is None else list(state.variables)
        return [*self._inner.variables, *own]

    @property
    def learning_rate(self) -> Any:
        """The rate in use; a schedule, scaled as in the last step."""
        rate, state = self._inner.learning_rate, self.metalr_state
        if self.rates[0].scheduled and state is not None:
            vector = backend.read(state.scalars)
            return rate * ops.exp(state.get(vector, "log_multiplier"))
        return rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(value) and not isinstance(value, keras.Variable):
            raise ValueError(
                "MetaLR scales the learning rate that the run began with, and "
                "cannot take up a schedule in mid-run. Compile the model with "
                f"it. Received: learning_rate={value!r}"
            )
        self._inner.learning_rate = value

    @property
    def iterations(self) -> Any:
        """Updates so far, as the wrapped optimizer counts them."""
        return self._inner.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The wrapped optimizer's loss scaling."""
        return self._inner.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """The wrapped optimizer's last act (weight averages).

        On JAX this is also where `fit` comes by when it ends with an exception,
        after it has put the state back into the variables.
        """
        self._inner.finalize_variable_values(var_list)
        if sys.exc_info()[0] is not None and self.when_interrupted is not None:
            self.when_interrupted()

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the wrapped optimizer's variables."""
        self._inner.set_weights(weights)

    def save_own_variables(self, store: Any) -> None:
        """Save the wrapped optimizer, so that plain Keras can load it."""
        self._inner.save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the wrapped optimizer, from plain Keras's file too."""
        self._inner.load_own_variables(store)

    def _trackable_children(self, *args: Any, **kwargs: Any) -> Any:
        """What a `tf.train.Checkpoint` holds: that of the wrapped optimizer."""
        return self._inner._trackable_children(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The wrapped optimizer's config."""
        return dict(self._inner.get_config())

    def restore_rates(self) -> None:
        """Give the wrapped optimizer back the user's own rates."""
        values: list[float | None] = [None] * len(self.rates)
        state, untouched = self.metalr_state, True
        if state is not None and not backend.is_lost(state.base_rates):
            bases = backend.eager_value(state.base_rates)
            # Empty where TensorFlow's first trace, which makes it, has failed.
            if len(bases) == len(values):
                values = [float(base) for base in bases]
                scalars = backend.eager_value(state.scalars)
                untouched = state.get(scalars, "log_multiplier") == 0.0
        for rate, value in zip(self.rates, values, strict=True):
            rate.restore(value, untouched)

    # -- One update. --------------------------------------------------------

    def apply(
        self,
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
        **kwargs: Any,
    ) -> None:
        """Measure, set the rate, update the weights, measure."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        self._update(
            grads,
            trainable_variables,
            lambda *update: self._inner.apply(*update, **kwargs),
        )

    def apply_gradients(
        self, grads_and_vars: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The same, by the wrapped optimizer's method of this name."""

        def update(grads: Any, variables: Any) -> Any:
            pairs = list(zip(grads, variables, strict=True))
            return self._inner.apply_gradients(pairs, *args, **kwargs)

        grads, variables = zip(*grads_and_vars, strict=True)
        return self._update(grads, variables, update)

    def _update(
        self,
        grads: Sequence[Tensor],
        variables: Sequence[keras.Variable],
        update: Callable[[Any, Any], Any],
    ) -> Any:
        variables = list(variables)
        if not self.built:
            self.build(variables)
        grads, before = self._before(grads, variables)
        with backend.measuring(after=[before["weights"]]):
            result = update(grads, variables)
            self._after(before)
        return result

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Tensor],
        grads: Sequence[Tensor],
        trainable_variables: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`apply` for JAX: takes all state, returns all state."""
        self._check_same_weights(trainable_variables)
        inner = len(self._inner.variables)
        values = list(optimizer_variables)
        with self._scope(values, trainable_variables) as scope:
            grads, before = self._before(grads, self._trainable_variables)
        values = [scope.get_current_value(v) for v in self.variables]
        weights, values[:inner] = self._inner.stateless_apply(
            values[:inner], grads, trainable_variables
        )
        with self._scope(values, weights) as scope:
            self._after(before)
        return weights, [scope.get_current_value(v) for v in self.variables]

    def _check_same_weights(self, weights: Sequence[Tensor]) -> None:
        built = len(self._trainable_variables)
        if len(weights) != built:
            raise ValueError(
                "The optimizer must be given the weights that it was built "
                f"for. Received: {len(weights)}, and it was built for {built}. "
                "Compile the model again after a layer was frozen or thawed."
            )

    def _scope(
        self, values: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> keras.StatelessScope:
        pairs = [
            *zip(self.variables, values, strict=True),
            *zip(self._trainable_variables, weights, strict=True),
        ]
        return keras.StatelessScope(state_mapping=pairs)


class _Unsaved:
    """Keeps Keras's saver from walking into what is not the optimizer's."""

    def __init__(self, model: keras.Model, controller: keras.Model) -> None:
        self.model = model
        self.controller = controller
