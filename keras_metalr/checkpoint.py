"""The state of a run in a file that Keras saved while MetaLR was training."""

import contextlib
import io
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import keras

from keras_metalr.trace import DAMAGED_ARCHIVE

_STATE_PATH = "optimizer/metalr_state/vars"
_EXPECTED = (
    "Expected a .keras or .weights.h5 file that was saved while MetaLR was "
    "training."
)


def check_checkpoint(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file that holds a run.

    Args:
        path: String or path of a `.keras` or `.weights.h5` file.

    Raises:
        ValueError: if there is no such file, if it is no checkpoint, or if it
            holds no run of MetaLR.
    """
    file = pathlib.Path(path)
    with _open_weights(file) as weights:
        if _STATE_PATH not in weights:
            raise ValueError(
                f"{str(path)!r} holds no run of MetaLR. {_EXPECTED}"
            )
    return file


def load_run(file: pathlib.Path, state: keras.layers.Layer) -> None:
    """Give the state of a run the values that it has in a file.

    Args:
        file: Path that `check_checkpoint` returned.
        state: `run_state.RunState`, built.

    Raises:
        ValueError: if the file is damaged, or of another version.
    """
    with _open_weights(file) as weights:
        group = weights[_STATE_PATH]
        state.load_own_variables({key: group[key][()] for key in group})


@contextlib.contextmanager
def _open_weights(path: pathlib.Path) -> Iterator[Any]:
    """The weights of a `.keras` or `.weights.h5` file, an open `h5py.File`."""
    import h5py

    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}. {_EXPECTED}")
    source: Any = str(path)
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        file = h5py.File(source, "r")
    except (*DAMAGED_ARCHIVE, OSError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} is no checkpoint of Keras ({error}). {_EXPECTED}"
        ) from error
    with file:
        yield file
