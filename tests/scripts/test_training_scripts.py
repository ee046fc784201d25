"""The scripts: what they print, write and refuse."""

import json
import os
import re
import sys

import keras
import pytest

from keras_metalr.benchmark.text import environment_text
from tests import benchmark_scripts
from tests.scripts.running import call_main
from tests.scripts.running import run_script

# What argparse calls the script: this process.
_PROGRAM = os.path.basename(sys.argv[0])


def _last_line(text):
    return text.strip().splitlines()[-1]


@pytest.mark.large
@pytest.mark.backend_independent
def test_demo(tmp_path, capsys, controller_folder):
    code = call_main(
        "demo.py",
        # Six steps: two epochs of three.
        *("--digits-only", "--steps", 5, "--epochs", 2),
        *("--controller", controller_folder, "--output", tmp_path),
        *("--save-json", tmp_path / "demo.json"),
    )
    assert code == 0
    assert json.loads((tmp_path / "demo.json").read_text())["steps"] == 6
    text = capsys.readouterr().out
    assert "MetaLR" in text
    assert "static" in text
    assert (tmp_path / "demo.png").stat().st_size > 5000


@pytest.mark.large
@pytest.mark.backend_independent
def test_cifar10_without_data_is_one_line(tmp_path):
    done = run_script(
        "train_cifar10.py",
        *("--method", "static", "--output", tmp_path / "runs"),
        TFDS_DATA_DIR=str(tmp_path),
    )
    assert done.returncode == 2
    assert _last_line(done.stderr).startswith("error: The data set 'cifar10'")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "static", "--preset", "."), "error: The preset '.'"),
        (("--batch-size", "0"), "error: `batch_size` must be at least 1"),
        (("--learning-rate", "-1"), "error: `learning_rate` must be"),
        (("--sequence-length", "1"), "error: `sequence_length` must be"),
        (
            ("--method", "static", "--controller", "general"),
            "error: `--controller` goes with `--method metalr`",
        ),
    ],
)
def test_sst2_with_a_wrong_flag_is_one_line(
    tfds_dir, tmp_path, capsys, arguments, message
):
    pytest.importorskip("keras_hub")
    output = ["--output", tmp_path / "runs", "--train-examples", 8]
    assert call_main("train_sst2.py", *arguments, *output) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(message)
    assert "\n" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.large
@pytest.mark.backend_independent
def test_mlp_makes_its_runs_and_goes_on(
    tfds_dir, tmp_path, capsys, controller_folder
):
    arguments = ["--train-examples", 320, "--validation-examples", 100]
    arguments += ["--seeds", 1, "--epochs", 1, "--output", tmp_path / "runs"]
    arguments += ["--controller", controller_folder]
    arguments += ["--variants", "original"]
    assert call_main("train_mlp.py", *arguments) == 0
    text = capsys.readouterr().out
    for method in ("static", "metalr"):
        assert re.search(rf"original +{method} +\d", text)
    records = {
        path: json.loads(path.read_text())
        for path in (tmp_path / "runs").glob("report_mlp-*.json")
    }
    assert {r["config"]["method"] for r in records.values()} == {
        "static",
        "metalr",
    }
    for record in records.values():
        assert record["results"]["num_steps"] == 10
    # The finished runs are read back, and what they share is made once.
    assert call_main("train_mlp.py", *arguments, "wider", "+wider") == 0
    text = capsys.readouterr().out
    assert "2/2" in text
    assert "4 found" in text
    for path, record in records.items():
        assert json.loads(path.read_text()) == record


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "error: `--seeds` must be at least 1"),
        (("--epochs", "0"), "error: `epochs` must be at least 1"),
        (("--train-examples", "48001"), "error: `train_examples` must be"),
        (("--controller", "none"), "error: "),
        (
            ("--methods", "static", "--controller", "general"),
            "error: `--controller` goes with `--methods metalr`",
        ),
    ],
)
def test_mlp_with_a_wrong_flag_is_one_line(
    tfds_dir, tmp_path, capsys, arguments, message
):
    few = () if "--train-examples" in arguments else ("--train-examples", 8)
    output = ["--output", tmp_path / "runs"]
    assert call_main("train_mlp.py", *arguments, *few, *output) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(message)
    assert "\n" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.large
