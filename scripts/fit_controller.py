"""Phases 1 and 2: static runs of a workload, and the controller fit on them.

    python scripts/fit_controller.py --output keras_metalr/presets/supervised

Trains the digits at each of 15 constant rates, with three optimizers, two
lengths of run and two seeds, and fits the controller on what was recorded. An
interrupted call goes on where it was: finished runs are kept in `--runs`.
"""

import argparse
import math
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rich.progress import Progress

from keras_metalr import workloads
from keras_metalr.benchmark.command_line import command_text
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.full_report.runs import FIT
from keras_metalr.benchmark.records import check_folder
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.phases import Run
from keras_metalr.phases import collect
from keras_metalr.phases import fit_controller
from keras_metalr.phases.collect import LADDER
from keras_metalr.phases.fit import best_rates
from keras_metalr.phases.fit import dataset
from keras_metalr.workloads.optimizers import OPTIMIZER_NAMES
from keras_metalr.workloads.workload import Data

# Not those of the demo and the benchmarks.
SEEDS = (100, 101)
OPTIMIZERS = ("adam", "momentum", "sgd")

CARD = """# {name}: a controller for the learning rate

Phases 1 and 2 of the experiment: {num_runs} runs of the digits convnet at
constant rates, and a supervised fit on them.

| | |
|---|---|
| architecture | features -> {layers}1 |
| feature version | {feature_version} |
| trained on | scikit-learn's digits ({num_images:,} images), {optimizers} |
| lengths of run | {epochs} epochs of {num_steps} steps |
| rates | {num_rates}, from {low:.0e} to {high:.0e} |
| seeds | {seeds} |
| states | {num_states} |
| fit | {fit}; mean squared error {mean_error:.3f} |
| hardware | {cpus} CPU cores ({machine}), {backend} backend |

Best constant rates by the final validation loss: {best}.

## Limits

It has seen one small convnet on one small data set. It has not seen
pretrained networks, transformers, regression, label noise, weight decay or
runs of more than {longest} steps; what it does there is extrapolation.

Made by `{command}`.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Collect, fit, save."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check_flags(parser, arguments)
    # Looked for before the runs, which take long.
    try:
        check_folder(arguments.output)
        check_folder(arguments.runs)
        usual = workloads.get("digits")
        data = usual.load_data()
    except (ImportError, OSError) as error:
        raise SystemExit(report_error(error)) from error
    try:
        runs = _collect_all(arguments, data)
    # A run that is there already may be damaged.
    except (OSError, ValueError) as error:
        raise SystemExit(report_error(error)) from error
    controller = fit_controller(runs, **FIT)
    features, targets = dataset(runs)
    mean_error = controller.evaluate(features, targets, verbose=0)
    card = _card(
        arguments,
        runs,
        controller.hidden_units,
        num_images=data.num_train,
        num_steps=data.steps_per_epoch(usual.batch_size),
        num_states=len(features),
        mean_error=mean_error,
        command=command_text("scripts/fit_controller.py", argv),
    )
    controller.save_to_preset(arguments.output, card=card)
    print(f"Saved {arguments.output} (mean squared error {mean_error:.3f}).")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--output",
        type=pathlib.Path,
        required=True,
        # Without a default to be named.
        default=argparse.SUPPRESS,
        help="folder for the preset",
    )
    add(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs/digits"),
        help="folder of the static runs",
    )
    add(
        "--epochs",
        type=int,
        nargs="+",
        default=[5, 20],
        help="lengths of run, in passes over the data",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=list(SEEDS),
        help="each gets a run at every rate",
    )
    add(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZER_NAMES,
        default=list(OPTIMIZERS),
        help="each is trained with in turn",
    )
    add(
        "--rates",
        type=float,
        nargs="+",
        default=list(LADDER),
        help="constant rates",
    )
    return parser


def _check_flags(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> None:
    """End with a usage error for what the fit would refuse after the runs."""
    for name in ("optimizers", "epochs", "seeds", "rates"):
        values = getattr(arguments, name)
        if len(set(values)) < len(values):
            parser.error(f"--{name} must name none twice. Received: {values}")
    if not all(0.0 < rate < math.inf for rate in arguments.rates):
        parser.error(
            f"--rates must be positive numbers. Received: {arguments.rates}"
        )
    if min(arguments.epochs) < 1 or min(arguments.seeds) < 0:
        parser.error(
            "--epochs must be 1 or more, and --seeds 0 or more. Received: "
            f"{arguments.epochs} and {arguments.seeds}"
        )


def _card(
    arguments: argparse.Namespace,
    runs: Sequence[Run],
    hidden_units: Sequence[int],
    num_steps: int,
    **facts: Any,
) -> str:
    best = {
        f"{name} seed {seed}": f"{rate:.3g}"
        for (name, seed), rate in best_rates(runs).items()
    }
    return CARD.format(
        name=arguments.output.name,
        num_runs=len(runs),
        feature_version=FEATURE_VERSION,
        layers="".join(f"{n} ReLU -> " for n in hidden_units),
        num_steps=num_steps,
        fit="Adam {learning_rate}, batch {batch_size}, {epochs} epochs".format(
            **FIT
        ),
        optimizers=", ".join(arguments.optimizers),
        epochs=" and ".join(map(str, arguments.epochs)),
        num_rates=len(arguments.rates),
        low=min(arguments.rates),
        high=max(arguments.rates),
        seeds=", ".join(map(str, arguments.seeds)),
        cpus=os.cpu_count(),
        machine=platform.machine(),
        backend=keras.backend.backend(),
        best=", ".join(f"{key}: {value}" for key, value in best.items()),
        longest=num_steps * max(arguments.epochs),
        **facts,
    )


def _collect_all(arguments: argparse.Namespace, data: Data) -> list[Run]:
    total = (
        len(arguments.optimizers)
        * len(arguments.epochs)
        * len(arguments.seeds)
        * len(arguments.rates)
    )
    runs: list[Run] = []
    with Progress() as progress:
        task = progress.add_task("static runs", total=total)
        for optimizer in arguments.optimizers:
            workload = workloads.get("digits", optimizer=optimizer)
            for epochs in arguments.epochs:
                runs += collect(
                    workload.compiled_model,
                    # Validation is for the outcome alone.
                    workload.fit_arguments(
                        data, epochs, validation_freq=epochs
                    ),
                    learning_rates=arguments.rates,
                    seeds=arguments.seeds,
                    workload=f"digits-{optimizer}-{epochs}",
                    # The card says which backend made them.
                    folder=arguments.runs / keras.backend.backend(),
                    progress=lambda run: progress.advance(task),
                )
    return runs


if __name__ == "__main__":
    main()
