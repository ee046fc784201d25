"""Trees of arrays in `.npz` files: written whole or not at all, no pickle."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def save_tree(path: pathlib.Path, tree: Any) -> None:
    """Write the leaves of a tree, in order.

    Args:
        path: Path of the file; its folder is made where it does not exist.
        tree: Tree of arrays and numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, *map(np.asarray, jax.tree.leaves(tree)))
    part.replace(path)


def load_tree(path: pathlib.Path, like: Any) -> Any:
    """What `save_tree` wrote, as a tree of arrays.

    Args:
        path: Path of the file.
        like: Tree of the same structure; its leaves do not matter.
    """
    with np.load(path) as saved:
        leaves = [
            jnp.asarray(saved[f"arr_{i}"]) for i in range(len(saved.files))
        ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
