"""What a run tells its user: warnings, and a line at the end."""

import warnings

import numpy as np

from keras_metalr.trace import Trace

# How much of the promised drop may come in the first steps, which are short
# (0.95 to 1.0 in the healthy runs that were looked at), and how many decisions
# are looked at.
LIKELY_RATIOS = (0.3, 1.7)
FIRST_DECISIONS = 4

# Warnings name the line that called the hook of the callback.
_STACK_LEVEL = 3


def warn_of_events(skipped_steps: int, rollbacks: int) -> None:
    """What the guard did.

    Args:
        skipped_steps: Integer, steps that were not finite.
        rollbacks: Integer, how often earlier weights came back.
    """
    warnings.warn(
        f"MetaLR skipped {skipped_steps} step(s) whose loss or gradient was "
        f"not finite and went back to earlier weights {rollbacks} "
        "time(s). The `event` column of `MetaLR.trace` says when.",
        stacklevel=_STACK_LEVEL,
    )


def warn_of_no_decision(steps_done: int, total_steps: int) -> None:
    """The run ended before its first decision.

    Args:
        steps_done: Integer, steps that were taken.
        total_steps: Integer, steps that were to come.
    """
    warnings.warn(
        f"MetaLR made no decision: the run ended after {steps_done:,} of "
        f"{total_steps:,} steps, and had yet to reach the first. Where "
        "`epochs` is no more than a limit, pass `MetaLR(total_steps=...)`, "
        "the steps that you expect.",
        stacklevel=_STACK_LEVEL,
    )


def warn_of_promises(trace: Trace) -> None:
    """What is run again cannot be what was differentiated, if it is so.

    Args:
        trace: `Trace` of a run with a safe start and at least
            `FIRST_DECISIONS` decisions: its first steps are short.
    """
    ratios = trace["trust_ratio"][:FIRST_DECISIONS]
    low, high = LIKELY_RATIOS
    if not np.all((ratios < low) | (ratios > high)):
        return
    warnings.warn(
        "The loss of a batch after its update is not what the gradient "
        f"had promised: {np.round(ratios, 2)} of the promised drop "
        "came, where about 1 is expected of steps as short as the "
        "first. MetaLR runs the model and `compute_loss` again to see "
        "that. What they draw at random must come by a "
        "`keras.random.SeedGenerator` that is an attribute of a layer. "
        "In a `train_step` of your own, what is differentiated must be "
        "what `self.compute_loss(x=x, y=y, y_pred=...)` returned, `x` "
        "being what the model was called on, and the gradients must go "
        "to the optimizer as they are: clip them by its `clipnorm` or "
        "`global_clipnorm`.",
        stacklevel=_STACK_LEVEL,
    )


def summary(trace: Trace) -> str:
    """What the rate did, in a line.

    Args:
        trace: `Trace` of at least one decision.
    """
    rate = trace["learning_rate"]
    return (
        f"MetaLR: {len(trace)} decisions, learning rate {rate[0]:.3g} at "
        f"first, {rate.max():.3g} at most, {rate[-1]:.3g} at last."
    )
