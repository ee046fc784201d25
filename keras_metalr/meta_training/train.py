"""The whole of meta-training: banks, evolution, held-out scores, the card."""

import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import keras
import numpy as np

from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.records import write_text
from keras_metalr.controller import CARD_FILE
from keras_metalr.controller import CONFIG_FILE
from keras_metalr.controller import SCORES_FILE
from keras_metalr.controller import Controller
from keras_metalr.controller import preset_path
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.meta_training.arenas import HELD_OUT_SEED
from keras_metalr.meta_training.arenas import TRAINING_SEED
from keras_metalr.meta_training.arenas import Arena
from keras_metalr.meta_training.arenas import kept_data
from keras_metalr.meta_training.arenas import kept_notes
from keras_metalr.meta_training.arenas import stage_arena
from keras_metalr.meta_training.bank import regret
from keras_metalr.meta_training.bank import tuned_on_other_batches
from keras_metalr.meta_training.card import make_card
from keras_metalr.meta_training.configs import MetaConfig
from keras_metalr.meta_training.configs import Stage
from keras_metalr.meta_training.configs import config_from_record
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.evaluation import evaluate
from keras_metalr.meta_training.evaluation import summarize
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.evolution import progress_line
from keras_metalr.meta_training.processes import is_first
from keras_metalr.meta_training.processes import wait_for_all
from keras_metalr.meta_training.tasks import TASK_VERSION
from keras_metalr.update_rule import RULE_VERSION


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
    start: str,
    work: pathlib.Path,
    output: pathlib.Path,
    command: str,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a controller and write it as a preset with its card.

    Several processes (`processes.join`) share the evolution. The first one
    makes the banks that all read, the scores and the preset.

    Args:
        name: String, the preset's name on the card.
        config: `MetaConfig`.
        start: String, preset to start from, by name or folder.
        work: Path of a folder for banks and checkpoints; a second call goes on
            from there. All processes must see it.
        output: Path of the preset folder to write.
        command: String, the command line, for the card.
        say: Callable that is given each line of progress.

    Returns:
        Dict with the held-out scores, as it is written to `scores.json`; empty
        in all processes but the first.
    """
    check_backend()
    if not is_first():
        say = _say_nothing
    first = Controller.from_preset(start)
    earlier = _earlier(start)
    origin = earlier[0]["start"] if earlier else start
    supervised = Controller.from_preset(origin)
    if not is_first():
        wait_for_all("banks")
    clock = _Clock(work / "seconds.json")
    loaded = data, names = kept_data(work)
    notes = kept_notes(work)
    say(f"data: {', '.join(names)}; device: {clock.device}")
    wanted = [s for s in config.stages if s.name in config.order]

    def build(stage: Stage) -> Arena:
        return stage_arena(stage, data, names, work, TRAINING_SEED, say)

    # Side by side, since each compiles programs of its own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = pool.map(build, wanted)
        arenas = {arena.name: arena for arena in built}
    if is_first():
        wait_for_all("banks")

    def report(generation: int, stage: str, value: float, left: float) -> None:
        if not is_first():
            return
        clock.seconds()
        say(progress_line(config.evolution, generation, stage, value, left))

    controller = evolve(
        [arenas[stage] for stage in config.order],
        first,
        config.evolution,
        work / "evolution.npz",
        report=report,
    )
    if not is_first():
        return {}
    held_out = [stage for stage in config.stages if stage.num_held_out]
    pair = supervised, controller
    record = {
        "scores": {
            stage.name: _held_out_score(stage, config, loaded, pair, work, say)
            for stage in held_out
        },
        "data": names,
        "data_notes": notes,
        "origin": origin,
        "start": start,
        "earlier": earlier,
        **_versions(),
        "seconds": clock.seconds(),
        "config": json.loads(json.dumps(config._asdict(), default=str)),
        "command": command,
    }
    # Not before the scores: the start may be what is written over here.
    controller.save_to_preset(output)
    record["scored_with"] = _scored_with(output)
    _write_card(name, config, record, output)
    return record


def score_again(
    output: pathlib.Path,
    work: pathlib.Path,
    config: MetaConfig,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score a trained preset as the package is now, and renew its card.

    For a change of the features, the rule or the tasks after which the weights
    are still the best there are, and for stages that are new. What the card
    says of their training stays, and so do scores of these weights and the
    present versions, on stages of the same numbers: an interrupted call goes on
    where it was.

    Args:
        output: Path of the folder that `meta_train` wrote.
        work: Path of a folder for banks.
        config: `MetaConfig`; its stages are what is scored.
        say: Callable that is given each line of progress.

    Returns:
        Dict with the scores, as it is written to `scores.json`.

    Raises:
        ValueError: if the folder holds no preset that was meta-trained.
    """
    check_backend()
    record = scored_record(output)
    trained = config_from_record(record["config"])
    held_out = [stage for stage in config.stages if stage.num_held_out]
    scores = _present_scores(record, held_out, output)
    record["scored_with"] = _scored_with(output)
    loaded = kept_data(work, record["data"])
    record["data_notes"] = kept_notes(work)
    pair = (
        Controller.from_preset(record["origin"]),
        Controller.from_preset(output),
    )
    for stage in held_out:
        if stage.name in scores:
            say(f"{stage.name}: scored before")
        else:
            scores[stage.name] = _held_out_score(
                stage, trained, loaded, pair, work, say
            )
        record["scores"] = {
            s.name: scores[s.name] for s in held_out if s.name in scores
        }
        # One takes minutes, so that each is written down at once.
        _write_card(output.name, trained, record, output)
    return record


