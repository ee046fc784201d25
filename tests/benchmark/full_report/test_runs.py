"""A small feedback loop, really run: what it is compared with, and resuming."""

import dataclasses
import io

import pytest
from rich.console import Console

from keras_metalr.benchmark.full_report.budgets import BUDGETS
from keras_metalr.benchmark.full_report.condensed import PartResult
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.plan import make_plan
from keras_metalr.benchmark.full_report.runs import RECORDS
from keras_metalr.benchmark.full_report.runs import check_made
from keras_metalr.benchmark.full_report.runs import make_parts
from keras_metalr.benchmark.full_report.runs import resume
from keras_metalr.benchmark.full_report.sections import MAKERS
from keras_metalr.benchmark.records import file_name
from keras_metalr.benchmark.runner import identity
from tests.benchmark.full_report.made_up import CHOICES
from tests.benchmark.full_report.made_up import part_results

pytestmark = pytest.mark.backend_independent


@pytest.fixture
def part(tmp_path):
    budget = BUDGETS["smoke"]
    feedback = budget.feedback[0]
    assert (feedback.num_runs, feedback.repeats) == (2, 1)
    one = dataclasses.replace(budget, feedback=(feedback,))
    (part,) = MAKERS["feedback"](one, Choices(tmp_path, "none"))
    return part


def _make(part, folder):
    text = io.StringIO()
    console = Console(file=text, width=200)
    data = {part.name: part.workload.load_data()}
    make_parts([part], data, folder, "smoke", console)
    result = PartResult.load(folder / "results" / f"{part.name}.json")
    return result, text.getvalue()


@pytest.mark.large
def test_feedback_loop_and_the_same_runs_without(part, tmp_path):
    result, text = _make(part, tmp_path)
    assert "7 made, 0 found" in text
    assert "min left" in text
    (loop,) = result.loops
    assert loop["first_seed"] == 1000
    without = {
        run.config["seed"]: run.results["eval_loss"]
        for run in result.runs
        if run.config["method"] == "metalr"
        and "feedback" not in run.config["method_options"]
    }
    # There is nothing to learn from yet: the first run is the same run.
    assert loop["outcomes"][0] == pytest.approx(without[1000], rel=1e-3)
    # The second one has learned something.
    assert loop["outcomes"][1] != pytest.approx(without[1001], rel=1e-3)
    # All of it is found again.
    again, text = _make(part, tmp_path)
    assert "0 made, 7 found" in text
    assert again.loops == result.loops
    assert [run.results for run in again.runs] == [
        run.results for run in result.runs
    ]
    assert set(again.controllers) == {"supervised"}


@pytest.mark.large
def test_interrupted_loop_goes_on(part, tmp_path):
    (loop,) = part.loops
    one_run = dataclasses.replace(loop, num_runs=1)
    shorter = dataclasses.replace(part, loops=(one_run,), jobs=())
    _make(shorter, tmp_path)
    whole = dataclasses.replace(part, jobs=())
    result, text = _make(whole, tmp_path)
    assert "1 made, 1 found" in text
    assert len(result.loops[0]["outcomes"]) == 2


def test_what_was_published_is_not_made_again(part, tmp_path):
    jobs = [job for job in part.jobs if job.config.method == "static"][:1]
    jobs += [job for job in part.jobs if job.config.method == "metalr"][:1]
    few = dataclasses.replace(part, jobs=tuple(jobs), loops=())
    result, text = _make(few, tmp_path / "first")
    assert "2 made, 0 found" in text
    published = tmp_path / "first" / "results"
    resume(published, tmp_path / "second", [few])
    again, text = _make(few, tmp_path / "second")
    assert "0 made, 2 found" in text
    again.save(tmp_path)
    assert (tmp_path / again.file).read_text() == (
        published / result.file
    ).read_text()


def test_a_run_that_is_drawn_is_not_resumed_without_its_curves(tmp_path):
    parts = {part.section: part for part in make_plan("full", CHOICES)}
    (phases,) = (
        part for part in part_results("full") if part.name == "phases-cifar10"
    )
    phases.save(tmp_path / "published")
    shared = {
        file_name(identity(job.workload, job.config))
        for job in parts["cifar10"].jobs
    } & {file_name(run.config) for run in phases.runs}
    assert shared

    def resumed(*sections):
        output = tmp_path / "-".join(sections)
        chosen = [parts[section] for section in sections]
        resume(tmp_path / "published", output, chosen)
        return {path.name for path in (output / RECORDS).iterdir()}

    everything = resumed("phases")
    assert len(everything) == len(phases.runs) and shared <= everything
    assert resumed("phases", "cifar10") == everything - shared


@pytest.mark.parametrize("name", ["records/a.json", "results/a.json"])
def test_what_is_damaged_is_found_before_the_runs(tmp_path, name):
    check_made(tmp_path)
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json"):
        check_made(tmp_path)
