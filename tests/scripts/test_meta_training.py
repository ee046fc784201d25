"""The script of meta-training: what it refuses."""

import keras
import pytest

from keras_metalr import Controller
from tests.scripts.running import call_main

if keras.backend.backend() != "jax":
    pytest.skip("meta-training runs on JAX alone", allow_module_level=True)


def test_a_preset_is_scored_again_as_it_was_trained(tmp_path, capsys):
    arguments = ("--score-again", "--output", tmp_path)
    with pytest.raises(SystemExit):
        call_main("meta_train.py", *arguments, "--pairs", 2, "--start", "a")
    error = capsys.readouterr().err
    assert "leave ['--start', '--pairs'] out" in error


def test_processes_are_told_all_there_is(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call_main("meta_train.py", "--output", tmp_path, "--process-id", 0)
    assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--start", "nobody"), "There is no preset 'nobody'"),
        (("--score-again",), "no preset"),
    ],
)
def test_a_preset_that_is_missing_is_one_line(tmp_path, capsys, flags, text):
    check_one_line(capsys, text, *flags, "--output", tmp_path / "a")
    assert not (tmp_path / "work").exists()


def test_a_fit_that_is_scored_again_is_one_line(tmp_path, capsys):
    Controller().save_to_preset(tmp_path)
    flags = ("--score-again", "--output", tmp_path)
    check_one_line(capsys, "has no scores.json", *flags)


def check_one_line(capsys, text, *flags):
    work = flags[-1].parent / "work"
    with pytest.raises(SystemExit) as caught:
        call_main("meta_train.py", *flags, "--work", work)
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert text in error and "\n" not in error


def test_other_data_than_a_folder_keeps_are_one_line(tmp_path, capsys):
    (tmp_path / "data.json").write_text('["digits"]')
    with pytest.raises(SystemExit) as caught:
        call_main(
            "meta_train.py",
            *("--output", tmp_path / "a", "--work", tmp_path),
            *("--data", "digits", "sst2"),
        )
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "keeps the data sets ['digits'], not ['digits', 'sst2']" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("meta_ablation.py", ("--json", "."), "is a folder"),
        ("meta_ablation.py", ("--start", "none"), "There is no preset 'none'"),
        ("meta_ablation.py", ("--rows", "none"), "invalid choice: 'none'"),
        ("meta_ablation.py", ("--tasks", 0), "--tasks must be 1 or more"),
        ("meta_leave_out.py", ("--page", "."), "is a folder"),
        ("meta_leave_out.py", ("--start", "none"), "There is no preset 'none'"),
        (
            "meta_leave_out.py",
            ("--families", "dense", "--among", "residual", "autoencoder"),
            "without ['dense']",
        ),
        ("meta_leave_out.py", ("--held-out", 0), "--held-out must be 1"),
    ],
)
def test_what_is_missing_is_found_before_the_data(
    tmp_path, capsys, script, flags, message
):
    files = ("--json", tmp_path / "a.json", "--page", tmp_path / "a.md")
    work = ("--work", tmp_path / "work") if "leave" in script else ()
    with pytest.raises(SystemExit) as caught:
        call_main(script, *files, *work, *flags)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
