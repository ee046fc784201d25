"""The trace: what is written comes back, and what is wrong is refused."""

import numpy as np
import pytest

from keras_metalr import Trace
from keras_metalr.features import FEATURE_NAMES


@pytest.fixture
def trace() -> Trace:
    generator = np.random.default_rng(0)
    size = (7, len(Trace.columns))
    rows = (10.0 ** generator.uniform(-30, 30, size)).astype("float32")
    rows[:, 0] = np.arange(1, 8)
    rows[2, Trace.columns.index("trust_ratio")] = np.nan
    rows[3, Trace.columns.index("loss")] = np.inf
    return Trace(rows)


def test_columns_begin_and_end_as_documented():
    assert Trace.columns == (
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        *FEATURE_NAMES,
        "trust_ratio",
        "output",
        "increment",
        "event",
    )


def test_columns_by_name(trace):
    assert len(trace) == 7
    for i, name in enumerate(trace.columns):
        np.testing.assert_array_equal(trace[name], trace.rows[:, i])


def test_unknown_column(trace):
    with pytest.raises(KeyError, match=r"'lr'.*learning_rate"):
        trace["lr"]


@pytest.mark.parametrize("rows", [None, np.zeros((0, 0), "float32")])
def test_empty_trace(rows):
    trace = Trace(rows)
    assert len(trace) == 0
    assert trace.rows.shape == (0, len(Trace.columns))
    assert trace["loss"].shape == (0,)
    assert list(trace.to_dataframe().columns) == list(Trace.columns)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 4)])
def test_rows_of_a_wrong_shape(shape):
    with pytest.raises(ValueError, match="num_decisions") as error:
        Trace(np.zeros(shape, "float32"))
    assert str(shape) in str(error.value)


def test_dataframe(trace):
    frame = trace.to_dataframe()
    assert list(frame.columns) == list(Trace.columns)
    np.testing.assert_array_equal(frame.to_numpy(), trace.rows)


@pytest.mark.parametrize("name", ["run.csv", "run.npz"])
def test_saved_trace_comes_back_bit_for_bit(trace, tmp_path, name):
    trace.save(tmp_path / name)
    loaded = Trace.load(str(tmp_path / name))
    assert loaded.rows.dtype == np.float32
    np.testing.assert_array_equal(loaded.rows, trace.rows)


@pytest.mark.parametrize("name", ["run.csv", "run.npz"])
@pytest.mark.parametrize("count", [0, 1])
def test_short_trace_comes_back(trace, tmp_path, name, count):
    Trace(trace.rows[:count]).save(tmp_path / name)
    loaded = Trace.load(tmp_path / name)
    np.testing.assert_array_equal(loaded.rows, trace.rows[:count])


def test_csv_is_read_by_pandas(trace, tmp_path):
    pandas = pytest.importorskip("pandas")
    trace.save(tmp_path / "run.csv")
    frame = pandas.read_csv(tmp_path / "run.csv")
    assert list(frame.columns) == list(Trace.columns)
    np.testing.assert_array_equal(
        frame.to_numpy().astype("float32"), trace.rows
    )


def test_parquet_is_read_by_pandas(trace, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    trace.save(str(tmp_path / "run.parquet"))
    frame = pandas.read_parquet(tmp_path / "run.parquet")
    assert list(frame.columns) == list(Trace.columns)
    np.testing.assert_array_equal(frame.to_numpy(), trace.rows)


@pytest.mark.parametrize("name", ["run.txt", "run", "run.pkl"])
def test_save_to_an_unknown_format(trace, tmp_path, name):
    with pytest.raises(ValueError, match=r"\.csv, \.npz or \.parquet") as error:
        trace.save(tmp_path / name)
    assert name in str(error.value)
    assert not list(tmp_path.iterdir())


def test_load_of_a_format_that_is_only_written(trace, tmp_path):
    pytest.importorskip("pyarrow")
    trace.save(tmp_path / "run.parquet")
    with pytest.raises(ValueError, match=r"\.csv or \.npz"):
        Trace.load(tmp_path / "run.parquet")


def test_load_of_other_columns(tmp_path):
    (tmp_path / "other.csv").write_text("step,loss\n1,2\n")
    np.savez(tmp_path / "other.npz", rows=np.zeros((1, 1)), columns=["step"])
    for name in ("other.csv", "other.npz"):
        with pytest.raises(ValueError, match=r"step.*expected.*grad_norm"):
            Trace.load(tmp_path / name)


def test_no_damaged_byte_is_another_error(trace, tmp_path):
    path = tmp_path / "trace.npz"
    trace.save(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.integers(len(whole) - 4, size=200):
        noise = generator.bytes(4)
        path.write_bytes(whole[:place] + noise + whole[place + 4 :])
        try:
            Trace.load(path)
        except ValueError as error:
            refused += 1
            assert "trace.npz" in str(error)
    assert refused > 100


@pytest.mark.parametrize("name", ["text.npz", "array.npz", "cut.csv", "x.csv"])
def test_load_of_a_damaged_file(trace, name, tmp_path):
    path = tmp_path / name
    if name == "text.npz":
        path.write_text("no archive")
    elif name == "array.npz":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        trace.save(path)
        text = path.read_text()
        path.write_text(text[:-30] if name == "cut.csv" else text + "x\n")
    with pytest.raises(ValueError, match=f"{name}' holds no trace"):
        Trace.load(path)


def test_load_never_runs_code(tmp_path):
    # An array of objects is a pickle, which can hold any code.
    np.savez(
        tmp_path / "bad.npz",
        rows=np.array([print], dtype=object),
        columns=np.array(Trace.columns),
    )
    with pytest.raises(ValueError, match="holds no trace") as error:
        Trace.load(tmp_path / "bad.npz")
    assert "pickle" in str(error.value.__cause__)
