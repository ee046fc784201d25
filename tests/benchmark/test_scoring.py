"""Scores against other people's implementations and against hand figures."""

import math

import numpy as np
import pytest

from keras_metalr.benchmark import scoring

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("num_examples", [1, 7, 500])
def test_macro_f1_equals_scikit_learn(num_classes, num_examples):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(num_classes * num_examples)
    labels = generator.integers(num_classes, size=num_examples)
    predictions = np.where(
        generator.random(num_examples) < 0.6,
        labels,
        generator.integers(num_classes, size=num_examples),
    )
    expected = metrics.f1_score(
        labels, predictions, average="macro", zero_division=0.0
    )
    assert scoring.macro_f1(labels, predictions) == pytest.approx(expected)


def test_macro_f1_of_one_class_for_everything():
    labels = np.array([0, 1] * 5)
    assert scoring.macro_f1(labels, np.zeros(10, int)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (4,))])
def test_macro_f1_refuses_wrong_shapes(shapes):
    labels, predictions = (np.zeros(shape, int) for shape in shapes)
    with pytest.raises(ValueError, match="one shape"):
        scoring.macro_f1(labels, predictions)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.5, 0.8, 0.9], 2.0),
        ([0.9], 1.0),
        ([0.5, 0.7], math.inf),
        ([], math.inf),
        ([math.nan, 0.8], 2.0),
    ],
)
def test_epochs_to_target(accuracies, expected):
    assert scoring.epochs_to_target(accuracies, target=0.8) == expected


def test_stability_is_the_variance():
    losses = [4.0, 2.0, 1.0, 1.0]
    assert scoring.stability(losses) == pytest.approx(np.var(losses))
    assert scoring.stability(losses, last_half=True) == 0.0
    # What is not known is left out, of its own half.
    losses = [9.0, None, 3.0, None, 1.0, 3.0]
    assert scoring.stability(losses) == pytest.approx(np.var([9, 3, 1, 3]))
    assert scoring.stability(losses, last_half=True) == 1.0
    # The middle one of an odd number is in the last half.
    assert scoring.stability([9.0, 1.0, 3.0], last_half=True) == 1.0


def test_stability_of_a_run_that_diverged_or_never_was():
    assert scoring.stability([1.0, math.nan]) == math.inf
    assert scoring.stability([math.inf, 1.0]) == math.inf
    assert scoring.stability([math.inf, 1.0, 1.0], last_half=True) == 0.0
    assert scoring.stability([None, math.nan]) == math.inf
    for losses in ([], [1.0], [None, 1.0]):
        assert math.isnan(scoring.stability(losses))


@pytest.mark.parametrize(
    ("num_runs", "expected"), [(1, 1), (2, 1), (9, 4), (10, 5), (20, 5)]
)
def test_the_first_runs_are_none_of_the_last(num_runs, expected):
    assert scoring.block_size(num_runs) == expected


def test_interval_equals_a_table_of_student_t():
    mean, low, high = scoring.mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # t(0.975, 4) = 2.776, standard error = sqrt(2.5 / 5).
    assert mean == 3.0
    assert high - mean == pytest.approx(2.776 * math.sqrt(0.5), rel=1e-3)
    assert mean - low == pytest.approx(high - mean)


def test_interval_without_spread_or_without_evidence():
    assert scoring.mean_and_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    mean, low, high = scoring.mean_and_interval([2.0])
    assert mean == 2.0 and math.isnan(low) and math.isnan(high)
    mean, low, _ = scoring.mean_and_interval([2.0, math.inf])
    assert mean == math.inf and math.isnan(low)
    with pytest.raises(ValueError, match="at least one"):
        scoring.mean_and_interval([])
