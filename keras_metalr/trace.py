"""The trace: one row per decision. What the phases and feedback learn from."""

import os
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from keras_metalr.decision import TRACE_COLUMNS

# What reading a damaged archive may raise.
DAMAGED_ARCHIVE = (
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class Trace:
    """What a run measured and decided, one row per decision.

    Columns: `step` (from 1), `loss` (mean over the interval), `learning_rate`
    and `grad_norm` (of the interval's last step), the features (see
    `keras_metalr.features.FEATURES`), `trust_ratio` (NaN where it could not be
    measured), the controller's `output`, the `increment` of the log rate that
    followed from it, and `event` (1: steps without a finite loss or gradient
    were skipped, 2: went back to the last good weights, 4: safe start; added
    up).

    Args:
        rows: Array of shape `(num_decisions, num_columns)`, float32, or `None`.
            Defaults to `None`, no decision.

    Raises:
        ValueError: if `rows` has another shape.

    Example:

    >>> import numpy as np
    >>> trace = Trace(np.zeros((2, len(Trace.columns)), "float32"))
    >>> len(trace), trace["loss"].shape
    (2, (2,))
    """

    columns = TRACE_COLUMNS

    def __init__(self, rows: np.ndarray | None = None) -> None:
        if rows is None or rows.size == 0:
            rows = np.zeros((0, len(TRACE_COLUMNS)), "float32")
        if rows.ndim != 2 or rows.shape[1] != len(TRACE_COLUMNS):
            raise ValueError(
                "`rows` must have shape (num_decisions, "
                f"{len(TRACE_COLUMNS)}). Received: shape {rows.shape}."
            )
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """One column, shape `(num_decisions,)`, float32."""
        if column not in self.columns:
            raise KeyError(
                f"The trace has no column {column!r}. "
                f"Expected one of {', '.join(self.columns)}."
            )
        return self.rows[:, self.columns.index(column)]

    def to_dataframe(self) -> Any:
        """The trace as a `pandas.DataFrame`, with the same columns.

        Raises:
            ImportError: if pandas is missing.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "`Trace.to_dataframe` needs pandas: pip install pandas"
            ) from error
        return pd.DataFrame(self.rows, columns=list(self.columns))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file.

        Args:
            path: String or path; the ending chooses the format: `.csv`, `.npz`
                or `.parquet`, which needs pandas and pyarrow and is read by
                `pandas.read_parquet` alone.

        Raises:
            ValueError: for any other ending.
            ImportError: for `.parquet`, if pandas or pyarrow is missing.

        Example:

        ```python
        metalr.trace.save("trace.csv")
        trace = Trace.load("trace.csv")
        ```
        """
        target = pathlib.Path(path)
        if target.suffix == ".csv":
            header = ",".join(self.columns)
            np.savetxt(
                target,
                self.rows,
                delimiter=",",
                header=header,
                comments="",
                fmt="%.9g",
            )
        elif target.suffix == ".npz":
            np.savez_compressed(
                target, rows=self.rows, columns=np.array(self.columns)
            )
        elif target.suffix == ".parquet":
            self.to_dataframe().to_parquet(target)
        else:
            raise ValueError(
                "`path` must end in .csv, .npz or .parquet. "
                f"Received: path={str(path)!r}."
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trace":
        """Read what `save` wrote (`.csv` or `.npz`; never runs code).

        Args:
            path: String or path of the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, if the columns are not this
                version's, or for any other ending.

        Example:

        ```python
        trace = Trace.load("trace.csv")
        trace["learning_rate"]  # one per decision
        ```
        """
        source = pathlib.Path(path)
        if source.suffix not in (".csv", ".npz"):
            raise ValueError(
                "`path` must end in .csv or .npz (a .parquet file is read with "
                f"`pandas.read_parquet`). Received: path={str(path)!r}."
            )
        read = _read_npz if source.suffix == ".npz" else _read_csv
        try:
            columns, rows = read(source)
        except (
            *DAMAGED_ARCHIVE,
            EOFError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            raise ValueError(
                f"{str(path)!r} holds no trace that can be read: it is "
                "damaged, or a file of another kind."
            ) from error
        if columns != cls.columns:
            raise ValueError(
                f"{str(path)!r} has columns {columns}; expected {cls.columns}."
            )
        return cls(np.asarray(rows, "float32"))

    def plot(self, ax: Any = None) -> Any:
        """Loss and learning rate against step (extra `[plots]`).

        Args:
            ax: `matplotlib` axes to draw on. Defaults to `None`, new ones.

        Returns:
            The axes.

        Raises:
            ImportError: if Matplotlib is missing.

        Example:

        ```python
        ax = metalr.trace.plot()
        ax.figure.savefig("run.png")
        ```
        """
        from keras_metalr.plotting import plot_trace

        return plot_trace(self, ax=ax)


def _read_npz(path: pathlib.Path) -> tuple[tuple[str, ...], np.ndarray]:
    # NumPy leaves a damaged file open that it has opened itself.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return tuple(data["columns"].tolist()), data["rows"]


def _read_csv(path: pathlib.Path) -> tuple[tuple[str, ...], np.ndarray]:
    with path.open(encoding="utf-8") as file:
        columns = tuple(file.readline().strip().split(","))
        lines = file.read().split()
    values = [line.split(",") for line in lines]
    return columns, np.array(values, "float32").reshape(-1, len(columns))
