"""Signals of a run -> the scale-free vector that the controller reads.

One table (`FEATURES`) names every feature; one pure function (`features`)
computes them all. Multiply the loss by 100, the inputs by 0.1 or the width by
4, and a feature means the same.

The memory behind the features is a `summary`: a dict of float32 scalars, moved
on once a decision by `update_summary`. Time constants are therefore counted in
decisions, not in steps, and a run of 200 steps looks like one of 20,000.
"""

import math
from typing import Any
from typing import NamedTuple

from keras_metalr import backend
from keras_metalr.signals import TINY

ops = backend.native_ops()
Tensor = Any

FEATURE_VERSION = 4
FEATURE_LIMIT = 4.0


class Feature(NamedTuple):
    """One row of the table: name, formula, and what its value tells."""

    name: str
    formula: str
    meaning: str


FEATURES = (
    Feature("progress", "p - 0.5", "share of the run that is over"),
    Feature("time_left", "0.5 log(1 - p + 0.01)", "annealing due near the end"),
    Feature("loss_trend", "5 log(fast / slow)", "loss falls (< 0) or rises"),
    Feature("loss_gain", "0.5 log(slow / first)", "what was gained so far"),
    Feature("loss_surprise", "(slow - fast) / deviation", "trend over noise"),
    Feature("cosine_fast", "EMA 0.7 of the cosine", "> 0: steps too short"),
    Feature("cosine_slow", "3 EMA 0.95 of the cosine", "the same, long view"),
    Feature("gradient_trend", "log gradient norm, fast - slow", "grows (> 0)"),
    Feature(
        "coherence",
        "0.5 log(max distance / sqrt(sum ||d||^2) / rate)",
        "0: random walk, > 0: rate too small",
    ),
    Feature("update_size", "(log(||u|| / ||w||) + 7) / 4", "relative step"),
    Feature("rate_trend", "log rate - its EMA", "what the rate did lately"),
    Feature("rate_drop", "0.5 (log rate - its maximum)", "annealing done"),
    Feature("loss_jump", "log(loss / slow)", "the last interval alone"),
    Feature("age", "log(decisions) / 3 - 1", "how much evidence there is"),
    Feature("horizon", "log(num_decisions / 100)", "how fine decisions are"),
    Feature(
        "travel", "min(||w - w0|| / ||w|| - 0.5, 0.2)", "far from the start"
    ),
    Feature(
        "trust",
        "(log(clip(1 - trust, 0.003, 2)) + 2.5) / 1.5",
        "curvature met by the step; 0: near the edge",
    ),
    Feature("pretrained", "1 or 0", "whether there is something to lose"),
    # All 0 where `fit` has no validation data.
    Feature("validated", "1 or 0", "whether the next three are known"),
    Feature(
        "validation_trend", "5 log(validation / previous)", "the last epoch"
    ),
    Feature(
        "validation_rise", "5 log(validation / best)", "> 0: past its best"
    ),
    Feature("validation_gap", "0.5 log(validation / slow)", "> 0: overfits"),
)
FEATURE_NAMES = tuple(feature.name for feature in FEATURES)
NUM_FEATURES = len(FEATURES)

# Decay of each running mean, in decisions.
_EMA = {
    "loss_fast": 0.8,
    "loss_slow": 0.96,
    "loss_deviation": 0.96,
    "cosine_fast": 0.7,
    "cosine_slow": 0.95,
    "log_gradient_fast": 0.8,
    "log_gradient_slow": 0.96,
    "log_rate_mean": 0.96,
    "trust": 0.8,
}

# A drop in loss as small as this share of the first loss is no evidence: trust
# starts at 1, and comes back to 1 where steps are too short to be measured.
TRUST_PRIOR = 1e-3

# How many times the mean promise one batch's may count for. A spike, as runs on
# all data at once have, would else be all of trust for thirty decisions.
MOST_WEIGHT = 10.0

# The most that trust's mean promise may be: as long as the rate falls it grows,
# and an infinite one would never come back.
MOST_PROMISED = 1e38

# Word vectors are drawn so short that soon all of their length is travel, which
# says nothing of how far the run is.
MOST_TRAVEL = 0.2

