"""The whole of meta-training: banks, evolution, held-out scores, the card."""

import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import keras
import numpy as np

from keras_metalr.controller import CONFIG_FILE
from keras_metalr.controller import Controller
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.meta_training.bank import GRID_RATES
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import make_bank
from keras_metalr.meta_training.checkpoint import load_tree
from keras_metalr.meta_training.checkpoint import save_tree
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.evolution import Arena
from keras_metalr.meta_training.evolution import EvolutionConfig
from keras_metalr.meta_training.evolution import evaluate
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.optimizers import OptimizerSpec
from keras_metalr.meta_training.tasks import Task
from keras_metalr.meta_training.unroll import SCHEDULES
from keras_metalr.meta_training.unroll import Unroll

# Tasks of this seed and above are never trained on.
HELD_OUT_SEED = 10_000


class Stage(NamedTuple):
    """A family at a horizon: how many tasks to train on, and to hold out."""

    family: str
    num_decisions: int
    interval: int
    num_tasks: int
    num_held_out: int

    @property
    def name(self) -> str:
        """Family and steps, such as `"dense-200"`."""
        return f"{self.family}-{self.num_decisions * self.interval}"


class MetaConfig(NamedTuple):
    """What a call of the script does.

    `order` says which stages the generations go through, by name, over and
    over; the others are only tested on.
    """

    stages: tuple[Stage, ...]
    order: tuple[str, ...]
    evolution: EvolutionConfig


CONFIGS = {
    "general": MetaConfig(
        stages=(
            Stage("dense", 200, 1, 256, 64),
            Stage("dense_batchnorm", 200, 1, 128, 16),
            Stage("autoencoder", 200, 1, 128, 16),
            Stage("dense", 50, 1, 128, 64),
            Stage("dense", 200, 5, 0, 32),
            Stage("transformer", 200, 1, 0, 16),
        ),
        order=(
            "dense-200",
            "dense_batchnorm-200",
            "dense-200",
            "autoencoder-200",
            "dense-50",
        ),
        evolution=EvolutionConfig(num_generations=500, num_pairs=96),
    ),
    "smoke": MetaConfig(
        stages=(Stage("dense", 20, 1, 4, 4),),
        order=("dense-20",),
        evolution=EvolutionConfig(num_generations=2, num_pairs=2),
    ),
}


