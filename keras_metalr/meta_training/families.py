"""Kinds of small networks to meta-train on. Pure functions of parameters.

A family is an `init` and an `apply` on a dict of arrays; the layers under
`"head"` are drawn afresh when a pretrained member is fine-tuned. Inputs are
`(batch, 64)`; what differs between the members of a family (activation, scale)
comes in as numbers, so that one compiled unroll serves them all.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from keras_metalr.meta_training.data import NUM_CLASSES
from keras_metalr.meta_training.data import SIDE
from keras_metalr.meta_training.layers import Parameters
from keras_metalr.meta_training.layers import Transformation
from keras_metalr.meta_training.layers import activate
from keras_metalr.meta_training.layers import conv
from keras_metalr.meta_training.layers import dense
from keras_metalr.meta_training.layers import linear
from keras_metalr.meta_training.layers import norm
from keras_metalr.meta_training.layers import normalize

NUM_PIXELS = SIDE * SIDE


class Family(NamedTuple):
    """`init(key, scale)` gives parameters; `apply(parameters, x, act, drop)`
    what comes out, `drop` being dropout, or `keep_all`, on what the head reads.

    `loss(out, x, y) -> (batch,)`: cross-entropy, or a squared error against the
    inputs.
    """

    name: str
    init: Callable[..., Parameters]
    apply: Callable[..., jnp.ndarray]
    loss: Callable[..., jnp.ndarray]


def cross_entropy(
    out: jnp.ndarray, x: jnp.ndarray, y: jnp.ndarray
) -> jnp.ndarray:
    """Of each example; `out` holds logits `(batch, NUM_CLASSES)`."""
    del x
    log_p = jax.nn.log_softmax(out)
    return -jnp.take_along_axis(log_p, y[:, None], axis=-1)[:, 0]


def reconstruction_error(
    out: jnp.ndarray, x: jnp.ndarray, y: jnp.ndarray
) -> jnp.ndarray:
    """Mean squared error of each example against its own input."""
    del y
    return jnp.mean((out - x) ** 2, axis=-1)


def _dense_init(widths: tuple[int, ...], normalized: bool) -> Callable:
    def init(key: Any, scale: jnp.ndarray) -> Parameters:
        keys = jax.random.split(key, len(widths))
        sizes = (NUM_PIXELS, *widths)
        body = {
            f"dense_{i}": dense(keys[i], sizes[i], sizes[i + 1], scale)
            for i in range(len(widths) - 1)
        }
        if normalized:
            body |= {
                f"norm_{i}": norm(widths[i]) for i in range(len(widths) - 1)
            }
        head = dense(keys[-1], sizes[-2], sizes[-1], scale * 0.7)
        return {"body": body, "head": head}

    return init


def _dense_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray, drop: Transformation
) -> jnp.ndarray:
    body = p["body"]
    for i in range(sum(name.startswith("dense") for name in body)):
        x = linear(body[f"dense_{i}"], x)
        if f"norm_{i}" in body:
            # The statistics of the batch, as in training.
            x = normalize(body[f"norm_{i}"], x, 0)
        x = activate(x, act)
    return linear(p["head"], drop(x))


def dense_net(
    name: str = "dense",
    widths: tuple[int, ...] = (32, 32, NUM_CLASSES),
    normalized: bool = False,
    loss: Callable = cross_entropy,
) -> Family:
    """Fully connected; with `normalized`, BatchNorm before each activation."""
    return Family(name, _dense_init(widths, normalized), _dense_apply, loss)


def regression_error(
    out: jnp.ndarray, x: jnp.ndarray, y: jnp.ndarray
) -> jnp.ndarray:
    """Mean squared error of each example against its own last row."""
    del y
    return jnp.mean((out - x[:, -SIDE:]) ** 2, axis=-1)


def _regression_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray, drop: Transformation
) -> jnp.ndarray:
    """The last row is to be told from the others, so it is hidden."""
    return _dense_apply(p, x.at[:, -SIDE:].set(0.0), act, drop)


def regression_net() -> Family:
    """A dense net that predicts eight numbers from the other 56."""
    init = _dense_init((32, 32, SIDE), normalized=False)
    return Family("regression", init, _regression_apply, regression_error)


CHANNELS = (8, 16)


def _conv_init(normalized: bool) -> Callable:
    def init(key: Any, scale: jnp.ndarray) -> Parameters:
        keys = jax.random.split(key, 3)
        first, second = CHANNELS
        body = {
            "conv_0": dense(keys[0], 9, first, scale),
            "conv_1": dense(keys[1], 9 * first, second, scale),
        }
        if normalized:
            body |= {"norm_0": norm(first), "norm_1": norm(second)}
        head = dense(keys[2], 4 * second, NUM_CLASSES, scale * 0.7)
        return {"body": body, "head": head}

    return init


def _conv_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray, drop: Transformation
) -> jnp.ndarray:
    h = x.reshape(-1, SIDE, SIDE, 1)
    for i in range(2):
        h = conv(p["body"][f"conv_{i}"], h, stride=2)
        if f"norm_{i}" in p["body"]:
            h = normalize(p["body"][f"norm_{i}"], h, (0, 1, 2))
        h = activate(h, act)
    return linear(p["head"], drop(h.reshape(len(h), -1)))


def convnet(name: str = "conv", normalized: bool = False) -> Family:
    """Two 3x3 convolutions of stride 2; with `normalized`, BatchNorm."""
    return Family(name, _conv_init(normalized), _conv_apply, cross_entropy)


RESIDUAL_WIDTH = 24


def _residual_init(key: Any, scale: jnp.ndarray) -> Parameters:
    keys = jax.random.split(key, 6)
    width = RESIDUAL_WIDTH
    body: Parameters = {"stem": dense(keys[0], NUM_PIXELS, width, scale)}
    for i in range(2):
        body[f"block_{i}"] = {
            "norm": norm(width),
            "up": dense(keys[2 * i + 1], width, width, scale),
            "down": dense(keys[2 * i + 2], width, width, 0.5 * scale),
        }
    head = dense(keys[5], width, NUM_CLASSES, scale * 0.7)
    return {"body": body, "head": head}


def _residual_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray, drop: Transformation
) -> jnp.ndarray:
    h = linear(p["body"]["stem"], x)
    for i in range(2):
        block = p["body"][f"block_{i}"]
        z = activate(normalize(block["norm"], h, 0), act)
        h = h + linear(block["down"], activate(linear(block["up"], z), act))
    return linear(p["head"], drop(activate(h, act)))


def residual_net() -> Family:
    """Two pre-activation blocks with BatchNorm (He et al., 2016)."""
    return Family("residual", _residual_init, _residual_apply, cross_entropy)


# Two rows of the image, or two words, are a token.
NUM_TOKENS = 4
TOKEN_SIZE = NUM_PIXELS // NUM_TOKENS
RECURRENT_WIDTH = 16


def _recurrent_init(key: Any, scale: jnp.ndarray) -> Parameters:
    keys = jax.random.split(key, 3)
    width = RECURRENT_WIDTH
    body = {
        "input": dense(keys[0], TOKEN_SIZE, 3 * width, 0.7 * scale),
        "state": dense(keys[1], width, 3 * width, 0.7 * scale),
    }
    head = dense(keys[2], width, NUM_CLASSES, scale * 0.7)
    return {"body": body, "head": head}


def _recurrent_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray, drop: Transformation
) -> jnp.ndarray:
    """A gated recurrent unit (Cho et al., 2014), token after token."""
    del act
    tokens = x.reshape(-1, NUM_TOKENS, TOKEN_SIZE)
    inputs = linear(p["body"]["input"], tokens)
    h = jnp.zeros((x.shape[0], RECURRENT_WIDTH))
    for token in range(NUM_TOKENS):
        from_x = jnp.split(inputs[:, token], 3, axis=-1)
        from_h = jnp.split(linear(p["body"]["state"], h), 3, axis=-1)
        update = jax.nn.sigmoid(from_x[0] + from_h[0])
        reset = jax.nn.sigmoid(from_x[1] + from_h[1])
        new = jnp.tanh(from_x[2] + reset * from_h[2])
        h = update * h + (1.0 - update) * new
    return linear(p["head"], drop(h))


def recurrent_net() -> Family:
    """A GRU over four tokens."""
    return Family("recurrent", _recurrent_init, _recurrent_apply, cross_entropy)


TOKEN_WIDTH = 16
NUM_HEADS = 2
NUM_BLOCKS = 1


def _transformer_init(key: Any, scale: jnp.ndarray) -> Parameters:
    keys = iter(jax.random.split(key, 2 + 4 * NUM_BLOCKS + 1))
    width = TOKEN_WIDTH
    position = 0.1 * jax.random.normal(next(keys), (NUM_TOKENS, width))
    body: Parameters = {
        "embed": dense(next(keys), TOKEN_SIZE, width, scale),
        "position": position,
        "last_norm": norm(width),
    }
    for i in range(NUM_BLOCKS):
        body[f"block_{i}"] = {
            "qkv": dense(next(keys), width, 3 * width, 0.7 * scale),
            "out": dense(next(keys), width, width, 0.5 * scale),
            "up": dense(next(keys), width, 2 * width, scale),
            "down": dense(next(keys), 2 * width, width, 0.5 * scale),
            "norm_1": norm(width),
            "norm_2": norm(width),
        }
    head = dense(next(keys), width, NUM_CLASSES, scale * 0.7)
    return {"body": body, "head": head}


def _transformer_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray, drop: Transformation
) -> jnp.ndarray:
    body, batch = p["body"], x.shape[0]
    size = TOKEN_WIDTH // NUM_HEADS
    h = linear(body["embed"], x.reshape(batch, NUM_TOKENS, -1))
    h = h + body["position"]
    for i in range(NUM_BLOCKS):
        block = body[f"block_{i}"]
        z = linear(block["qkv"], normalize(block["norm_1"], h, -1))
        z = z.reshape(batch, NUM_TOKENS, NUM_HEADS, -1)
        q, k, v = jnp.split(z, 3, axis=-1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(size)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        mixed = mixed.reshape(batch, NUM_TOKENS, -1)
        h = h + linear(block["out"], mixed)
        z = activate(
            linear(block["up"], normalize(block["norm_2"], h, -1)), act
        )
        h = h + linear(block["down"], z)
    h = normalize(body["last_norm"], h, -1).mean(1)
    return linear(p["head"], drop(h))


def transformer() -> Family:
    """A block of pre-norm self-attention over four tokens."""
    return Family(
        "transformer", _transformer_init, _transformer_apply, cross_entropy
    )


FAMILIES = {
    "dense": dense_net(),
    "dense_batchnorm": dense_net("dense_batchnorm", normalized=True),
    "autoencoder": dense_net(
        "autoencoder",
        widths=(32, 12, 32, NUM_PIXELS),
        loss=reconstruction_error,
    ),
    "conv": convnet(),
    "conv_batchnorm": convnet("conv_batchnorm", normalized=True),
    "residual": residual_net(),
    "recurrent": recurrent_net(),
    "regression": regression_net(),
    "transformer": transformer(),
}
