"""What the scripts say of themselves and of their errors."""

import argparse
import sys

import pytest

from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark import command_line

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
