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
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.condensed import load_all
from keras_metalr.benchmark.full_report.document import MARK
from keras_metalr.benchmark.full_report.document import Block
from keras_metalr.benchmark.full_report.document import Figure
from keras_metalr.benchmark.full_report.document import Heading
from keras_metalr.benchmark.full_report.document import Paragraph
from keras_metalr.benchmark.full_report.document import Table
from keras_metalr.benchmark.full_report.document import to_html
from keras_metalr.benchmark.full_report.document import to_markdown
from keras_metalr.benchmark.full_report.tasks import METHODS
from keras_metalr.benchmark.full_report.tasks import times
from keras_metalr.benchmark.full_report.wording import Source
from keras_metalr.benchmark.full_report.wording import task_title
from keras_metalr.benchmark.identity import OTHER_CONTROLLER
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.large_nets.page import COLUMNS
from keras_metalr.benchmark.large_nets.page import HEADS
from keras_metalr.benchmark.large_nets.page import sections
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import check_records
from keras_metalr.benchmark.records import read_text
from keras_metalr.benchmark.records import write_text
from keras_metalr.benchmark.tables import NOT_MEASURED
from keras_metalr.benchmark.text import METHOD_NAMES
from keras_metalr.benchmark.text import environment_text
from keras_metalr.benchmark.text import mean_text
from keras_metalr.controller import shipped_presets

