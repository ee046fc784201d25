"""What each part of the control is worth: regret with the part taken away.

The controller is the same in all rows and is not trained anew, so a row says
what the shipped controller loses without a part, not what a controller that
never knew of the part would reach.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_metalr.controller import Controller
from keras_metalr.decision import Settings
from keras_metalr.features import FEATURE_NAMES
from keras_metalr.meta_training.arenas import Arena
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import make_bank
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.evaluation import evaluate
from keras_metalr.meta_training.evaluation import summarize
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.unroll import Unroll
from keras_metalr.update_rule import MAX_INCREMENT
from keras_metalr.update_rule import Evidence
from keras_metalr.update_rule import increment
from keras_metalr.workloads.tfds_source import data_text

SEED = 20_000
NUM_STEPS = 400
GROUPS = {
    "time": ("progress", "time_left", "age", "horizon"),
    "loss": ("loss_trend", "loss_gain", "loss_surprise", "loss_jump"),
    "cosine": ("cosine_fast", "cosine_slow"),
    "gradient": ("gradient_trend",),
    "travel": ("coherence", "travel"),
    "update size": ("update_size",),
    "rate": ("rate_trend", "rate_drop"),
    "trust": ("trust",),
    "pretrained": ("pretrained",),
    "validation": (
        "validated",
        "validation_trend",
        "validation_rise",
        "validation_gap",
    ),
}
FIRST_RATES = (1e-6, 1e-3, 1.0, 10.0)
# Rows that have another name in records made before.
RENAMED = {"guard off": "no rollbacks"}


class Part(NamedTuple):
    """One row: its name, and what differs from the product in it."""

    name: str
    num_decisions: int = 200
    without: tuple[str, ...] = ()
    settings: Settings = Settings()
    rule: Callable[[Any, Evidence], Any] = increment
    first_rate: float = 1e-3
    start: bool = False


def _free(output: Any, evidence: Evidence) -> Any:
    """No limits: what the controller wants is what happens."""
    del evidence
    return MAX_INCREMENT * ops.tanh(output)


def _growth_only(output: Any, evidence: Evidence) -> Any:
    """Limits that hold the rate, and never lower it nor lift its fall."""
    wanted = _free(output, evidence)
    held = ops.maximum(increment(output, evidence), 0.0)
    return ops.where(wanted > 0.0, held, wanted)


def _as_pretrained(output: Any, evidence: Evidence) -> Any:
    """The limits of pretrained weights, for new ones too."""
    pretrained = ops.ones_like(evidence.pretrained)
    return increment(output, evidence._replace(pretrained=pretrained))


def _never_lifted(output: Any, evidence: Evidence) -> Any:
    """The cap alone: nothing makes the rate grow but the controller."""
    return ops.minimum(increment(output, evidence), _free(output, evidence))


def _overfitting_let_be(output: Any, evidence: Evidence) -> Any:
    """Nothing but the controller lowers the rate of a net that overfits."""
    nothing = ops.zeros_like(evidence.lost_again)
    return increment(output, evidence._replace(lost_again=nothing))


def parts() -> list[Part]:
    """All rows, the product itself first."""
    rows = [Part("as shipped"), Part("phase 2 alone", start=True)]
    rows += [Part(f"without {k}", without=v) for k, v in GROUPS.items()]
    rows += [
        Part("trust: no cap", rule=_free),
        Part("trust: cap on growth alone", rule=_growth_only),
        Part("trust: new weights as pretrained ones", rule=_as_pretrained),
        Part("no least change", rule=_never_lifted),
        Part("no fall where a net overfits", rule=_overfitting_let_be),
        Part("trust: no cap, no feature", without=GROUPS["trust"], rule=_free),
        Part("no rollbacks", settings=Settings(guard=False)),
        Part("feedback within the run", settings=Settings(feedback=True)),
    ]
    rows += [Part(f"{n} decisions", num_decisions=n) for n in (50, 100, 400)]
    rows += [
        Part(
            f"safe start off, from {rate:g}",
            settings=Settings(safe_start=False),
            first_rate=rate,
        )
        for rate in FIRST_RATES
    ]
    return rows


def ablate(
    controller: Controller,
    start: Controller,
    data: Data,
    families: Sequence[str],
    num_tasks: int,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Regret of every row on fresh tasks of some families.

    Args:
        controller: `Controller`, as it is shipped.
        start: `Controller`, the supervised fit that evolution started from.
        data: `Data`.
        families: Sequence of names of families.
        num_tasks: Integer (>= 1), tasks of each.
        names: Sequence of names of rows. Defaults to `None`, all.
        say: Callable that is given each line of progress.

    Returns:
        Dict from a row's name to a dict from a family's name to its scores.

    Raises:
        ValueError: if a row's name is unknown.
    """
    known = {part.name: part for part in parts()}
    unknown = set(names or ()) - set(known)
    if unknown:
        raise ValueError(
            f"`names` must be of {list(known)}. Received: {sorted(unknown)}."
        )
    rows = [known[name] for name in (names or known)]
    table: dict[str, dict[str, Any]] = {part.name: {} for part in rows}
    for family in families:
        bank = make_bank(_unroll(parts()[0], family, data), num_tasks, SEED)
        for part in rows:
            scores = _score(part, family, data, bank, controller, start)
            table[part.name][family] = scores
            say(
                f"{family:16s} {part.name:28s} mean {scores['mean']:.3f} "
                f"median {scores['median']:.3f} worst {scores['worst']:.2f}"
            )
    return table


