"""From a budget to parts: the jobs of each, and the data that these share.

A part becomes one JSON file of the report. Everything that is ever run is in
the plan before anything is.
"""

from collections.abc import Sequence

from keras_metalr.benchmark.full_report.budgets import BUDGETS
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.parts import Part
from keras_metalr.benchmark.full_report.sections import MAKERS

SECTIONS = tuple(MAKERS)


def make_plan(
    budget_name: str,
    choices: Choices,
    sections: Sequence[str] = SECTIONS,
) -> list[Part]:
    """Return the parts of the report, in order.

    Args:
        budget_name: String, a key of `BUDGETS`.
        choices: `Choices`.
        sections: Sequence of strings, of `SECTIONS`. Defaults to all.

    Returns:
        List of `Part`.

    Raises:
        ValueError: If a budget or a section is unknown.
    """
    if budget_name not in BUDGETS:
        raise ValueError(
            f"`budget` must be one of {tuple(BUDGETS)}. "
            f"Received: budget={budget_name!r}."
        )
    unknown = [name for name in sections if name not in MAKERS]
    if unknown:
        raise ValueError(
            f"`sections` must be of {SECTIONS}. Received: {unknown}."
        )
    budget = BUDGETS[budget_name]
    return [
        part
        for section in dict.fromkeys(sections)
        for part in MAKERS[section](budget, choices)
    ]


def controllers(parts: Sequence[Part]) -> list[str]:
    """Names of the presets that must be there before the first run."""
    fitted = {str(p.ladder.controller) for p in parts if p.ladder is not None}
    named = [
        job.config.method_options["controller"]
        for part in parts
        for job in part.jobs
        if job.config.method == "metalr"
    ]
    named += [loop.controller for part in parts for loop in part.loops]
    return [name for name in dict.fromkeys(named) if name not in fitted]
