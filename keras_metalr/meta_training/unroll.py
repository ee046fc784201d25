"""One whole run as one pure function: of a controller, or of a schedule.

The signals, the decision, the guard and the safe start are the product's own
functions; here is only what `fit` does around them.
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
from keras_metalr.decision import Settings
from keras_metalr.decision import count_step
from keras_metalr.decision import decide
from keras_metalr.meta_training import optimizers
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.families import Family
from keras_metalr.meta_training.optimizers import Slots
from keras_metalr.meta_training.tasks import Task
from keras_metalr.meta_training.tasks import batch_loss
from keras_metalr.meta_training.tasks import draw_batch
from keras_metalr.meta_training.tasks import template
from keras_metalr.meta_training.tasks import validation_loss
from keras_metalr.signals import norm
from keras_metalr.signals import squared_norm
from keras_metalr.signals import step_signals
from keras_metalr.update_rule import bound

# Decisions from one copy of the weights to the next; a copy is gone back to
# once the next one has been taken.
SNAPSHOT_DECISIONS = 15
WARMUP_SHARE = 0.05
SCHEDULES = ("constant", "cosine", "linear")


class Result(NamedTuple):
    """How a run ended: scalars, and the log rate at each decision."""

    initial_loss: jnp.ndarray
    final_loss: jnp.ndarray
    mean_loss: jnp.ndarray
    log_rates: jnp.ndarray


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
        settings: `Settings`. Defaults to the product's own.
    """

    def __init__(
        self,
        family: Family,
        data: Data,
        num_decisions: int,
        interval: int,
        settings: Settings = Settings(),  # noqa: B008 - it never changes
    ) -> None:
        self.family = family
        self.data = data
        self.num_decisions = num_decisions
        self.interval = interval
        self.settings = settings
        self.num_weights, self._unravel = template(family)

    @property
    def num_steps(self) -> int:
        """Steps in a run."""
        return self.num_decisions * self.interval

    def _loss(self, task: Task, weights: jnp.ndarray, batch: tuple) -> Any:
        return batch_loss(self.family, task, self._unravel(weights), *batch)

    def _validate(self, task: Task, weights: jnp.ndarray) -> jnp.ndarray:
        return validation_loss(
            self.family, self.data, task, self._unravel(weights)
        )

    def _batch(self, task: Task, index: jnp.ndarray) -> tuple:
        key = jax.random.fold_in(jax.random.key(task.seed), 1)
        return draw_batch(self.data, task, jax.random.fold_in(key, index))

    # -- With a controller. -------------------------------------------------

    def controlled(
        self, controller: Callable[[jnp.ndarray], jnp.ndarray], task: Task
    ) -> Result:
        """A run that a controller drives.

        Args:
            controller: Callable from features `(NUM_FEATURES,)` to a scalar.
            task: `Task`, a single one.
        """
        weights = task.start
        scalars = {k: jnp.asarray(v, "float32") for k, v in INITIAL.items()}
        slots = optimizers.empty_slots(weights)
        run = _Run(
            weights, slots, jnp.zeros_like(weights), scalars, jnp.zeros(())
        )
        copies = ((weights, slots), (weights, slots))

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
            run = self._decide(controller, task, run, last, number)
            back = run.scalars["rollbacks"] > rollbacks
            run, copies = _go_back(run, copies, back, number)
            return (run, copies), jnp.log(run.scalars["learning_rate"])

        (run, _), log_rates = jax.lax.scan(
            decision, (run, copies), jnp.arange(self.num_decisions)
        )
        return Result(
            self._validate(task, task.start),
            self._validate(task, run.weights),
            run.loss_sum / self.num_steps,
            log_rates,
        )

    def _step(
        self, task: Task, run: _Run, index: jnp.ndarray
    ) -> tuple[_Run, _Last]:
        batch = self._batch(task, index)
        loss, gradient = jax.value_and_grad(
            lambda w: self._loss(task, w, batch)
        )(run.weights)
        gradient_norm = jnp.sqrt(squared_norm([gradient]))
        finite = jnp.isfinite(gradient_norm) & jnp.isfinite(loss)
        # The user's own rate is 1 here: the safe start forgets it.
        scalars = safe_start.begin(
            run.scalars,
            index == 0,
            norm(run.weights),
            gradient_norm,
            jnp.zeros(()),
            self.num_weights,
        )
        multiplier = self._bounded(scalars["log_multiplier"])
        scalars = {**scalars, "log_multiplier": multiplier}
        rate = jnp.exp(multiplier)
        weights, slots = optimizers.update(
            run.weights,
            jnp.where(finite, gradient, 0.0),
            run.slots,
            rate,
            task.optimizer,
        )
        measured = step_signals(
            gradient, run.weights, weights, task.start, run.last_update
        )
        measured |= {
            "loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": rate,
        }
        good = finite.astype("float32")
        scalars = count_step(scalars, measured, good, jnp.ones(()), 1.0 - good)
        scalars = safe_start.advance(scalars, measured, good, self.num_weights)
        update = jnp.where(finite, weights - run.weights, run.last_update)
        # A run that has lost its mind must not be worth infinitely little.
        worst = 10.0 * task.loss_scale
        loss = jnp.where(finite, jnp.minimum(loss, worst), worst)
        new = _Run(weights, slots, update, scalars, run.loss_sum + loss)
        return new, _Last(batch, gradient, run.weights)

    def _decide(
        self,
        controller: Callable[[jnp.ndarray], jnp.ndarray],
        task: Task,
        run: _Run,
        last: _Last,
        number: jnp.ndarray,
    ) -> _Run:
        loss = self._loss(task, run.weights, last.batch)
        promised = -jnp.sum(last.gradient * (run.weights - last.before))
        clock = Clock(
            ((number + 1) * self.interval).astype("float32"),
            jnp.asarray(self.num_steps, "float32"),
            jnp.asarray(self.interval, "float32"),
        )
        scalars, _ = decide(
            run.scalars,
            jnp.where(jnp.isnan(loss), jnp.inf, loss),
            promised,
            clock,
            controller,
            self.settings,
        )
        return run._replace(scalars=scalars)

    def _bounded(self, log_multiplier: jnp.ndarray) -> jnp.ndarray:
        return bound(
            log_multiplier,
            jnp.zeros(()),
            math.log(self.settings.min_learning_rate),
            math.log(self.settings.max_learning_rate),
        )

    # -- With a schedule. ---------------------------------------------------

    def scheduled(
        self, rate: jnp.ndarray, schedule: jnp.ndarray, task: Task
    ) -> Result:
        """A run with a peak rate and a schedule, as it would be tuned by hand.

        Args:
            rate: Scalar, the peak rate.
            schedule: Scalar integer, index into `SCHEDULES`: constant; 5 %
                warmup and then a cosine, or a line, to 0.
            task: `Task`, a single one.
        """
        start = (task.start, optimizers.empty_slots(task.start), jnp.zeros(()))
        num_steps = self.num_steps
        warmup = max(1.0, WARMUP_SHARE * num_steps)
        worst = 10.0 * task.loss_scale

        def step(carry: Any, index: jnp.ndarray) -> tuple[Any, None]:
            weights, slots, loss_sum = carry
            batch = self._batch(task, index)
            loss, gradient = jax.value_and_grad(
                lambda w: self._loss(task, w, batch)
            )(weights)
            over = jnp.maximum(index - warmup, 0.0) / (num_steps - warmup)
            shapes = jnp.stack(
                [jnp.ones(()), 0.5 + 0.5 * jnp.cos(jnp.pi * over), 1.0 - over]
            )
            grown = jnp.minimum((index + 1) / warmup, 1.0)
            grown = jnp.where(schedule == 0, 1.0, grown)
            weights, slots = optimizers.update(
                weights,
                gradient,
                slots,
                rate * grown * shapes[schedule],
                task.optimizer,
            )
            loss = jnp.where(
                jnp.isfinite(loss), jnp.minimum(loss, worst), worst
            )
            return (weights, slots, loss_sum + loss), None

        (weights, _, loss_sum), _ = jax.lax.scan(
            step, start, jnp.arange(num_steps)
        )
        return Result(
            self._validate(task, task.start),
            self._validate(task, weights),
            loss_sum / num_steps,
            jnp.zeros((0,)),
        )


def _go_back(
    run: _Run, copies: Any, back: jnp.ndarray, number: jnp.ndarray
) -> tuple[_Run, Any]:
    """Restore the good copy where asked to; take copies now and then."""
    good, candidate = copies

    def choose(condition: jnp.ndarray, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

    weights, slots = choose(back, good, (run.weights, run.slots))
    scalars = run.scalars
    healthy = (
        (scalars["high_decisions"] == 0.0)
        & (scalars["cooldown"] == 0.0)
        & (scalars["consecutive_bad"] == 0.0)
    )
    due = (number % SNAPSHOT_DECISIONS == 0) & healthy & ~back
    good = choose(due, candidate, good)
    candidate = choose(due | back, (weights, slots), candidate)
    return run._replace(weights=weights, slots=slots), (good, candidate)
