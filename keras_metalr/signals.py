"""What is measured inside the compiled train step. Pure functions of tensors.

Two kinds of measurement, chosen by what each costs:

* exact, over every coordinate: the gradient norm (one pass over the gradients,
  every step) and the drop in loss that the update promised (two dot products,
  once a decision);
* on a fixed sample of coordinates: everything that needs the weights of an
  earlier moment. A full copy of the weights would double the memory and was
  measured at 1.3 to 1.7 times the plain step; a sample of 4,096 coordinates
  is free, and knows a norm to about a per cent (less well where few coordinates
  make up most of it).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_metalr import backend

ops = backend.native_ops()
Tensor = Any

SAMPLE_SIZE = 4096
MIN_PER_VARIABLE = 64
TINY = 1e-30
# Smallest drop, relative to the loss, that the arithmetic of the forward pass
# resolves in float32: about 100 units of the last place.
RESOLUTION = 1.2e-5
# Weights that start at zero have no scale of their own: take so much for each.
SMALLEST_WEIGHT = 0.01
# Shares of a variable that a batch reaches: few, and no longer few.
FEW_REACHED = (0.2, 0.4)


class CoordinateSample:
    """A fixed, stratified random sample of the coordinates of some variables.

    Each variable is cut into equal blocks and one coordinate is drawn from
    each, so every variable is represented and the sample never changes during
    a run. A coordinate drawn from a block of `k` is multiplied by `sqrt(k)` as
    it is gathered, so that plain sums of products over the sample estimate the
    sums over all coordinates (the Horvitz-Thompson estimator: unbiased).

    Args:
        shapes: List of shape tuples, one for each variable.
        size: Integer (>= 1), coordinates to draw in all. With at least as many
            as there are, every coordinate is taken and sums are exact.
            Defaults to `4096`.
        seed: Integer, seed of the draw. Defaults to `0`.

    Example:

    >>> sample = CoordinateSample([(3, 2), (2,)])
    >>> sample.size
    8
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        size: int = SAMPLE_SIZE,
        seed: int = 0,
    ) -> None:
        counts = [int(np.prod(shape)) for shape in shapes]
        self.num_coordinates = sum(counts)
        generator = np.random.default_rng(seed)
        # `None`: every coordinate, in order.
        self.indices: list[np.ndarray | None] = []
        # How many coordinates each one stands for: the size of its block.
        stands_for: list[np.ndarray] = []
        self._counts: list[int] = []
        for count in counts:
            share = round(size * count / max(self.num_coordinates, 1))
            drawn = min(count, max(MIN_PER_VARIABLE, share))
            if self.num_coordinates <= size or drawn == count:
                drawn = count
                self.indices.append(None)
                stands_for.append(np.ones(count))
            else:
                edges = np.linspace(0, count, drawn + 1).astype("int64")
                self.indices.append(generator.integers(edges[:-1], edges[1:]))
                stands_for.append(np.diff(edges).astype("float64"))
            self._counts.append(drawn)
        self.size = sum(self._counts)
        self._positions = [
            None if index is None else backend.constant_positions(index)
            for index in self.indices
        ]
        scale = np.sqrt(np.concatenate(stands_for)).astype("float32")
        self._scale = backend.constant(scale)
        ends = np.cumsum(self._counts)
        self._last_positions = backend.constant_positions(ends - 1)
        self._drawn = backend.constant(np.array(self._counts, "float32"))
        self._variable_shares = backend.constant(
            (np.array(counts) / max(self.num_coordinates, 1)).astype("float32")
        )
        self._is_exhaustive = bool(np.all(scale == 1.0))

    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Sampled coordinates, shape `(size,)`, float32; `None` reads as 0.

        Each is scaled by the square root of how many it stands for. As
        `backend.noted` has them.
        """
        parts = [
            backend.noted(ops.zeros((count,), dtype="float32"))
            if tensor is None
            else backend.elements(tensor, positions)
            for tensor, positions, count in zip(
                tensors, self._positions, self._counts, strict=True
            )
        ]
        # A copy even of a single one: torch updates a weight in place, and what
        # it was before is measured against what it becomes.
        values = ops.concatenate(parts)
        if not self._is_exhaustive:
            values = values * self._scale
        return backend.whole(values)

    def sparsity(self, gradient: Tensor) -> Tensor:
        """The share of all weights that a batch reaches few of, in [0, 1].

        They are those of variables of which at most a fifth has a gradient, and
        in part of those of which two fifths have: tables of word vectors, of
        which a batch has its own words, and kernels that read counts of words.
        Of kernels next to ReLU units that are dead more is left, as a rule.

        Args:
            gradient: Gradient, shape `(size,)`, as `gather` returns it.
        """
        has_some = ops.cast(ops.not_equal(gradient, 0.0), "float32")
        sums = backend.elements(ops.cumsum(has_some), self._last_positions)
        zero = backend.noted(ops.zeros((1,), dtype="float32"))
        reached = (sums - ops.concatenate([zero, sums[:-1]])) / self._drawn
        few, many = FEW_REACHED
        is_sparse = ops.clip((many - reached) / (many - few), 0.0, 1.0)
        return ops.sum(is_sparse * self._variable_shares)


def squared_norm(tensors: Sequence[Tensor | None]) -> Tensor:
    """Exact squared Euclidean norm over all tensors, scalar float32.

    `None` (a variable without a gradient) counts as 0.
    """
    return backend.total(
        [
            backend.sum_of_squares(tensor)
            for tensor in tensors
            if tensor is not None
        ]
    )


def inner_products(
    left: Sequence[Tensor | None], right: Sequence[Tensor]
) -> Tensor:
    """Exact inner product of each pair of tensors, shape `(num_pairs,)`.

    They stay apart because the promised drop is a small difference of two such
    sums: subtracting pair by pair, before adding up, keeps the digits.
    """
    parts = [
        backend.noted(ops.zeros((), dtype="float32"))
        if a is None
        else backend.sum_of_products(a, b)
        for a, b in zip(left, right, strict=True)
    ]
    return ops.stack(parts)


def norm(values: Tensor) -> Tensor:
    """Euclidean norm of a vector, scalar."""
    return ops.sqrt(ops.sum(ops.square(values)))


def weight_norm(weights: Tensor, num_coordinates: int) -> Tensor:
    """The length of all weights, the ruler of their updates, scalar.

    Args:
        weights: Weights, shape `(size,)`, as a `CoordinateSample` gathers them.
        num_coordinates: Integer, number of all weights: they count as at least
            0.01 each (root mean square).
    """
    return _at_least_smallest(norm(weights), num_coordinates)


def _at_least_smallest(length: Tensor, num_coordinates: int) -> Tensor:
    smallest = SMALLEST_WEIGHT * math.sqrt(num_coordinates)
    return ops.where(length < smallest, smallest, length)


def step_signals(
    gradient: Tensor,
    before: Tensor,
    after: Tensor,
    start: Tensor,
    last_update: Tensor,
    num_coordinates: int,
) -> dict[str, Tensor]:
    """Signals of one optimizer step, from what a `CoordinateSample` gathered.

    Args:
        gradient: Gradient of this step, shape `(size,)`, float32.
        before: Weights before the step, shape `(size,)`, float32.
        after: Weights after the step, shape `(size,)`, float32.
        start: Weights at the start of the run, shape `(size,)`, float32.
        last_update: Update of the step before, shape `(size,)`, float32.
        num_coordinates: Integer, number of all weights.

    Returns:
        Dict of float32 scalars: `weight_norm` (see there), `update_norm`,
        `distance` (from the start), and `cosine` (in [-1, 1]) of the negative
        gradient with the last update: positive where the last step could have
        been longer.
    """
    update, moved = after - before, after - start
    products = inner_products(
        [gradient, gradient, last_update, after, update, moved],
        [last_update, gradient, last_update, after, update, moved],
    )
    lengths = ops.sqrt(products[1:])
    length = lengths[0] * lengths[1]
    return {
        "weight_norm": _at_least_smallest(lengths[2], num_coordinates),
        "update_norm": lengths[3],
        "distance": lengths[4],
        "cosine": ops.where(length > TINY, -products[0] / (length + TINY), 0.0),
    }


def trust_ratio(
    loss_before: Tensor,
    loss_after: Tensor,
    promised_drop: Tensor,
    resolution: float = RESOLUTION,
) -> tuple[Tensor, Tensor]:
    """The drop in loss that came, over the drop that a straight line promised.

    `(loss_before - loss_after) / -(gradient . update)`, both losses on the
    batch that the step was taken on, with the same dropout masks. Near 1 the
    step stays where the gradient is a good guide; at 0.5 it is the longest that
    a quadratic allows to gain from; below 0 the step raised the loss.
    See Conn, Gould and Toint, Trust Region Methods (2000), chapter 6.

    Args:
        loss_before: Scalar, the batch's loss before the update.
        loss_after: Scalar, the same batch's loss after it.
        promised_drop: Scalar, `-(gradient . update)` over all coordinates.
        resolution: Float, smallest promised drop relative to the loss that the
            arithmetic resolves. Defaults to `1.2e-5` (float32).

    Returns:
        Tuple `(ratio, valid)`: the ratio clipped to [-2, 2], and 1.0 where it
        means something, else 0.0 (an uphill or an unresolvable step).
    """
    resolved = promised_drop > resolution * ops.abs(loss_before)
    ratio = (loss_before - loss_after) / ops.where(resolved, promised_drop, 1.0)
    # A loss that left the floating-point range is the worst step there is.
    ratio = ops.where(ops.isfinite(ratio), ops.clip(ratio, -2.0, 2.0), -2.0)
    valid = ops.logical_and(resolved, ops.isfinite(loss_before))
    return ops.where(valid, ratio, 1.0), ops.cast(valid, "float32")


def shortfall(
    loss_before: Tensor,
    loss_after: Tensor,
    promised_drop: Tensor,
    scale: Tensor,
    resolution: float = RESOLUTION,
) -> tuple[Tensor, Tensor]:
    """What a step promised, and how much of that did not come.

    For running means of both, whose ratio is the trust of many steps: other
    than in a mean of ratios, steps uphill (momentum takes them) count too, and
    a batch counts by how much it has to say.

    Args:
        loss_before: Scalar, the batch's loss before the update.
        loss_after: Scalar, the same batch's loss after it.
        promised_drop: Scalar, `-(gradient . update)` over all coordinates.
        scale: Scalar (>= 0), largest promise that counts in full, such as the
            first loss of the run: one step must not drown all others.
        resolution: Float, smallest promised drop relative to the loss that the
            arithmetic resolves. Defaults to `1.2e-5` (float32).

    Returns:
        Tuple `(promised, shortfall)` of scalars, in units of the loss:
        `promised` in [-scale, scale], and `shortfall` in the same proportion
        to it as what was measured, within -1 and 3 times its size. Both 0 for
        a step that cannot be measured.
    """
    size = ops.abs(promised_drop)
    known = ops.logical_and(
        size > resolution * ops.abs(loss_before), ops.isfinite(loss_before)
    )
    known = ops.logical_and(known, ops.logical_not(ops.isnan(loss_after)))
    lost = promised_drop - (loss_before - loss_after)
    lost = lost / ops.where(known, size, 1.0)
    # A loss that left the floating-point range is the worst step there is.
    lost = ops.where(ops.isfinite(lost), ops.clip(lost, -1.0, 3.0), 3.0)
    counted = ops.where(known, ops.minimum(size, scale), 0.0)
    promised = ops.where(promised_drop < 0.0, -counted, counted)
    return promised, lost * counted