def scored_record(preset: pathlib.Path) -> dict[str, Any]:
    """What `meta_train` noted beside a preset.

    Args:
        preset: Path of the folder.

    Raises:
        ValueError: if there is no such file, or the preset cannot be loaded.
    """
    Controller.from_preset(preset)
    if not (preset / SCORES_FILE).is_file():
        raise ValueError(
            f"{str(preset)!r} has no {SCORES_FILE}: it was not meta-trained. "
            "Name a folder that scripts/meta_train.py wrote."
        )
    record: dict[str, Any] = json.loads((preset / SCORES_FILE).read_text())
    return record


def _present_scores(
    record: dict[str, Any], held_out: list[Stage], preset: pathlib.Path
) -> dict[str, Any]:
    """Those that would come out again: nothing they hang on is another."""
    if record.get("scored_with") != _scored_with(preset):
        return {}
    scores = record["scores"]
    return {
        stage.name: scores[stage.name]
        for stage in held_out
        if scores.get(stage.name, {}).get("stage") == _numbers(stage)
    }


def _numbers(stage: Stage) -> dict[str, int]:
    return {
        "num_decisions": stage.num_decisions,
        "interval": stage.interval,
        "num_held_out": stage.num_held_out,
    }


def _say_nothing(line: str) -> None:
    """What the other processes have to say."""


def _versions() -> dict[str, int]:
    """Of all that a score hangs on, beside the weights."""
    return {
        "feature_version": FEATURE_VERSION,
        "rule_version": RULE_VERSION,
        "task_version": TASK_VERSION,
    }


def _scored_with(preset: pathlib.Path) -> dict[str, Any]:
    """The versions and the weights that a preset's scores are of."""
    config = json.loads((preset / CONFIG_FILE).read_text())
    return {**_versions(), "weights_sha256": config["weights_sha256"]}


def _earlier(start: str) -> list[dict[str, Any]]:
    """The evolutions behind a preset, first to last; none behind a fit."""
    path = preset_path(start) / SCORES_FILE
    if not path.is_file():
        return []
    record = json.loads(path.read_text())
    told = ("start", "feature_version", "rule_version", "seconds", "command")
    return [
        *record["earlier"],
        {
            **{key: record[key] for key in told},
            "evolution": record["config"]["evolution"],
        },
    ]


def _held_out_score(
    stage: Stage,
    trained: MetaConfig,
    loaded: tuple[Data, list[str]],
    controllers: tuple[Controller, Controller],
    work: pathlib.Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What phase 2 alone and the evolved one reach on a stage."""
    start, controller = controllers
    arena = stage_arena(stage, *loaded, work, HELD_OUT_SEED, say)
    score = {
        "stage": _numbers(stage),
        "start": _summary(arena, start),
        "evolved": _summary(arena, controller),
        "tuned": summarize(_tuned_regrets(arena)),
        "trained_on": stage.name in trained.order,
    }
    say(f"{stage.name}: {json.dumps(score)}")
    return score


def _write_card(
    name: str, config: MetaConfig, record: dict[str, Any], output: pathlib.Path
) -> None:
    card = make_card(name, config, record, output)
    write_text(output / CARD_FILE, card)
    write_text(output / SCORES_FILE, json.dumps(record, indent=2) + "\n")


def _tuned_regrets(arena: Arena) -> np.ndarray:
    """Of the schedules that were tuned on other batches of the same tasks."""
    bank = arena.bank
    losses = tuned_on_other_batches(arena.unroll, bank.tasks)
    return np.asarray(regret(losses, bank.best_loss, bank.initial_loss))


def _summary(arena: Arena, controller: Controller) -> dict[str, float]:
    rows = evaluate(arena, controller)
    pretrained = int(np.sum(np.asarray(arena.bank.tasks.pretrained)))
    return {
        "tasks": len(rows["regret"]),
        "pretrained": pretrained,
        **summarize(rows["regret"]),
        "score": round(float(rows["score"].mean()), 4),
    }


class _Clock:
    """Seconds spent in all the calls for one folder, interrupted ones too.

    By device, since a folder can be taken from one to another.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._before = json.loads(path.read_text()) if path.is_file() else {}
        self._began = time.monotonic()
        kind = jax.devices()[0].device_kind
        cpus = f"{os.cpu_count()} CPU cores ({platform.machine()})"
        on_cpu = jax.default_backend() == "cpu"
        self.device = cpus if on_cpu else f"{kind} and {cpus}"
        if jax.process_count() > 1:
            self.device = f"{jax.process_count()} processes: {self.device}"

    def seconds(self) -> dict[str, float]:
        """Seconds until now by device; written down at each call."""
        spent = time.monotonic() - self._began
        total = self._before.get(self.device, 0.0) + spent
        seconds = {**self._before, self.device: round(total, 1)}
        write_json(self._path, seconds)
        return seconds
