"""The table of methods that are compared side by side.

To add one, write a `Peer` and put it into the table: the tests then train a
parabola, Rosenbrock's function and a small net with it, and the benchmark
runs it on every workload.
"""

from typing import Any

import keras

from keras_metalr.benchmark.competitors.adaptive import ADAPTIVE
from keras_metalr.benchmark.competitors.averaging import keras_schedule_free
from keras_metalr.benchmark.competitors.greedy import greedy
from keras_metalr.benchmark.competitors.peer import Peer
from keras_metalr.benchmark.competitors.peer import Setting
from keras_metalr.benchmark.competitors.rate_finder import NUM_STEPS
from keras_metalr.benchmark.competitors.rate_finder import find_rate
from keras_metalr.benchmark.competitors.rate_rules import RateRule
from keras_metalr.benchmark.competitors.rate_rules import one_cycle
from keras_metalr.benchmark.competitors.rate_rules import one_cycle_peak
from keras_metalr.benchmark.competitors.rate_rules import warmup_cosine
from keras_metalr.benchmark.competitors.rate_rules import warmup_linear
from keras_metalr.benchmark.competitors.rate_rules import warmup_steps
from keras_metalr.benchmark.competitors.steered_optimizer import (
    SteeredOptimizer,
)
from keras_metalr.callback import MetaLR

_RATE = "learning rate"
_HIGHEST_RATE = "highest learning rate"
_FIRST_RATE = "learning rate at the start"


def _steered(rule: RateRule, setting: Setting, start: float) -> Any:
    return SteeredOptimizer(setting.make_optimizer(start), rule, start)


def _plain(setting: Setting, start: float) -> Any:
    return setting.make_optimizer(start)


def _schedule_free(setting: Setting, start: float) -> Any:
    return keras.optimizers.ScheduleFreeAdamW(
        learning_rate=start, warmup_steps=warmup_steps(setting.num_steps)
    )


def _reduce_on_plateau(setting: Setting) -> tuple[Any, ...]:
    del setting
    # Epochs are few here: a fifth of Keras's patience.
    return (keras.callbacks.ReduceLROnPlateau(patience=2),)


def _metalr(setting: Setting) -> tuple[Any, ...]:
    return (MetaLR("general", total_steps=setting.num_steps),)


_SCHEDULES = (
    Peer(
        name="constant",
        source="the workload's optimizer",
        start=_RATE,
        make_optimizer=_plain,
        is_tuned=True,
    ),
    Peer(
        name="warmup_cosine",
        source="arXiv 1608.03983",
        start=_HIGHEST_RATE,
        make_optimizer=lambda setting, start: _steered(
            warmup_cosine(setting.num_steps), setting, start
        ),
        is_tuned=True,
    ),
    Peer(
        name="warmup_linear",
        source="arXiv 1810.04805",
        start=_HIGHEST_RATE,
        make_optimizer=lambda setting, start: _steered(
            warmup_linear(setting.num_steps), setting, start
        ),
        is_tuned=True,
    ),
    Peer(
        name="one_cycle",
        source="arXiv 1708.07120, after a range test (arXiv 1506.01186)",
        start="lowest rate of the range test",
        make_optimizer=lambda setting, start: _steered(
            one_cycle(setting.num_steps), setting, start
        ),
        default_start=1e-7,
        find_start=lambda trainee, batches: find_rate(
            trainee, batches, one_cycle_peak(trainee.setting.num_steps)
        ),
        extra_steps=NUM_STEPS,
        note="the cycle of the rate alone, without that of momentum",
    ),
    Peer(
        name="reduce_on_plateau",
        source="keras.callbacks.ReduceLROnPlateau",
        start=_FIRST_RATE,
        make_optimizer=_plain,
        is_tuned=True,
        callbacks=_reduce_on_plateau,
        note="reads the validation loss; patience of 2 epochs",
    ),
    Peer(
        name="greedy",
        source="arXiv 2512.14527",
        start=_FIRST_RATE,
        make_optimizer=lambda setting, start: _steered(
            greedy(), setting, start
        ),
        is_tuned=True,
        note="by the mean of 50 losses, between 1e-7 and 1, without restarts",
    ),
    Peer(
        name="keras_schedule_free",
        source="keras.optimizers.ScheduleFreeAdamW, arXiv 2405.15682",
        start=_RATE,
        make_optimizer=_schedule_free,
        is_tuned=True,
        evaluation_weights=keras_schedule_free,
        note="evaluated at its averaged weights",
    ),
    Peer(
        name="metalr",
        source="keras_metalr.MetaLR, preset general",
        start="learning rate that the model was compiled with",
        make_optimizer=_plain,
        callbacks=_metalr,
        recovers=True,
        note="reads the validation loss; the copies that its guard keeps are "
        "not in its variables",
    ),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in (*_SCHEDULES, *ADAPTIVE)}
