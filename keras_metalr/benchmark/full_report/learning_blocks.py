"""What the pages say of how a controller learns: phases and feedback."""

import numpy as np

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
from keras_metalr.benchmark.scoring import mean_and_interval
from keras_metalr.benchmark.text import count_text
from keras_metalr.benchmark.text import rate_text


def phases_blocks(part: PartResult, source: Source) -> list[Block]:
    """Phases 1 and 2 in words, phase 3 as a table."""
    ladder = scores.ladder_means(part)
    means = {rate: float(np.mean(values)) for rate, values in ladder.items()}
    best = min(means, key=lambda rate: means[rate])
    fit = part.fit
    hidden = " -> ".join(f"{units} ReLU" for units in fit["hidden_units"])
    groups = {
        name: summarize(runs)
        for name, runs in scores.controller_groups(part).items()
    }
    rate = rate_text(part.details["report_rate"])
    names = {
        name: f"static at {rate}" if name == "static" else f"MetaLR, `{name}`"
        for name in groups
    }
    return [
        Paragraph(
            f"{task_title(part)}. Phase 1: {len(means)} constant "
            f"rates from {rate_text(min(means))} to {rate_text(max(means))}, "
            f"{count_text(len(ladder[best]), 'seed')} each; the best is "
            f"{best:.3g} (validation loss {means[best]:.4f}). Phase 2, the "
            f"secondary model: {fit['num_features']} features -> {hidden} -> "
            f"1, Adam {fit['learning_rate']:g}, batch {fit['batch_size']}, "
            f"{fit['epochs']} epochs, on {fit['num_states']:,} states: mean "
            f"squared error {fit['mean_squared_error']:.3f}. "
            f"All figures from {source.link(part)}."
        ),
        Table(
            ("phase 3", *summary_heads(part.details["target_accuracy"])),
            [
                (names[name], *summary_cells(summary))
                for name, summary in groups.items()
            ],
            source.caption(part, summary_note("of every step")),
        ),
        Figure(
            name=part.name,
            caption=source.caption(
                part, "Lines: the mean final loss of phase 3."
            ),
            alternative=f"Final loss against the rate, {task_title(part)}",
            data={
                "title": task_title(part),
                "rates": list(means),
                "losses": list(means.values()),
                "lines": {
                    names[name].replace("`", ""): summary.loss
                    for name, summary in groups.items()
                    if name != "static"
                },
            },
            draw=figures.draw_ladder,
        ),
    ]


def feedback_blocks(part: PartResult, source: Source) -> list[Block]:
    """Regret with experience and without, run by run and in blocks."""
    loops = scores.feedback_loops(part)
    return [
        Paragraph(_reference_text(part, loops.reference)),
        *_across_runs(part, source, loops),
        *_within_a_run(part, source, loops),
    ]


def _reference_text(part: PartResult, reference: scores.Reference) -> str:
    (controller,) = part.controllers
    return (
        f"{task_title(part)}, starting from the preset "
        f"`{controller}`. Regret: (final validation loss - "
        f"{reference.best:.4f}) / ({reference.initial:.4f} - "
        f"{reference.best:.4f}). The former is the best of "
        f"{reference.num_references} references (constant and cosine, "
        f"{count_text(reference.num_seeds, 'seed')} each): "
        f"{reference.method} at {rate_text(reference.learning_rate)}. The "
        "latter is the loss before training. 0 is the reference, below 0 beats "
        f"it; at most {scores.HIGHEST_REGRET:g}."
    )


def _across_runs(
    part: PartResult, source: Source, loops: scores.Loops
) -> list[Block]:
    repeats, num_runs = loops.gathered.shape
    block = min(scores.BLOCK, max(1, num_runs // 2))
    rows = []
    changes = []
    for name, runs in (
        (f"first {block}", slice(None, block)),
        (f"last {block}", slice(num_runs - block, None)),
    ):
        gathered = loops.gathered[:, runs].ravel().tolist()
        without = loops.without[:, runs].ravel().tolist()
        difference = scores.paired(gathered, without)
        changes.append(float(np.mean(gathered)))
        rows.append(
            (
                name,
                len(gathered),
                interval_text(gathered),
                interval_text(without),
                difference_text(difference),
            )
        )
    return [
        Figure(
            name=part.name,
            caption=source.caption(
                part,
                f"Regret of run k against k: mean over "
                f"{count_text(repeats, 'repeat')}, "
                "each from other seeds, and its 95 % interval (cut off where "
                "it leaves the picture). Without experience the seeds are the "
                "same.",
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
        ),
        Table(
            ("runs", "number", "with experience", "without", "difference"),
            rows,
            source.caption(
                part,
                f"Feedback across runs: regret over "
                f"{count_text(repeats, 'repeat')} of {num_runs} runs, mean ± "
                "half of the 95 % interval; the difference is paired by seed, "
                "below 0 experience is better. "
                "From the first to the last runs, regret with experience went "
                f"from {changes[0]:.3f} to {changes[1]:.3f}.",
            ),
        ),
    ]


def _curve(regrets: np.ndarray) -> dict[str, list[float]]:
    intervals = [mean_and_interval(list(column)) for column in regrets.T]
    return {
        name: [float(f"{interval[number]:.4g}") for interval in intervals]
        for number, name in enumerate(("mean", "low", "high"))
    }


def _within_a_run(
    part: PartResult, source: Source, loops: scores.Loops
) -> list[Block]:
    seeds = sorted(loops.within)
    on = [loops.within[seed] for seed in seeds]
    off = [loops.plain[seed] for seed in seeds]
    return [
        Table(
            ("seeds", "feedback on", "off", "difference"),
            [
                (
                    len(seeds),
                    interval_text(on),
                    interval_text(off),
                    difference_text(scores.paired(on, off)),
                )
            ],
            source.caption(
                part,
                "Feedback within a run, `MetaLR(feedback=True)`: regret, mean "
                "± half of the 95 % interval; the difference is paired by "
                "seed, below 0 feedback is better.",
            ),
        )
    ]
