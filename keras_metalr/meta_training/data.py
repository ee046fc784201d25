"""Small real data for meta-training: 8x8 images, all in memory.

scikit-learn's digits, Fashion-MNIST and CIFAR-10 in grey, made smaller by block
means. Training splits alone; of each a part is held back for validation.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from keras_metalr.workloads.tfds_source import is_prepared
from keras_metalr.workloads.tfds_source import load_arrays

SIDE = 8
NUM_CLASSES = 10
NUM_VALIDATION = 384
MAX_TRAIN = 12_000


class Data(NamedTuple):
    """Several data sets, padded to one size by repetition.

    `x` is `(sets, MAX_TRAIN, 64)`, `y` `(sets, MAX_TRAIN)`; `count` the true
    number of training examples of each set. `noise` and `wrong` are fixed draws
    for label noise.
    """

    x: jnp.ndarray
    y: jnp.ndarray
    count: jnp.ndarray
    x_validation: jnp.ndarray
    y_validation: jnp.ndarray
    noise: jnp.ndarray
    wrong: jnp.ndarray


def load_data(names: tuple[str, ...] | None = None) -> tuple[Data, list[str]]:
    """All data sets that are there.

    Args:
        names: Sequence of names. Defaults to `None`, every one that is
            prepared on this machine; the digits always are.

    Returns:
        Tuple of `Data` and the names, in order.
    """
    if names is None:
        names = ("digits", "fashion_mnist", "cifar10")
        names = tuple(n for n in names if n == "digits" or is_prepared(n))
    sets = [_standardized(*_load(name)) for name in names]
    generator = np.random.default_rng(0)
    parts: dict[str, list[np.ndarray]] = {"x": [], "y": [], "xv": [], "yv": []}
    counts = []
    for x, y in sets:
        count = min(len(x) - NUM_VALIDATION, MAX_TRAIN)
        counts.append(count)
        padded = np.arange(MAX_TRAIN) % count
        parts["x"].append(x[NUM_VALIDATION:][padded])
        parts["y"].append(y[NUM_VALIDATION:][padded])
        parts["xv"].append(x[:NUM_VALIDATION])
        parts["yv"].append(y[:NUM_VALIDATION])
    data = Data(
        jnp.asarray(np.stack(parts["x"])),
        jnp.asarray(np.stack(parts["y"])),
        jnp.asarray(np.array(counts, "int32")),
        jnp.asarray(np.stack(parts["xv"])),
        jnp.asarray(np.stack(parts["yv"])),
        jnp.asarray(generator.random(MAX_TRAIN).astype("float32")),
        jnp.asarray(generator.integers(0, NUM_CLASSES, MAX_TRAIN, "int32")),
    )
    return data, list(names)


def _load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey images `(n, 8, 8)` and labels, in a fixed shuffled order."""
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x, y = bunch.images.astype("float32"), bunch.target
    else:
        arrays = load_arrays(
            name, f"train[:{MAX_TRAIN + NUM_VALIDATION}]", download=False
        )
        x, y = arrays["image"].astype("float32").mean(-1), arrays["label"]
        margin = (x.shape[1] % SIDE) // 2
        x = x[:, margin : x.shape[1] - margin, margin : x.shape[1] - margin]
        block = x.shape[1] // SIDE
        x = x.reshape(len(x), SIDE, block, SIDE, block).mean((2, 4))
    order = np.random.default_rng(1).permutation(len(x))
    return x[order], np.asarray(y)[order].astype("int32")


def _standardized(
    x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    flat = x.reshape(len(x), -1)
    flat = (flat - flat.mean()) / (flat.std() + 1e-6)
    return flat.astype("float32"), y
