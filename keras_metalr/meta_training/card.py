"""The card of a meta-trained preset: how it was made and what it reached."""

import json
import pathlib
import statistics
from typing import Any

from keras_metalr.controller import CONFIG_FILE
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.meta_training.bank import GRID_RATES
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.configs import MetaConfig
from keras_metalr.meta_training.schedules import SCHEDULES
from keras_metalr.meta_training.tasks import TASK_VERSION
from keras_metalr.workloads.tfds_source import data_text

AIM_MEAN, AIM_WORST = 0.01, 0.1
# What runs were like in training, by the version of the tasks.
CONDITIONS = {
    1: "on batches of 4 to 32, without dropout",
    2: "on batches of 4 to 64, three in ten with dropout",
}


def make_card(
    name: str, config: MetaConfig, record: dict[str, Any], preset: pathlib.Path
) -> str:
    """The card of the preset in a folder, Markdown, from what was measured."""
    evolution = config.evolution
    described = json.loads((preset / CONFIG_FILE).read_text())
    trained = [s for s in config.stages if s.name in config.order]
    return CARD.format(
        name=name,
        layers=_layers(described["config"]["hidden_units"]),
        feature_version=FEATURE_VERSION,
        trained_version=record["feature_version"],
        rule_version=record["scored_with"]["rule_version"],
        trained_rule=record["rule_version"],
        task_version=TASK_VERSION,
        trained_tasks=record["task_version"],
        conditions=CONDITIONS[record["task_version"]],
        data=data_text(record["data"], record["data_notes"]),
        texts=", texts 8 words" if "sst2" in record["data"] else "",
        start=_start(name, record["start"]),
        origin=record["origin"],
        earlier=_earlier(record["earlier"]),
        stages=", ".join(config.order),
        families=", ".join(sorted({s.family for s in trained})),
        shortest=min(s.num_decisions * s.interval for s in trained),
        longest=max(s.num_decisions * s.interval for s in trained),
        generations=evolution.num_generations,
        pairs=evolution.num_pairs,
        sigma=f"{evolution.sigma} to {evolution.final_sigma}",
        learning_rate=evolution.learning_rate,
        seed=evolution.seed,
        time=_time(record["seconds"]),
        digest=described["weights_sha256"],
        grid_size=len(GRID_RATES) * len(SCHEDULES),
        grid=f"{len(GRID_RATES)} rates x {len(SCHEDULES)} schedules",
        rows=_table(record["scores"]),
        aim=_aim(record["scores"]),
        command=record["command"],
    )


def _layers(hidden_units: list[int]) -> str:
    return " -> ".join(f"{units} ReLU" for units in hidden_units)


def _start(name: str, start: str) -> str:
    """A preset that is evolved further takes the place of the one it was."""
    return f"an earlier `{name}`" if start == name else f"the preset `{start}`"


def _aim(scores: dict[str, Any]) -> str:
    """Of how many stages the regrets are as low as they were to be."""
    means = [score["evolved"]["mean"] for score in scores.values()]
    worst = [score["evolved"]["worst"] for score in scores.values()]
    return (
        f"The aim, a mean of at most {AIM_MEAN} and a worst of at most "
        f"{AIM_WORST} on each stage, is reached in the\nmean on "
        f"{sum(mean <= AIM_MEAN for mean in means)} of {len(scores)} stages, "
        f"and in the worst on {sum(value <= AIM_WORST for value in worst)}."
    )


def _time(seconds: dict[str, float]) -> str:
    return ", ".join(
        f"{value / 3600:.2f} hours on {device}"
        for device, value in seconds.items()
    )


def _earlier(records: list[dict[str, Any]]) -> str:
    """The evolutions that made what this one started from; "none" as a rule."""
    lines = (
        f"{evolution.num_generations} generations of {evolution.num_pairs} "
        f"pairs from `{record['start']}` ({_time(record['seconds'])}; features "
        f"{record['feature_version']}, rule {record['rule_version']}; "
        f"`{record['command']}`)"
        for record in records
        for evolution in [EvolutionConfig(*record["evolution"])]
    )
    return "; ".join(lines) or "none"


