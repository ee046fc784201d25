"""Small real data for meta-training: 8x8 numbers an example, all in memory.

scikit-learn's digits, Fashion-MNIST and CIFAR-10 in grey, made smaller by block
means; and the texts of SST-2, eight words of eight numbers. Training splits
alone; of each a part is held back for validation.
"""

import argparse
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from keras_metalr.workloads.digits import load_digits_data
from keras_metalr.workloads.tfds_source import images_note
from keras_metalr.workloads.tfds_source import is_prepared
from keras_metalr.workloads.tfds_source import load_arrays
from keras_metalr.workloads.workload import DataNotAvailableError

SIDE = 8
NUM_CLASSES = 10
NUM_VALIDATION = 384
MAX_TRAIN = 12_000
TFDS_NAMES = {
    "fashion_mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "sst2": "glue/sst2",
}

DATA_NAMES = ("digits", *TFDS_NAMES)
# Those of them that a copy may have lost something of.
_IMAGES = ("fashion_mnist", "cifar10")


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


def load_data(names: Sequence[str] = DATA_NAMES) -> tuple[Data, list[str]]:
    """Read data sets.

    Args:
        names: Sequence of names of `DATA_NAMES`, in any order. Defaults to all.

    Returns:
        Tuple of `Data` and the names, in the order of `DATA_NAMES`.

    Raises:
        DataNotAvailableError: If one is not prepared on this machine.
    """
    names = [name for name in DATA_NAMES if name in names]
    missing = [
        TFDS_NAMES[name]
        for name in names
        if name in TFDS_NAMES and not is_prepared(TFDS_NAMES[name])
    ]
    if missing:
        raise DataNotAvailableError(
            f"Meta-training lacks the data sets {missing}. Set `TFDS_DATA_DIR` "
            "to the folder that holds them, download them with TensorFlow "
            "Datasets, or go without them, as in `--data digits`."
        )
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
    return data, names


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--data` to a script.

    Args:
        parser: `argparse.ArgumentParser` to add to.
    """
    parser.add_argument(
        "--data",
        nargs="+",
        choices=DATA_NAMES,
        default=list(DATA_NAMES),
        help=f"data sets (default: {' '.join(DATA_NAMES)})",
    )


def data_notes(names: list[str]) -> dict[str, str]:
    """What data sets of images have lost, those that have, by their names."""
    notes = {
        name: images_note(TFDS_NAMES[name]) for name in names if name in _IMAGES
    }
    return {name: note for name, note in notes.items() if note}


def _load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Examples `(n, 8, 8)` and labels, in a fixed shuffled order."""
    if name == "digits":
        # Without those that the workloads validate on.
        digits = load_digits_data()
        x, y = digits.x_train[..., 0], digits.y_train
    else:
        split = f"train[:{MAX_TRAIN + NUM_VALIDATION}]"
        arrays = load_arrays(TFDS_NAMES[name], split, download=False)
        y = arrays["label"]
        if "sentence" in arrays:
            x = np.stack([_embedded(text) for text in arrays["sentence"]])
        else:
            x = _smaller(arrays["image"].astype("float32").mean(-1))
    order = np.random.default_rng(1).permutation(len(x))
    return x[order], np.asarray(y)[order].astype("int32")


def _smaller(x: np.ndarray) -> np.ndarray:
    """Images `(n, side, side)` as means of blocks, `(n, 8, 8)`."""
    margin = (x.shape[1] % SIDE) // 2
    x = x[:, margin : x.shape[1] - margin, margin : x.shape[1] - margin]
    block = x.shape[1] // SIDE
    return x.reshape(len(x), SIDE, block, SIDE, block).mean((2, 4))


def _embedded(text: bytes) -> np.ndarray:
    """The first words of a text, each a fixed random vector, `(8, 8)`."""
    rows = np.zeros((SIDE, SIDE), "float32")
    for i, word in enumerate(text.lower().split()[:SIDE]):
        seed = zlib.crc32(word)
        rows[i] = np.random.default_rng(seed).normal(size=SIDE)
    return rows


def _standardized(
    x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    flat = x.reshape(len(x), -1)
    flat = (flat - flat.mean()) / (flat.std() + 1e-6)
    return flat.astype("float32"), y
