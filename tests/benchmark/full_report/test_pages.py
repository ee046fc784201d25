"""The pages say what the condensed parts say, and nothing else."""

import json
import re
from pathlib import Path

import pytest

from keras_metalr.benchmark.full_report import __main__ as command
from keras_metalr.benchmark.full_report.pages import stale_pages
from keras_metalr.benchmark.full_report.pages import write_pages
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.tables import NOT_MEASURED
from tests.benchmark.environment import ENVIRONMENT
from tests.benchmark.full_report.made_up import NOTES
from tests.benchmark.full_report.made_up import part_results

pytestmark = pytest.mark.backend_independent

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with `results` and `pages` of made-up figures."""
    folder = tmp_path_factory.mktemp("report")
    for part in part_results():
        part.save(folder / "results")
    write_pages(folder / "results", folder / "pages")
    return folder


@pytest.fixture
def copied(written, tmp_path):
    """A copy that a test may change."""
    for path in written.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(written)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


def _markdown(folder):
    return (folder / "pages" / "report.md").read_text()


def _html(folder):
    return (folder / "pages" / "report.html").read_text()


def _arguments(folder, *more):
    results, pages = str(folder / "results"), str(folder / "pages")
    return ["--results", results, "--pages", pages, *more]


def test_committed_pages_say_what_the_committed_results_say(capsys):
    stale = stale_pages(ROOT / "benchmarks/results/report", ROOT / "docs")
    assert not stale, "Run `python -m keras_metalr.benchmark.full_report`."


def test_fresh_pages_pass(written, capsys):
    assert command.main(_arguments(written, "--check")) == 0
    assert stale_pages(written / "results", written / "pages") == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("cifar10", '"eval_accuracy": 0.8,', '"eval_accuracy": 0.81,'),
        ("sst2", '"stability_last_half": 0.125', '"stability_last_half": 0.25'),
        ("results-line", '"eval_loss": 2.4', '"eval_loss": 2.5'),
        ("phases-digits", '"outcome": 0.301', '"outcome": 0.3'),
        ("phases-digits", '"num_states": 3300', '"num_states": 3301'),
        ("feedback-digits-sgd", "[0.5, 0.49", "[0.5, 0.48"),
        ("ablation", '"epochs_to_target": 2.0', '"epochs_to_target": "inf"'),
        ("ablation", '"accelerator": null', '"accelerator": "GPU"'),
        # A point of a curve stands on no page but in a figure.
        ("cifar10", '"value": [2.0, 1.0', '"value": [2.0, 1.1'),
    ],
)
def test_check_fails_where_a_number_was_altered(copied, capsys, name, old, new):
    path = copied / "results" / f"{name}.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert command.main(_arguments(copied, "--check")) == 1
    assert "not what" in capsys.readouterr().err
    # Written again, they agree.
    assert command.main(_arguments(copied)) == 0
    assert command.main(_arguments(copied, "--check")) == 0


@pytest.mark.parametrize("page", ["report.md", "report.html"])
def test_check_fails_where_a_page_was_altered(copied, capsys, page):
    path = copied / "pages" / page
    path.write_text(path.read_text().replace("80.05", "81.05", 1))
    assert command.main(_arguments(copied, "--check")) == 1
    assert page in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        # Drawn from other data, and drawn on afterwards.
        ("report/cifar10.svg", r"cifar10: \w+ -->", "cifar10: 0 -->"),
        ("report/cifar10.svg", r'd="M [\d.]+', 'd="M 1'),
        ("report.html", r'd="M [\d.]+', 'd="M 1'),
    ],
)
def test_check_fails_where_a_figure_was_altered(copied, capsys, name, old, new):
    path = copied / "pages" / name
    text, number = re.subn(old, new, path.read_text())
    assert number
    path.write_text(text)
    assert command.main(_arguments(copied, "--check")) == 1
    assert re.search(r"report\.html|cifar10\.svg", capsys.readouterr().err)


def test_check_fails_where_a_figure_is_left_over(copied, capsys):
    figures = copied / "pages" / "report"
    old, foreign = figures / "old.svg", figures / "foreign.svg"
    # One that somebody else put there is let be.
    foreign.write_text("<svg></svg>")
    assert command.main(_arguments(copied, "--check")) == 0
    old.write_text("<svg>\n<!-- figure old: 0123 --></svg>")
    assert command.main(_arguments(copied, "--check")) == 1
    assert "old.svg" in capsys.readouterr().err
    assert command.main(_arguments(copied)) == 0
    assert foreign.exists() and not old.exists()


def test_every_figure_and_table_names_its_file(written):
    text = _markdown(written)
    links = re.findall(r"\]\(([^)]+\.json)\)", text)
    for link in links:
        assert (written / "pages" / link).is_file(), link
    assert {Path(link).stem for link in links} == {
        path.stem for path in (written / "results").iterdir()
    }
    blocks = text.split("\n\n")
    for number, block in enumerate(blocks):
        if block.startswith(("|", "![")):
            around = block + blocks[number + 1]
            assert ".json)" in around, block
        elif re.search(r"\d\.\d", block):
            assert ".json)" in block, block


def test_the_plan_of_each_part_is_stated(written):
    text = _markdown(written)
    for part in part_results():
        lead = next(
            block
            for block in text.split("\n\n")
            if block.startswith("**") and f"[{part.file}]" in block
        )
        assert "Budget `cpu`" in lead
        assert re.search(r"`(general|supervised)` \([0-9a-f]{8}\)", lead)
        for phrase in part.details["cuts"]:
            assert phrase in lead
    # 15 rates x 2 seeds of the ladder, and 9 runs.
    assert re.search(r"phases-digits\.json\) \| [^|]* \| cpu \| 39 \|", text)


def test_what_stood_in_is_named_wherever_a_figure_stands(written):
    for name in ("report.md", "report.html"):
        text = (written / "pages" / name).read_text()
        for title in ("ResNet-18 on CIFAR-10", "encoder on GLUE SST-2"):
            after = [piece[:60] for piece in text.split(title)[1:]]
            assert len(after) > 4
            for piece in after:
                assert piece.startswith(" (lossy JPEG copy of the images)") or (
                    piece.startswith(f" ({NOTES['sst2']})")
                ), piece
        assert "here, encoder on GLUE SST-2 (a sentence embedder" in text


def test_both_pages_have_the_same_figures(written):
    def numbers(text):
        return re.findall(r"\d+\.\d+", text)

    page = re.sub(r"<style>.*?</style>", "", _html(written), flags=re.DOTALL)
    page = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    # What is said of a figure to those who cannot see it stands in a tag.
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", _markdown(written))
    assert numbers(re.sub(r"<[^>]*>", " ", page)) == numbers(text)


def test_html_is_one_file(written):
    page = _html(written)
    assert page.count("<svg") == page.count("</svg>") == 5
    assert not re.search(r"<(img|script|link|iframe)\b", page)
    assert not re.search(r"url\((?!#)", page)
    assert not re.search(r'(src|xlink:href)="(?!#)', page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert page.count("currentColor") > 20


def test_numbers_by_hand(written):
    text = _markdown(written)
    # Run 0, 5 and 10 of the plan are the three seeds of the first method.
    assert "| static | 0.01 | 3 | 80.05 ± 0.12 | 0.405 ± 0.012 |" in text
    assert "| 2 | 0.25 | 0.12 | 12.5 |" in text
    assert (
        "| the report, BERT Base |  | before training | 872 | 0.699 | 0.487 |"
        in text
    )
    assert "`eval_f1` is macro F1, the mean over both classes" in text
    assert (
        "| the report, BERT Base |  | after one epoch | 500 | 0.432 | 0.856 |"
        in text
    )
    assert "3,300 states: mean squared error on the same states 0.050" in text
    assert "the best is 1e-6 (validation loss 0.3000)" in text
    # Of 8 references the first has the lowest loss, 0.404 on two seeds; the
    # loss before training is 2.4: the first run has a regret of 0.0481.
    assert "(final validation loss - 0.4040) / (2.4000 - 0.4040)" in text
    # With experience run k has a loss of 0.51 - 0.01 k: the first five have a
    # mean of 0.48, the last five of 0.33. All repeats are the same.
    assert "| first 5 | 0.038 ± 0.000 |" in text
    assert "| last 5 | -0.037 ± 0.000 |" in text
    assert "have a regret that is lower than the first 5" in text
    # All are at 0.8 in the second of two epochs.
    assert (
        "of the same seed (medians): static from 0.01 2, cosine from 0.01 2, "
        "MetaLR from 0.0001 2, MetaLR from 0.01 2, MetaLR from 1 2."
    ) in text


def test_nothing_measured(tmp_path):
    (tmp_path / "results").mkdir()
    write_pages(tmp_path / "results", tmp_path / "pages")
    assert _markdown(tmp_path).count(NOT_MEASURED) == 6
    assert stale_pages(tmp_path / "results", tmp_path / "pages") == []


def test_figures_of_an_earlier_controller_say_so(copied):
    path = copied / "results" / "ablation.json"
    text = path.read_text()
    assert "earlier controller" not in _markdown(copied)
    path.write_text(re.sub('"general": "[0-9a-f]{4}', '"general": "0000', text))
    write_pages(copied / "results", copied / "pages")
    assert "earlier controller" in _markdown(copied).split("## Changes")[1]


def test_runs_on_a_gpu_stand_at_the_end(copied):
    sentence = "ResNet-18 and MiniLM on a GPU stand at the end."
    assert "On a GPU" not in _markdown(copied)
    assert sentence not in _markdown(copied)
    record = {
        "task": "resnet18",
        "method": "metalr",
        "learning_rate": 10.0,
        "controller": "0123abcd-rule1",
        "num_steps": 390,
        "eval_accuracy": 0.5,
        "eval_loss": 1.25,
        "eval_f1": 0.625,
        "note": "copy",
        "environment": ENVIRONMENT
        | {"backend": "tensorflow", "accelerator": "Some GPU"},
    }
    write_json(copied / "large_nets" / "one.json", record)
    assert stale_pages(copied / "results", copied / "pages")
    write_pages(copied / "results", copied / "pages")
    assert sentence in _markdown(copied)
    text = _markdown(copied).split("## On a GPU")[1]
    assert "the JSON files in [large_nets](../large_nets)" in text
    assert "| MetaLR, from | 10 | 1 | 0.500 | 0.500 | 1.250 | 0.625 |" in text
    assert "390 steps of 64, TensorFlow 2.21, Keras 3.15, Some GPU" in text
    assert "an earlier controller" in text


def test_damaged_file_is_one_line(copied, capsys):
    path = copied / "results" / "sst2.json"
    content = json.loads(path.read_text())
    del content["details"]
    path.write_text(json.dumps(content))
    assert command.main(_arguments(copied, "--check")) == 2
    error = capsys.readouterr().err.strip()
    assert "sst2.json holds no part of the report" in error
    assert "\n" not in error


def test_without_the_parts_no_page_is_emptied(copied, capsys):
    text = _markdown(copied)
    (copied / "results").rename(copied / "elsewhere")
    for flags in ((), ("--check",)):
        assert command.main(_arguments(copied, *flags)) == 2
        assert "There is no folder of records" in capsys.readouterr().err
    assert _markdown(copied) == text
