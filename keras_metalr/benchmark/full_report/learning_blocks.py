"""What the pages say of how a controller learns: phases and feedback."""

import math
from collections.abc import Mapping

import numpy as np

from keras_metalr.benchmark.ablation import Summary
from keras_metalr.benchmark.ablation import summarize
from keras_metalr.benchmark.full_report import figures
from keras_metalr.benchmark.full_report import scores
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.document import Block
from keras_metalr.benchmark.full_report.document import Figure
from keras_metalr.benchmark.full_report.document import Paragraph
from keras_metalr.benchmark.full_report.document import Table
from keras_metalr.benchmark.full_report.wording import Source
from keras_metalr.benchmark.full_report.wording import difference_text
from keras_metalr.benchmark.full_report.wording import interval_text
from keras_metalr.benchmark.full_report.wording import summary_cells
from keras_metalr.benchmark.full_report.wording import summary_heads
from keras_metalr.benchmark.full_report.wording import summary_note
from keras_metalr.benchmark.full_report.wording import task_title
from keras_metalr.benchmark.full_report.wording import verdict
from keras_metalr.benchmark.scoring import mean_and_interval
from keras_metalr.benchmark.text import count_text
from keras_metalr.benchmark.text import rate_text


def phases_blocks(part: PartResult, source: Source) -> list[Block]:
    """Phases 1 and 2 in words, phase 3 as a table."""
    rate = rate_text(part.details["report_rate"])
    summaries = {
        f"static at {rate}" if name == "static" else f"MetaLR, {name}": (
            summarize(runs)
        )
        for name, runs in scores.controller_groups(part).items()
    }
    means = {
        rate: float(np.mean(values))
        for rate, values in scores.ladder_outcomes(part).items()
    }
    rows = [
        (name, *summary_cells(summary)) for name, summary in summaries.items()
    ]
    return [
        Paragraph(_phases_1_and_2(part, source, means)),
        Table(
            ("phase 3", *summary_heads(part.details["target_accuracy"])),
            rows,
            source.caption(part, f"{summary_note()} {_best_constant(means)}"),
        ),
        _ladder_figure(part, source, means, summaries),
    ]


def _best_constant(means: Mapping[float, float]) -> str:
    finite = {rate: mean for rate, mean in means.items() if math.isfinite(mean)}
    if not finite:
        return "No constant rate of phase 1 ended with a finite loss."
    best = min(finite, key=finite.__getitem__)
    return (
        f"The best constant rate of phase 1, {rate_text(best)}, ended at a "
        f"loss of {finite[best]:.3g}."
    )


def _ladder_figure(
    part: PartResult,
    source: Source,
    means: Mapping[float, float],
    summaries: Mapping[str, Summary],
) -> Figure:
    return Figure(
        name=part.name,
        caption=source.caption(
            part,
            "Points: the mean of phase 1, none where a run diverged. Lines: "
            "the mean final loss of phase 3.",
        ),
        alternative=f"Final loss against the rate, {task_title(part)}",
        data={
            "title": task_title(part),
            "rates": list(means),
            "losses": list(means.values()),
            "lines": {
                name: summary.loss
                for name, summary in summaries.items()
                if name.startswith("MetaLR")
            },
        },
        draw=figures.draw_ladder,
    )


def _phases_1_and_2(
    part: PartResult, source: Source, means: Mapping[float, float]
) -> str:
    best = min(means, key=lambda rate: means[rate])
    num_seeds = len(part.ladder) // len(means)
    fit = part.fit
    hidden = " -> ".join(f"{units} ReLU" for units in fit["hidden_units"])
    return (
        f"Phase 1: {len(means)} constant rates from {rate_text(min(means))} to "
        f"{rate_text(max(means))}, {count_text(num_seeds, 'seed')} each; the "
        f"best is {rate_text(float(f'{best:.3g}'))} (validation loss "
        f"{means[best]:.4f}). Phase 2, the secondary model: "
        f"{fit['num_features']} features -> {hidden} -> 1, Adam "
        f"{fit['learning_rate']:g}, batch {fit['batch_size']}, "
        f"{fit['epochs']} epochs, on {fit['num_states']:,} states: mean "
        f"squared error on the same states {fit['mean_squared_error']:.3f}. "
        f"All figures from {source.link(part)}."
    )


