"""Slow NumPy references, written from the formulas and not from the code.

Everything is computed in float64 from whole histories: no running sums, no
sample of coordinates, nothing that is carried from one step to the next.
"""

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_metalr.signals import CoordinateSample


@dataclass(frozen=True)
class Step:
    """One step of a training, as flat float64 arrays over all weights."""

    weights_before: np.ndarray
    weights_after: np.ndarray
    gradient: np.ndarray
    learning_rate: float
    loss_before: float
    loss_after: float

    @property
    def update(self) -> np.ndarray:
        """What was added to the weights."""
        return self.weights_after - self.weights_before


# -- Training, one step at a time. ------------------------------------------


def train(model: keras.Model, batches: Sequence[tuple]) -> list[Step]:
    """Train a compiled model by hand, outside `fit`.

    Args:
        model: The compiled, built `keras.Model`.
        batches: Sequence of tuples of arrays `(x, y)` or
            `(x, y, sample_weight)`, one a step.
    """
    loss_and_gradients = _loss_and_gradients(model)
    return [_train_step(model, batch, loss_and_gradients) for batch in batches]


def _train_step(
    model: keras.Model, batch: tuple, loss_and_gradients: Callable
) -> Step:
    arrays = [keras.ops.convert_to_tensor(array) for array in batch]
    before, random_state = _flat(model.trainable_variables), _random(model)
    loss, gradients = loss_and_gradients(arrays)
    flat_gradient = _flat(gradients)
    model.optimizer.apply(gradients, model.trainable_variables)
    # The same batch again, with the same dropout masks; then as if that had
    # never been done.
    kept = [np.array(v) for v in _values(model.non_trainable_variables)]
    after_step = _random(model)
    _set_random(model, random_state)
    loss_after, _ = loss_and_gradients(arrays)
    for variable, value in zip(
        model.non_trainable_variables, kept, strict=True
    ):
        variable.assign(value)
    _set_random(model, after_step)
    return Step(
        weights_before=before,
        weights_after=_flat(model.trainable_variables),
        gradient=flat_gradient,
        learning_rate=float(_value(model.optimizer.learning_rate)),
        loss_before=loss,
        loss_after=loss_after,
    )


def _loss_and_gradients(model: keras.Model) -> Callable:
    """Function from a batch to `(loss, gradients)`, in training mode."""
    variables = model.trainable_variables

    def tensorflow(arrays: Sequence[Any]) -> tuple[float, list]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = _loss(model, arrays)
        return float(loss), tape.gradient(loss, [v.value for v in variables])

    def torch(arrays: Sequence[Any]) -> tuple[float, list]:
        model.zero_grad()
        loss = _loss(model, arrays)
        loss.backward()
        return float(_value(loss)), [v.value.grad for v in variables]

    functions = {"tensorflow": tensorflow, "torch": torch}
    backend = keras.backend.backend()
    return functions[backend] if backend in functions else _jax(model)


def _jax(model: keras.Model) -> Callable:
    import jax

    variables, others = model.trainable_variables, model.non_trainable_variables

    def loss_and_state(values: list, state: list, arrays: list) -> tuple:
        mapping = [
            *zip(variables, values, strict=True),
            *zip(others, state, strict=True),
        ]
        with keras.StatelessScope(
            state_mapping=mapping, collect_losses=True
        ) as scope:
            loss = _loss(model, arrays)
        return loss, [scope.get_current_value(v) for v in others]

    # One operation at a time, JAX compiles each of them.
    compiled = jax.jit(jax.value_and_grad(loss_and_state, has_aux=True))

    def loss_and_gradients(arrays: Sequence[Any]) -> tuple[float, list]:
        (loss, state), gradients = compiled(
            [v.value for v in variables], [v.value for v in others], arrays
        )
        for variable, value in zip(others, state, strict=True):
            variable.assign(value)
        return float(loss), gradients

    return loss_and_gradients


def _loss(model: keras.Model, arrays: Sequence[Any]) -> Any:
    x, y, *sample_weight = arrays
    return model.compute_loss(
        x=x,
        y=y,
        y_pred=model(x, training=True),
        sample_weight=sample_weight[0] if sample_weight else None,
        training=True,
    )


def _random(model: keras.Model) -> tuple[list, Any]:
    """All that the next random number depends on."""
    seeds = [v for v in model.non_trainable_variables if "int" in v.dtype]
    generator = None
    if keras.backend.backend() == "torch":
        import torch

        generator = torch.get_rng_state()
    return [np.array(v) for v in _values(seeds)], generator


def _set_random(model: keras.Model, state: tuple[list, Any]) -> None:
    seeds = [v for v in model.non_trainable_variables if "int" in v.dtype]
    for variable, value in zip(seeds, state[0], strict=True):
        variable.assign(value)
    if state[1] is not None:
        import torch

        torch.set_rng_state(state[1])


