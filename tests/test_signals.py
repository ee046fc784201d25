"""Measurements on tensors, against NumPy over all coordinates in float64."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_metalr import backend
from keras_metalr.signals import SAMPLE_SIZE
from keras_metalr.signals import CoordinateSample
from keras_metalr.signals import inner_products
from keras_metalr.signals import norm
from keras_metalr.signals import shortfall
from keras_metalr.signals import squared_norm
from keras_metalr.signals import step_signals
from keras_metalr.signals import trust_ratio
from keras_metalr.signals import weight_norm
from tests import reference

LARGE_SHAPES = [
    ((40_000,),),
    ((100, 100), (100,)),
    ((8, 300), (300,), (300, 40), (40,), ()),
    ((3, 3, 16, 64), (64,), (64,), (20_000, 3)),
    ((9_000, 1), (1, 9_000)),
]
seeds = st.integers(0, 2**16)


def tensors(shapes, seed, scales=None):
    generator = np.random.default_rng(seed)
    scales = [1.0] * len(shapes) if scales is None else scales
    return [
        (scale * generator.normal(size=shape)).astype("float32")
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def flat(arrays):
    return np.concatenate([a.astype("float64").ravel() for a in arrays])


def gathered(sample, arrays):
    values = sample.gather([ops.convert_to_tensor(a) for a in arrays])
    return ops.convert_to_numpy(values)


# -- The sample of coordinates. ---------------------------------------------


@settings(max_examples=30)
@given(
    shapes=st.lists(
        st.lists(st.integers(1, 9), max_size=3).map(tuple),
        min_size=1,
        max_size=5,
    ),
    seed=seeds,
)
def test_small_model_is_sampled_whole(shapes, seed):
    sample = CoordinateSample(shapes, seed=seed)
    arrays = tensors(shapes, seed)
    values = gathered(sample, arrays)
    assert sample.size == sample.num_coordinates == values.size
    np.testing.assert_array_equal(values, flat(arrays).astype("float32"))
    assert reference.relative_error(sample, values) == 0.0


def test_exactly_the_sample_size_is_sampled_whole():
    shapes = [(SAMPLE_SIZE - 1,), (1,)]
    assert CoordinateSample(shapes).size == SAMPLE_SIZE
    shapes = [(SAMPLE_SIZE,), (SAMPLE_SIZE,)]
    assert CoordinateSample(shapes).size == SAMPLE_SIZE


@pytest.mark.parametrize("shapes", LARGE_SHAPES)
def test_every_variable_is_sampled_in_its_own_part(shapes):
    sample = CoordinateSample(shapes)
    values = gathered(
        sample,
        [np.full(shape, i + 1.0, "float32") for i, shape in enumerate(shapes)],
    )
    # Scaled by the square root of what one stands for, but never mixed up.
    counts = [math.prod(shape) for shape in shapes]
    for i, count in enumerate(counts):
        estimate = np.sum(np.square(values / (i + 1.0))[_part(sample, i)])
        assert estimate == pytest.approx(count, rel=1e-5)
    assert sample.size <= SAMPLE_SIZE + 64 * len(shapes)


def _part(sample, i):
    """Where in the sample the coordinates of one variable lie."""
    ends = np.cumsum(sample._counts)
    return slice(ends[i] - sample._counts[i], ends[i])


def test_sample_is_the_same_for_a_seed_and_another_for_another():
    shapes = LARGE_SHAPES[1]
    arrays = tensors(shapes, 0)
    first = gathered(CoordinateSample(shapes, seed=1), arrays)
    again = gathered(CoordinateSample(shapes, seed=1), arrays)
    other = gathered(CoordinateSample(shapes, seed=2), arrays)
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.9


def test_a_small_variable_beside_a_large_one_has_a_share_of_its_own():
    # By size alone the second would have one coordinate, or none.
    sample = CoordinateSample([(1000, 1000), (200,), (10,)])
    _, small, smallest = sample.indices
    assert len(small) == 64 and smallest is None


def test_missing_gradient_reads_as_zero():
    sample = CoordinateSample([(2,), (3, 2), (1,)])
    values = sample.gather([ops.ones((2,)), None, ops.ones((1,))])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(values), [1, 1, 0, 0, 0, 0, 0, 0, 1]
    )


@pytest.mark.parametrize(
    ("rows", "sparsity"),
    # Of a table of 100 rows beside 100 other weights: 80 % of all.
    [(0, 0.8), (20, 0.8), (30, 0.4), (40, 0.0), (100, 0.0)],
)
def test_sparsity_is_the_share_of_tables_of_which_few_rows_are_reached(
    rows, sparsity
):
    sample = CoordinateSample([(60,), (100, 4), (5, 8)])
    table = np.zeros((100, 4), "float32")
    table[np.random.default_rng(0).permutation(100)[:rows]] = -1e-30
    others = [np.ones((60,), "float32"), np.ones((5, 8), "float32")]
    gathered = sample.gather(
        [ops.convert_to_tensor(v) for v in (others[0], table, others[1])]
    )
    assert float(sample.sparsity(gathered)) == pytest.approx(sparsity, abs=1e-6)


def test_weights_without_a_gradient_are_reached_by_no_batch():
    sample = CoordinateSample([(30,), (90,)])
    gathered = sample.gather([ops.ones((30,)), None])
    assert float(sample.sparsity(gathered)) == 0.75


def test_sparsity_of_tables_that_are_sampled():
    shapes = [(20000, 16), (16, 8000), (8000,)]
    gradients = [np.ones(shape, "float32") for shape in shapes]
    gradients[0][np.random.default_rng(0).random(20000) > 0.05] = 0.0
    # Half of the units are dead: no table.
    gradients[1][:, ::2] = 0.0
    sample = CoordinateSample(shapes)
    gathered = sample.gather([ops.convert_to_tensor(g) for g in gradients])
    expected = 320_000 / (320_000 + 128_000 + 8_000)
    assert float(sample.sparsity(gathered)) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40)
@given(
    shapes=st.sampled_from(LARGE_SHAPES),
    seed=seeds,
    scale_seed=seeds,
    power=st.sampled_from([1.0, 2.0]),
)
def test_sampled_norm_within_its_stated_error(shapes, seed, scale_seed, power):
    # Variables of very different size, and tails heavier than the normal's.
    scales = 10.0 ** np.random.default_rng(scale_seed).uniform(
        -2.0, 1.0, size=len(shapes)
    )
    arrays = [
        np.sign(a) * np.abs(a) ** power for a in tensors(shapes, seed, scales)
    ]
    sample = CoordinateSample(shapes, seed=seed + 1)
    values = gathered(sample, arrays)
    error = reference.relative_error(sample, values)
    measured = float(norm(ops.convert_to_tensor(values)))
    assert 0.0 < error < 0.2
    expected = np.linalg.norm(flat(arrays))
    assert abs(measured / expected - 1.0) < 4.0 * error


@pytest.mark.parametrize("shapes", LARGE_SHAPES)
def test_stated_error_is_the_spread_over_draws(shapes):
    arrays = tensors(shapes, 3, np.linspace(0.5, 2.0, len(shapes)))
    draws = [CoordinateSample(shapes, seed=seed) for seed in range(100)]
    values = [
        np.concatenate(_gathered_by_numpy(draw, arrays)) for draw in draws
    ]
    norms = np.linalg.norm(values, axis=1)
    stated = np.mean(
        [
            reference.relative_error(draw, v)
            for draw, v in zip(draws, values, strict=True)
        ]
    )
    # The spread of 100 draws is itself known to 7 %.
    assert np.std(norms) / np.mean(norms) == pytest.approx(stated, rel=0.3)


def _gathered_by_numpy(sample, arrays):
    """The scaled coordinates of each variable, fast enough for many draws."""
    ones = gathered(sample, [np.ones(a.shape, "float32") for a in arrays])
    parts = []
    for i, (array, index) in enumerate(
        zip(arrays, sample.indices, strict=True)
    ):
        values = array.ravel() if index is None else array.ravel()[index]
        parts.append(values.astype("float64") * ones[_part(sample, i)])
    return parts


@pytest.mark.parametrize(
    ("count", "size"), [(9_001, 8_192), (100, 64), (1_000, 64), (257, 256)]
)
def test_sums_are_unbiased_for_every_coordinate(count, size):
    # In any fixed tensor, so in one with a single coordinate that is not zero:
    # on average over the draws it must count once. The largest mean deviation
    # over all coordinates is that of a tensor chosen by an enemy.
    rest = max(0, size * 4 - count)
    shapes = [(count,), (rest,)] if size < 8_192 else [(count,)]
    num_draws = 400
    mean = np.zeros(count)
    variance = np.zeros(count)
    for seed in range(num_draws):
        sample = CoordinateSample(shapes, size=size, seed=seed)
        ones = [np.ones(shape, "float32") for shape in shapes]
        parts = _gathered_by_numpy(sample, ones)
        weight = np.zeros(count)
        weight[sample.indices[0]] = parts[0] ** 2
        mean += weight / num_draws
        variance += weight**2 / num_draws
    error = np.sqrt((variance - mean**2) / num_draws)
    worst = np.abs(mean - 1.0) - 6.0 * error
    assert worst.max() < 1e-3


@settings(max_examples=20)
@given(seed=seeds)
def test_inner_product_of_samples_estimates_the_whole(seed):
    shapes = LARGE_SHAPES[1]
    left, noise = tensors(shapes, seed), tensors(shapes, seed + 1)
    right = [a + 0.5 * b for a, b in zip(left, noise, strict=True)]
    sample = CoordinateSample(shapes, seed=seed)
    estimate = gathered(sample, left) @ gathered(sample, right)
    exact = flat(left) @ flat(right)
    assert estimate == pytest.approx(exact, rel=0.1)


# -- Exact sums. ------------------------------------------------------------


@pytest.mark.parametrize("shapes", [*LARGE_SHAPES, ((),), ((3,), (), (2, 2))])
def test_exact_sums(shapes):
    left, right = tensors(shapes, 1), tensors(shapes, 2)
    left_tensors = [ops.convert_to_tensor(a) for a in left]
    right_tensors = [ops.convert_to_tensor(a) for a in right]
    assert float(squared_norm(left_tensors)) == pytest.approx(
        flat(left) @ flat(left), rel=1e-5
    )
    expected = [
        np.vdot(a.astype("float64"), b)
        for a, b in zip(left, right, strict=True)
    ]
    products = inner_products(left_tensors, right_tensors)
    np.testing.assert_allclose(
        ops.convert_to_numpy(products), expected, rtol=1e-4, atol=1e-2
    )


def test_exact_sums_skip_a_missing_gradient():
    some = ops.convert_to_tensor(np.array([3.0, 4.0], "float32"))
    assert float(squared_norm([None, some])) == 25.0
    products = inner_products([None, some], [some, some])
    np.testing.assert_array_equal(ops.convert_to_numpy(products), [0, 25])


def test_sums_of_half_precision_are_float32():
    # 70,000 is beyond the range of float16, and 256 + 1 beyond its digits.
    ones = ops.ones((70_000,), dtype="float16")
    assert float(squared_norm([ones])) == 70_000.0
    assert float(inner_products([ones], [ones])[0]) == 70_000.0


# -- Signals of a step. -----------------------------------------------------


@settings(max_examples=25)
@given(seed=seeds, size=st.integers(1, 50))
def test_step_signals_against_numpy(seed, size):
    gradient, before, update, last, travelled = tensors([(size,)] * 5, seed)
    after, start = before + update, before - travelled
    measured = step_signals(
        *map(ops.convert_to_tensor, (gradient, before, after, start, last)),
        num_coordinates=size,
    )
    lengths = np.linalg.norm(gradient) * np.linalg.norm(last)
    expected = {
        "weight_norm": np.linalg.norm(after),
        "update_norm": np.linalg.norm(after - before),
        "distance": np.linalg.norm(after - start),
        "cosine": -(gradient @ last) / lengths,
    }
    assert set(measured) == set(expected)
    for name, value in expected.items():
        assert float(measured[name]) == pytest.approx(
            value, rel=1e-5, abs=1e-5
        ), name


def test_cosine_is_one_along_and_minus_one_against():
    w = ops.ones((3,))
    g = ops.convert_to_tensor(np.array([1.0, -2.0, 0.5], "float32"))
    cosine = lambda last: float(step_signals(g, w, w, w, last, 3)["cosine"])  # noqa: E731
    assert cosine(-0.01 * g) == pytest.approx(1.0)
    assert cosine(100.0 * g) == pytest.approx(-1.0)


def test_weights_near_zero_have_a_least_length():
    zeros = ops.zeros((400,))
    assert float(weight_norm(zeros, 400)) == pytest.approx(0.01 * 20.0)
    # A sample stands for all of them.
    assert float(weight_norm(zeros, 10_000)) == pytest.approx(1.0)
    signals = step_signals(zeros, zeros, zeros + 1e-4, zeros, zeros, 400)
    assert float(signals["weight_norm"]) == pytest.approx(0.2)
    assert float(weight_norm(zeros + 0.02, 400)) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("gradient", "last"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
)
def test_cosine_of_nothing_is_zero(gradient, last):
    w = ops.ones((3,))
    signals = step_signals(gradient * w, w, w, w, last * w, 3)
    assert float(signals["cosine"]) == 0.0


def test_what_was_gathered_stays_when_the_only_weight_moves():
    weight = keras.Variable(np.array([3.0, -2.0, 0.5], "float32"))
    with backend.measuring():
        gathered = CoordinateSample([(3,)]).gather([weight])
        # As optimizers do it on each backend; on torch that is in place.
        keras.optimizers.SGD(1.0).apply([ops.ones((3,))], [weight])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(gathered), [3.0, -2.0, 0.5]
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(weight.value), [2.0, -3.0, -0.5]
    )


# -- The trust ratio. -------------------------------------------------------


def ratio_of(before, after, promised, **kwargs):
    values = (np.float32(v) for v in (before, after, promised))
    ratio, valid = trust_ratio(*map(ops.convert_to_tensor, values), **kwargs)
    return float(ratio), float(valid)


@pytest.mark.parametrize(
    ("before", "after", "promised", "expected"),
    [
        (2.0, 1.5, 0.5, 1.0),
        (2.0, 1.75, 0.5, 0.5),
        (2.0, 2.25, 0.5, -0.5),
        (2.0, 1.0, 0.25, 2.0),  # 4, clipped
        (2.0, 9.0, 0.5, -2.0),  # -14, clipped
        (2.0, np.inf, 0.5, -2.0),
        (2.0, np.nan, 0.5, -2.0),
        (-2.0, -2.5, 0.5, 1.0),
    ],
)
def test_trust_ratio(before, after, promised, expected):
    assert ratio_of(before, after, promised) == (expected, 1.0)


@pytest.mark.parametrize(
    ("before", "promised"),
    [
        (2.0, -0.5),  # uphill
        (2.0, 0.0),
        (2.0, 2e-5),  # less than float32 tells from nothing
        (-2.0, 2e-5),
        (2.0, np.nan),
        (np.nan, 0.5),
        (np.inf, 0.5),
    ],
)
def test_trust_ratio_that_means_nothing(before, promised):
    assert ratio_of(before, 1.0, promised) == (1.0, 0.0)


def test_resolution_of_half_precision():
    assert ratio_of(2.0, 1.5, 0.5, resolution=1e-3) == (1.0, 1.0)
    assert ratio_of(2.0, 1.5, 1e-3, resolution=1e-3) == (1.0, 0.0)


def test_trust_ratio_of_a_quadratic():
    # Gradient descent on 0.5 curvature w^2 keeps 1 - 0.5 curvature rate of
    # what it promised; at the rate that reaches the minimum, a half.
    curvature, w = 3.0, 2.0
    for rate in (0.01, 0.1, 1 / 3, 0.5):
        after = w - rate * curvature * w
        ratio, _ = ratio_of(
            0.5 * curvature * w**2,
            0.5 * curvature * after**2,
            rate * (curvature * w) ** 2,
        )
        assert ratio == pytest.approx(1 - 0.5 * curvature * rate, abs=1e-4)


# -- The shortfall. ---------------------------------------------------------


def shortfall_of(before, after, promised, scale=1.0, **kwargs):
    values = (np.float32(v) for v in (before, after, promised, scale))
    pair = shortfall(*map(ops.convert_to_tensor, values), **kwargs)
    return tuple(float(value) for value in pair)


@pytest.mark.parametrize(
    ("before", "after", "promised", "expected"),
    [
        (2.0, 1.5, 0.5, (0.5, 0.0)),
        (2.0, 1.75, 0.5, (0.5, 0.25)),
        (2.0, 2.25, 0.5, (0.5, 0.75)),
        (2.0, 2.75, -0.5, (-0.5, 0.25)),  # uphill, and more than it said
        (-2.0, -2.25, 0.5, (0.5, 0.25)),
        (2.0, 0.0, 0.25, (0.25, -0.25)),  # -1.75, limited
        (2.0, 9.0, 0.5, (0.5, 1.5)),  # 7.5, limited
        (2.0, np.inf, 0.5, (0.5, 1.5)),
        (2.0, 1.0, 4.0, (1.0, 0.75)),  # 3 of 4, in proportion
        (2.0, 4.0, -4.0, (-1.0, -0.5)),
        (2.0, np.inf, np.inf, (1.0, 3.0)),
    ],
)
def test_shortfall(before, after, promised, expected):
    assert shortfall_of(before, after, promised) == expected


@pytest.mark.parametrize(
    ("before", "after", "promised"),
    [
        (2.0, 1.0, 0.0),
        (2.0, 1.0, 2e-5),  # less than float32 tells from nothing
        (2.0, 1.0, -2e-5),
        (2.0, 1.0, np.nan),
        (2.0, np.nan, 0.5),
        (np.nan, 1.0, 0.5),
        (np.inf, 1.0, 0.5),
    ],
)
def test_shortfall_that_cannot_be_measured(before, after, promised):
    assert shortfall_of(before, after, promised) == (0.0, 0.0)


def test_shortfall_in_half_precision():
    assert shortfall_of(2.0, 1.5, 1e-3, resolution=1e-3) == (0.0, 0.0)
    assert shortfall_of(2.0, 1.5, 0.5, resolution=1e-3) == (0.5, 0.0)


@given(
    before=st.floats(width=32),
    after=st.floats(width=32),
    promised=st.floats(width=32),
    scale=st.floats(0.0, 1e6, width=32),
)
def test_shortfall_is_bounded_for_any_input(before, after, promised, scale):
    drop, lost = shortfall_of(before, after, promised, scale)
    assert abs(drop) <= scale
    assert -abs(drop) <= lost <= 3.0 * abs(drop) * (1.0 + 1e-6)
