"""Layers of the small networks: pure functions of a dict of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Parameters = dict[str, Any]
Transformation = Callable[[jnp.ndarray], jnp.ndarray]
EPSILON = 1e-5


def activate(x: jnp.ndarray, which: jnp.ndarray) -> jnp.ndarray:
    """ReLU, tanh or GELU (0, 1 or 2)."""
    return jnp.where(
        which == 0,
        jax.nn.relu(x),
        jnp.where(which == 1, jnp.tanh(x), jax.nn.gelu(x)),
    )


def dense(key: Any, n_in: int, n_out: int, scale: jnp.ndarray) -> Parameters:
    """A kernel and a bias; `scale` multiplies the usual size (He et al.)."""
    limit = scale * jnp.sqrt(2.0 / n_in)
    kernel = limit * jax.random.normal(key, (n_in, n_out))
    return {"kernel": kernel, "bias": jnp.zeros((n_out,))}


def linear(p: Parameters, x: jnp.ndarray) -> jnp.ndarray:
    """The layer that `dense` has drawn."""
    return x @ p["kernel"] + p["bias"]


def normalize(p: Parameters, x: jnp.ndarray, axis: Any) -> jnp.ndarray:
    """Over the batch (BatchNorm) or the features (LayerNorm), by the axis."""
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return (x - mean) / jnp.sqrt(var + EPSILON) * p["gamma"] + p["beta"]


def norm(width: int) -> Parameters:
    """What `normalize` scales and shifts by."""
    return {"gamma": jnp.ones((width,)), "beta": jnp.zeros((width,))}


def dropout(key: Any, rate: jnp.ndarray) -> Transformation:
    """Zeros at random (Srivastava et al., 2014), the rest made larger."""

    def drop(x: jnp.ndarray) -> jnp.ndarray:
        kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
        return jnp.where(kept, x / (1.0 - rate), 0.0)

    return drop


def keep_all(x: jnp.ndarray) -> jnp.ndarray:
    """What dropout does outside of training: nothing."""
    return x


def patches(x: jnp.ndarray, stride: int) -> jnp.ndarray:
    """3x3 patches `(..., 9 channels)`: a convolution is a product with them.

    Many small convolutions side by side are slow as such.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(parts, axis=-1)


def conv(p: Parameters, x: jnp.ndarray, stride: int = 1) -> jnp.ndarray:
    """A 3x3 convolution, its kernel as `dense` drew it for 9 x channels."""
    return linear(p, patches(x, stride))