def _value(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [_value(variable) for variable in variables]


def _flat(tensors: Sequence[Any]) -> np.ndarray:
    return np.concatenate(
        [value.astype("float64").ravel() for value in _values(tensors)]
    )


def linear_regression(
    weights: np.ndarray,
    batches: Sequence[tuple],
    learning_rate: float,
    momentum: float,
) -> list[Step]:
    """Linear regression with a bias, mean squared error, SGD with momentum.

    Args:
        weights: Array `(num_inputs + 1,)`, the last one being the bias.
        batches: Sequence of tuples of arrays `(x, y)`, one a step.
        learning_rate: Float.
        momentum: Float.
    """
    weights = np.asarray(weights, "float64")
    velocity, steps = np.zeros_like(weights), []
    for x, y in batches:
        inputs = np.column_stack([x, np.ones(len(x))]).astype("float64")
        error = inputs @ weights - y[:, 0]
        gradient = 2.0 * inputs.T @ error / len(x)
        velocity = momentum * velocity - learning_rate * gradient
        after = weights + velocity
        steps.append(
            Step(
                weights_before=weights,
                weights_after=after,
                gradient=gradient,
                learning_rate=learning_rate,
                loss_before=np.mean(error**2),
                loss_after=np.mean((inputs @ after - y[:, 0]) ** 2),
            )
        )
        weights = after
    return steps


# -- Signals. ---------------------------------------------------------------


def signals(steps: Sequence[Step]) -> dict[str, np.ndarray]:
    """What a run measures at each step: name -> array `(num_steps,)`."""
    start = steps[0].weights_before
    rows = []
    for step, last in zip(steps, [None, *steps[:-1]], strict=True):
        promised = -float(step.gradient @ step.update)
        ratio = np.clip((step.loss_before - step.loss_after) / promised, -2, 2)
        rows.append(
            {
                "loss": step.loss_before,
                "loss_after": step.loss_after,
                "learning_rate": step.learning_rate,
                "gradient_norm": np.linalg.norm(step.gradient),
                "update_norm": np.linalg.norm(step.update),
                "weight_norm": np.linalg.norm(step.weights_after),
                "distance": np.linalg.norm(step.weights_after - start),
                "cosine": 0.0
                if last is None
                else _cosine(-step.gradient, last.update),
                "promised_drop": promised,
                # Uphill, or a drop that float32 cannot tell from none.
                "trust_ratio": ratio
                if promised > 1.2e-5 * abs(step.loss_before)
                else np.nan,
            }
        )
    return {
        name: np.array([row[name] for row in rows], "float64")
        for name in rows[0]
    }


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


# -- Features, from the table in the design. --------------------------------


def ema(values: Sequence[float], decay: float) -> float:
    """Exponential mean of a history that starts at its first value."""
    values = np.asarray(values, "float64")
    weights = (1.0 - decay) * decay ** np.arange(len(values) - 1.0, -1.0, -1.0)
    weights[0] = decay ** (len(values) - 1)
    return float(weights @ values)


def features(
    measured: dict[str, np.ndarray],
    interval: int,
    total_steps: int,
    validations: Sequence[tuple[int, float]] = (),
    pretrained: float = 0.0,
) -> np.ndarray:
    """The features at each decision of a run, unclipped.

    Args:
        measured: Dict of arrays `(num_steps,)`, as `signals` returns it.
        interval: Integer, steps from one decision to the next.
        total_steps: Integer, steps in the whole run.
        validations: Sequence of tuples `(steps taken, loss)`, what was found on
            validation data. Defaults to `()`.
        pretrained: Float, 1 for pretrained weights. Defaults to 0.

    Returns:
        Array of shape `(num_decisions, 22)`, float64, in the table's order.
    """
    num_decisions = len(measured["loss"]) // interval
    return np.array(
        [
            _features_at(
                measured, interval, total_steps, n, validations, pretrained
            )
            for n in range(1, num_decisions + 1)
        ]
    )


def _trust(step: dict[str, np.ndarray], first_loss: float) -> float:
    """From a run's steps with a decision, every one as if at the last rate."""
    promised = step["promised_drop"]
    size = np.abs(promised)
    lost = promised - (step["loss"] - step["loss_after"])
    lost = np.clip(lost, -size, 3.0 * size)
    # None that float32 cannot tell from 0, and none beyond the first loss.
    measured = size > 1.2e-5 * np.abs(step["loss"])
    weights = 0.2 * 0.8 ** np.arange(len(size) - 1.0, -1.0, -1.0) * measured
    capped = first_loss / np.maximum(size, first_loss)
    # Promises are in proportion to the rate, shortfalls to its square; both are
    # given here at the square.
    rate = step["learning_rate"]
    promised = promised * rate
    for n in range(1, len(size)):
        # Spikes count for ten times what was usual up to them.
        before = 0.8 ** np.arange(n - 1.0, -1.0, -1.0)
        usual = before * measured[:n] * capped[:n] @ promised[:n] / before.sum()
        if 0.0 < 10.0 * usual < capped[n] * promised[n]:
            capped[n] = 10.0 * usual / promised[n]
    weights *= capped
    promised = weights @ promised / rate[-1]
    return 1.0 - weights @ lost / (max(promised, 0.0) + 1e-3 * first_loss)


def _features_at(
    measured: dict[str, np.ndarray],
    interval: int,
    total_steps: int,
    n: int,
    validations: Sequence[tuple[int, float]],
    pretrained: float,
) -> list[float]:
    upto = n * interval
    step = {name: values[:upto] for name, values in measured.items()}
    means = {
        name: values.reshape(n, interval).mean(axis=1)
        for name, values in {
            "loss": step["loss"],
            "cosine": step["cosine"],
            "log_gradient": np.log(step["gradient_norm"]),
            "log_update": np.log(step["update_norm"] / step["weight_norm"]),
        }.items()
    }
    log_rates = np.log(step["learning_rate"][interval - 1 :: interval])
    loss = means["loss"]
    fast, slow = ema(loss, 0.8), ema(loss, 0.96)
    progress = upto / total_steps
    directions = step["update_norm"] / step["learning_rate"]
    coherence = (
        step["distance"].max()
        / np.sqrt(np.sum(directions**2))
        / step["learning_rate"][-1]
    )
    decided = {k: v[interval - 1 :: interval] for k, v in step.items()}
    trust = _trust(decided, loss[0])
    deviation = _deviation(loss)
    return [
        progress - 0.5,
        0.5 * np.log(1.0 - progress + 0.01),
        5.0 * np.log(fast / slow),
        0.5 * np.log(slow / loss[0]),
        (slow - fast) / deviation if deviation else 0.0,
        ema(means["cosine"], 0.7),
        3.0 * ema(means["cosine"], 0.95),
        ema(means["log_gradient"], 0.8) - ema(means["log_gradient"], 0.96),
        0.5 * np.log(coherence),
        (means["log_update"][-1] + 7.0) / 4.0,
        log_rates[-1] - ema(log_rates, 0.96),
        0.5 * (log_rates[-1] - log_rates.max()),
        np.log(loss[-1] / slow),
        np.log(n) / 3.0 - 1.0,
        np.log(np.ceil(total_steps / interval) / 100.0),
        min(step["distance"][-1] / step["weight_norm"][-1] - 0.5, 0.2),
        (np.log(np.clip(1.0 - trust, 0.003, 2.0)) + 2.5) / 1.5,
        pretrained,
        # A validation comes after the decision of the step that it follows.
        *validation_features([v for s, v in validations if s < upto], slow),
    ]


def validation_features(losses: Sequence[float], slow: float) -> list[float]:
    """The last four features of the table, unclipped.

    Args:
        losses: Sequence of floats, all that was found on validation data.
        slow: Float, the slow mean of the training loss.
    """
    known = [loss for loss in losses if np.isfinite(loss)]
    if not known:
        return [0.0, 0.0, 0.0, 0.0]
    last = known[-1]
    return [
        1.0,
        5.0 * np.log(last / known[max(0, len(known) - 2)]),
        5.0 * np.log(last / min(known)),
        0.5 * np.log(last / slow),
    ]


def _deviation(loss: np.ndarray) -> float:
    """Mean distance of each loss from the slow mean of those before it."""
    if len(loss) == 1:
        return 0.0
    distances = [
        abs(loss[i] - ema(loss[:i], 0.96)) for i in range(1, len(loss))
    ]
    weights = 0.96 ** np.arange(len(distances) - 1.0, -1.0, -1.0)
    return float(weights @ distances / weights.sum())


# -- How far off a sample of the coordinates may be. -----------------------


def relative_error(sample: CoordinateSample, values: np.ndarray) -> float:
    """One standard error of a sampled norm, relative to it.

    Args:
        sample: `CoordinateSample`.
        values: Array of shape `(sample.size,)`, as it gathers them.

    Returns:
        Float (>= 0): the delta-method standard error of a stratified sample,
        estimated from the sample itself; 0 when it is exhaustive.
    """
    squares = np.square(np.asarray(values, "float64"))
    # How many coordinates each one stands for: the size of its block.
    scale = _value(sample._scale).astype("float64")
    stands_for = np.rint(np.square(scale))
    variance, start = 0.0, 0
    for count in sample._counts:
        part = slice(start, start + count)
        if count > 1:
            # The variance of one draw from each block of so many.
            block = stands_for[part]
            spread = (squares[part] / block).var(ddof=1)
            variance += spread * float(np.sum(block * (block - 1.0)))
        start += count
    total = float(np.sum(squares))
    return float(np.sqrt(variance) / (2.0 * total)) if total else 0.0
