"""One whole run as one pure function: of a controller, or of a schedule.

The signals, the decision, the guard and the safe start are the product's own
functions; here is only what `fit` does around them. Decision by decision it is
the product's run until the guard goes back, and no further: here the weights of
before are there in the step that decides it, and the run settles for
`guard.COOLDOWN_DECISIONS`. In a `fit` they come up to
`guard.decisions_until_restored` decisions later, by which it settles longer,
and they are of another moment (`SNAPSHOT_DECISIONS`).
"""

import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from keras_metalr import safe_start
from keras_metalr.decision import INITIAL
from keras_metalr.decision import Clock
from keras_metalr.decision import LastBatch
from keras_metalr.decision import Settings
from keras_metalr.decision import bounded
from keras_metalr.decision import count_step
from keras_metalr.decision import decide
from keras_metalr.features import record_validation
from keras_metalr.guard import TROUBLES
from keras_metalr.meta_training import optimizers
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.families import Family
from keras_metalr.meta_training.optimizers import Slots
from keras_metalr.meta_training.tasks import Task
from keras_metalr.meta_training.tasks import batch_loss
from keras_metalr.meta_training.tasks import bounded_loss
from keras_metalr.meta_training.tasks import draw_batch
from keras_metalr.meta_training.tasks import template
from keras_metalr.meta_training.tasks import validation_loss
from keras_metalr.signals import CoordinateSample
from keras_metalr.signals import squared_norm
from keras_metalr.signals import step_signals
from keras_metalr.signals import weight_norm
from keras_metalr.update_rule import increment

# Decisions from one copy of the weights to the next; a copy is gone back to
# once the next one has been taken. In the product it is 20, and confirmed after
# 10: 15 is between the two.
SNAPSHOT_DECISIONS = 15
# Validations in a run, for the tasks that have them.
NUM_VALIDATIONS = 20


class Result(NamedTuple):
    """How a run ended, scalars; and its trace, `(num_decisions, columns)`."""

    initial_loss: jnp.ndarray
    final_loss: jnp.ndarray
    mean_loss: jnp.ndarray
    trace: jnp.ndarray


class _Run(NamedTuple):
    weights: jnp.ndarray
    slots: Slots
    last_update: jnp.ndarray
    scalars: dict[str, jnp.ndarray]
    loss_sum: jnp.ndarray


class _Last(NamedTuple):
    """What a decision needs of the step before it."""

    batch: tuple
    gradient: jnp.ndarray
    before: jnp.ndarray