# Where the project keeps the condensed parts, and the pages made from them.
RESULTS = Path("benchmarks/results/report")
PAGES = Path("docs")
MARKDOWN, HTML, FIGURES = "report.md", "report.html", "report"
LARGE_NETS = "large_nets"

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

    Raises:
        ValueError: If there is no such folder of parts.
    """
    blocks = _blocks(results, folder)
    drawings = {b.name: b.svg() for b in blocks if isinstance(b, Figure)}
    written = [folder / MARKDOWN, folder / HTML]
    write_text(written[0], to_markdown(blocks, FIGURES))
    write_text(written[1], to_html(blocks, drawings))
    for name, svg in drawings.items():
        written.append(folder / FIGURES / f"{name}.svg")
        write_text(written[-1], svg)
    for path in _drawn(folder / FIGURES) - set(written):
        path.unlink()
    return written


def _drawn(folder: Path) -> set[Path]:
    """The figures of a folder that `write_pages` has drawn, now or earlier."""
    return {path for path in folder.glob("*.svg") if MARK in read_text(path)}


def stale_pages(results: Path, folder: Path) -> list[Path]:
    """Paths of the pages that do not say what the condensed parts say.

    Draws nothing, since how matplotlib draws differs from version to version:
    a figure must bear the mark of its data, and be the same in both places.

    Args:
        results: Path of the condensed parts.
        folder: Path of the pages.
    """
    blocks = _blocks(results, folder)
    marks = {b.name: b.mark for b in blocks if isinstance(b, Figure)}
    paths = {name: folder / FIGURES / f"{name}.svg" for name in marks}
    drawings = {name: read_text(path) for name, path in paths.items()}
    expected = {
        folder / MARKDOWN: to_markdown(blocks, FIGURES),
        folder / HTML: to_html(blocks, drawings),
    }
    stale = [path for path, text in expected.items() if read_text(path) != text]
    stale += [
        path
        for name, path in paths.items()
        if marks[name] not in drawings[name]
    ]
    unknown = _drawn(folder / FIGURES) - set(paths.values())
    return stale + sorted(unknown)


def _blocks(results: Path, folder: Path) -> list[Block]:
    check_records(results)
    parts = load_all(results)
    source = Source(Path(os.path.relpath(results, folder)).as_posix())
    large_nets = _large_nets(results.parent / LARGE_NETS, source)
    blocks: list[Block] = [
        Heading("The experiment report, run", level=1),
        Paragraph(
            "Written from the JSON files that it names, nothing of it by hand. "
            f"{'All but the last section' if large_nets else 'All'} is of runs "
            "by `scripts/run_report.py`. What the report asks "
            "for and what was run here differ where the budget cut it, or "
            "where other data or another encoder stood in: the next table, and "
            "the name of each task, say so."
        ),
        *_setup(parts, source, with_large_nets=bool(large_nets)),
        *_overview(parts, source),
    ]
    for section, title, make in _SECTIONS:
        blocks.append(Heading(title))
        found = [part for part in parts if part.section == section]
        if not found:
            blocks.append(Paragraph(NOT_MEASURED))
        for part in found:
            blocks += [Paragraph(source.lead(part)), *make(part, source)]
            if _is_of_other_controller(part):
                blocks.append(_of_another())
    return blocks + large_nets


def _of_another() -> Paragraph:
    # With the stress that HTML gets, too.
    text = OTHER_CONTROLLER.strip("*")
    return Paragraph(f"**{text}**")


def _large_nets(folder: Path, source: Source) -> list[Block]:
    """The primary models on a GPU, beside tuned schedules."""
    found = sections(folder)
    if not found:
        return []
    link = f"[{LARGE_NETS}]({source.beside(LARGE_NETS)})"
    blocks: list[Block] = [
        Heading("On a GPU, beside tuned schedules"),
        Paragraph(
            "The two primary models on a part of the data, beside schedules "
            "that know the run's length and are tried at several rates. Not "
            "made by the command of this page, but by "
            "`benchmarks/large_nets.py`; all figures from the JSON files in "
            f"{link}."
        ),
    ]
    for section in found:
        caption = f"{section.lead} {' '.join(COLUMNS.split())}"
        blocks += [
            Paragraph(f"**{section.title}**"),
            Table(HEADS, section.rows, caption),
        ]
        if section.is_of_another:
            blocks.append(_of_another())
    return blocks


def _setup(
    parts: Sequence[PartResult], source: Source, with_large_nets: bool
) -> list[Block]:
    """What was run, what was cut, and on what."""
    if not parts:
        return []
    rows = []
    for part in parts:
        where = dict.fromkeys(_where(run) for run in part.runs)
        num_loop_runs = sum(len(loop["outcomes"]) for loop in part.loops)
        rows.append(
            (
                source.link(part),
                task_title(part),
                part.budget,
                len(part.runs) + len(part.ladder) + num_loop_runs,
                "; ".join(part.details["cuts"]) or "nothing",
                "; ".join(where),
            )
        )
    return [
        Heading("What was run"),
        Table(
            ("file", "task", "budget", "runs", "what the budget cut", "run on"),
            rows,
            "The command for a budget: "
            "`python scripts/run_report.py --budget NAME`."
            + " ResNet-18 and MiniLM on a GPU stand at the end."
            * with_large_nets,
        ),
    ]


def _where(run: RunResult) -> str:
    """The software, the device and the number format of a run."""
    text = environment_text(run.environment)
    return (
        f"{text}, Python {run.environment['python']}, "
        f"{run.config['mixed_precision']}"
    )


def _overview(parts: Sequence[PartResult], source: Source) -> list[Block]:
    """Accuracy of the primary tasks, one row each."""
    rows = []
    for part in parts:
        if part.section not in ("cifar10", "sst2"):
            continue
        groups = scores.method_groups(part)
        cells = []
        for method, factor in METHODS:
            rate = times(part.details["report_rate"], factor)
            runs = groups.get((method, rate))
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
            "Validation accuracy in %, mean ± half of the 95 % interval, on "
            "data that MetaLR reads. Static and cosine: at the report's own "
            "rate; MetaLR: with that rate times a factor in the optimizer at "
            "the start. The report chose its rates for whole runs; where the "
            "budget cuts these short they are untuned, and a cosine may learn "
            "next to nothing.",
        ),
    ]


def _is_of_other_controller(part: PartResult) -> bool:
    shipped = shipped_presets()
    return any(
        name in shipped and controller_mark(name) != mark
        for name, mark in part.controllers.items()
    )
