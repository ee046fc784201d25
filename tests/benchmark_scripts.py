"""The scripts in `benchmarks`, which are in no package, as modules."""

import importlib.util
import pathlib
import types

ROOT = pathlib.Path(__file__).parents[1]


def load(name: str) -> types.ModuleType:
    """The module of `benchmarks/NAME.py`."""
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
