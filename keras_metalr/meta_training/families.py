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

Parameters = dict[str, Any]
NUM_PIXELS = SIDE * SIDE
EPSILON = 1e-5


class Family(NamedTuple):
    """`init(key, scale) -> parameters`; `apply(parameters, x, act) -> out`.

    `loss(out, x, y) -> (batch,)`: cross-entropy, or a squared error against the
    inputs.
    """

    name: str
    init: Callable[..., Parameters]
    apply: Callable[..., jnp.ndarray]
    loss: Callable[..., jnp.ndarray]


def activate(x: jnp.ndarray, which: jnp.ndarray) -> jnp.ndarray:
    """ReLU, tanh or GELU (0, 1 or 2)."""
    return jnp.where(
        which == 0,
        jax.nn.relu(x),
        jnp.where(which == 1, jnp.tanh(x), jax.nn.gelu(x)),
    )


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


def _dense(key: Any, n_in: int, n_out: int, scale: jnp.ndarray) -> Parameters:
    limit = scale * jnp.sqrt(2.0 / n_in)
    kernel = limit * jax.random.normal(key, (n_in, n_out))
    return {"kernel": kernel, "bias": jnp.zeros((n_out,))}


def _linear(p: Parameters, x: jnp.ndarray) -> jnp.ndarray:
    return x @ p["kernel"] + p["bias"]


def _normalize(p: Parameters, x: jnp.ndarray, axis: int) -> jnp.ndarray:
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return (x - mean) / jnp.sqrt(var + EPSILON) * p["gamma"] + p["beta"]


def _norm(width: int) -> Parameters:
    return {"gamma": jnp.ones((width,)), "beta": jnp.zeros((width,))}


def _dense_init(widths: tuple[int, ...], normalized: bool) -> Callable:
    def init(key: Any, scale: jnp.ndarray) -> Parameters:
        keys = jax.random.split(key, len(widths))
        sizes = (NUM_PIXELS, *widths)
        body = {
            f"dense_{i}": _dense(keys[i], sizes[i], sizes[i + 1], scale)
            for i in range(len(widths) - 1)
        }
        if normalized:
            body |= {
                f"norm_{i}": _norm(widths[i]) for i in range(len(widths) - 1)
            }
        head = _dense(keys[-1], sizes[-2], sizes[-1], scale * 0.7)
        return {"body": body, "head": head}

    return init


def _dense_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray
) -> jnp.ndarray:
    body = p["body"]
    for i in range(sum(name.startswith("dense") for name in body)):
        x = _linear(body[f"dense_{i}"], x)
        if f"norm_{i}" in body:
            # The statistics of the batch, as in training.
            x = _normalize(body[f"norm_{i}"], x, 0)
        x = activate(x, act)
    return _linear(p["head"], x)


def dense_net(
    name: str = "dense",
    widths: tuple[int, ...] = (32, 32, NUM_CLASSES),
    normalized: bool = False,
    loss: Callable = cross_entropy,
) -> Family:
    """Fully connected; with `normalized`, BatchNorm before each activation."""
    return Family(name, _dense_init(widths, normalized), _dense_apply, loss)


TOKEN_WIDTH = 16
NUM_HEADS = 2
NUM_BLOCKS = 2


def _transformer_init(key: Any, scale: jnp.ndarray) -> Parameters:
    keys = iter(jax.random.split(key, 2 + 4 * NUM_BLOCKS + 1))
    width = TOKEN_WIDTH
    body: Parameters = {
        "embed": _dense(next(keys), SIDE, width, scale),
        "position": 0.1 * jax.random.normal(next(keys), (SIDE, width)),
        "last_norm": _norm(width),
    }
    for i in range(NUM_BLOCKS):
        body[f"block_{i}"] = {
            "qkv": _dense(next(keys), width, 3 * width, 0.7 * scale),
            "out": _dense(next(keys), width, width, 0.5 * scale),
            "up": _dense(next(keys), width, 2 * width, scale),
            "down": _dense(next(keys), 2 * width, width, 0.5 * scale),
            "norm_1": _norm(width),
            "norm_2": _norm(width),
        }
    head = _dense(next(keys), width, NUM_CLASSES, scale * 0.7)
    return {"body": body, "head": head}


def _transformer_apply(
    p: Parameters, x: jnp.ndarray, act: jnp.ndarray
) -> jnp.ndarray:
    """The rows of the image are the tokens."""
    body, batch = p["body"], x.shape[0]
    size = TOKEN_WIDTH // NUM_HEADS
    h = _linear(body["embed"], x.reshape(batch, SIDE, SIDE)) + body["position"]
    for i in range(NUM_BLOCKS):
        block = body[f"block_{i}"]
        z = _linear(block["qkv"], _normalize(block["norm_1"], h, -1))
        q, k, v = jnp.split(z.reshape(batch, SIDE, NUM_HEADS, -1), 3, axis=-1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(size)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        h = h + _linear(block["out"], mixed.reshape(batch, SIDE, -1))
        z = activate(
            _linear(block["up"], _normalize(block["norm_2"], h, -1)), act
        )
        h = h + _linear(block["down"], z)
    h = _normalize(body["last_norm"], h, -1).mean(1)
    return _linear(p["head"], h)


def transformer() -> Family:
    """Two blocks of pre-norm self-attention over eight tokens."""
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
    "transformer": transformer(),
}
