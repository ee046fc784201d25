"""Regrets and their pairs, against figures made by hand."""

import dataclasses
import math

import numpy as np
import pytest

from keras_metalr.benchmark.full_report import scores
from keras_metalr.benchmark.full_report.wording import verdict
from keras_metalr.benchmark.records import RunResult
from tests.benchmark.full_report.made_up import part_results

pytestmark = pytest.mark.backend_independent


@pytest.fixture(scope="module")
def part():
    return next(p for p in part_results() if p.name == "feedback-digits-adam")


def _with_losses(part, losses):
    """The part, with the validation losses that a function gives."""
    runs = [
        dataclasses.replace(
            run, results={**run.results, "eval_loss": losses(run.config)}
        )
        for run in part.runs
    ]
    return dataclasses.replace(part, runs=runs)


def _losses(config):
    if config["method"] != "metalr":
        best = (config["method"], config["learning_rate"]) == ("cosine", 0.01)
        return 0.2 if best else 0.7
    return 0.6 if config["method_options"].get("feedback") else 0.4


def test_regret_by_hand(part):
    loops = scores.feedback_loops(_with_losses(part, _losses))
    reference = loops.reference
    assert (reference.method, reference.learning_rate) == ("cosine", 0.01)
    assert (reference.best, reference.initial) == (0.2, pytest.approx(2.4))
    assert (reference.num_references, reference.num_seeds) == (8, 2)
    assert loops.gathered.shape == loops.without.shape == (4, 20)
    # The first outcome is 0.5, the second 0.49.
    np.testing.assert_allclose(loops.gathered[:, 0], 0.3 / 2.2)
    np.testing.assert_allclose(loops.gathered[:, 1], 0.29 / 2.2)
    np.testing.assert_allclose(loops.without, 0.2 / 2.2)
    assert set(loops.within) == set(range(1000, 1005))
    assert set(loops.within) < set(loops.plain)
    assert loops.within[1000] == pytest.approx(0.4 / 2.2)


def test_a_repeat_is_one_observation():
    rng = np.random.default_rng(0)
    gathered, without = rng.normal(size=(2, 3, 20))
    reference = scores.Reference("static", 0.1, 0.5, 2.5, 8, 2)
    loops = scores.Loops(reference, gathered, without, {}, {})
    first, last, change = loops.blocks()
    assert (first.name, last.name) == ("first 5", "last 5")
    np.testing.assert_allclose(first.gathered, gathered[:, :5].mean(axis=1))
    np.testing.assert_allclose(last.without, without[:, 15:].mean(axis=1))
    np.testing.assert_allclose(change.gathered, last.gathered - first.gathered)
    short = scores.Loops(reference, gathered[:, :2], without[:, :2], {}, {})
    assert [block.name for block in short.blocks()][:2] == ["first 1", "last 1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0, -1.1, -0.9], "lower"),
        ([-2.0, 1.0, -0.5], "lower (but the interval holds 0)"),
        ([-1.0], "lower (one observation, no interval)"),
        ([0.0, 0.0], "not lower"),
        ([1.0], "not lower"),
    ],
)
def test_verdict(values, expected):
    assert verdict(scores.paired(values, [0.0] * len(values))) == expected


def test_a_run_that_failed_counts_as_the_highest_regret(part):
    reference = scores.Reference("static", 0.1, 0.5, 2.5, 8, 2)
    assert reference.regret(0.5) == 0.0
    assert reference.regret(2.5) == 1.0
    assert reference.regret(0.3) == pytest.approx(-0.1)
    for loss in (1e9, math.inf, math.nan):
        assert reference.regret(loss) == scores.HIGHEST_REGRET


def test_where_nothing_can_be_gained_regret_has_a_scale():
    # A best reference that gained nothing, or less.
    for best in (1.0, 1.5):
        reference = scores.Reference("static", 0.1, best, 1.0, 8, 2)
        assert reference.regret(best) == 0.0
        assert reference.regret(best + 0.01) == pytest.approx(0.5)
        assert reference.regret(best - 0.01) == pytest.approx(-0.5)


def test_references_that_diverged_are_not_the_best(part):
    def losses(config):
        diverged = (config["method"], config["seed"]) == ("cosine", 1)
        return math.nan if diverged else _losses(config)

    reference = scores.feedback_loops(_with_losses(part, losses)).reference
    assert reference.method == "static"
    with pytest.raises(ValueError, match="All references"):
        scores.feedback_loops(_with_losses(part, lambda config: math.nan))


def test_paired_difference():
    mean, low, high = scores.paired([1.0, 2.0], [0.9, 2.1])
    # Two differences 0.2 apart: standard error 0.1, t(1) = 12.706.
    assert mean == pytest.approx(0.0)
    assert (high - low) / 2 == pytest.approx(1.2706, rel=1e-3)


def test_groups_keep_the_order_of_the_plan():
    parts = {part.name: part for part in part_results()}
    assert list(scores.method_groups(parts["sst2"])) == [
        ("static", 2e-5),
        ("cosine", 2e-5),
        ("metalr", 2e-7),
        ("metalr", 2e-5),
        ("metalr", 2e-3),
    ]
    assert list(scores.controller_groups(parts["phases-digits"])) == [
        "fitted",
        "general",
        "static",
    ]
    assert len(scores.variant_groups(parts["ablation"])) == 16
    outcomes = scores.ladder_outcomes(parts["phases-digits"])
    assert list(outcomes) == sorted(outcomes)
    assert {len(values) for values in outcomes.values()} == {2}


def test_epochs_to_the_end_of_another_by_hand():
    def runs(histories):
        return [
            RunResult(
                config={"seed": seed},
                environment={},
                history={"val_accuracy": accuracies},
                curves={},
                results={},
            )
            for seed, accuracies in histories.items()
        ]

    static = runs({1: [0.1, 0.3, 0.2], 2: [0.1, 0.2, 0.3], 3: [0.5, 0.4, 0.9]})
    # In the other order: seeds are paired, not places.
    others = runs({3: [0.8, 0.8, 0.8], 2: [0.3, 0.1, 0.1], 1: [0.1, 0.2, 0.9]})
    assert scores.median_epochs_to_end_of(static, static) == 3.0
    assert scores.median_epochs_to_end_of(static, others) == 2.0
    missed = runs({seed: [0.0, 0.0, 0.0] for seed in (1, 2, 3)})
    assert math.isinf(scores.median_epochs_to_end_of(static, missed))
