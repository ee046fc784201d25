"""PyTorch, where it is installed: a process imports this before Keras.

Imported after TensorFlow, PyTorch can crash the process.
"""

import importlib.util

if importlib.util.find_spec("torch") is not None:
    import torch  # noqa: F401
