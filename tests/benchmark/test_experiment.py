"""Many runs into one folder: which are made, and whose they are."""

import io
import json
import time

import keras
import pytest
from rich.console import Console

from keras_metalr import Controller
from keras_metalr import workloads
from keras_metalr.benchmark import RunConfig
from keras_metalr.benchmark.experiment import Job
from keras_metalr.benchmark.experiment import JobProgress
from keras_metalr.benchmark.experiment import claim_folder
from keras_metalr.benchmark.experiment import make_runs
from keras_metalr.benchmark.identity import CONTROLLER_FILE
from keras_metalr.benchmark.identity import controller_identity
from keras_metalr.benchmark.identity import is_claimed_by_another
from keras_metalr.benchmark.records import DamagedRecordError
from keras_metalr.benchmark.records import file_name
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.runner import identity

pytestmark = pytest.mark.backend_independent


def test_missing_runs_are_made_and_the_others_read_back(tmp_path):
    workload = workloads.get("digits")
    data = workload.load_data()
    jobs = [
        Job(f"seed {seed}", workload, RunConfig(seed=seed, steps=2))
        for seed in (0, 1, 0)
    ]
    text = io.StringIO()
    console = Console(file=text, width=80)
    results = make_runs(jobs, data, tmp_path, console)
    assert [result.config["seed"] for result in results] == [0, 1, 0]
    assert [result.resumed for result in results] == [False, False, True]
    assert len(list(tmp_path.iterdir())) == 2
    assert "2/2" in text.getvalue()
    assert "1 found" in text.getvalue()
    again = make_runs(jobs, data, tmp_path, console)
    assert all(result.resumed for result in again)
    assert [r.results for r in again] == [r.results for r in results]


def test_time_left_is_by_weight():
    console = Console(file=io.StringIO(), width=80)
    with JobProgress(console, [1.0, 1.0, 8.0, 5.0]) as progress:
        assert progress.seconds_left is None
        progress.found(8.0)
        start = time.monotonic()
        time.sleep(0.1)
        progress.made(1.0)
        elapsed = time.monotonic() - start
        # Six of the seven that are not there yet are left.
        assert progress.seconds_left == pytest.approx(6 * elapsed, abs=1.0)
        progress.made(1.0)
        progress.made(5.0)
        assert progress.seconds_left == 0
        assert (progress.num_made, progress.num_found) == (3, 1)


def test_folder_belongs_to_one_controller(tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for preset in (first, second):
        Controller().save_to_preset(preset)
    runs = tmp_path / "runs"
    claim_folder(runs, first)
    claim_folder(runs, first)
    with pytest.raises(ValueError, match=r"another controller than.*second"):
        claim_folder(runs, second)
    (note,) = runs.iterdir()
    assert str(tmp_path) not in note.read_text()


def test_folder_belongs_to_one_backend(tmp_path):
    note = tmp_path / CONTROLLER_FILE
    # As it was before backends were noted.
    write_json(note, controller_identity())
    claim_folder(tmp_path)
    claimed = json.loads(note.read_text())
    assert claimed == {
        **controller_identity(),
        "backend": keras.backend.backend(),
    }
    write_json(note, {**claimed, "backend": "other"})
    assert not is_claimed_by_another(tmp_path)
    with pytest.raises(ValueError, match=r"'other'.*KERAS_BACKEND=other"):
        claim_folder(tmp_path)


def test_a_damaged_record_is_found_before_any_run(tmp_path):
    workload = workloads.get("digits")
    jobs = [
        Job(f"seed {seed}", workload, RunConfig(seed=seed, steps=2))
        for seed in (0, 1)
    ]
    path = tmp_path / file_name(identity(workload, jobs[1].config))
    path.write_text("{")
    console = Console(file=io.StringIO())
    with pytest.raises(DamagedRecordError, match="not valid JSON"):
        make_runs(jobs, workload.load_data(), tmp_path, console)
    assert list(tmp_path.iterdir()) == [path]
