"""Meta-training: the controller learns on thousands of small runs (JAX only).

    families -> tasks -> unroll (one whole run) -> evolution of the controller

Needs the extra `[meta]` and the JAX backend. Nothing in the rest of the package
uses it; what it makes is a preset folder.
"""

import importlib.util

_missing = [
    name
    for name in ("jax", "optax", "evosax")
    if importlib.util.find_spec(name) is None
]
if _missing:
    raise ImportError(
        f"Meta-training needs {', '.join(_missing)}. Install it with "
        '`pip install ".[meta]"` in a checkout.'
    )
