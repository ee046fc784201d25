"""Makes a test run repeatable and quiet, on any backend."""

import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

# Read once, by the libraries below, when they are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# The nets are tiny, and the workers of a run share the cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of a test is XLA compiling a step that then runs a dozen times: what LLVM
# would gain is never earned back. Nor is what the fusion emitters would, which
# take some 30 ms for each of the two hundred small kernels of a measured step:
# without them it compiles in 2 s on JAX 0.10, not in 5. The XLA of JAX 0.12 has
# no such flag, and ends a process that sets one it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    if os.environ.get("KERAS_BACKEND") == "jax"
    and not importlib.metadata.version("jax").startswith("0.10.")
    else "--xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false",
)
# On a GPU: full float32 precision, and no process takes the whole memory.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import tests.torch_first  # noqa: F401

# isort: split

import hypothesis
import keras
import pytest

# The first example of a property compiles, which takes seconds. The examples
# are the same in every run; `--hypothesis-profile=explore` draws new ones, and
# more of them.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, max_examples=30
)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")


DEFAULT_BACKEND = "tensorflow"


def pytest_report_header() -> list[str]:
    """Name the backend, fixed for the process, and what is left out."""
    backend = keras.backend.backend()
    header = [f"keras: {keras.__version__} on {backend}"]
    if backend != DEFAULT_BACKEND:
        header.append(
            "deselected: tests marked `backend_independent`, which run on "
            f"{DEFAULT_BACKEND} alone"
        )
    return header


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Run what no backend changes on the default one alone."""
    if keras.backend.backend() == DEFAULT_BACKEND:
        return
    marked, others = [], []
    for item in items:
        is_marked = item.get_closest_marker("backend_independent")
        (marked if is_marked else others).append(item)
    config.hook.pytest_deselected(items=marked)
    items[:] = others


@pytest.fixture(autouse=True)
def same_start_for_every_test() -> Iterator[None]:
    """Seed Python, NumPy and the backend; undo a change of dtype policy."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(1234)
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(autouse=True, scope="module")
def forget_what_is_kept_for_good() -> Iterator[None]:
    """Spare later collections the objects that a module leaves behind.

    TensorFlow keeps what it knows of every traced function, thousands of
    objects a fit, and each collection of garbage goes through all of them.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    """The folder of the prepared TensorFlow Datasets; skips without one."""
    default = Path.home() / "tensorflow_datasets"
    folder = Path(os.environ.get("TFDS_DATA_DIR", default))
    if not folder.is_dir() or not any(folder.iterdir()):
        pytest.skip(
            f"No prepared data sets in {folder}. Set TFDS_DATA_DIR to the "
            "folder that holds them."
        )
    return folder


@pytest.fixture(scope="session")
def controller_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The preset folder of an untrained controller."""
    from keras_metalr import Controller

    folder = tmp_path_factory.mktemp("controller") / "untrained"
    Controller().save_to_preset(str(folder))
    return str(folder)
