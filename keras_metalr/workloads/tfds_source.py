"""Reads a prepared TensorFlow Datasets folder; downloads only when asked."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_metalr.workloads.workload import DataNotAvailableError

_JPEG_START = b"\xff\xd8"
# The accuracy of ResNet-18 is some points lower on such images of CIFAR-10.
_LOSSY_NOTE = "lossy JPEG copy of the images"
_TFDS_MISSING = (
    "TensorFlow Datasets is not installed. Install it with "
    "`pip install tensorflow-datasets importlib_resources`."
)


def is_prepared(name: str) -> bool:
    """Whether a data set is prepared on this machine.

    Looks in `TFDS_DATA_DIR` when that is set, or else in
    `~/tensorflow_datasets`.

    Args:
        name: String, the name in TensorFlow Datasets, such as
            `"fashion_mnist"`.

    Returns:
        Boolean. `False` also when TensorFlow Datasets is not installed.
    """
    try:
        return bool(_builder(name).is_prepared())
    except ImportError:
        return False


def load_arrays(
    name: str,
    split: str,
    *,
    download: bool = False,
    encoded: Sequence[str] = (),
) -> Any:
    """Read one split of a data set into arrays.

    Args:
        name: String, the name in TensorFlow Datasets.
        split: String, such as `"train[:1000]"`.
        download: Boolean, whether to download a data set that is not there.
            Defaults to `False`.
        encoded: Sequence of strings, names of features of images to be left
            as they are stored, as bytes. Defaults to `()`.

    Returns:
        Dict from feature name to array.

    Raises:
        DataNotAvailableError: If the data set is not prepared and `download`
            is `False`, or if it cannot be downloaded.
    """
    builder = _builder(name)
    if not builder.is_prepared():
        if not download:
            raise DataNotAvailableError(
                f"The data set {name!r} was not found in {_folder(builder)}. "
                "Set `TFDS_DATA_DIR` to the folder that holds it, or download "
                f'it with `python -c "import tensorflow_datasets as tfds; '
                f"tfds.load('{name}')\"`."
            )
        _download(name, builder)
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split,
        batch_size=-1,
        decoders={name: tfds.decode.SkipDecoding() for name in encoded},
    )
    return tfds.as_numpy(dataset)


def _download(name: str, builder: Any) -> None:
    import tensorflow_datasets as tfds

    try:
        builder.download_and_prepare()
    # What the network raises is an `OSError`.
    except (tfds.download.DownloadError, OSError) as error:
        raise DataNotAvailableError(
            f"The data set {name!r} could not be downloaded to "
            f"{_folder(builder)} ({type(error).__name__}: {error}). Try again "
            "with a network and room on the disk, or set `TFDS_DATA_DIR` to "
            "the folder that holds it."
        ) from error


def images_note(name: str) -> str:
    """What a prepared data set of images has lost; empty if nothing.

    The data sets of images that are used here are stored without loss (PNG)
    by TensorFlow Datasets; a copy that was re-encoded is another data set.

    Args:
        name: String, the name in TensorFlow Datasets.
    """
    builder = _builder(name)
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split="train[:1]", decoders={"image": tfds.decode.SkipDecoding()}
    )
    (example,) = tfds.as_numpy(dataset)
    return _LOSSY_NOTE if example["image"].startswith(_JPEG_START) else ""


def data_text(names: Sequence[str], notes: Mapping[str, str]) -> str:
    """Data sets and what they have lost, for a page.

    Args:
        names: Sequence of names of data sets.
        notes: Mapping of names, of those that have lost something, what it is.
    """
    return ", ".join(
        f"{name} ({notes[name]})" if name in notes else name for name in names
    )


def check_count(name: str, count: int | None, limit: int) -> None:
    """Raise `ValueError` for a number of examples outside 1 to `limit`.

    Args:
        name: String, the argument's name.
        count: Integer, or `None` for all.
        limit: Integer, how many there are.
    """
    if count is not None and not 0 < count <= limit:
        raise ValueError(
            f"`{name}` must be from 1 to {limit}. Received: {name}={count}."
        )


def _folder(builder: Any) -> str:
    # The folder that was searched, without this data set's own subfolders.
    return str(getattr(builder, "_data_dir_root", builder.data_dir))


def _builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f"{_TFDS_MISSING} ({error})") from error
    return tfds.builder(name)
