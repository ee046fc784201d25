"""Nets of kinds that meta-training has not seen, beside tuned schedules.

    KERAS_BACKEND=jax python benchmarks/unfamiliar.py
    python benchmarks/unfamiliar.py --check    # is the page stale?

Word vectors, deep tanh layers, a vision transformer, RMSprop on an LSTM, Lion
and Muon on convnets: constant rates and cosines at nine rates each, and MetaLR.
Half an hour on two CPU cores. Runs that are there already are not made again.

They show where rules are missing, so that rules may be made by them: what is
measured here is no proof of a rule that came later.
"""

import functools
import os
import pathlib
import statistics
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark.comparison import check_settings
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import is_claimed_by_another
from keras_metalr.benchmark.page_command import folder_text
from keras_metalr.benchmark.page_command import make_or_check
from keras_metalr.benchmark.page_command import page_parser
from keras_metalr.benchmark.page_command import recorded_runs
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.text import METHOD_NAMES
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import markdown_table
from keras_metalr.benchmark.text import rate_text
from keras_metalr.workloads.fashion_mnist_cnn import load_fashion_mnist
from keras_metalr.workloads.suite import media
from keras_metalr.workloads.suite.media_models import Position
from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "unfamiliar"
PAGE = ROOT / "docs" / "unfamiliar.md"
COMMAND = "KERAS_BACKEND=jax python benchmarks/unfamiliar.py"
RATES = tuple(float(f"{rate:.2g}") for rate in np.geomspace(1e-4, 1.0, 9))
SCHEDULES = ("static", "cosine")
START = 1e-3
SEEDS = (0, 1)
NUM_STEPS = 400
NUM_VALIDATIONS = 5
PHRASES = 20_000
HELD_BACK = 3_000
CONTEXT = 8

HEAD = """
# Nets of kinds that meta-training has not seen

MetaLR, two seeds, beside the best of {count} runs with seed 0: a constant rate
and a cosine, each at {rates} rates from {low} to {high}. Loss and accuracy on
validation data at the end, which MetaLR reads, and which the best of the
schedules was chosen by. MetaLR's is the mean of its seeds; its *rate*: that at
half of the run, of seed 0.
"""
FOOT = """
Meta-training has seen none of these kinds. Version 6 of the update rule was
chosen on sixteen other nets of these and other kinds: the nets above are new
to the controller, but their kinds no longer to the rule. Made by
`{command}` from
`{folder}`; {environment}.
"""
# Where MetaLR's rate at half of the run is lower than this share of the best
# schedule's, the page says so.
FAR_LOWER = 0.1
LOW_RATES = """
By half of the run MetaLR's rate is less than a tenth of the schedule's on:
{nets}.
`docs/design.md`, "Where it loses to tuned schedules", says why for the LSTM.
"""
COLUMNS = (
    "net",
    "steps",
    "best schedule",
    "loss",
    "accuracy",
    "MetaLR, rate",
    "loss",
    "accuracy",
)


@functools.cache
def phrases() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of SST-2's training split: words as numbers and labels, twice."""
    x, y = media.load_words(f"train[:{PHRASES + HELD_BACK}]")
    return x[:PHRASES], y[:PHRASES], x[PHRASES:], y[PHRASES:]


def load_following(length: int) -> Data:
    """So many words of a phrase, and the one that follows them."""

    def pairs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        windows = np.lib.stride_tricks.sliding_window_view(x, length + 1, 1)
        rows = windows.reshape(-1, length + 1)
        # Without those that reach over the end of their phrase.
        rows = rows[(rows > 0).all(1)]
        return rows[:, :-1], rows[:, -1]

    x, _, x_validation, _ = phrases()
    return Data(*pairs(x), *pairs(x_validation))


