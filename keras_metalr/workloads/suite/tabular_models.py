"""Networks for rows of numbers, of kinds that meta-training does not know."""

import math

import keras
from keras import layers
from keras import ops

_GATED_WIDTH = 24
_NUM_EXPERTS = 4
_EXPERT_WIDTH = 8
_CROSS_WIDTH = 16
_NUM_CENTRES = 32


def build_linear(num_inputs: int, num_outputs: int) -> keras.Model:
    """Softmax regression: one dense layer, from zero."""
    inputs = keras.Input((num_inputs,))
    dense = layers.Dense(num_outputs, kernel_initializer="zeros")
    return keras.Model(inputs, dense(inputs), name="linear")


def build_gated(num_inputs: int, num_outputs: int) -> keras.Model:
    """Two gated blocks with layer normalization (SwiGLU, arXiv 2002.05202)."""
    width = _GATED_WIDTH
    inputs = keras.Input((num_inputs,))
    x = layers.Dense(width)(inputs)
    for _ in range(2):
        z = layers.LayerNormalization()(x)
        gate = layers.Dense(2 * width, activation="silu")(z)
        z = layers.Multiply()([gate, layers.Dense(2 * width)(z)])
        x = layers.Add()([x, layers.Dense(width)(z)])
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(num_outputs)(x), name="gated")


def build_experts(num_inputs: int, num_outputs: int) -> keras.Model:
    """A soft mixture of small nets (Jacobs et al., 1991)."""
    shape = (_NUM_EXPERTS, _EXPERT_WIDTH)
    inputs = keras.Input((num_inputs,))
    gate = layers.Dense(_NUM_EXPERTS, activation="softmax")(inputs)
    hidden = layers.Dense(math.prod(shape), activation="tanh")(inputs)
    hidden = layers.Reshape(shape)(hidden)
    opinions = layers.Dense(num_outputs)(hidden)
    outputs = layers.Dot(axes=1)([gate, opinions])
    return keras.Model(inputs, outputs, name="experts")


def build_cross(num_inputs: int, num_outputs: int) -> keras.Model:
    """Deep and cross (arXiv 2008.13535): products of inputs beside a net."""
    inputs = keras.Input((num_inputs,))
    crossed = inputs
    for _ in range(2):
        mixed = layers.Multiply()([inputs, layers.Dense(num_inputs)(crossed)])
        crossed = layers.Add()([crossed, mixed])
    deep = layers.Dense(_CROSS_WIDTH, activation="relu")(inputs)
    x = layers.Concatenate()([crossed, deep])
    return keras.Model(inputs, layers.Dense(num_outputs)(x), name="cross")


def build_radial(num_inputs: int, num_outputs: int) -> keras.Model:
    """Radial basis functions with trained centres and widths."""
    inputs = keras.Input((num_inputs,))
    x = RadialBasis(_NUM_CENTRES)(inputs)
    return keras.Model(inputs, layers.Dense(num_outputs)(x), name="radial")


@keras.saving.register_keras_serializable("keras_metalr")
class RadialBasis(layers.Layer):
    """`exp(-width * mean((x - centre)^2))` for each of some centres.

    Args:
        num_centres: Integer (>= 1).
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, num_centres: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.num_centres = num_centres

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Draw the centres as the standardized inputs are distributed."""
        self.centres = self.add_weight(
            shape=(self.num_centres, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="centres",
        )
        self.log_width = self.add_weight(
            shape=(self.num_centres,), initializer="zeros", name="log_width"
        )

    def call(self, inputs: object) -> object:
        """`(batch, features)` to `(batch, num_centres)`, in (0, 1]."""
        difference = ops.expand_dims(inputs, 1) - self.centres
        distance = ops.mean(ops.square(difference), -1)
        return ops.exp(-ops.exp(self.log_width) * distance)

    def get_config(self) -> dict[str, object]:
        """Number of centres, and what layers have in common."""
        return {**super().get_config(), "num_centres": self.num_centres}
