"""Gradients of large embeddings on TensorFlow, measured by their rows.

A batch moves the rows of its own words alone. Made dense, the gradient of half
a million word vectors costs more than the whole step (docs/design.md).
"""

from typing import Any
from typing import NamedTuple

Tensor = Any

# Numbers in a variable, from which on it is worth to sort rows.
MIN_SIZE = 2**20


class RowGradient(NamedTuple):
    """A gradient that is 0 but in some rows of its variable.

    Rows come sorted, and first one that there is not, -1, so that they are
    never none. A row that came several times is summed up.

    Args:
        rows: Integers `(n,)`, ascending, each as often as it came.
        places: Integers `(n,)`, where in `sums` that row is.
        sums: Float32 tensor `(n, ...)`, one row for each that there is, zeros
            beyond.
        owners: Integers `(n,)`, which row of the variable each of `sums` is;
            any for zeros.
    """

    rows: Tensor
    places: Tensor
    sums: Tensor
    owners: Tensor

    def elements(self, positions: Tensor) -> Tensor:
        """Elements of the flattened gradient, shape `(num_positions,)`.

        Args:
            positions: Integers `(num_positions,)`, all of them valid.
        """
        import tensorflow as tf

        sums = tf.reshape(self.sums, (tf.shape(self.sums)[0], -1))
        width = tf.cast(tf.shape(sums)[1], positions.dtype)
        row, column = positions // width, positions % width
        found = tf.searchsorted(self.rows, tf.cast(row, self.rows.dtype))
        found = tf.minimum(found, tf.shape(self.rows)[0] - 1)
        is_there = tf.equal(
            tf.gather(self.rows, found), tf.cast(row, self.rows.dtype)
        )
        place = tf.cast(tf.gather(self.places, found), column.dtype)
        values = tf.gather_nd(sums, tf.stack([place, column], axis=1))
        return tf.where(is_there, values, tf.zeros((), values.dtype))

    def of(self, variable: Tensor) -> Tensor:
        """The variable's rows that go with `sums`, of the same shape."""
        import tensorflow as tf

        return tf.gather(variable, self.owners)


def summed_rows(slices: Any) -> RowGradient:
    """Sum up the rows that came more than once.

    All shapes are known when the step is compiled, which XLA asks for.

    Args:
        slices: `tf.IndexedSlices`.
    """
    import tensorflow as tf

    none = tf.constant([-1], slices.indices.dtype)
    indices = tf.concat([none, slices.indices], 0)
    shape = tf.concat([[1], tf.shape(slices.values)[1:]], 0)
    nothing = tf.zeros(shape, "float32")
    values = tf.concat([nothing, tf.cast(slices.values, "float32")], 0)
    order = tf.argsort(indices)
    rows, values = tf.gather(indices, order), tf.gather(values, order)
    is_new = tf.concat([[False], rows[1:] != rows[:-1]], 0)
    places = tf.cumsum(tf.cast(is_new, "int32"))
    count = tf.shape(rows)[0]
    owners = tf.math.unsorted_segment_max(rows, places, count)
    return RowGradient(
        rows,
        places,
        tf.math.unsorted_segment_sum(values, places, count),
        tf.maximum(owners, 0),
    )
