"""The comparison on large networks: its runs, its schedules and its page."""

import json
import math
import types

import keras
import numpy as np
import pytest

from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.large_nets.page import sections
from keras_metalr.benchmark.records import RunResult
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.text import environment_text
from keras_metalr.workloads import tfds_source
from keras_metalr.workloads.tiny_bert import save_tiny_bert
from tests import benchmark_scripts
from tests.benchmark.environment import ENVIRONMENT

pytestmark = pytest.mark.backend_independent

large_nets = benchmark_scripts.load("large_nets")


def test_the_page_says_what_the_records_say(tmp_path, capsys):
    assert large_nets.main(["check"]) == 0
    page = tmp_path / "page.md"
    assert large_nets.main(["check", "--page", str(page)]) == 1
    page.write_text("another page")
    assert large_nets.main(["check", "--page", str(page)]) == 1
    error = capsys.readouterr().err
    assert error.count(f"error: {page}: stale") == 2
    assert "Run `python benchmarks/large_nets.py page`." in error
    assert large_nets.main(["page", "--page", str(page)]) == 0
    assert page.read_text() == large_nets.PAGE.read_text()


def test_a_damaged_record_is_one_line(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{")
    assert large_nets.main(["check", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error


def test_the_published_page_is_of_the_published_runs(
    tmp_path, monkeypatch, capsys
):
    page = tmp_path / "page.md"
    monkeypatch.setattr(large_nets, "PAGE", page)
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit):
        large_nets.main(["page", "--output", str(tmp_path / "other")])
    assert "without --output: name --page" in capsys.readouterr().err
    assert not page.exists()


def test_figures_that_are_not_finite_read_diverged(tmp_path):
    _write(tmp_path, loss=math.inf)
    _write(tmp_path, loss=math.nan)
    (section,) = sections(tmp_path)
    (row,) = section.rows
    assert row[2:] == (2, "0.500", "0.500", "diverged", "0.500")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Where published runs lie, and a folder with files that are not read."""
    monkeypatch.setattr(large_nets, "RESULTS", tmp_path / "published")
    folder = tmp_path / "prepared"
    for name in ("notes.json", "encoder.npz", "encoder/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return ["run", "--tasks", "encoder", "--folder", str(folder)]


def test_runs_of_another_backend_do_not_lie_among_the_published(
    published, capsys
):
    assert keras.backend.backend() != "jax"
    assert large_nets.main(published) == 2
    assert "The published runs are of JAX" in capsys.readouterr().err
    assert not large_nets.RESULTS.exists()


def test_no_time_is_no_run(published, tmp_path, capsys):
    output = tmp_path / "records"
    more = ["--output", str(output), "--seconds", "0"]
    assert large_nets.main([*published, *more]) == 0
    assert not list(output.iterdir()) and capsys.readouterr().out == ""
    (output / "run.json").write_text("[]")
    assert large_nets.main([*published, *more]) == 2
    assert "must hold a JSON object" in capsys.readouterr().err


def test_a_folder_that_was_not_prepared_is_one_line(tmp_path, capsys):
    flags = ["--folder", str(tmp_path / "none"), "--output", str(tmp_path)]
    assert large_nets.main(["run", *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: There is no") and "\n" not in error


def test_an_encoder_is_looked_for_before_the_data(tmp_path, capsys):
    folder = tmp_path / "large_nets"
    flags = ["--folder", str(folder), "--preset", str(tmp_path)]
    assert large_nets.main(["prepare", *flags]) == 2
    error = capsys.readouterr().err
    assert "lacks ['config.json', 'vocab.txt', 'model.safetensors']" in error
    assert not folder.exists()


def test_prepare_downloads_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors")
    builder = types.SimpleNamespace(
        is_prepared=lambda: False, data_dir="nowhere"
    )
    monkeypatch.setattr(tfds_source, "_builder", lambda name: builder)
    for name in large_nets.ENCODER_FILES:
        (tmp_path / name).touch()
    flags = ["--folder", str(tmp_path / "a"), "--preset", str(tmp_path)]
    assert large_nets.main(["prepare", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: The data set 'cifar10' was not found in")


def test_without_the_records_no_page_is_emptied(tmp_path, capsys):
    page = tmp_path / "page.md"
    flags = ["--output", str(tmp_path / "none"), "--page", str(page)]
    assert large_nets.main(["page", *flags]) == 2
    assert "There is no folder of records" in capsys.readouterr().err
    assert not page.exists()


def test_a_run_on_all_of_sst2_has_a_row_with_its_quarters(tmp_path):
    arguments = ["page", "--output", str(tmp_path)]
    arguments += ["--page", str(tmp_path / "page.md")]
    assert large_nets.main(arguments) == 0
    assert "all of SST-2" not in (tmp_path / "page.md").read_text()
    for steps, options, accuracy in (
        (6312, {"group_by_length": True}, np.arange(80, 92) / 100),
        (2104, {}, (0.81, 0.82, 0.83, 0.84)),
    ):
        run = RunResult(
            config={
                "method": "metalr",
                "learning_rate": 2e-5,
                "seed": 4,
                "steps": steps,
                "batch_size": 32,
                "controller": "0123abcd-rule7",
                "options": {
                    "sequence_length": 48,
                    "encoder": "MiniLM",
                    **options,
                },
            },
            environment=ENVIRONMENT,
            history={"val_accuracy": list(accuracy)},
            curves={},
            results={"eval_loss": 0.25, "eval_f1": 0.8399},
        )
        run.save(tmp_path / "all_of_sst2" / f"{steps}.json")
    assert large_nets.main(arguments) == 0
    page = (tmp_path / "page.md").read_text()
    assert "MiniLM, and not BERT Base" in page
    assert "batches of\n32; *tokens*" in page
    rest = "0.250 | 0.840 | JAX 0.10, Keras 3.15, 2 CPU cores |"
    rows = (
        f"| 2,104 | 48 | 0.810, 0.820, 0.830, 0.840 | {rest}",
        "| 6,312 | 48, batches by length | 0.820, 0.850, 0.880, 0.910 | "
        f"{rest}",
    )
    assert "\n".join(f"| MetaLR | 7 | 2e-5 | 4 {row}" for row in rows) in page
    # What a rule before made of it stays beside it.
    run.save(tmp_path / "all_of_sst2" / "earlier" / "2104.json")
    assert large_nets.main(arguments) == 0
    page = (tmp_path / "page.md").read_text()
    assert page.count("| MetaLR | 7 | 2e-5 | 4 | 2,104") == 1
    assert page.count("| MetaLR | earlier | 2e-5 | 4 | 2,104") == 1


def _write(folder, *, controller="", accuracy=0.5, loss=0.5, note=""):
    record = {
        "task": "encoder",
        "method": "metalr" if controller else "tuned",
        "controller": controller,
        "learning_rate": 1e-5,
        "seed": 0,
        "num_steps": 400,
        "eval_accuracy": accuracy,
        "eval_loss": loss,
        "eval_f1": 0.5,
        "note": note,
        "environment": ENVIRONMENT,
    }
    name = f"{len(list(folder.glob('*.json')))}.json"
    write_json(folder / name, record)


def test_runs_of_two_controllers_are_not_averaged(tmp_path):
    def section():
        (found,) = sections(tmp_path)
        return found.rows, found.is_of_another

    _write(tmp_path)
    rows, is_of_another = section()
    assert len(rows) == 1 and not is_of_another
    _write(tmp_path, controller="0123abcd-rule9", accuracy=0.6)
    _write(tmp_path, controller="0123abcd-rule10", accuracy=0.7)
    rows, is_of_another = section()
    assert [row[2:4] for row in rows] == [(1, "0.500"), (1, "0.700")]
    assert is_of_another
    _write(tmp_path, controller=controller_mark(digits=8), accuracy=0.8)
    rows, is_of_another = section()
    assert [row[2:4] for row in rows] == [(1, "0.500"), (1, "0.800")]
    assert not is_of_another


def test_runs_of_two_encoders_stand_apart(tmp_path):
    _write(tmp_path, note="MiniLM")
    _write(tmp_path, note="another")
    minilm, another = sections(tmp_path)
    assert another.lead.endswith("(another).")
    assert minilm.lead.endswith("(MiniLM).")


@pytest.mark.parametrize("name", large_nets.TASKS)
def test_schedules_rise_to_their_rate_and_fall_to_nothing(name):
    task = large_nets.TASKS[name]
    schedule = large_nets._schedule(task, 0.5, 100)
    rates = np.array([float(schedule(step)) for step in range(100)])
    assert np.all(np.diff(rates[:10]) > 0.0)
    assert rates[9:12].max() == pytest.approx(0.5, rel=0.05)
    assert np.all(np.diff(rates[12:]) < 0.0)
    assert 0.0 <= rates[-1] < 0.01


@pytest.fixture
def folder(tmp_path):
    """What `prepare` writes, with a tiny encoder and texts at random."""
    pytest.importorskip("keras_hub")
    save_tiny_bert(tmp_path / "encoder")
    generator = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 16), ("val", 8)):
        shape = (count, 8)
        parts |= {
            f"{part}_token_ids": generator.integers(5, 40, shape, "uint16"),
            f"{part}_segment_ids": np.zeros(shape, "uint16"),
            f"{part}_padding_mask": np.ones(shape, "uint16"),
            f"{part}_labels": np.arange(count, dtype="int32") % 2,
        }
    np.savez(tmp_path / "encoder.npz", **parts)
    (tmp_path / "notes.json").write_text('{"encoder": "tiny, random"}')
    return tmp_path


@pytest.mark.large
def test_a_run_is_made_once_and_put_on_the_page(
    folder, tmp_path, monkeypatch, capsys
):
    task = large_nets.TASKS["encoder"]
    rates = task._replace(batch_size=8, rates=(1e-3,), starts=(1e-1,))
    monkeypatch.setitem(large_nets.TASKS, "encoder", rates)
    output = tmp_path / "records"
    arguments = ["--folder", str(folder), "--tasks", "encoder", "--seeds", "1"]
    arguments += ["--output", str(output), "--page", str(tmp_path / "page.md")]
    assert large_nets.main(["run", *arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    records = [json.loads(p.read_text()) for p in sorted(output.iterdir())]
    driven, tuned = records
    assert (driven["method"], tuned["method"]) == ("metalr", "tuned")
    for record in records:
        assert record["num_steps"] == 2
        assert record["note"] == "tiny, random"
        assert 0.0 <= record["eval_f1"] <= 1.0
    # Two decisions of a run of two steps; a schedule makes none.
    assert len(driven["rates"]) == 2 and tuned["rates"] == []
    assert large_nets.main(["run", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    here = environment_text(driven["environment"])
    assert all(f": found, of {here} (tiny, random)" in line for line in lines)
    assert large_nets.main(["page", *arguments]) == 0
    page = (tmp_path / "page.md").read_text()
    assert f"| 0.1 | 1 | {driven['eval_accuracy']:.3f} |" in page
    assert f"| 0.001 | 1 | {tuned['eval_accuracy']:.3f} |" in page
    assert "an earlier controller" not in page


@pytest.mark.large
def test_prepare_writes_what_a_run_reads(tfds_dir, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    preset, folder = tmp_path / "preset", tmp_path / "large_nets"
    preset.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "film"]
    (preset / "vocab.txt").write_text("\n".join(words) + "\n")
    config = {"model_type": "bert", "_name_or_path": "someone/MiniLM-tiny"}
    (preset / "config.json").write_text(json.dumps(config))
    kernel = np.linspace(-1.0, 1.0, 12, dtype="float32").reshape(3, 4)
    safetensors.save_file(
        {"kernel": kernel, "positions": np.arange(5)},
        preset / "model.safetensors",
    )

    large_nets.prepare(folder, str(preset))

    images, labels, (_, labels_val) = large_nets._data(
        folder, large_nets.TASKS["resnet18"]
    )
    assert images.shape == (4992, 32, 32, 3)
    assert (len(labels), len(labels_val)) == (4992, 512)
    assert set(labels) == set(labels_val) == set(range(10))
    texts, sentiments, (texts_val, _) = large_nets._data(
        folder, large_nets.TASKS["encoder"]
    )
    assert texts["token_ids"].shape == (12_800, large_nets.SEQUENCE_LENGTH)
    assert len(texts_val["token_ids"]) == 872
    assert texts["token_ids"].max() == words.index("film")
    assert 0.4 < sentiments.mean() < 0.7
    saved = safetensors.load_file(folder / "encoder" / "model.safetensors")
    np.testing.assert_array_equal(saved["kernel"], kernel.astype("float16"))
    np.testing.assert_array_equal(saved["positions"], np.arange(5))
    assert (folder / "encoder" / "vocab.txt").read_text().split() == words
    notes = json.loads((folder / "notes.json").read_text())
    assert "MiniLM" in notes["encoder"]
    assert set(notes) == {"resnet18", "encoder"}
