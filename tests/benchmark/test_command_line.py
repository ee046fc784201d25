"""What the scripts say of themselves and of their errors."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from keras_metalr import workloads
from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark import command_line
from keras_metalr.benchmark.records import RunResult

pytestmark = pytest.mark.backend_independent


def test_a_command_is_as_it_was_called(monkeypatch):
    text = command_line.command_text("scripts/a.py", ["--rows", "as shipped"])
    assert text == "python scripts/a.py --rows 'as shipped'"
    monkeypatch.setattr(sys, "argv", ["somewhere/a.py", "--tasks", "2"])
    text = command_line.command_text("scripts/a.py", None)
    assert text == "python scripts/a.py --tasks 2"


def test_every_flag_of_a_run_is_in_its_config():
    parser = argparse.ArgumentParser()
    command_line.add_run_arguments(parser, "adam")
    flags = "--method static --seed 7 --epochs 3 --steps 9 --record-steps"
    flags += " --learning-rate 0.5 --mixed-precision off"
    config = command_line._run_config(parser.parse_args(flags.split()))
    assert config == RunConfig(
        method="static",
        learning_rate=0.5,
        seed=7,
        epochs=3,
        steps=9,
        mixed_precision="off",
        record_steps=True,
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\nlines"), "error: two lines\n"),
        (KeyError("config"), "error: KeyError('config')\n"),
    ],
)
def test_an_error_is_one_line(capsys, error, line):
    assert command_line.report_error(error) == 2
    assert capsys.readouterr().err == line


def test_what_is_stale_is_named_with_what_mends_it(capsys):
    assert command_line.report_stale("docs/a.md", "make a") == 1
    line = "error: docs/a.md: stale, not what the records say. Run `make a`.\n"
    assert capsys.readouterr().err == line


def _run(*flags):
    """The exit status of a script for the digits, two steps long."""
    parser = argparse.ArgumentParser()
    command_line.add_run_arguments(parser, optimizer="adam")
    arguments = parser.parse_args(
        ["--method", "static", "--steps", "2", *map(str, flags)]
    )
    return command_line.run_from_arguments(
        lambda: workloads.get("digits"), arguments
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", __file__), "error: Nothing can be written in the"),
        (("--seed", -1), "error: `seed` must be from 0 to"),
    ],
)
def test_what_no_run_is_made_with_is_one_line(capsys, flags, message):
    assert _run(*flags) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_the_results_of_a_run_that_cannot_be_saved_are_printed(
    tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(RunResult, "save", refuse)
    assert _run("--output", tmp_path) == 2
    printed = capsys.readouterr()
    assert "eval_accuracy" in printed.out
    assert "record                   not written" in printed.out
    assert "No space left on device" in printed.err


def test_a_record_that_is_damaged_is_one_line(tmp_path, capsys):
    assert _run("--output", tmp_path) == 0
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:100])
    capsys.readouterr()
    assert _run("--output", tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {path} is not valid JSON")
    assert "\n" not in error


def test_a_file_that_cannot_be_written_is_found(tmp_path):
    command_line.check_files(tmp_path / "new" / "a.json")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(OSError, match="is a folder"):
        command_line.check_files(tmp_path)
    with pytest.raises(OSError, match="Nothing can be written in the folder"):
        command_line.check_files(Path(__file__) / "a.json")


@pytest.mark.parametrize(
    ("flags", "is_refused"),
    [("", False), ("--num-runs 2", False), ("--num-runs 1", True)],
)
def test_a_number_that_is_too_low_is_a_usage_error(flags, is_refused, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-runs", type=int)
    arguments = parser.parse_args(flags.split())
    expected = pytest.raises(SystemExit) if is_refused else nullcontext()
    with expected:
        command_line.check_counts(parser, arguments, {"num_runs": 2})
    message = "--num-runs must be 2 or more. Received: 1"
    assert (message in capsys.readouterr().err) == is_refused


@pytest.mark.parametrize(
    ("flags", "is_refused"),
    [
        ("", False),
        ("--held-out 8", False),
        ("--held-out 2", True),
        ("--held-out 2 --json a", True),
        ("--held-out 2 --json a --page b", False),
        ("--json a", False),
    ],
)
def test_published_figures_are_not_overwritten_by_others(flags, is_refused):
    parser = argparse.ArgumentParser()
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--json", default="published.json")
    parser.add_argument("--page", default="published.md")
    arguments = parser.parse_args(flags.split())
    expected = pytest.raises(SystemExit) if is_refused else nullcontext()
    with expected:
        command_line.check_published(
            parser, arguments, ("json", "page"), ("held_out",)
        )


def test_published_figures_are_known_by_any_name_of_their_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("published.json"))
    other_name = str(tmp_path / "published.json")
    arguments = parser.parse_args(["--held-out", "2", "--json", other_name])
    with pytest.raises(SystemExit):
        command_line.check_published(
            parser, arguments, ("json",), ("held_out",)
        )