def build_bag() -> keras.Model:
    """The mean of word vectors, and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((media.NUM_TOKENS,), dtype="int32"),
            layers.Embedding(media.NUM_WORDS, 16),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(2),
        ]
    )


def build_following(length: int, recurrent: bool) -> keras.Model:
    """Words to the next one: a table of vectors, or a GRU behind it."""
    reader = layers.GRU(64) if recurrent else layers.Flatten()
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(media.NUM_WORDS, 32),
            reader,
            layers.Dense(media.NUM_WORDS),
        ]
    )


def build_rows() -> keras.Model:
    """An LSTM that reads an image row by row."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Reshape((28, 28)),
            layers.LSTM(48),
            layers.Dense(10),
        ]
    )


def build_deep() -> keras.Model:
    """Ten layers of tanh without normalization."""
    hidden = [layers.Dense(64, activation="tanh") for _ in range(10)]
    inputs = keras.Input((28, 28, 1))
    return keras.Sequential(
        [inputs, layers.Flatten(), *hidden, layers.Dense(10)]
    )


def build_vision_transformer() -> keras.Model:
    """Two blocks over patches of 4x4 pixels (Dosovitskiy et al., 2021)."""
    width = 48
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(width, 4, strides=4)(inputs)
    x = Position()(layers.Reshape((49, width))(x))
    for _ in range(2):
        z = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 12)(z, z)])
        z = layers.LayerNormalization()(x)
        z = layers.Dense(2 * width, activation="gelu")(z)
        x = layers.Add()([x, layers.Dense(width)(z)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def build_group_normalized() -> keras.Model:
    """A convnet with group normalization (Wu and He, 2018)."""
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = layers.Activation("swish")(layers.GroupNormalization(8)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def build_convnet() -> keras.Model:
    """Two convolutions and two dense layers."""
    inputs = keras.Input((28, 28, 1))
    x = inputs
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def nets() -> dict[str, Workload]:
    """The nets by their titles."""
    fashion = functools.partial(load_fashion_mnist, 6_000, 1_000)
    optimizers = keras.optimizers
    return {
        "mean of word vectors, Adam; SST-2": _net(
            "word_bag", lambda: Data(*phrases()), build_bag, optimizers.Adam
        ),
        "next word from one, Adam; SST-2": _net(
            "skip_gram",
            functools.partial(load_following, 1),
            functools.partial(build_following, 1, recurrent=False),
            optimizers.Adam,
            batch_size=256,
        ),
        f"next word from {CONTEXT} by a GRU, Adam; SST-2": _net(
            "word_gru",
            functools.partial(load_following, CONTEXT),
            functools.partial(build_following, CONTEXT, recurrent=True),
            optimizers.Adam,
        ),
        "LSTM over rows, RMSprop; Fashion-MNIST": _net(
            "row_lstm", fashion, build_rows, optimizers.RMSprop
        ),
        "ten layers of tanh, momentum; Fashion-MNIST": _net(
            "deep_tanh",
            fashion,
            build_deep,
            functools.partial(optimizers.SGD, momentum=0.9),
        ),
        "vision transformer, AdamW; Fashion-MNIST": _net(
            "vision_transformer",
            fashion,
            build_vision_transformer,
            optimizers.AdamW,
        ),
        "convnet, group normalization, Lion; CIFAR-10": _net(
            "group_normalized",
            functools.partial(media.load_cifar10_halved, 6_000, 1_000),
            build_group_normalized,
            optimizers.Lion,
        ),
        "convnet, Muon; Fashion-MNIST": _net(
            "convnet_muon", fashion, build_convnet, optimizers.Muon
        ),
    }


def _net(
    name: str,
    load_data: Callable[[], Data],
    build_model: Callable[[], keras.Model],
    make_optimizer: Callable[[Any], keras.optimizers.Optimizer],
    batch_size: int = 64,
) -> Workload:
    return Workload(
        name=name,
        load_data=load_data,
        build_model=build_model,
        make_optimizer=make_optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=batch_size,
        epochs=NUM_VALIDATIONS,
        learning_rate=START,
        target_accuracy=0.0,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing and the page, or compare it."""
    parser = page_parser(__doc__, RESULTS, PAGE)
    names = [workload.name for workload in nets().values()]
    parser.add_argument(
        "--nets", nargs="+", choices=names, default=names, help="to train"
    )
    arguments = parser.parse_args(argv)
    plan = (
        (workload, list(_jobs(title, workload)))
        for title, workload in nets().items()
        if workload.name in arguments.nets
    )
    return make_or_check(parser, arguments, plan, page, COMMAND)


def _jobs(title: str, workload: Workload) -> Iterator[Job]:
    choices = [(method, rate, 0) for method in SCHEDULES for rate in RATES] + [
        ("metalr", START, seed) for seed in SEEDS
    ]
    for method, rate, seed in choices:
        yield Job(
            title=f"{title}: {method}, {rate:g}, {seed}",
            workload=workload,
            config=RunConfig(
                method=method,
                learning_rate=rate,
                seed=seed,
                steps=NUM_STEPS,
                epochs=NUM_VALIDATIONS,
            ),
        )


def page(folder: pathlib.Path) -> str:
    """Markdown of the records in a folder."""
    runs = recorded_runs(folder)
    places = {environment_text(run.environment) for run in runs}
    rows = []
    notes = set()
    low = []
    for title, workload in nets().items():
        mine = [run for run in runs if run.config["workload"] == workload.name]
        seeds = {
            run.config["seed"]
            for run in mine
            if run.config["method"] == "metalr"
        }
        # MetaLR is last: without all of it there are runs to come.
        if seeds >= set(SEEDS):
            check_settings(mine)
            rows.append(_row(title, mine))
            if _is_far_lower(mine):
                low.append(title.partition(";")[0])
            notes |= {
                f"Data of the {title}: {run.data_note}."
                for run in mine
                if run.data_note
            }
    head = HEAD.strip().format(
        count=len(SCHEDULES) * len(RATES),
        rates=len(RATES),
        low=rate_text(RATES[0]),
        high=rate_text(RATES[-1]),
    )
    foot = FOOT.strip().format(
        command=COMMAND,
        folder=folder_text(folder, ROOT),
        environment="; ".join(sorted(places)),
    )
    parts = [head, markdown_table(COLUMNS, rows), *sorted(notes)]
    if low:
        parts.append(LOW_RATES.strip().format(nets="; ".join(low)))
    if is_claimed_by_another(folder):
        parts.append(OTHER_CONTROLLER)
    return "\n\n".join([*parts, foot]) + "\n"


def _row(title: str, runs: Sequence[RunResult]) -> tuple[str, ...]:
    """The best of the schedules, and MetaLR's mean over its seeds."""
    controlled = [run for run in runs if run.config["method"] == "metalr"]
    best = _best_schedule(runs)
    config = best.config
    mean_loss = statistics.fmean(map(_loss, controlled))
    accuracies = [run.results["eval_accuracy"] for run in controlled]
    return (
        title,
        f"{best.results['num_steps']}",
        f"{METHOD_NAMES[config['method']]}, "
        f"{rate_text(config['learning_rate'])}",
        f"{_loss(best):.3f}",
        f"{best.results['eval_accuracy']:.3f}",
        f"{_rate_at_half(controlled[0]):.2g}",
        f"{mean_loss:.3f}",
        f"{statistics.fmean(accuracies):.3f}",
    )


def _best_schedule(runs: Sequence[RunResult]) -> RunResult:
    return min(
        (run for run in runs if run.config["method"] in SCHEDULES), key=_loss
    )


def _rate_at_half(run: RunResult) -> float:
    rates = run.curves["learning_rate"]["value"]
    return float(rates[len(rates) // 2])


def _is_far_lower(runs: Sequence[RunResult]) -> bool:
    """Whether MetaLR is at half of the run, that of the first seed."""
    controlled = next(run for run in runs if run.config["method"] == "metalr")
    rate = _rate_at_half(controlled)
    return rate < FAR_LOWER * _rate_at_half(_best_schedule(runs))


def _loss(run: RunResult) -> float:
    """The final loss; one that is not finite is worse than any."""
    loss = float(run.results["eval_loss"])
    return loss if np.isfinite(loss) else np.inf


if __name__ == "__main__":
    sys.exit(main())