class Unroll:
    """Runs of one family at one horizon.

    Args:
        family: `Family`.
        data: `Data`.
        num_decisions: Integer (>= 1), decisions in a run.
        interval: Integer (>= 1), steps from one to the next.
        settings: `Settings`. Defaults to the product's own. Without the guard
            nothing goes back, but what is not finite still moves nothing.
        first_rate: Float (> 0), the user's own rate, which only counts without
            the safe start. Defaults to `1e-3`.
        rule: Callable, see `decision.decide`. Defaults to the product's own.
    """

    def __init__(
        self,
        family: Family,
        data: Data,
        num_decisions: int,
        interval: int,
        settings: Settings = Settings(),  # noqa: B008 - it never changes
        first_rate: float = 1e-3,
        rule: Callable = increment,
    ) -> None:
        self.family = family
        self.data = data
        self.num_decisions = num_decisions
        self.interval = interval
        self.settings = settings
        self.first_rate = first_rate
        self.rule = rule
        self.num_weights, self._unravel = template(family)
        parts = jax.tree.leaves(self._unravel(jnp.zeros(self.num_weights)))
        # All of them, in the order that they have in a vector of weights.
        self._sample = CoordinateSample(
            [part.shape for part in parts], size=self.num_weights
        )
        self.epoch_decisions = max(1, num_decisions // NUM_VALIDATIONS)

    @property
    def num_steps(self) -> int:
        """Steps in a run."""
        return self.num_decisions * self.interval

    def epoch_steps(self, task: Task) -> jnp.ndarray:
        """Steps to one pass over the data, scalar (>= 1)."""
        return jnp.maximum(task.num_examples / task.batch_size, 1.0)

    def loss(self, task: Task, weights: jnp.ndarray, batch: tuple) -> Any:
        """The loss of a batch at some weights `(n,)`, scalar."""
        return batch_loss(self.family, task, self._unravel(weights), *batch)

    def validate(self, task: Task, weights: jnp.ndarray) -> jnp.ndarray:
        """The loss on the validation data, scalar."""
        return validation_loss(
            self.family, self.data, task, self._unravel(weights)
        )

    def batch(self, task: Task, index: jnp.ndarray) -> tuple:
        """The batch of a step: the same for all runs of a task."""
        key = jax.random.fold_in(jax.random.key(task.seed), 1)
        return draw_batch(self.data, task, jax.random.fold_in(key, index))

    def controlled(
        self, controller: Callable[[jnp.ndarray], jnp.ndarray], task: Task
    ) -> Result:
        """A run that a controller drives.

        Args:
            controller: Callable from features `(NUM_FEATURES,)` to a scalar.
            task: `Task`, a single one.
        """
        run = self._begin(task)
        copies = 2 * ((run.weights, run.slots),)

        def decision(carry: Any, number: jnp.ndarray) -> tuple[Any, Any]:
            run, copies = carry
            first = number * self.interval
            quiet = jnp.arange(self.interval - 1)
            if self.interval > 1:
                run, _ = jax.lax.scan(
                    lambda r, i: (self._step(task, r, first + i)[0], None),
                    run,
                    quiet,
                )
            run, last = self._step(task, run, first + self.interval - 1)
            rollbacks = run.scalars["rollbacks"]
            run, row = self._decide(controller, task, run, last, number)
            back = run.scalars["rollbacks"] > rollbacks
            run, copies = _go_back(run, copies, back, number)
            return (run, copies), row

        def epoch(carry: Any, number: jnp.ndarray) -> tuple[Any, Any]:
            first = number * self.epoch_decisions
            (run, copies), rows = jax.lax.scan(
                decision, carry, first + jnp.arange(self.epoch_decisions)
            )
            return (self._note_validation(task, run, number), copies), rows

        num_epochs, rest = divmod(self.num_decisions, self.epoch_decisions)
        carry, rows = jax.lax.scan(epoch, (run, copies), jnp.arange(num_epochs))
        left = jnp.arange(self.num_decisions - rest, self.num_decisions)
        (run, _), last_rows = jax.lax.scan(decision, carry, left)
        rows = rows.reshape(-1, rows.shape[-1])
        return Result(
            self.validate(task, task.start),
            self.validate(task, run.weights),
            run.loss_sum / self.num_steps,
            jnp.concatenate([rows, last_rows]),
        )

    def _begin(self, task: Task) -> _Run:
        settings = self.settings
        told: dict[str, Any] = {
            "ramping": float(settings.safe_start),
            "output_shift": settings.output_shift,
            "pretrained": task.pretrained,
        }
        if settings.pretrained is not None:
            told["pretrained"] = float(settings.pretrained)
        scalars = {
            key: jnp.asarray(value, "float32")
            for key, value in {**INITIAL, **told}.items()
        }
        slots = optimizers.empty_slots(task.start)
        nothing = jnp.zeros_like(task.start)
        return _Run(task.start, slots, nothing, scalars, jnp.zeros(()))

    def _note_validation(
        self, task: Task, run: _Run, number: jnp.ndarray
    ) -> _Run:
        """After some epochs of some tasks, as `validation_freq` has it."""
        every = jnp.maximum(task.validation_every, 1)
        told = (task.validation_every > 0) & ((number + 1) % every == 0)
        loss = self.validate(task, run.weights)
        noted = record_validation(run.scalars, loss)
        scalars = {
            key: jnp.where(told, value, run.scalars[key])
            for key, value in noted.items()
        }
        return run._replace(scalars=scalars)

    def _step(
        self, task: Task, run: _Run, index: jnp.ndarray
    ) -> tuple[_Run, _Last]:
        batch = self.batch(task, index)
        loss, gradient = jax.value_and_grad(
            lambda w: self.loss(task, w, batch)
        )(run.weights)
        gradient_norm = jnp.sqrt(squared_norm([gradient]))
        finite = jnp.isfinite(gradient_norm) & jnp.isfinite(loss)
        scalars = run.scalars
        if self.settings.safe_start:
            scalars = safe_start.begin(
                scalars,
                weight_norm(run.weights, self.num_weights),
                gradient_norm,
                jnp.asarray(math.log(self.first_rate)),
                self.num_weights,
            )
        multiplier = bounded(
            scalars["log_multiplier"],
            jnp.asarray(math.log(self.first_rate)),
            self.settings,
        )
        scalars = {**scalars, "log_multiplier": multiplier}
        rate = self.first_rate * jnp.exp(multiplier)
        weights, slots = optimizers.update(
            run.weights,
            jnp.where(finite, gradient, 0.0),
            run.slots,
            rate,
            task.optimizer,
        )
        measured = step_signals(
            gradient,
            run.weights,
            weights,
            task.start,
            run.last_update,
            self.num_weights,
        )
        measured |= {
            "loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": rate,
        }
        good = finite.astype("float32")
        told = (gradient_norm > 0.0).astype("float32")
        scalars = count_step(scalars, measured, good, told, 1.0 - good)
        moved = good * told
        if self.settings.safe_start:
            scalars = safe_start.advance(scalars, measured, moved)
        update = jnp.where(moved > 0.5, weights - run.weights, run.last_update)
        loss = bounded_loss(task, loss, finite)
        new = _Run(weights, slots, update, scalars, run.loss_sum + loss)
        return new, _Last(batch, gradient, run.weights)

    def _decide(
        self,
        controller: Callable[[jnp.ndarray], jnp.ndarray],
        task: Task,
        run: _Run,
        last: _Last,
        number: jnp.ndarray,
    ) -> tuple[_Run, jnp.ndarray]:
        loss = self.loss(task, run.weights, last.batch)
        promised = -jnp.sum(last.gradient * (run.weights - last.before))
        clock = Clock(
            ((number + 1) * self.interval).astype("float32"),
            jnp.asarray(self.num_steps, "float32"),
            jnp.asarray(self.interval, "float32"),
            self.epoch_steps(task),
        )
        told = LastBatch(
            jnp.where(jnp.isnan(loss), jnp.inf, loss),
            promised,
            task.batch_size.astype("float32"),
            self._sample.sparsity(last.gradient),
        )
        scalars, row = decide(
            run.scalars, told, clock, controller, self.settings, rule=self.rule
        )
        return run._replace(scalars=scalars), row


def _go_back(
    run: _Run, copies: Any, back: jnp.ndarray, number: jnp.ndarray
) -> tuple[_Run, Any]:
    """Restore the good copy where asked to; take copies now and then."""
    good, candidate = copies

    def choose(condition: jnp.ndarray, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

    weights, slots = choose(back, good, (run.weights, run.slots))
    scalars = run.scalars
    healthy = sum(scalars[name] for name in TROUBLES) == 0.0
    due = (number % SNAPSHOT_DECISIONS == 0) & healthy & ~back
    good = choose(due, candidate, good)
    candidate = choose(due | back, (weights, slots), candidate)
    return run._replace(weights=weights, slots=slots), (good, candidate)