def feedback_blocks(part: PartResult, source: Source) -> list[Block]:
    """Regret with experience and without, run by run and in blocks."""
    loops = scores.feedback_loops(part)
    return [
        Paragraph(source.caption(part, _reference_text(loops.reference))),
        _regret_figure(part, source, loops),
        _across_runs(part, source, loops),
        _within_a_run(part, source, loops),
    ]


def _reference_text(reference: scores.Reference) -> str:
    return (
        f"Regret: (final validation loss - {reference.best:.4f}) / "
        f"({reference.initial:.4f} - {reference.best:.4f}). The former is the "
        f"best of {reference.num_references} references (constant and cosine, "
        f"{count_text(reference.num_seeds, 'seed')} each): "
        f"{reference.method} at {rate_text(reference.learning_rate)}. The "
        "latter is the loss before training. 0 is the reference, below 0 beats "
        f"it; at most {scores.HIGHEST_REGRET:g}."
    )


def _regret_figure(
    part: PartResult, source: Source, loops: scores.Loops
) -> Figure:
    repeats = count_text(len(loops.gathered), "repeat")
    return Figure(
        name=part.name,
        caption=source.caption(
            part,
            f"Regret of run k against k: mean over {repeats}, each from other "
            "seeds, and its 95 % interval (cut off where it leaves the "
            "picture). Without experience the seeds are the same.",
        ),
        alternative=f"Regret against the run, {task_title(part)}",
        data={
            "title": task_title(part),
            "lines": {
                "with experience": _curve(loops.gathered),
                "without": _curve(loops.without),
            },
        },
        draw=figures.draw_feedback,
    )


def _curve(regrets: np.ndarray) -> dict[str, list[float]]:
    intervals = [mean_and_interval(list(column)) for column in regrets.T]
    return {
        name: [float(f"{interval[number]:.4g}") for interval in intervals]
        for number, name in enumerate(("mean", "low", "high"))
    }


def _across_runs(
    part: PartResult, source: Source, loops: scores.Loops
) -> Table:
    first, last, change = loops.blocks()
    repeats, num_runs = loops.gathered.shape
    rows = [
        (
            block.name,
            interval_text(block.gathered),
            interval_text(block.without),
            difference_text(scores.paired(block.gathered, block.without)),
        )
        for block in (first, last, change)
    ]
    learned = verdict(scores.paired(last.gathered, first.gathered))
    helped = verdict(scores.paired(last.gathered, last.without))
    return Table(
        ("runs", "with experience", "without", "difference"),
        rows,
        source.caption(
            part,
            f"Feedback across runs: mean regret over "
            f"{count_text(repeats, 'repeat')} of {num_runs} runs ± half of the "
            "95 % interval. Runs of a repeat learn from one another, so a "
            "repeat is one observation. The difference is paired by seed, "
            f"below 0 experience is better. With experience the {last.name} "
            f"have a regret that is {learned} than the {first.name}; and "
            f"{helped} than the same runs without.",
        ),
    )


def _within_a_run(
    part: PartResult, source: Source, loops: scores.Loops
) -> Table:
    seeds = sorted(loops.within)
    on = [loops.within[seed] for seed in seeds]
    off = [loops.plain[seed] for seed in seeds]
    difference = scores.paired(on, off)
    return Table(
        ("seeds", "feedback on", "off", "difference"),
        [
            (
                len(seeds),
                interval_text(on),
                interval_text(off),
                difference_text(difference),
            )
        ],
        source.caption(
            part,
            "Feedback within a run, `MetaLR(feedback=True)`, which is off by "
            "default: regret, mean ± half of the 95 % interval; the "
            "difference is paired by seed. With feedback it is "
            f"{verdict(difference)}.",
        ),
    )
