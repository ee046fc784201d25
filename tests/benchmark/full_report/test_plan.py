"""The plan of every budget: what is in it, and nothing twice."""

from collections import Counter
from pathlib import Path

import pytest

from keras_metalr.benchmark.full_report.budgets import BUDGETS
from keras_metalr.benchmark.full_report.parts import Choices
from keras_metalr.benchmark.full_report.plan import SECTIONS
from keras_metalr.benchmark.full_report.plan import controllers
from keras_metalr.benchmark.full_report.plan import make_plan
from keras_metalr.benchmark.records import file_name
from keras_metalr.benchmark.runner import identity

pytestmark = pytest.mark.backend_independent

CHOICES = Choices(output=Path("runs/test"), preset="bert_base_en_uncased")


def _counts(part):
    return (
        len(part.jobs),
        len(part.ladder.rates) * len(part.ladder.seeds) if part.ladder else 0,
        sum(loop.num_runs for loop in part.loops),
    )


@pytest.mark.parametrize("budget", BUDGETS)
def test_no_run_is_planned_twice(budget):
    for part in make_plan(budget, CHOICES):
        names = Counter(
            file_name(identity(job.workload, job.config)) for job in part.jobs
        )
        assert names.most_common(1)[0][1] == 1, part.name
        assert len(list(part.weights())) == sum(_counts(part))


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_section_is_there_and_names_its_controllers(budget):
    parts = make_plan(budget, CHOICES)
    assert list(dict.fromkeys(part.section for part in parts)) == list(SECTIONS)
    assert len({part.name for part in parts}) == len(parts)
    assert set(controllers(parts)) == {"general", "supervised"}


def test_number_of_runs():
    counts = {part.name: _counts(part) for part in make_plan("cpu", CHOICES)}
    assert counts == {
        # 5 methods x 3 seeds.
        "cifar10": (15, 0, 0),
        "sst2": (15, 0, 0),
        "results-line": (2, 0, 0),
        # 3 controllers x 3 seeds; 15 rates x 2 seeds.
        "phases-digits": (9, 30, 0),
        # 4 rates x 2 methods x 2 seeds, 4 x 20 without and 5 within.
        "feedback-digits-adam": (101, 0, 80),
        "feedback-digits-sgd": (101, 0, 80),
        # 8 variants, two names being one, x 2 methods x 3 seeds.
        "ablation": (80, 0, 0),
    }


@pytest.mark.parametrize(("budget", "minutes"), [("cpu", 88), ("smoke", 2.8)])
def test_budgets_keep_some_time_in_hand(budget, minutes):
    """They are to end within 90 and 3 minutes."""
    seconds = {
        part.name: sum(part.weights()) for part in make_plan(budget, CHOICES)
    }
    assert sum(seconds.values()) < minutes * 60, seconds


def test_full_is_the_reports_own_setup():
    parts = {part.name: part for part in make_plan("full", CHOICES)}
    for name, batch_size, epochs, rate, optimizer in (
        ("cifar10", 64, 50, 0.01, "sgd"),
        ("sst2", 32, 3, 2e-5, "adamw"),
    ):
        part = parts[name]
        assert part.details["cuts"] == []
        configs = [identity(job.workload, job.config) for job in part.jobs]
        for config in configs:
            assert config["batch_size"] == batch_size
            assert (config["epochs"], config["steps"]) == (epochs, None)
            assert config["options"]["optimizer"] == optimizer
        seed_0 = [c for c in configs if c["seed"] == 0]
        assert [(c["method"], c["learning_rate"]) for c in seed_0] == [
            ("static", rate),
            ("cosine", rate),
            ("metalr", pytest.approx(rate / 100)),
            ("metalr", rate),
            ("metalr", pytest.approx(rate * 100)),
        ]
    assert parts["results-line"].details["cuts"] == []
    # What two sections share is one record: it is run once.
    primary, phases = (
        {file_name(identity(job.workload, job.config)) for job in part.jobs}
        for part in (parts["cifar10"], parts["phases-cifar10"])
    )
    assert len(primary & phases) == 6


def test_cuts_say_what_is_left_out():
    choices = Choices(output=Path("runs/test"), preset="someone/small")
    parts = {part.name: part for part in make_plan("cpu", choices)}
    assert parts["sst2"].details["cuts"] == [
        "small in place of bert_base_en_uncased",
        "2,560 training examples",
        "256 validation examples",
        "32 tokens a text in place of 128",
        "80 training steps in place of 3 epochs (4 validations)",
        "a target accuracy of 75% in place of 90%",
    ]
    sizes = "images of 16 pixels a side in place of 32"
    assert sizes in parts["cifar10"].details["cuts"]
    assert parts["phases-digits"].details["cuts"] == ["3 epochs in place of 20"]
    (smoke, *_) = make_plan("smoke", CHOICES)
    assert "batches of 8 in place of 64" in smoke.details["cuts"]


def test_other_settings_lie_in_another_folder():
    def folders(budget):
        return {
            loop.folder
            for part in make_plan(budget, CHOICES)
            for loop in part.loops
        } | {
            part.ladder.folder
            for part in make_plan(budget, CHOICES)
            if part.ladder is not None
        }

    assert not folders("cpu") & folders("full")


def test_number_of_seeds_is_a_choice():
    choices = Choices(output=Path("a"), preset="b", seeds=7)
    for part in make_plan("smoke", choices, ["cifar10", "sst2"]):
        assert {job.config.seed for job in part.jobs} == set(range(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", CHOICES), "budget='tiny'"),
        (("smoke", CHOICES, ["bert"]), r"Received: \['bert'\]"),
    ],
)
def test_what_is_unknown_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(*arguments)
    with pytest.raises(ValueError, match="seeds=0"):
        Choices(Path("a"), "b", seeds=0)