@pytest.mark.parametrize("method", ["static", "metalr"])
def test_cifar10_writes_a_record(tfds_dir, tmp_path, controller_folder, method):
    arguments = ["--method", method, "--steps", 3, "--batch-size", 16]
    arguments += ["--train-examples", 64, "--validation-examples", 32]
    arguments += ["--augment", "--output", tmp_path]
    if method == "metalr":
        arguments += ["--controller", controller_folder]
    done = run_script("train_cifar10.py", *arguments)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["config"]["method"] == method
    assert record["results"]["num_weights"] == 11_173_962
    assert environment_text(record["environment"]) in done.stdout
    again = run_script("train_cifar10.py", *arguments)
    assert "was made before" in again.stdout


@pytest.mark.backend_independent
def test_a_preset_that_cannot_be_written_is_found_before_the_runs(
    tmp_path, capsys
):
    arguments = ("--output", __file__, "--runs", tmp_path / "runs")
    with pytest.raises(SystemExit) as caught:
        call_main("fit_controller.py", *arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: Nothing can be written in the folder")
    assert "\n" not in error and not (tmp_path / "runs").exists()


@pytest.mark.large
@pytest.mark.backend_independent
def test_the_card_of_a_fit_says_what_was_run(tmp_path):
    arguments = ["--rates", 1e-3, 1e-2, "--epochs", 1, "--seeds", 0]
    arguments += ["--optimizers", "adam", "--runs", tmp_path / "runs"]
    call_main("fit_controller.py", *arguments, "--output", tmp_path / "preset")
    card = (tmp_path / "preset" / "CARD.md").read_text()
    assert "| architecture | features -> 64 ReLU -> 32 ReLU -> 1 |" in card
    assert "digits (1,437 images), adam |" in card
    assert "| lengths of run | 1 epochs of 22 steps |" in card
    assert "| fit | Adam 0.001, batch 64, 10 epochs; mean squared" in card
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"{folder.name} backend |" in card


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--optimizers", "adam", "adam"), "--optimizers must name none twice"),
        (("--rates", "1e-3", "0.001"), "--rates must name none twice"),
        (("--epochs", "5", "5"), "--epochs must name none twice"),
        (("--seeds", "1", "1"), "--seeds must name none twice"),
        (("--rates", "1e-3", "-1"), "--rates must be positive numbers"),
        (("--epochs", "0"), "--epochs must be 1 or more"),
    ],
)
def test_what_cannot_be_fitted_is_found_before_the_runs(
    tmp_path, capsys, flags, message
):
    folders = ("--output", tmp_path / "preset", "--runs", tmp_path / "runs")
    with pytest.raises(SystemExit) as caught:
        call_main("fit_controller.py", *folders, *flags)
    assert caught.value.code == 2
    assert _last_line(capsys.readouterr().err).startswith(
        f"{_PROGRAM}: error: {message}"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_independent
def test_a_damaged_run_of_a_ladder_is_one_line(tmp_path, capsys):
    runs = tmp_path / keras.backend.backend()
    runs.mkdir()
    path = runs / "digits-adam-1-seed0-rate0.001.json"
    path.write_text("{")
    flags = ["--rates", 1e-3, "--epochs", 1, "--seeds", 0, "--runs", tmp_path]
    flags += ["--optimizers", "adam", "--output", tmp_path / "preset"]
    with pytest.raises(SystemExit) as caught:
        call_main("fit_controller.py", *flags)
    assert caught.value.code == 2
    assert _last_line(capsys.readouterr().err).startswith("error: ")


@pytest.mark.backend_independent
def test_the_file_of_a_demo_is_looked_at_first(tmp_path, capsys):
    flags = ("--digits-only", "--output", tmp_path, "--save-json", tmp_path)
    assert call_main("demo.py", *flags) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_independent
def test_mlp_without_room_for_its_records_is_one_line(tfds_dir, capsys):
    flags = ("--methods", "static", "--train-examples", 8)
    assert call_main("train_mlp.py", *flags, "--output", __file__) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: Nothing can be written in the folder")
    assert "\n" not in error


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    "main",
    [
        lambda: call_main("meta_ablation.py"),
        lambda: call_main("meta_leave_out.py"),
        lambda: benchmark_scripts.load("experience").main([]),
    ],
)
def test_meta_training_on_another_backend_is_one_line(capsys, main):
    pytest.importorskip("jax")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: Meta-training runs on JAX. Received:")
    assert "\n" not in error