def _unroll(part: Part, family: str, data: Data) -> Unroll:
    return Unroll(
        FAMILIES[family],
        data,
        part.num_decisions,
        NUM_STEPS // part.num_decisions,
        part.settings,
        part.first_rate,
        part.rule,
    )


def _score(
    part: Part,
    family: str,
    data: Data,
    bank: Bank,
    controller: Controller,
    start: Controller,
) -> dict[str, float]:
    arena = Arena(part.name, _unroll(part, family, data), bank)
    kept = [name not in part.without for name in FEATURE_NAMES]
    chosen = start if part.start else controller
    rows = evaluate(arena, chosen, np.array(kept, "float32"))
    return summarize(rows["regret"])


def ablation_table(table: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    families = list(next(iter(table.values())))
    heads = [f"{name}: mean | median | worst" for name in families]
    lines = [
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---|" * (3 * len(families)),
    ]
    for name, row in table.items():
        cells = [
            f"{row[f]['mean']:.3f} | {row[f]['median']:.3f} | "
            f"{row[f]['worst']:.2f}"
            for f in families
        ]
        shown = RENAMED.get(name, name)
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _intervals(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{scores['low']:.3f} to {scores['high']:.3f} ({family})"
        for family, scores in row.items()
    )


def make_page(record: dict[str, Any]) -> str:
    """The Markdown page of a record.

    Args:
        record: Dict with `table`, `controller` (which one, and under which
            rule), `num_tasks`, `data`, `data_notes` (by name, what it has lost)
            and `command` (what made it).
    """
    return PAGE.format(
        rows=ablation_table(record["table"]),
        intervals=_intervals(next(iter(record["table"].values()))),
        num_tasks=record["num_tasks"],
        num_steps=NUM_STEPS,
        data=data_text(record["data"], record["data_notes"]),
        controller=record["controller"],
        command=record["command"],
    )


PAGE = """# What each part of the control is worth

Regret on {num_tasks} fresh tasks of each family, runs of {num_steps} steps,
half of them with validation data: 0 is the best of 36 tuned runs of the same
task, 1 is no progress. Data: {data}. The controller is the shipped one in every
row and was **not trained anew** without the part: a row says what it loses, not
what another controller could do without. Means hang on a few tasks, and most
differ by no more than chance: as shipped, the 95 % interval is {intervals}.

{rows}

The first rate does not matter with the safe start: all first rates are the same
run. A step that is not finite moves nothing in any row, that without rollbacks
among them. Made by `{command}`
with {controller}.
"""
