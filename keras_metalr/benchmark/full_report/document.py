"""Headings, text, tables and figures, as Markdown and as one HTML file.

Both are made from the same blocks, so that they say the same. Text is Markdown
with `code`, **bold** and [links](target) alone.
"""

import hashlib
import html
import json
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_metalr.benchmark.records import encode
from keras_metalr.benchmark.text import markdown_table

# What the mark of every figure begins with.
MARK = "<!-- figure "


@dataclass(frozen=True)
class Heading:
    """A heading; `level` 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of Markdown."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table with a caption below it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str


@dataclass(frozen=True)
class Figure:
    """A picture, and the data that it is drawn from.

    Args:
        name: String, for its file.
        caption: String, Markdown.
        alternative: String, for those who cannot see it.
        data: Mapping of plain values: all that `draw` is given.
        draw: Callable from `data` to the text of an SVG.
    """

    name: str
    caption: str
    alternative: str
    data: Mapping[str, Any]
    draw: Callable[[Mapping[str, Any]], str]

    @property
    def mark(self) -> str:
        """A comment that changes with the data, and stands in the SVG."""
        text = json.dumps(encode(self.data), sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
        return f"{MARK}{self.name}: {digest} -->"

    def svg(self) -> str:
        """Draw it."""
        start, end = self.draw(self.data).split(">", 1)
        return f"{start}>\n{self.mark}{end}"


Block = Heading | Paragraph | Table | Figure

# A grey that can be read on white and on black; figures are drawn with it.
INK = "#767676"


def to_markdown(blocks: Sequence[Block], figure_folder: str) -> str:
    """Return the page as Markdown.

    Args:
        blocks: Sequence of blocks.
        figure_folder: String, where `NAME.svg` lies, seen from the page.
    """
    pieces = []
    for block in blocks:
        if isinstance(block, Heading):
            pieces.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Paragraph):
            pieces.append(block.text)
        elif isinstance(block, Table):
            pieces.append(markdown_table(block.heads, block.rows))
            pieces.append(block.caption)
        else:
            path = f"{figure_folder}/{block.name}.svg"
            pieces.append(f"![{block.alternative}]({path})")
            pieces.append(block.caption)
    return "\n\n".join(pieces) + "\n"


def to_html(blocks: Sequence[Block], drawings: Mapping[str, str]) -> str:
    """Return the page as one HTML file that needs nothing else.

    Args:
        blocks: Sequence of blocks.
        drawings: Mapping from a figure's name to its SVG.
    """
    title = next(b.text for b in blocks if isinstance(b, Heading))
    body = []
    for block in blocks:
        if isinstance(block, Heading):
            tag = f"h{block.level}"
            body.append(f"<{tag}>{_inline(block.text)}</{tag}>")
        elif isinstance(block, Paragraph):
            body.append(f"<p>{_inline(block.text)}</p>")
        elif isinstance(block, Table):
            body.append(_html_table(block))
        else:
            drawing = drawings[block.name].replace(INK, "currentColor")
            label = html.escape(block.alternative, quote=True)
            body.append(
                f'<figure>\n<div role="img" aria-label="{label}">\n'
                f"{drawing.strip()}\n</div>\n"
                f"<figcaption>{_inline(block.caption)}</figcaption>\n</figure>"
            )
    return _PAGE.format(
        title=html.escape(title), style=_STYLE, body="\n".join(body)
    )


def _html_table(table: Table) -> str:
    def row(cells: Sequence[Any], tag: str) -> str:
        inner = "".join(f"<{tag}>{_inline(str(c))}</{tag}>" for c in cells)
        return f"<tr>{inner}</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    return (
        '<div class="table"><table>\n'
        f"<thead>{row(table.heads, 'th')}</thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n"
        f'<p class="caption">{_inline(table.caption)}</p>'
    )


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', text)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """:root { color-scheme: light dark;
  --text: #1f2328; --paper: #ffffff; --line: #d0d7de; --link: #0969da;
  --soft: #57606a; }
@media (prefers-color-scheme: dark) { :root {
  --text: #e6edf3; --paper: #0d1117; --line: #30363d; --link: #58a6ff;
  --soft: #9aa4af; } }
body { margin: 0; background: var(--paper); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); overflow-wrap: anywhere; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; }
td { white-space: nowrap; }
figure { margin: 1.5rem 0; }
figure svg { display: block; width: 100%; max-width: 40rem; height: auto;
  margin: 0 auto; color: var(--soft); }
figcaption, .caption { color: var(--soft); font-size: 0.9rem; }"""
