"""What README.md says, done: its code runs, its names and files exist."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/design.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The prelude, which a page does not show, holds the data that its code uses.
_CODE = re.compile(
    r"^(?:<!-- prelude|```python)\n(?P<code>.*?)^(?:-->|```)$",
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.large
def test_code_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    blocks = list(_CODE.finditer(README))
    assert len(blocks) >= 6
    names = {"__name__": "readme"}
    for block in blocks:
        line = README.count("\n", 0, block.start()) + 1
        # Blank lines, so that a traceback has the numbers of README's lines.
        code = "\n" * line + block["code"]
        exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "trace.csv").is_file()
    assert "learning_rate" in (tmp_path / "log.csv").read_text()
    history = names["history"].history
    assert {"learning_rate", "grad_norm"} <= set(history)
    # It went on where the first two epochs had ended.
    assert names["metalr"].trace["step"][-1] == 32


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    folder = (ROOT / page).parent
    missing = [path for path in targets if not (folder / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_to_headings_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", text)
    for file, anchor in links:
        target = (ROOT / page).parent / file if file else ROOT / page
        headings = re.findall(
            r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert anchor in {_anchor(heading) for heading in headings}, anchor


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)(?=`|  )", text)) <= targets
    for command in re.findall(r"python ((?:scripts|benchmarks)/[^`\n]+)", text):
        script, *arguments = shlex.split(command)
        source = (ROOT / script).read_text(encoding="utf-8")
        for flag in arguments:
            assert not flag.startswith("--") or f'"{flag}"' in source


def test_limits_are_those_of_the_code():
    from keras_metalr.features import NUM_FEATURES
    from keras_metalr.safe_start import NEW_START_RATIO
    from keras_metalr.safe_start import START_RATIO
    from keras_metalr.signals import SAMPLE_SIZE
    from keras_metalr.update_rule import ANNEALED
    from keras_metalr.update_rule import LEAST_LEFT
    from keras_metalr.update_rule import MAX_INCREMENT
    from keras_metalr.update_rule import NEW_TRUST_FLOOR
    from keras_metalr.update_rule import NUM_DECISIONS
    from keras_metalr.update_rule import TRUST_FLOOR
    from keras_metalr.update_rule import decision_interval

    assert f"{SAMPLE_SIZE:,} weights" in README
    assert f"about {NUM_DECISIONS} decisions" in README
    limits = f"min({MAX_INCREMENT:g} tanh(o), max(-{MAX_INCREMENT:g}, "
    assert f"log rate += {limits}log(m / (1 - trust))))" in README
    old, new = 1.0 - TRUST_FLOOR, 1.0 - NEW_TRUST_FLOOR
    words = " ".join(README.split())
    assert f"`m` is {old:g} for pretrained weights" in words
    assert f"ruin, and {new:g} for new ones" in words
    assert f"over the last {100 * ANNEALED:g} % of the run" in words
    assert LEAST_LEFT == 0.01 and "falls to a hundredth of that" in words
    assert f"{NUM_FEATURES} numbers" in README
    old, new = (
        f"{ratio:.0e}".replace("e-0", "e-")
        for ratio in (START_RATIO, NEW_START_RATIO)
    )
    assert f"first updates are {new} of the weights' length" in words
    assert f"{old} for pretrained weights" in words
    assert decision_interval(299) == 1 and decision_interval(300) == 2
    assert "fewer than 300 steps decide at every step" in README.replace(
        "\n  ", " "
    )


def test_the_table_of_arguments_is_that_of_the_callback():
    from keras_metalr import MetaLR

    section = README.split("\n## Arguments\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section, re.MULTILINE)
    parameters = inspect.signature(MetaLR).parameters.values()
    defaults = [
        (p.name, str(p.default).replace("general", '"general"'))
        for p in parameters
    ]
    assert rows == defaults
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert by_name == [name for name, _ in rows[1:]]