def _table(scores: dict[str, Any]) -> str:
    rows = [
        (
            stage,
            score["evolved"]["tasks"],
            score["evolved"]["pretrained"],
            f"{score['start']['mean']:.3f}",
            *figures(score["evolved"]),
            *figures(score["tuned"]),
            "yes" if score["trained_on"] else "no",
        )
        for stage, score in scores.items()
    ]
    means = {
        key: statistics.fmean(score[key]["mean"] for score in scores.values())
        for key in ("start", "evolved", "tuned")
    }
    rows.append(
        (
            "mean",
            sum(score["evolved"]["tasks"] for score in scores.values()),
            sum(score["evolved"]["pretrained"] for score in scores.values()),
            f"{means['start']:.3f}",
            *(f"{means['evolved']:.3f}", "", ""),
            *(f"{means['tuned']:.3f}", "", ""),
            "",
        )
    )
    rule = ("---",) * len(_HEADS)
    lines = (" | ".join(map(str, row)) for row in (_HEADS, rule, *rows))
    return "\n".join(f"| {line} |" for line in lines)


def figures(score: dict[str, float]) -> tuple[str, str, str]:
    """Mean with its interval, median and worst, as a table has them."""
    return (
        f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]",
        f"{score['median']:.3f}",
        f"{score['worst']:.2f}",
    )


_HEADS = (
    "stage",
    "tasks",
    "pretrained",
    "start",
    "evolved",
    "median",
    "worst",
    "tuned before",
    "median",
    "worst",
    "trained on",
)

CARD = """# {name}: a controller for the learning rate

Meta-trained: evolved on the end of thousands of small runs, starting from
{start} and in the first place from `{origin}` (`supervised` is the fit of
phases 1 and 2).

| | |
|---|---|
| architecture | features -> {layers} -> 1 |
| feature version | {feature_version}, trained with {trained_version} |
| version of the update rule | {rule_version}, trained with {trained_rule} |
| version of the tasks | {task_version}, trained on {trained_tasks} |
| data | {data}; training splits, images 8x8 grey{texts} |
| stages, in order (family-steps) | {stages} |
| earlier evolutions | {earlier} |
| evolution | {generations} generations of {pairs} antithetic pairs |
| steps | sigma {sigma}, Adam {learning_rate} with cosine, seed {seed} |
| time | {time}, evolution and scores |
| sha256 of the weights | {digest} |

## Scores

On tasks that were never trained on (other members of the families; the images
are of the same data sets). Regret = (final validation loss - best of a
grid) / (initial loss - best), the grid being {grid} tuned for each task by
itself: 0 is the tuned run, 1 is no progress, below 0 beats the tuned run. It is
clipped to [-0.15, 5]. The run does not depend on the first rate that the user
gives: the safe start forgets it.

{rows}

Mean regret with its 95 % interval, of `{origin}` ("start"), of this one
("evolved"), and of the grid's best rate and schedule on other batches of the
same task ("tuned before"): what somebody reaches who tunes with {grid_size}
runs and then trains once more. The regret is measured against the best of
{grid_size} on the very run that it is judged by, which is more than tuning can
know.

{aim} What was tried stands in `docs/design.md`, "Meta-training runs
the product's own functions".

## Limits

It was trained on nets of a few thousand weights alone ({families}), about a
third of them starting from weights pretrained with other labels on the examples
that follow the task's own, in part its own again where it has more than half of
a data set, and half of them with validation
data, {conditions}, in runs of {shortest} to {longest} steps.
It has seen no large network. Without validation data it cannot know that a net
overfits: the worst tasks are tiny noisy data sets of that kind. The digits have
no training split: version 1 of the tasks has all of them, version 2 all but
those that the project's workloads validate on.

What the shipped preset does beyond that is measured apart, in the project's
repository: ResNet-18 and a pretrained encoder beside tuned schedules
(`docs/large_nets.md`), runs of 50 to 20,000 steps (`docs/horizons.md`),
other methods (`docs/benchmark.md`), the same run without one part or the other
(`docs/ablation.md`), and smaller evolutions that never saw the family that they
are scored on (`docs/leave_out.md`).

Made by `{command}`, from the presets and the configuration of that time.
"""
