"""The scripts: what they print, write and refuse."""

import json
import re

import pytest

from keras_metalr.benchmark.text import environment_text
from tests.scripts.running import call_main
from tests.scripts.running import run_script


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
