"""The pages of the report: written from the condensed parts, and checked.

`report.md` with its figures in `report/`, and `report.html`, one file.
"""

import os
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

from keras_metalr.benchmark.ablation import summarize
from keras_metalr.benchmark.full_report import learning_blocks
from keras_metalr.benchmark.full_report import scores
from keras_metalr.benchmark.full_report import task_blocks
from keras_metalr.benchmark.full_report.budgets import METHODS
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.condensed import load_all
from keras_metalr.benchmark.full_report.document import Block
from keras_metalr.benchmark.full_report.document import Figure
from keras_metalr.benchmark.full_report.document import Heading
from keras_metalr.benchmark.full_report.document import Paragraph
from keras_metalr.benchmark.full_report.document import Table
from keras_metalr.benchmark.full_report.document import to_html
from keras_metalr.benchmark.full_report.document import to_markdown
from keras_metalr.benchmark.full_report.document import without_drawings
from keras_metalr.benchmark.full_report.wording import METHOD_NAMES
from keras_metalr.benchmark.full_report.wording import Source
from keras_metalr.benchmark.full_report.wording import task_title
from keras_metalr.benchmark.records import write_text
from keras_metalr.benchmark.report import NOT_MEASURED
from keras_metalr.benchmark.report import OTHER_CONTROLLER
from keras_metalr.benchmark.report import controller_identity
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import mean_text
from keras_metalr.controller import shipped_presets

MARKDOWN, HTML, FIGURES = "report.md", "report.html", "report"

_SECTIONS: tuple[
    tuple[str, str, Callable[[PartResult, Source], list[Block]]], ...
] = (
    ("cifar10", "Image classification", task_blocks.primary_blocks),
    ("sst2", "Fine-tuning a text encoder", task_blocks.primary_blocks),
    ("results-line", "The results line", task_blocks.results_line_blocks),
    ("phases", "The three phases", learning_blocks.phases_blocks),
    ("feedback", "The feedback loop", learning_blocks.feedback_blocks),
    ("ablation", "Changes to the code", task_blocks.ablation_blocks),
)


def write_pages(results: Path, folder: Path) -> list[Path]:
    """Write the pages, from all the condensed parts of a folder.

    Args:
        results: Path of the condensed parts.
        folder: Path for the pages.

    Returns:
        List of the paths that were written.
    """
    blocks = _blocks(results, folder)
    drawings = {b.name: b.svg() for b in blocks if isinstance(b, Figure)}
    written = [folder / MARKDOWN, folder / HTML]
    write_text(written[0], to_markdown(blocks, FIGURES))
    write_text(written[1], to_html(blocks, drawings))
    for name, svg in drawings.items():
        written.append(folder / FIGURES / f"{name}.svg")
        write_text(written[-1], svg)
    for path in (folder / FIGURES).glob("*.svg"):
        if path not in written:
            path.unlink()
    return written


def stale_pages(results: Path, folder: Path) -> list[Path]:
    """Paths of the pages that do not say what the condensed parts say.

    Draws nothing: of a figure, the mark of its data is compared.

    Args:
        results: Path of the condensed parts.
        folder: Path of the pages.
    """
    blocks = _blocks(results, folder)
    marks = {b.name: b.mark for b in blocks if isinstance(b, Figure)}
    expected = {
        folder / MARKDOWN: to_markdown(blocks, FIGURES),
        folder / HTML: to_html(blocks, marks),
    }
    stale = [
        path
        for path, text in expected.items()
        if without_drawings(_read(path)) != text
    ]
    for name, mark in marks.items():
        path = folder / FIGURES / f"{name}.svg"
        if mark not in _read(path):
            stale.append(path)
    return stale


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _blocks(results: Path, folder: Path) -> list[Block]:
    parts = load_all(results)
    source = Source(Path(os.path.relpath(results, folder)).as_posix())
    blocks: list[Block] = [
        Heading("The experiment report, run", level=1),
        Paragraph(
            "Made by `scripts/run_report.py` from the JSON files that it "
            "names; nothing on it is written by hand. What the report asks "
            "for and what was run here differ where the budget cut it, or "
            "where other data or another encoder stood in: the next table, and "
            "the name of each task, say so."
        ),
        *_setup(parts, source),
        *_overview(parts, source),
    ]
    for section, title, make in _SECTIONS:
        blocks.append(Heading(title))
        found = [part for part in parts if part.section == section]
        if not found:
            blocks.append(Paragraph(NOT_MEASURED))
        for part in found:
            blocks += make(part, source)
            if _is_of_other_controller(part):
                # A paragraph of its own, with the stress that HTML gets too.
                text = OTHER_CONTROLLER.strip("*")
                blocks.append(Paragraph(f"**{text}**"))
    return blocks


def _setup(parts: Sequence[PartResult], source: Source) -> list[Block]:
    """What was run, what was cut, and on what."""
    if not parts:
        return []
    rows = []
    for part in parts:
        environments = dict.fromkeys(
            f"{environment_text(run.environment)}, Python "
            f"{run.environment['python']}"
            for run in part.runs
        )
        rows.append(
            (
                source.link(part),
                task_title(part),
                part.budget,
                "; ".join(part.details["cuts"]) or "nothing",
                "; ".join(environments),
            )
        )
    return [
        Heading("What was run"),
        Table(
            ("file", "task", "budget", "what the budget cut", "run on"),
            rows,
            "The command for a budget: "
            "`python scripts/run_report.py --budget NAME`.",
        ),
    ]


def _overview(parts: Sequence[PartResult], source: Source) -> list[Block]:
    """Accuracy of the primary tasks, one row each."""
    rows = []
    for part in parts:
        if part.section not in ("cifar10", "sst2"):
            continue
        groups = scores.method_groups(part)
        cells = []
        for method, factor in METHODS:
            rate = part.details["report_rate"] * factor
            runs = groups.get((method, float(f"{rate:.3g}")))
            if runs is None:
                cells.append("-")
                continue
            summary = summarize(runs)
            cells.append(mean_text(summary.accuracy, summary.interval, 100, 2))
        num_seeds = len({run.config["seed"] for run in part.runs})
        title = task_title(part)
        rows.append((title, *cells, num_seeds, source.link(part)))
    if not rows:
        return []
    heads = [
        METHOD_NAMES[method]
        + ("" if method != "metalr" else f", rate x {factor:g}")
        for method, factor in METHODS
    ]
    return [
        Heading("Overview"),
        Table(
            ("task", *heads, "seeds", "from"),
            rows,
            "Validation accuracy in %, mean ± half of the 95 % interval. "
            "Static and cosine: at the report's own rate; MetaLR: with that "
            "rate times a factor in the optimizer at the start.",
        ),
    ]


def _is_of_other_controller(part: PartResult) -> bool:
    shipped = shipped_presets()
    return any(
        name in shipped and controller_identity(name)["weights_sha256"] != sha
        for name, sha in part.controllers.items()
    )
