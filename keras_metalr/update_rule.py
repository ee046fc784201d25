"""How the controller's output moves the learning rate. Pure functions.

The rate lives in log space and moves by bounded increments, once a decision:
`log rate += 0.5 tanh(output)`, less where the trust ratio is low and more where
steps are too short for certain. An output of 0 leaves the rate where it is, so
a controller that has learned nothing is plain training.
"""

import functools
import math
from typing import Any
from typing import NamedTuple

from keras_metalr import backend
from keras_metalr.features import UNKNOWN_GAP

ops = backend.native_ops()
Tensor = Any

# Records of runs name it, beside the controller: with another rule, the same
# controller makes another run. 2: new weights start at 30 times longer updates.
# 3: the distrust that a run may have falls to its end. 4: new weights are held
# at a trust of 0.5, not 0.3, but in runs of few decisions; and in those of more
# than 1,000 steps they keep some distrust, and pretrained ones grow slowly and
# fall as a cosine, which changes no shorter run. 5: the rate of a net that
# overfits falls, where validation data tell. 6: new weights' rate grows where
# nearly all that was promised has come, and sooner where nothing has been
# learned; a spike does not make up trust by itself, and `travel` has a limit,
# below which controllers read what they did. 7: new weights keep some distrust
# in runs of up to 1,900 steps, too, and more of it, but not word vectors. 8:
# they keep still more of it; and pretrained weights may have less the longer a
# run is, from 2,100 updates on.
RULE_VERSION = 8

NUM_DECISIONS = 200
MAX_INCREMENT = 0.5

# Trust at which the rate may not grow any more: for pretrained weights, which
# longer steps ruin, and for new ones, which have nothing to lose.
TRUST_FLOOR = 0.8
NEW_TRUST_FLOOR = 0.5
# That of new weights in a run that has no time for care; and the number of its
# decisions, from where there is time to where there is none.
HURRIED_TRUST_FLOOR = 0.3
HURRIED = (150.0, 100.0)

# The last part of the run, in which the distrust that it may have falls; and
# the share of it that is left at the end.
ANNEALED = 0.6
LEAST_LEFT = 0.01

# Where the rate has to grow, each sign from nothing to its full weight: mean
# cosines with distrusts; and shares of the first loss with distrusts, early in
# the run but not before there was time to learn something.
STRAIGHT = (0.4, 0.7)
KEPT = (0.1, 0.05)
NOTHING_LEARNED = (0.5, 0.7)
SURELY_KEPT = (0.02, 0.01)
SOME_TIME = (0.03, 0.08)
EARLY = (0.6, 0.4)
IDLE_INCREMENT = 0.2

# The distrust below which new weights' steps are too short in a run of any
# length, at its start; it falls as that of tuned schedules does (below). So
# much of trust must be measured, and so much of the run be over. Last, the most
# growth in one decision.
LEAST_DISTRUST = 0.05
MEASURED = (0.05, 0.15)
ON_ITS_WAY = (0.05, 0.1)
LEAST_INCREMENT = 0.2

# The distrust that tuned schedules have in long runs and in short ones: at
# their start, and the power of the share of the run that is left that it falls
# with. It is held by so much growth at the most, and not at the very end. Long
# is a run from so many updates a decision on. It is not held where a batch is
# so small that its own loss tells little of others, or where the validation
# loss is so far above the training loss (logs of their ratio) that the net
# overfits; in short runs, nor where it has risen by such a share of what was
# gained, nor where the data are passed over so many times, fewer where there is
# no validation loss, nor where so many of the weights are reached by few
# batches.
KEPT_DISTRUST = 0.15
KEPT_POWER = 1.5
KEPT_INCREMENT = 0.1
LONG = (5.0, 10.0)
SHORT_KEPT_DISTRUST = 0.4
SHORT_KEPT_INCREMENT = 0.2
OVER_SOON = (0.9, 0.7)
ENOUGH_EXAMPLES = (8.0, 32.0)
BY_HEART = (0.4, 0.1)
RISEN = (0.1, 0.02)
FEW_PASSES = (15.0, 10.0)
VERY_FEW_PASSES = (8.0, 5.0)
SPARSE = (0.2, 0.1)

# The most growth of pretrained weights' rate in such a run, once a decision;
# and the updates to a decision from which on they bear less distrust.
PRETRAINED_INCREMENT = 0.15
BORNE_UPDATES = 10.0

# A net overfits: the share of what was gained that the validation loss has
# risen by again, and the log of its best over the training loss. Without the
# second, one bad validation in the middle of a run, which batch normalization
# brings, would be taken for it. And the fall of the rate, once a decision.
LOST_AGAIN = (0.05, 0.2)
BELOW_BEST = (0.2, 0.4)
OVERFITTING_DECREMENT = 0.2