# So much of the first loss counts as gained, where less was.
LEAST_GAIN = 0.1

# No net overfits so far that its losses are e^10 times apart.
UNKNOWN_GAP = 10.0

SUMMARY_INITIAL: dict[str, float] = {
    "decisions": 0.0,
    "loss": 0.0,
    "loss_first": 0.0,
    "loss_fast": 0.0,
    "loss_slow": 0.0,
    "loss_deviation": 0.0,
    "cosine_fast": 0.0,
    "cosine_slow": 0.0,
    "log_gradient_fast": 0.0,
    "log_gradient_slow": 0.0,
    "log_rate": 0.0,
    "log_rate_mean": 0.0,
    "log_rate_max": -1e9,
    "log_update_ratio": 0.0,
    "promised_mean": 0.0,
    "shortfall_mean": 0.0,
    "max_distance": 0.0,
    "distance": 0.0,
    "weight_norm": 0.0,
    "sum_direction_squared": 0.0,
    "validations": 0.0,
    "validation_loss": 0.0,
    "validation_previous": 0.0,
    "validation_best": 0.0,
}


def update_summary(
    summary: dict[str, Tensor], interval: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Move the summary on by one decision.

    Args:
        summary: Dict of scalars with the keys of `SUMMARY_INITIAL`. The keys
            `distance`, `max_distance`, `weight_norm` and
            `sum_direction_squared` are kept up to date step by step and are
            only read here.
        interval: Dict of float32 scalars, means over the steps since the last
            decision: `loss`, `log_gradient_norm`, `cosine`,
            `log_update_ratio` (log of `||u|| / ||w||`); and of the last step
            `log_rate`, and `promised_drop` and `shortfall` as
            `signals.shortfall` returns them.

    Returns:
        The new summary, a dict with the same keys.
    """
    first = summary["decisions"] < 0.5
    new = dict(summary)

    def move(key: str, value: Tensor, start: Tensor | None = None) -> None:
        decay = _EMA[key]
        moved = decay * summary[key] + (1.0 - decay) * value
        new[key] = ops.where(first, value if start is None else start, moved)

    loss = interval["loss"]
    new["loss"] = loss
    new["loss_first"] = ops.where(first, loss, summary["loss_first"])
    move("loss_fast", loss)
    move("loss_slow", loss)
    move(
        "loss_deviation",
        ops.abs(loss - summary["loss_slow"]),
        start=ops.zeros_like(loss),
    )
    move("cosine_fast", interval["cosine"])
    move("cosine_slow", interval["cosine"])
    move("log_gradient_fast", interval["log_gradient_norm"])
    move("log_gradient_slow", interval["log_gradient_norm"])
    log_rate = interval["log_rate"]
    new["log_rate"] = log_rate
    move("log_rate_mean", log_rate)
    new["log_rate_max"] = ops.maximum(summary["log_rate_max"], log_rate)
    new["log_update_ratio"] = interval["log_update_ratio"]
    # What is promised goes with the rate, and what falls short with its square.
    # Both over that square, steps before would at the new rate have promised:
    slower = ops.exp(ops.clip(summary["log_rate"] - log_rate, -20.0, 20.0))
    slower = ops.where(first, 1.0, slower)
    decay = _EMA["trust"]
    promised_mean = slower * summary["promised_mean"]
    share = (1.0 - decay) * _weight(summary, promised_mean, interval)
    new["promised_mean"] = ops.clip(
        decay * promised_mean + share * interval["promised_drop"],
        -MOST_PROMISED,
        MOST_PROMISED,
    )
    new["shortfall_mean"] = (
        decay * summary["shortfall_mean"] + share * interval["shortfall"]
    )
    new["decisions"] = summary["decisions"] + 1.0
    return new


def _weight(
    summary: dict[str, Tensor],
    promised_mean: Tensor,
    interval: dict[str, Tensor],
) -> Tensor:
    """What a decision counts for in trust, in (0, 1]: 1, but for a spike."""
    promised = interval["promised_drop"]
    # Usual is the mean that trust has. It starts at 0, and is divided by the
    # weight that it has gathered.
    gathered = 1.0 - ops.exp(summary["decisions"] * math.log(_EMA["trust"]))
    usual = promised_mean / ops.maximum(gathered, TINY)
    known = ops.logical_and(usual > 0.0, promised > 0.0)
    weight = ops.minimum(MOST_WEIGHT * usual / (promised + TINY), 1.0)
    return ops.where(known, weight, 1.0)


def record_validation(
    summary: dict[str, Tensor], loss: Tensor
) -> dict[str, Tensor]:
    """Note what the validation data gave, as it comes: once an epoch.

    Args:
        summary: Dict of scalars with the keys of `SUMMARY_INITIAL`.
        loss: Scalar float32, the mean loss on the validation data. One that is
            not finite is not noted.

    Returns:
        The new summary, a dict with the same keys.
    """
    first = summary["validations"] < 0.5
    best = ops.minimum(summary["validation_best"], loss)
    noted = {
        "validations": summary["validations"] + 1.0,
        "validation_loss": loss,
        "validation_previous": ops.where(
            first, loss, summary["validation_loss"]
        ),
        "validation_best": ops.where(first, loss, best),
    }
    finite = ops.isfinite(loss)
    return {
        **summary,
        **{k: ops.where(finite, v, summary[k]) for k, v in noted.items()},
    }


def loss_deviation(summary: dict[str, Tensor]) -> Tensor:
    """Mean absolute deviation of the interval losses from the slow mean.

    The running mean starts at 0, so it is divided by the weight it has
    gathered; otherwise the first decisions would take noise for a trend.
    """
    gathered = 1.0 - ops.power(
        _EMA["loss_deviation"], ops.maximum(summary["decisions"] - 1.0, 1.0)
    )
    return summary["loss_deviation"] / gathered


def trust(summary: dict[str, Tensor]) -> Tensor:
    """How far the gradient is to be trusted at the present rate.

    The mean drop in loss over the mean promised drop (`signals.shortfall`), and
    not the mean of their ratios (`signals.trust_ratio`): where a batch has
    little to promise, its ratio is noise.

    Their ratio is brought to the present rate first, as if the loss were a
    quadratic: promises then go with the rate and shortfalls with its square, so
    that a rate that has just doubled has twice the distrust, not in some
    decisions' time but now. What was measured before counts by the inverse
    square of the change of the rate.

    Args:
        summary: Dict of scalars, as `update_summary` returns it.

    Returns:
        Scalar float32 in [-2, 2]; 1 while nothing has been measured.
    """
    promised = ops.maximum(summary["promised_mean"], 0.0)
    promised = promised + _trust_prior(summary)
    value = 1.0 - summary["shortfall_mean"] / promised
    value = ops.where(ops.isfinite(value), value, -2.0)
    return ops.clip(value, -2.0, 2.0)


def measured(summary: dict[str, Tensor]) -> Tensor:
    """The share of trust that is measured; the rest is its prior.

    As long as the rate falls it tends to 1, since what was measured at higher
    rates counts by the square of that more.

    Args:
        summary: Dict of scalars, as `update_summary` returns it.

    Returns:
        Scalar float32 in [0, 1]; 0 where nothing was promised.
    """
    promised = ops.maximum(summary["promised_mean"], 0.0)
    return promised / (promised + _trust_prior(summary))


def _trust_prior(summary: dict[str, Tensor]) -> Tensor:
    return TRUST_PRIOR * ops.abs(summary["loss_first"]) + TINY


def validation_gap(summary: dict[str, Tensor]) -> Tensor:
    """Log of the validation loss over the running mean of the training loss.

    Args:
        summary: Dict of scalars, as `update_summary` returns it.

    Returns:
        Scalar float32; `UNKNOWN_GAP` where there is no validation loss, or one
        of the two is not positive.
    """
    return _log_ratio(
        summary["validation_loss"], summary["loss_slow"], UNKNOWN_GAP
    )


def lost_again(summary: dict[str, Tensor]) -> Tensor:
    """The share of what was gained that the validation loss has lost again.

    Its rise above its best, over the distance of its best from the first
    training loss, which counts as at least a tenth of that loss.

    Args:
        summary: Dict of scalars, as `update_summary` returns it.

    Returns:
        Scalar float32 (>= 0); 0 where there is no validation loss.
    """
    first = summary["loss_first"]
    best = summary["validation_best"]
    gained = ops.maximum(ops.abs(first - best), LEAST_GAIN * ops.abs(first))
    return (summary["validation_loss"] - best) / (gained + TINY)


def training_lead(summary: dict[str, Tensor]) -> Tensor:
    """Log of the best validation loss over the mean training loss.

    Args:
        summary: Dict of scalars, as `update_summary` returns it.

    Returns:
        Scalar float32; 0 where there is no validation loss, or one of the two
        is not positive.
    """
    return _log_ratio(summary["validation_best"], summary["loss_slow"])


def features(
    summary: dict[str, Tensor],
    progress: Tensor,
    num_decisions: Tensor,
    pretrained: Tensor,
) -> Tensor:
    """The controller's input.

    Args:
        summary: Dict of scalars, as `update_summary` returns it.
        progress: Scalar float32 in [0, 1], share of the run that is over.
        num_decisions: Scalar float32 (>= 1), decisions in the whole run.
        pretrained: Scalar float32, 1 for pretrained weights, 0 for new ones.

    Returns:
        Tensor of shape `(NUM_FEATURES,)`, float32, each in [-4, 4]; what is not
        finite (the log of a negative loss, say) reads as 0.
    """
    s = summary
    coherence = (
        ops.log(s["max_distance"] + TINY)
        - 0.5 * ops.log(s["sum_direction_squared"] + TINY)
        - s["log_rate"]
    )
    curvature = ops.clip(1.0 - trust(s), 0.003, 2.0)
    values = {
        "progress": progress - 0.5,
        "time_left": 0.5 * ops.log(ops.maximum(1.0 - progress, 0.0) + 0.01),
        "loss_trend": 5.0 * _log_ratio(s["loss_fast"], s["loss_slow"]),
        "loss_gain": 0.5 * _log_ratio(s["loss_slow"], s["loss_first"]),
        "loss_surprise": (s["loss_slow"] - s["loss_fast"])
        / ops.maximum(loss_deviation(s), TINY),
        "cosine_fast": s["cosine_fast"],
        "cosine_slow": 3.0 * s["cosine_slow"],
        "gradient_trend": s["log_gradient_fast"] - s["log_gradient_slow"],
        "coherence": 0.5 * coherence,
        "update_size": (s["log_update_ratio"] + 7.0) / 4.0,
        "rate_trend": s["log_rate"] - s["log_rate_mean"],
        "rate_drop": 0.5 * (s["log_rate"] - s["log_rate_max"]),
        "loss_jump": _log_ratio(s["loss"], s["loss_slow"]),
        "age": ops.log(s["decisions"]) / 3.0 - 1.0,
        "horizon": ops.log(num_decisions / 100.0),
        "travel": ops.minimum(
            s["distance"] / ops.maximum(s["weight_norm"], TINY) - 0.5,
            MOST_TRAVEL,
        ),
        "trust": (ops.log(curvature) + 2.5) / 1.5,
        "pretrained": pretrained,
        "validated": ops.minimum(s["validations"], 1.0),
        "validation_trend": 5.0
        * _log_ratio(s["validation_loss"], s["validation_previous"]),
        "validation_rise": 5.0
        * _log_ratio(s["validation_loss"], s["validation_best"]),
        "validation_gap": 0.5
        * _log_ratio(s["validation_loss"], s["loss_slow"]),
    }
    vector = ops.stack([values[name] for name in FEATURE_NAMES])
    vector = ops.where(ops.isfinite(vector), vector, 0.0)
    return ops.clip(vector, -FEATURE_LIMIT, FEATURE_LIMIT)


def _log_ratio(loss: Tensor, other: Tensor, unknown: float = 0.0) -> Tensor:
    """Log of the ratio of two losses; `unknown` unless both are positive.

    Of two negative ones (log-likelihoods of densities, say) the ratio would
    take progress for decline. Before the first validation its losses are 0.
    """
    positive = ops.logical_and(loss > 0.0, other > 0.0)
    safe = ops.where(positive, loss / other, 1.0)
    return ops.where(positive, ops.log(safe), unknown)
