"""The scripts in `benchmarks`, which are in no package, as modules."""

import importlib.util
import os
import pathlib
import types
import unittest.mock

ROOT = pathlib.Path(__file__).parents[1]


def load(name: str) -> types.ModuleType:
    """The module of `benchmarks/NAME.py`."""
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    # Some choose a backend, which this process has chosen already.
    with unittest.mock.patch.dict(os.environ):
        spec.loader.exec_module(module)
    return module
