"""The custom train step: the model's own, with measurement around it.

    old random state -> the model's own step -> repair, replay, decide -> logs

One file for the three backends. On JAX a step takes and returns all state; on
TensorFlow and torch it works on the variables themselves.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_metalr import backend
from keras_metalr.optimizer import MeasuredOptimizer
from keras_metalr.signals import RESOLUTION
from keras_metalr.step_context import StepContext
from keras_metalr.step_state import StateBefore
from keras_metalr.step_state import find_step_state
from keras_metalr.step_state import running_statistics

Tensor = Any

# `signals.RESOLUTION` in half precision: a unit of the last place.
HALF_RESOLUTION = {"float16": 1e-3, "bfloat16": 8e-3}


def hooked_compute_loss(
    model: keras.Model, optimizer: MeasuredOptimizer
) -> Callable[..., Tensor]:
    """The model's `compute_loss`, seen by the optimizer.

    This is a public override point that Keras's own train step and a user's
    own both go through, and the only one that has the true loss of the batch:
    what stands in `logs` is a mean over the epoch so far.
    """
    original = model.compute_loss
    signature = inspect.signature(original)
    if _of_kind(signature, inspect.Parameter.VAR_POSITIONAL):
        # It does not say what its arguments are: those of Keras's own then.
        signature = inspect.signature(super(keras.Model, model).compute_loss)
    rest = _of_kind(signature, inspect.Parameter.VAR_KEYWORD)

    def compute_loss(*args: Any, **kwargs: Any) -> Tensor:
        loss = original(*args, **kwargs)
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        for name in rest:
            arguments.update(arguments.pop(name, {}))
        optimizer.step_context.see_loss(loss, arguments)
        return loss

    return compute_loss


def _of_kind(signature: inspect.Signature, kind: Any) -> list[str]:
    """Names of the parameters of a kind, `*args` or `**kwargs`."""
    return [p.name for p in signature.parameters.values() if p.kind is kind]


def _resolution(model: keras.Model) -> float:
    """That of the layer that computes in the lowest precision."""
    types = {str(layer.compute_dtype) for layer in model._flatten_layers()}
    return max(HALF_RESOLUTION.get(name, RESOLUTION) for name in types)


def measured_train_step(
    model: keras.Model, optimizer: MeasuredOptimizer
) -> Callable[..., Any]:
    """The model's `train_step`, measured; same signature on each backend."""
    # Once the first step has built all layers.
    resolution = functools.cache(lambda: _resolution(model))
    make = _stateless_step if backend.name() == "jax" else _stateful_step
    return make(model, optimizer, resolution)


def _stateful_step(
    model: keras.Model,
    optimizer: MeasuredOptimizer,
    resolution: Callable[[], float],
) -> Callable[[Any], dict[str, Tensor]]:
    """From a batch to the logs: TensorFlow and torch."""
    original = backend.untraced(model.train_step)
    compute_loss = model.compute_loss
    context = optimizer.step_context
    # Found once, not at every eager step; TensorFlow may yet have to build the
    # model, and then finds it as it traces.
    found = find_step_state(model) if is_built(model) else None

    def train_step(data: Any) -> dict[str, Tensor]:
        state = found or find_step_state(model)
        with backend.measuring():
            # On torch the host knows where it is needed, and pays for it.
            replayed = context.host_due is not False
            before = StateBefore(state, data, replayed)
        try:
            with context.step():
                logs = original(data)
            _check_applied(model, context.applied)
        except BaseException:
            # A step that is refused must not have moved anything.
            before.put_back()
            raise

        def try_again() -> tuple[Tensor, Tensor]:
            with backend.measuring(), before.again():
                return _replay(
                    model,
                    compute_loss,
                    data,
                    context,
                    [
                        ops.convert_to_tensor(v)
                        for v in model.trainable_variables
                    ],
                    before.values(model.non_trainable_variables),
                    carried=state.carried,
                )

        if optimizer.settings.guard:
            with backend.measuring():
                before.put_back_unless(_is_kept(optimizer))
        extra = optimizer.finish_step(try_again, resolution())
        return _joined(logs, extra)

    return train_step


