"""Trees of arrays in `.npz` files: written whole or not at all, no pickle."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def save_tree(path: pathlib.Path, tree: Any, origin: str) -> None:
    """Write the leaves of a tree, in order.

    Args:
        path: Path of the file; its folder is made where it does not exist.
        tree: Tree of arrays and numbers.
        origin: String, all that the tree was made from.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    leaves = map(np.asarray, jax.tree.leaves(tree))
    np.savez(part, *leaves, origin=np.array(origin))
    part.replace(path)


def load_tree(path: pathlib.Path, like: Any, origin: str) -> Any:
    """What `save_tree` wrote, as a tree of arrays.

    Args:
        path: Path of the file.
        like: Tree of the same structure; its leaves do not matter.
        origin: String, as it was given to `save_tree`.

    Raises:
        ValueError: if the file was made from something else.
    """
    with np.load(path) as saved:
        found = str(saved["origin"]) if "origin" in saved.files else ""
        if found != origin:
            raise ValueError(
                f"{str(path)!r} was made by another configuration: {found}. "
                f"Expected {origin}. Use another folder, or delete the file."
            )
        leaves = [
            jnp.asarray(saved[f"arr_{i}"]) for i in range(len(saved.files) - 1)
        ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