# Feedback within a run: how far the last bias moves for a cosine of
# 1, how much of that it forgets each decision, and its limit.
FEEDBACK_STEP = 0.05
FEEDBACK_DECAY = 0.02
FEEDBACK_LIMIT = 1.0

# Absolute limits of the rate, where the user sets none.
MIN_RATE = 1e-15
MAX_RATE = 1e12


def decision_interval(total_steps: int, accumulation_steps: int = 1) -> int:
    """Steps from one decision to the next.

    A run is about `NUM_DECISIONS` decisions, however long it is: the same
    controller that decides well every 10 of 2,000 steps lets the rate run away
    when it decides at every one of them.

    Args:
        total_steps: Integer (>= 1), steps (batches) in the run.
        accumulation_steps: Integer (>= 1), batches to one weight update.
            Defaults to `1`.

    Returns:
        Integer (>= 1).

    Example:

    >>> decision_interval(2000)
    10
    >>> decision_interval(50)
    1
    """
    updates = max(1, total_steps // accumulation_steps)
    return max(1, round(updates / NUM_DECISIONS)) * accumulation_steps


class Evidence(NamedTuple):
    """What a decision is held to, beside what the controller has to say.

    Args:
        trust: Scalar, see `features.trust`.
        cosine: Scalar in [-1, 1], running mean over some twenty decisions of
            the cosine of the negative gradient with the last update; 0 where
            nothing was promised.
        loss_share: Scalar, running mean of the loss over the size of the first
            loss; 0 where nothing was promised.
        progress: Scalar in [0, 1], the share of the run that is over.
        num_decisions: Scalar, decisions in the whole run.
        interval: Scalar, updates since the last decision.
        num_examples: Scalar, examples that an update is made of.
        num_passes: Scalar, passes over the data in the whole run.
        sparsity: Scalar in [0, 1], see `CoordinateSample.sparsity`.
        validation_gap: Scalar, see `features.validation_gap`; not known where
            nothing was promised.
        lost_again: Scalar, see `features.lost_again`.
        training_lead: Scalar, see `features.training_lead`.
        measured: Scalar in [0, 1], see `features.measured`.
        pretrained: Scalar, 1 for pretrained weights, 0 for new ones.
    """

    trust: Tensor
    cosine: Tensor
    loss_share: Tensor
    progress: Tensor
    num_decisions: Tensor
    interval: Tensor
    num_examples: Tensor
    num_passes: Tensor
    sparsity: Tensor
    validation_gap: Tensor
    lost_again: Tensor
    training_lead: Tensor
    measured: Tensor
    pretrained: Tensor


def increment(output: Tensor, evidence: Evidence) -> Tensor:
    """Change of the log rate, in [-0.5, 0.5].

    Trust caps it: where the loss no longer falls as the gradient promised, a
    longer step cannot be justified, and far from there the rate has to fall,
    whatever the controller has to say. On a quadratic, distrust (1 - trust) is
    proportional to the rate, so the rate may change by the factor that brings
    distrust to `most_distrust`. Within the cap `least` lifts what the
    controller wants, where steps are too short for certain; `most` limits both.

    An output of exactly 0 is "hands off": the rate stays, whatever the rest.

    Args:
        output: Scalar, the controller's output, any float.
        evidence: `Evidence`.

    Returns:
        Scalar float32; 0 for an output that is not a number.
    """
    output = ops.where(ops.isfinite(output), output, 0.0)
    wanted = MAX_INCREMENT * ops.tanh(output)
    distrust = ops.maximum(1.0 - evidence.trust, 1e-6)
    room = ops.log(most_distrust(evidence)) - ops.log(distrust)
    moved = ops.minimum(
        ops.maximum(wanted, least(evidence)),
        ops.clip(room, -MAX_INCREMENT, MAX_INCREMENT),
    )
    moved = ops.minimum(moved, most(evidence))
    return ops.where(ops.equal(output, 0.0), 0.0, moved)


def most_distrust(evidence: Evidence) -> Tensor:
    """The distrust (1 - trust) at which the rate may not grow any more.

    0.2 for pretrained weights and 0.5 for new ones, which is the trust of the
    step that is best for its own batch, where the loss is a parabola along the
    update; 0.7 for new ones in a run of up to 100 decisions. Over the last
    60 % of the run it falls to a hundredth of that, and the rate with it: tuned
    schedules end so, and a controller that has never seen such a network may
    not. For pretrained weights in a long run it falls as a cosine, from the
    first, and begins lower the longer the run is: steps that go astray by
    chance bring weights away from where they were by the root of their number,
    so that it is divided by the root of how much longer than 2,100 updates the
    run is.

    Args:
        evidence: `Evidence`.
    """
    hurried = _share(evidence.num_decisions, *HURRIED)
    new = NEW_TRUST_FLOOR + (HURRIED_TRUST_FLOOR - NEW_TRUST_FLOOR) * hurried
    floor = either(evidence.pretrained, TRUST_FLOOR, new)
    left = _share(evidence.progress, 1.0, 1.0 - ANNEALED)
    cosine = 0.5 + 0.5 * ops.cos(math.pi * evidence.progress)
    left = left + (cosine - left) * _is_long_and_pretrained(evidence)
    updates = ops.maximum(evidence.interval, BORNE_UPDATES)
    borne = either(evidence.pretrained, ops.sqrt(BORNE_UPDATES / updates), 1.0)
    return (1.0 - floor) * borne * ops.maximum(left, LEAST_LEFT)


def most(evidence: Evidence) -> Tensor:
    """The most change of the log rate, in [-0.2, 0.5]; 0.5 binds nothing.

    - Pretrained weights in long runs: 0.15. What a rate does to them shows some
      decisions later, and until then it would have grown to several times what
      they bear.
    - Where a net overfits, new or not, down to -0.2: the validation loss has
      risen by a twentieth to a fifth of what was gained, and the training loss
      is 18 % to 33 % below the best of it.

    Args:
        evidence: `Evidence`.
    """
    slowly = _at_most(PRETRAINED_INCREMENT, _is_long_and_pretrained(evidence))
    overfits = _share(evidence.lost_again, *LOST_AGAIN) * _share(
        evidence.training_lead, *BELOW_BEST
    )
    return ops.minimum(slowly, _at_most(-OVERFITTING_DECREMENT, overfits))


def least(evidence: Evidence) -> Tensor:
    """The least change of the log rate, in [-0.5, 0.5]; -0.5 binds nothing.

    Four signs tell that steps are too short, on any network and with any
    optimizer. All need promises that are kept (little distrust), and all but
    the first new weights: pretrained ones begin with a good loss, and bear
    less.

    - Update after update goes the same way: the rate grows by up to 0.5.
    - A twelfth to half of the run is over and nothing has been learned: it
      grows by up to 0.2.
    - Nearly all that is promised comes, in batches that are not small, and
      validation data, where there are any, do not say that the net overfits:
      `least_distrust`.
    - Validation data say that the net does not overfit: `kept_distrust`, up to
      a distrust of 0.15 in long runs. In short ones up to 0.4, where the data
      are passed over a few times, fewer without validation data, and a batch
      reaches most of the weights.

    Args:
        evidence: `Evidence`.
    """
    distrust = 1.0 - evidence.trust
    straight = _share(evidence.cosine, *STRAIGHT) * _share(distrust, *KEPT)
    idle = (
        _share(evidence.loss_share, *NOTHING_LEARNED)
        * _share(distrust, *SURELY_KEPT)
        * _share(evidence.progress, *SOME_TIME)
        * _share(evidence.progress, *EARLY)
    )
    idle = ops.where(evidence.pretrained > 0.5, 0.0, idle)
    changes = (
        _at_least(MAX_INCREMENT, straight),
        _at_least(IDLE_INCREMENT, idle),
        least_distrust(evidence),
        kept_distrust(evidence),
    )
    return functools.reduce(ops.maximum, changes)


def least_distrust(evidence: Evidence) -> Tensor:
    """The change that brings distrust to what is little in any run.

    Tuned schedules have a distrust of 0.1 to 0.2 at a tenth of a long run, and
    it falls from there. Nets with word vectors, of which a batch moves but a
    few, have 0.003 to 0.04 at their best rate, and next to nothing at a small
    one (docs/design.md).

    Args:
        evidence: `Evidence`.

    Returns:
        Scalar in [-0.5, 0.2]; -0.5 binds nothing.
    """
    unknown = evidence.validation_gap >= UNKNOWN_GAP
    learns = ops.where(unknown, 1.0, _share(evidence.validation_gap, *BY_HEART))
    counts = learns * _may_be_held(evidence) * _is_measured(evidence)
    return _held_at(LEAST_DISTRUST, LEAST_INCREMENT, counts, evidence)


def kept_distrust(evidence: Evidence) -> Tensor:
    """The change that holds distrust where tuned schedules have it.

    In runs of thousands of steps the rate that ends lowest is one at which a
    batch keeps about 85 % of its promise at first and all of it at the end,
    whatever the network or the optimizer; in those of hundreds it keeps 60 to
    75 % at first, but nearly all where weights are word vectors, of which a
    batch moves but a few (docs/design.md has the runs).

    Args:
        evidence: `Evidence`.

    Returns:
        Scalar in [-0.5, 0.2]; -0.5 binds nothing.
    """
    is_long = _share(evidence.interval, *LONG)
    may_be_held = _may_be_held(evidence)
    learns = _share(evidence.validation_gap, *BY_HEART)
    few_passes = ops.where(
        evidence.validation_gap >= UNKNOWN_GAP,
        _share(evidence.num_passes, *VERY_FEW_PASSES),
        _share(evidence.num_passes, *FEW_PASSES)
        * _share(evidence.lost_again, *RISEN)
        * learns,
    )
    in_long = is_long * learns * may_be_held
    in_short = (
        (1.0 - is_long)
        * few_passes
        * may_be_held
        * _is_measured(evidence)
        * _share(evidence.sparsity, *SPARSE)
    )
    return ops.maximum(
        _held_at(KEPT_DISTRUST, KEPT_INCREMENT, in_long, evidence),
        _held_at(SHORT_KEPT_DISTRUST, SHORT_KEPT_INCREMENT, in_short, evidence),
    )


def _held_at(
    start: float, increment: float, weight: Tensor, evidence: Evidence
) -> Tensor:
    """The least change that holds distrust at a curve, from its start on."""
    distrust = ops.maximum(1.0 - evidence.trust, 1e-6)
    left = ops.maximum(1.0 - evidence.progress, 1e-6)
    # Log of the distrust that the run is to have, over what it has.
    missing = math.log(start) + KEPT_POWER * ops.log(left) - ops.log(distrust)
    return _at_least(ops.clip(missing, -MAX_INCREMENT, increment), weight)


def _may_be_held(evidence: Evidence) -> Tensor:
    """Not at the very end, nor with small batches or pretrained weights."""
    return (
        _share(evidence.progress, *OVER_SOON)
        * _share(evidence.num_examples, *ENOUGH_EXAMPLES)
        * (1.0 - evidence.pretrained)
    )


def _is_measured(evidence: Evidence) -> Tensor:
    """Enough of trust is measured, and enough of the run over."""
    return _share(evidence.progress, *ON_ITS_WAY) * _share(
        evidence.measured, *MEASURED
    )


def either(
    pretrained: Tensor, trained: Tensor | float, new: Tensor | float
) -> Tensor:
    """One of two numbers, float32 (`where` would take Keras's `floatx`).

    Args:
        pretrained: Scalar, 1 for pretrained weights, 0 for new ones.
        trained: Float or scalar, the number of pretrained weights.
        new: Float or scalar, that of new ones.
    """
    return pretrained * trained + (1.0 - pretrained) * new


def _is_long_and_pretrained(evidence: Evidence) -> Tensor:
    return _share(evidence.interval, *LONG) * evidence.pretrained


def _at_least(change: Tensor, weight: Tensor) -> Tensor:
    """A least change, by its weight: at 0 it is -0.5, which binds nothing."""
    return (MAX_INCREMENT + change) * weight - MAX_INCREMENT


def _at_most(change: float, weight: Tensor) -> Tensor:
    """A most change, by its weight: at 0 it is 0.5, which binds nothing."""
    return MAX_INCREMENT - (MAX_INCREMENT - change) * weight


def _share(value: Tensor, none: float, full: float) -> Tensor:
    """From 0 at `none` to 1 at `full`, straight between and level beyond.

    `none` may lie above `full`.
    """
    return ops.clip((value - none) / (full - none), 0.0, 1.0)


def corrected_bias(bias: Tensor, output: Tensor, cosine: Tensor) -> Tensor:
    """One step of feedback within a run, on the controller's last bias.

    The hypergradient of the loss with respect to the log rate is the gradient
    times the update that came before it (Baydin et al., 2018,
    https://arxiv.org/abs/1703.04782); here its cosine, so that no scale
    matters, and its mean over some twenty decisions, so that no batch does. The
    chain goes on through tanh to the bias, which is held near 0, its start.

    Args:
        bias: Scalar, what feedback has added to the controller's output.
        output: Scalar, the controller's output, feedback included.
        cosine: Scalar in [-1, 1], running mean of the cosine of the negative
            gradient with the last update: positive where steps are too short.

    Returns:
        Scalar, the new bias, in [-1, 1].
    """
    slope = 1.0 - ops.square(ops.tanh(output))
    moved = (1.0 - FEEDBACK_DECAY) * bias + FEEDBACK_STEP * slope * cosine
    moved = ops.where(ops.isfinite(moved), moved, bias)
    return ops.clip(moved, -FEEDBACK_LIMIT, FEEDBACK_LIMIT)
