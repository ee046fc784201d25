"""What a controller reaches on a kind of task that it was not trained on.

For each family a controller is evolved on all the others, from the same start,
with the same generations as one that is evolved on all of them, and both are
run on held-out tasks of the family. How much they differ is what having seen
the family is worth.
"""

import json
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from keras_metalr.controller import Controller
from keras_metalr.meta_training.arenas import HELD_OUT_SEED
from keras_metalr.meta_training.arenas import TRAINING_SEED
from keras_metalr.meta_training.arenas import stage_arena
from keras_metalr.meta_training.card import figures
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.configs import Stage
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.evaluation import evaluate
from keras_metalr.meta_training.evaluation import summarize
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.evolution import progress_line
from keras_metalr.workloads.tfds_source import data_text

COLUMNS = ("start", "all", "others")


def leave_out(
    stages: Sequence[Stage],
    families: Sequence[str],
    start: Controller,
    config: EvolutionConfig,
    data: Data,
    names: list[str],
    work: pathlib.Path,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Scores on held-out tasks of families that were left out of training.

    Args:
        stages: Sequence of `Stage`, one a family.
        families: Sequence of names of families, to be left out one by one.
        start: `Controller` that each evolution starts from.
        config: `EvolutionConfig` of each.
        data: `Data`.
        names: List of strings, the data sets in it.
        work: Path of a folder for banks and checkpoints; a second call goes on
            from there.
        say: Callable that is given each line of progress.

    Returns:
        Dict from a family to the scores on it: of `"start"`, of the controller
        evolved on `"all"` families, and of the one evolved on the `"others"`.

    Raises:
        ValueError: if a family has no stage, or none would be left.
    """
    known = [stage.family for stage in stages]
    unknown = sorted(set(families) - set(known))
    if unknown or len(known) < 2:
        raise ValueError(
            "`families` must be of two or more that have a stage. "
            f"Received: {unknown or known}; with a stage: {known}."
        )

    def build(seed: int) -> dict[str, Any]:
        return {
            stage.family: stage_arena(stage, data, names, work, seed, say)
            for stage in stages
        }

    training, held_out = build(TRAINING_SEED), build(HELD_OUT_SEED)

    def evolved(left_out: str | None) -> Controller:
        label = left_out or "none"

        def report(
            generation: int, stage: str, value: float, left: float
        ) -> None:
            line = progress_line(config, generation, stage, value, left)
            say(f"without {label:16s} {line}")

        return evolve(
            [arena for name, arena in training.items() if name != left_out],
            start,
            config,
            work / f"without-{label}.npz",
            report=report,
        )

    def scores(family: str, controller: Controller) -> dict[str, float]:
        return summarize(evaluate(held_out[family], controller)["regret"])

    on_all = evolved(None)
    table = {}
    for family in families:
        table[family] = {
            "start": scores(family, start),
            "all": scores(family, on_all),
            "others": scores(family, evolved(family)),
        }
        say(f"{family}: {json.dumps(table[family])}")
    return table


def make_page(record: dict[str, Any]) -> str:
    """The Markdown page of a record.

    Args:
        record: Dict with `table`, `evolution`, `num_steps`, `num_tasks`,
            `num_held_out`, `data`, `data_notes` (by name, what it has lost),
            `rule_version`, `device` and `command` (what made it).
    """
    return PAGE.format(
        rows=_rows(record["table"]),
        num_generations=record["evolution"]["num_generations"],
        num_pairs=record["evolution"]["num_pairs"],
        num_steps=record["num_steps"],
        num_tasks=record["num_tasks"],
        num_held_out=record["num_held_out"],
        device=record["device"],
        data=data_text(record["data"], record["data_notes"]),
        rule=record["rule_version"],
        command=record["command"],
    )


def _rows(table: dict[str, dict[str, Any]]) -> str:
    heads = " | median | worst | ".join(
        ("start: mean", "all: mean", "others: mean")
    )
    lines = [
        f"| family | {heads} | median | worst |",
        "|---|" + "---|" * (3 * len(COLUMNS)),
    ]
    for family, row in table.items():
        cells = [cell for name in COLUMNS for cell in figures(row[name])]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    means = [
        f"{sum(row[name]['mean'] for row in table.values()) / len(table):.3f}"
        for name in COLUMNS
    ]
    lines.append(f"| mean | {' | | | '.join(means)} | | |")
    return "\n".join(lines)


PAGE = """# Families that were left out of training

Regret, with its 95 % interval, on {num_held_out} held-out tasks of a family,
runs of {num_steps} steps: 0 is the best of 36 tuned runs of the same task, 1 is
no progress. *Start* is the supervised fit of phases 1 and 2; *all* was evolved
from it on all families, *others* on all but the row's own. Each
evolution: {num_generations} generations of {num_pairs} antithetic pairs on
{num_tasks} tasks of each family ({device}), far fewer than the shipped
controller's, which is in no column. Data: {data}.
Version {rule} of the update rule.

{rows}

Made by `{command}`.
"""