def check_backend() -> None:
    """Raise where Keras does not run on JAX.

    Raises:
        RuntimeError: with what to do.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "Meta-training runs on JAX. Received: KERAS_BACKEND="
            f"{keras.backend.backend()}. Set KERAS_BACKEND=jax."
        )


def meta_train(
    name: str,
    config: MetaConfig,
    start: Controller,
    work: pathlib.Path,
    output: pathlib.Path,
    command: str,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a controller and write it as a preset with its card.

    Args:
        name: String, the preset's name on the card.
        config: `MetaConfig`.
        start: `Controller` to start from.
        work: Path of a folder for banks and checkpoints; a second call goes on
            from there.
        output: Path of the preset folder to write.
        command: String, the command line, for the card.
        say: Callable that is given each line of progress.

    Returns:
        Dict with the held-out scores, as it is written to `scores.json`.
    """
    check_backend()
    began = time.monotonic()
    data, names = load_data()
    say(f"data: {', '.join(names)}; device: {jax.devices()[0].device_kind}")
    wanted = [s for s in config.stages if s.name in config.order]
    arenas = {s.name: _arena(s, data, names, work, 0, say) for s in wanted}

    def report(generation: int, stage: str, value: float, left: float) -> None:
        say(
            f"generation {generation + 1}/{config.evolution.num_generations}"
            f"  {stage:20s} score {value:7.3f}  {left / 60:5.1f} min left"
        )

    controller = evolve(
        [arenas[stage] for stage in config.order],
        start,
        config.evolution,
        work / "evolution.npz",
        report=report,
    )
    scores = {}
    for stage in config.stages:
        arena = _arena(stage, data, names, work, HELD_OUT_SEED, say)
        scores[stage.name] = {
            "start": _summary(arena, start),
            "evolved": _summary(arena, controller),
            "trained_on": stage.name in config.order,
        }
        say(f"{stage.name}: {json.dumps(scores[stage.name])}")
    record = {
        "scores": scores,
        "data": names,
        "hours": _hours(work, time.monotonic() - began),
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "config": json.loads(json.dumps(config._asdict(), default=str)),
        "command": command,
    }
    controller.save_to_preset(str(output))
    card = make_card(name, config, record, output)
    (output / "CARD.md").write_text(card, encoding="utf-8")
    (output / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def make_card(
    name: str, config: MetaConfig, record: dict[str, Any], preset: pathlib.Path
) -> str:
    """The card of the preset in a folder, Markdown, from what was measured."""
    evolution = config.evolution
    rows = [
        "| stage | tasks | pretrained | regret: start | evolved "
        "| 95 % interval | median | worst | trained on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stage, score in record["scores"].items():
        new = score["evolved"]
        rows.append(
            f"| {stage} | {new['tasks']} | {new['pretrained']} "
            f"| {score['start']['mean']:.3f} | {new['mean']:.3f} "
            f"| {new['low']:.3f} to {new['high']:.3f} | {new['median']:.3f} "
            f"| {new['worst']:.2f} | {'yes' if score['trained_on'] else 'no'} |"
        )
    digest = json.loads((preset / CONFIG_FILE).read_text())["weights_sha256"]
    trained = [s for s in config.stages if s.name in config.order]
    return CARD.format(
        name=name,
        feature_version=FEATURE_VERSION,
        data=", ".join(record["data"]),
        stages=", ".join(config.order),
        families=", ".join(sorted({s.family for s in trained})),
        shortest=min(s.num_decisions * s.interval for s in trained),
        longest=max(s.num_decisions * s.interval for s in trained),
        generations=evolution.num_generations,
        pairs=evolution.num_pairs,
        sigma=f"{evolution.sigma} to {evolution.final_sigma}",
        learning_rate=evolution.learning_rate,
        seed=evolution.seed,
        hours=record["hours"],
        hardware=f"{record['cpus']} CPU cores ({record['machine']}), "
        f"JAX on {record['device']}",
        digest=digest,
        grid=f"{len(GRID_RATES)} rates x {len(SCHEDULES)} schedules",
        rows="\n".join(rows),
        command=record["command"],
    )


CARD = """# {name}: a controller for the learning rate

Meta-trained: evolved on the end of thousands of small runs, starting from the
supervised fit of phases 1 and 2.

| | |
|---|---|
| architecture | features -> 64 ReLU -> 32 ReLU -> 1 |
| feature version | {feature_version} |
| data | {data} (training splits, 8x8 grey) |
| stages, in order (family-steps) | {stages} |
| evolution | {generations} generations of {pairs} antithetic pairs |
| steps | sigma {sigma}, Adam {learning_rate} with cosine, seed {seed} |
| time | {hours:.2f} hours on {hardware} |
| sha256 of the weights | {digest} |

## Scores

On tasks that were never trained on (other members of the families; the images
are of the same data sets). Regret = (final validation loss - best of a
grid) / (initial loss - best), the grid being {grid} tuned for each task by
itself: 0 is the tuned run, 1 is no progress, below 0 beats the tuned run. It is
clipped to [-0.15, 5]. The run does not depend on the first rate that the user
gives: the safe start forgets it.

{rows}

"start" is the supervised fit alone, the start of the evolution.

## Limits

It was trained on small nets of 8x8 images alone ({families}), a
third of them starting from pretrained weights, in runs of {shortest} to
{longest} steps. It has seen no convolutional, recurrent or large network. The
worst tasks are tiny noisy data sets on which a net overfits: the controller
sees the training loss alone, which goes on falling there.

Made by `{command}`.
"""


def _arena(
    stage: Stage,
    data: Data,
    names: list[str],
    work: pathlib.Path,
    seed: int,
    say: Callable[[str], None],
) -> Arena:
    """A stage with its bank; tuning it takes minutes, so it is kept."""
    held_out = seed >= HELD_OUT_SEED
    count = stage.num_held_out if held_out else stage.num_tasks
    unroll = Unroll(
        FAMILIES[stage.family], data, stage.num_decisions, stage.interval
    )
    path = work / f"bank-{stage.name}-{count}-{seed}-{'-'.join(names)}.npz"
    if path.is_file():
        return Arena(stage.name, unroll, load_tree(path, _bank_structure()))
    say(f"tuning {count} tasks of {stage.name}")
    bank = make_bank(unroll, count, seed)
    save_tree(path, bank)
    return Arena(stage.name, unroll, bank)


def _bank_structure() -> Bank:
    task = Task._make(range(len(Task._fields)))
    spec = OptimizerSpec._make(range(len(OptimizerSpec._fields)))
    return Bank(task._replace(optimizer=spec), *([0] * 3))


def _summary(arena: Arena, controller: Controller) -> dict[str, float]:
    rows = evaluate(arena, controller)
    regrets = rows["regret"]
    draws = np.random.default_rng(0).integers(
        0, len(regrets), (2000, len(regrets))
    )
    low, high = np.percentile(regrets[draws].mean(1), [2.5, 97.5])
    pretrained = int(np.sum(np.asarray(arena.bank.tasks.pretrained)))
    return {
        "tasks": len(regrets),
        "pretrained": pretrained,
        "mean": round(float(regrets.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "median": round(float(np.median(regrets)), 4),
        "worst": round(float(regrets.max()), 4),
        "score": round(float(rows["score"].mean()), 4),
    }


def _hours(work: pathlib.Path, seconds: float) -> float:
    """Hours of all the calls in this folder that came to their end."""
    path = work / "seconds.json"
    before = json.loads(path.read_text()) if path.is_file() else 0.0
    path.write_text(json.dumps(before + seconds))
    return (before + seconds) / 3600.0