def _joined(
    logs: dict[str, Tensor], extra: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The logs, and what was measured under names that are not taken."""
    return {**logs, **{k: v for k, v in extra.items() if k not in logs}}


def _stateless_step(
    model: keras.Model,
    optimizer: MeasuredOptimizer,
    resolution: Callable[[], float],
) -> Callable[[tuple, Any], tuple[dict[str, Tensor], tuple]]:
    """From all state and a batch to the logs and all state: JAX."""
    original = backend.untraced(model.train_step)
    compute_loss = model.compute_loss
    context = optimizer.step_context

    def train_step(state: tuple, data: Any) -> tuple[dict[str, Tensor], tuple]:
        with context.step(state[0]):
            logs, (weights, others, slots, metrics) = original(state, data)
        _check_applied(model, context.applied)
        others = list(others)
        mapping = list(zip(optimizer.variables, slots, strict=True))
        if optimizer.settings.guard:
            with keras.StatelessScope(state_mapping=mapping):
                kept = _is_kept(optimizer)
            statistics = set(map(id, running_statistics(model)))
            for i, variable in enumerate(model.non_trainable_variables):
                if id(variable) in statistics:
                    others[i] = ops.where(kept, others[i], state[1][i])

        def try_again() -> tuple[Tensor, Tensor]:
            return _replay(
                model, compute_loss, data, context, weights, state[1], metrics
            )

        with keras.StatelessScope(state_mapping=mapping) as scope:
            extra = optimizer.finish_step(try_again, resolution())
        slots = [scope.get_current_value(v) for v in optimizer.variables]
        return _joined(logs, extra), (weights, others, slots, metrics)

    return train_step


def _is_kept(optimizer: MeasuredOptimizer) -> Tensor:
    """Whether what the step made of running statistics stays."""
    state = optimizer.control.state
    return backend.noted(state.get(backend.read(state.scalars), "bad")) < 0.5


def is_built(model: keras.Model) -> bool:
    """Whether the model has all variables that its steps use.

    Keras builds the optimizer once it has them, whatever layers the model holds
    that it never calls.

    Args:
        model: A compiled `keras.Model`.
    """
    return model.built and (
        model.optimizer.built
        or all(layer.built for layer in model._flatten_layers())
    )


def check_trainable(model: keras.Model) -> None:
    """Raise for a model without trainable weights.

    Args:
        model: A built `keras.Model`.
    """
    if not model.trainable_variables:
        raise ValueError(
            f"Model {model.name!r} has no trainable weights, so there is "
            "nothing to control. Unfreeze a layer and compile again."
        )


def _check_applied(model: keras.Model, applied: bool) -> None:
    if not applied:
        check_trainable(model)
        raise ValueError(
            f"The `train_step` of {model.name!r} did not apply gradients "
            "through `self.optimizer`, so there is no learning rate for "
            "MetaLR to control. Call `self.optimizer.apply_gradients(...)` "
            "(`self.optimizer.stateless_apply(...)` on JAX) in it."
        )


def _replay(
    model: keras.Model,
    compute_loss: Callable[..., Tensor],
    data: Any,
    context: StepContext,
    weights: Sequence[Tensor],
    others: Sequence[Tensor],
    metrics: Sequence[Tensor] = (),
    carried: Sequence[keras.Variable] = (),
) -> tuple[Tensor, Tensor]:
    """The step's own loss at the weights it led to, and the drop promised.

    Same batch, same dropout masks, same statistics (the state is the one of
    before the step), training mode: it differs from the loss of the step in the
    weights alone. Nothing it writes (running statistics, metrics) leaves the
    stateless scope.
    """
    try:
        if carried:
            # They would be carried on by this pass, too.
            raise NotImplementedError("a layer that is stateful")
        loss = _forward_loss(
            model,
            compute_loss,
            data,
            context.arguments,
            weights,
            others,
            metrics,
        )
        promised = context.take_promised_drop(
            dict(zip(map(id, model.trainable_variables), weights, strict=True))
        )
    except Exception as error:
        warnings.warn(
            "MetaLR cannot run this model's forward pass again after an "
            "update, so it goes without the trust ratio, and decides less "
            f"well. The cause: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        unknown = ops.convert_to_tensor(float("nan"), dtype="float32")
        return unknown, unknown
    return ops.where(ops.isnan(loss), float("inf"), loss), promised


def _forward_loss(
    model: keras.Model,
    compute_loss: Callable[..., Tensor],
    data: Any,
    arguments: dict[str, Any],
    weights: Sequence[Tensor],
    others: Sequence[Tensor],
    metrics: Sequence[Tensor],
) -> Tensor:
    x = arguments.get("x")
    if x is None:
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
    y_pred, others, losses = _call_again(model, x, weights, others)
    # What comes after (a loss that calls the model again, or draws) finds seeds
    # and statistics as this pass leaves them.
    mapping = list(zip(model.trainable_variables, weights, strict=True))
    mapping += list(zip(model.non_trainable_variables, others, strict=True))
    # On JAX the variables are empty while the step runs, those of the metrics
    # that a loss may update too.
    mapping += list(zip(model.metrics_variables, metrics, strict=False))
    # `add_loss` and regularizers: the protocol of Keras's own JAX trainer.
    model._losses_override.clear()
    if losses:
        model._losses_override = losses
    try:
        with keras.StatelessScope(state_mapping=mapping):
            loss = compute_loss(**{**arguments, "y_pred": y_pred})
    finally:
        model._losses_override.clear()
    return backend.loss_scalar(loss)


def _call_again(
    model: keras.Model,
    x: Any,
    weights: Sequence[Tensor],
    others: Sequence[Tensor],
) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The model's call, as the backend's own trainer makes it.

    Those of TensorFlow and PyTorch call the model, from which its layers learn
    that they are being trained; that of JAX goes past this.

    Returns:
        Tuple of the predictions, the values that non-trainable variables have
        after it, and the losses that were added within.
    """
    kwargs = {"training": True} if model._call_has_training_arg else {}
    if backend.name() == "jax":
        return model.stateless_call(
            list(weights), list(others), x, return_losses=True, **kwargs
        )
    variables = model.non_trainable_variables
    mapping = list(zip(model.trainable_variables, weights, strict=True))
    mapping += list(zip(variables, others, strict=True))
    with keras.StatelessScope(
        state_mapping=mapping, collect_losses=True
    ) as scope:
        y_pred = model(x, **kwargs)
        losses = model.losses
    return y_pred, [scope.get_current_value(v) for v in variables], losses
