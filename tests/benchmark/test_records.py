"""One JSON per run: valid, whole, and the same when read back."""

import json
import math
import os

import pytest

from keras_metalr.benchmark import records
from keras_metalr.benchmark.records import RunResult


def _result():
    return RunResult(
        config={
            "workload": "digits",
            "method": "static",
            "learning_rate": 1e-05,
            "seed": 3,
            "epochs": None,
        },
        environment={"accelerator": None, "num_cores": 2},
        history={"loss": [1.0, math.nan], "val_loss": [math.inf, -math.inf]},
        curves={"loss": {"per": "epoch", "step": [5], "value": [math.nan]}},
        results={"eval_loss": math.nan, "epochs_to_target": math.inf},
    )


def _refuse(name):
    raise AssertionError(f"{name} is not JSON")


def test_file_is_valid_json_without_nan_or_infinity(tmp_path):
    _result().save(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    content = json.loads(text, parse_constant=_refuse)
    assert content["history"]["loss"] == [1.0, None]
    assert content["history"]["val_loss"] == ["inf", "-inf"]
    assert content["results"]["epochs_to_target"] == "inf"


def test_round_trip(tmp_path):
    result = _result()
    result.save(tmp_path / "run.json")
    loaded = RunResult.load(tmp_path / "run.json")
    assert loaded.resumed
    assert loaded.path == tmp_path / "run.json"
    assert loaded.config == result.config
    assert loaded.environment == result.environment
    assert loaded.history["loss"][0] == 1.0
    assert math.isnan(loaded.history["loss"][1])
    assert loaded.history["val_loss"] == [math.inf, -math.inf]
    assert loaded.curves["loss"]["step"] == [5]
    assert math.isnan(loaded.results["eval_loss"])
    assert loaded.diverged


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    records.write_json(path, {"value": 1})

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        records.write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_file_name_is_readable_and_unique():
    config = _result().config
    name = records.file_name(config)
    assert name.startswith("digits-static-1e-05-seed3-")
    assert records.file_name(dict(reversed(config.items()))) == name
    assert records.file_name({**config, "epochs": 4}) != name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"format_version": 0}', "format_version"),
        ('{"format_version": 1}', "holds no run: it lacks 'config'"),
        ('{"format_version": 1, "config": []}', "it lacks 'config'"),
        ("[]", "must hold a JSON object. Received: list"),
    ],
)
def test_load_refuses_other_files(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunResult.load(tmp_path / "run.json")
