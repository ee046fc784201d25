"""A run that was killed and started again is the run that was not.

A child process is killed by SIGKILL in the middle of an epoch; this process
goes on from each of the files it left.
"""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from keras_metalr import Controller
from keras_metalr import MetaLR
from keras_metalr import Trace
from tests import resume_script
from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import all_finite
from tests.fit_checks import assert_clean
from tests.fit_checks import compiled
from tests.fit_checks import largest_difference
from tests.fit_checks import make_data

ROOT = pathlib.Path(__file__).parents[1]


def _run_script(name: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / name), str(folder)],
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@dataclass
class Ended:
    """A run that has come to its end."""

    weights: list[np.ndarray]
    state: dict[str, np.ndarray]
    slots: list[np.ndarray]
    trace: np.ndarray
    history: dict


class _KeepState(keras.callbacks.Callback):
    """What MetaLR remembers at the end of the last epoch."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        optimizer = self.model.optimizer
        to_numpy = keras.ops.convert_to_numpy
        self.state = {
            v.name: np.array(to_numpy(v))
            for v in optimizer.metalr_state.variables
        }
        self.slots = [np.array(to_numpy(v)) for v in optimizer.inner.variables]
        self.rate = float(to_numpy(optimizer.learning_rate))


def _train(
    model: keras.Model,
    metalr: MetaLR,
    *others: Any,
    rate: float = 0.01,
    **kwargs: Any,
) -> Ended:
    """Fit, and check that the model has its own rate after it."""
    keep = _KeepState()
    optimizer = model.optimizer
    callbacks = [*others[:1], metalr, *others[1:], keep]
    history = resume_script.fit(model, *callbacks, **kwargs)
    assert_clean(model, optimizer, rate, model.train_function)
    return Ended(
        model.get_weights(),
        keep.state,
        keep.slots,
        metalr.trace.rows,
        history.history,
    )


def _assert_same(whole: Ended, resumed: Ended) -> None:
    assert largest_difference(whole.weights, resumed.weights) < 1e-6
    assert largest_difference(whole.slots, resumed.slots) < 1e-6
    assert set(whole.state) == set(resumed.state)
    for name, value in whole.state.items():
        np.testing.assert_allclose(
            resumed.state[name], value, rtol=2e-6, atol=1e-6, err_msg=name
        )
    np.testing.assert_allclose(
        resumed.trace, whole.trace, rtol=2e-6, atol=1e-6, equal_nan=True
    )
    rates = whole.history["learning_rate"]
    assert resumed.history["learning_rate"] == pytest.approx(
        rates[-len(resumed.history["learning_rate"]) :], rel=1e-6
    )


@pytest.fixture(scope="module")
def whole() -> Ended:
    """The run that nothing interrupted."""
    run = _train(resume_script.run_model(), resume_script.make_metalr())
    # What is compared must move: before the crash, and after it.
    for rates in np.split(run.trace[:, 2], 2):
        assert np.log(rates.max() / rates.min()) > 1.0
    # So must what the controller has read of the validation data: before the
    # third epoch, and before the fourth.
    for name in ("validation_trend", "validation_gap"):
        values = run.trace[12::6, Trace.columns.index(name)]
        assert np.all(values != 0.0) and values[0] != values[1]
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder that the killed process left."""
    folder = tmp_path_factory.mktemp("killed")
    result = _run_script("resume_script.py", folder)
    assert result.returncode == -signal.SIGKILL, result.stderr
    return folder


@pytest.fixture
def left(killed: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of that folder: `BackupAndRestore` deletes its own at the end."""
    return pathlib.Path(shutil.copytree(killed, tmp_path / "left"))


# The callback that resumes is given another controller: that of the run comes
# from the file, so that a preset may change without changing a run.


@pytest.mark.parametrize("order", ["before", "after"])
def test_backup_and_restore(order, left, whole):
    saver = resume_script.savers(left)[order]
    metalr = resume_script.make_metalr(seed=10)
    others = [saver] if order == "before" else [_Nothing(), saver]
    resumed = _train(resume_script.run_model(), metalr, *others)
    assert len(resumed.history["loss"]) == 2
    _assert_same(whole, resumed)


class _Nothing(keras.callbacks.Callback):
    """Takes the place before MetaLR."""


@pytest.mark.parametrize("file", ["run.keras", "run.weights.h5"])
def test_a_loaded_model_and_restore(file, left, whole):
    path = str(left / file)
    if file.endswith(".keras"):
        model = keras.models.load_model(path)
    else:
        model = resume_script.run_model()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
    metalr = resume_script.make_metalr(seed=10)
    assert metalr.restore(path) is metalr
    resumed = _train(model, metalr, initial_epoch=2)
    _assert_same(whole, resumed)
    # It holds for that one `fit`: the next is a run of its own.
    resume_script.fit(model, metalr, epochs=1)
    np.testing.assert_array_equal(metalr.trace["step"], np.arange(1, 7))


def test_a_run_with_another_kind_of_rate_is_refused(left):
    model = keras.models.load_model(left / "run.keras")
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    model.compile(keras.optimizers.Adam(schedule), loss=model.loss)
    model.optimizer.build(model.trainable_variables)
    before = model.get_weights()
    metalr = resume_script.make_metalr().restore(left / "run.keras")
    with pytest.raises(
        ValueError, match=r"checkpoint has \[0\], this model \[1\]"
    ):
        _train(model, metalr, initial_epoch=2)
    assert largest_difference(model.get_weights(), before) == 0.0
    assert model.optimizer._learning_rate is schedule


def test_a_run_with_a_smaller_controller_is_refused(left):
    model = keras.models.load_model(left / "run.keras")
    metalr = MetaLR(Controller((64, 32, 16))).restore(left / "run.keras")
    with pytest.raises(ValueError, match="lacks controller_6"):
        resume_script.fit(model, metalr, epochs=3, initial_epoch=2)


def test_without_restore_a_loaded_model_starts_a_run_of_its_own(left):
    model = keras.models.load_model(left / "run.keras")
    # To this run the rate in the file is the user's own.
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    metalr = resume_script.make_metalr()
    resumed = _train(model, metalr, rate=rate, initial_epoch=2)
    np.testing.assert_array_equal(resumed.trace[:, 0], np.arange(1, 13))


def test_a_backup_within_an_epoch(tmp_path):
    # Keras runs the whole epoch again; the run of MetaLR is that much longer.
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path), save_freq=2)

    model = resume_script.run_model()
    with pytest.raises(KeyboardInterrupt):
        resume_script.fit(model, backup(), resume_script.make_metalr(8), Stop())
    model, metalr = resume_script.run_model(), resume_script.make_metalr(8)
    resumed = _train(model, metalr, backup())
    assert all_finite(model)
    assert resumed.trace[-1, 0] == resumed.state["counters"][0]
    assert resumed.state["counters"][0] == resumed.state["counters"][1]
    # A pass over the data is as long as it was.
    assert resumed.state["counters"][3] == 6


# -- Between MetaLR and plain Keras. ----------------------------------------


@pytest.fixture(scope="module")
def plain(killed: pathlib.Path) -> dict:
    """What plain Keras made of the files."""
    result = _run_script("plain_script.py", killed)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("file", ["keras", "weights"])
def test_plain_keras_loads_the_files(file, plain, killed):
    assert plain["modules"] == []
    found = plain[file]
    assert found["optimizer"] == "Adam"
    assert found["trains_on"]
    assert np.isfinite(found["loss"])
    # The slots are those of the run, not those of a new optimizer.
    iterations = found["slots"][0]
    assert iterations == 12
    assert max(np.abs(slot).max() for slot in found["slots"][2:]) > 0
    model = keras.models.load_model(killed / "run.keras")
    slots = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    assert largest_difference(slots, found["slots"]) < 1e-7
    assert (
        largest_difference(
            [keras.ops.convert_to_numpy(v) for v in model.variables],
            found["weights"],
        )
        < 1e-7
    )


@pytest.mark.filterwarnings("ignore:.*HDF5")
def test_an_h5_file_of_a_run_holds_the_users_optimizer(tmp_path):
    path = tmp_path / "run.h5"
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, name="mine")
    model = compiled(optimizer, **QUICK)
    save = keras.callbacks.ModelCheckpoint(path)
    model.fit(
        *make_data(), callbacks=[resume_script.make_metalr(), save], **FIT
    )
    loaded = keras.models.load_model(path).optimizer
    assert isinstance(loaded, keras.optimizers.SGD)
    assert loaded.get_config()["momentum"] == pytest.approx(0.9)
    # Of an `.h5` file Keras loads no slots, but what comes before them.
    assert int(loaded.iterations) == int(optimizer.iterations) == 6


def test_metalr_goes_on_from_a_plain_checkpoint(tmp_path):
    path = tmp_path / "plain.weights.h5"
    plain = resume_script.run_model()
    resume_script.fit(plain, epochs=2)
    plain.save_weights(path)
    model = resume_script.run_model()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    assert largest_difference(plain.get_weights(), model.get_weights()) == 0.0
    metalr = resume_script.make_metalr()
    run = _train(model, metalr, initial_epoch=2)
    assert int(model.optimizer.iterations) == 24
    np.testing.assert_array_equal(run.trace[:, 0], np.arange(1, 13))


def test_metalr_goes_on_from_a_plain_backup(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        resume_script.fit(resume_script.run_model(), backup(), Stop())
    model = resume_script.run_model()
    run = _train(model, resume_script.make_metalr(), backup())
    # Two epochs were left, or three where the last had not been saved yet.
    assert int(model.optimizer.iterations) == 24
    assert run.trace[-1, 0] == len(run.history["loss"]) * 6


def test_a_model_saved_after_the_run_knows_nothing_of_it(tmp_path):
    model = resume_script.run_model()
    fresh = resume_script.run_model()
    resume_script.fit(fresh)
    resume_script.fit(model, resume_script.make_metalr())
    names = {}
    for name, saved in (("plain", fresh), ("metalr", model)):
        path = tmp_path / f"{name}.keras"
        saved.save(path)
        with zipfile.ZipFile(path) as archive:
            assert b"metalr" not in archive.read("config.json").lower()
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as file:
            found: list[str] = []
            file.visit(found.append)
            attributes = str([dict(file[key].attrs) for key in found])
            assert "metalr" not in attributes.lower()
        names[name] = found
    assert names["metalr"] == names["plain"]
    x, y = make_data()
    loaded = keras.models.load_model(tmp_path / "metalr.keras")
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0)
    )


def test_a_longer_run_keeps_the_rows_of_the_shorter_one(tmp_path):
    """It decides less often, and its clock would point to rows in use."""
    path = str(tmp_path / "run.keras")
    x, y = make_data(120 * BATCH_SIZE)
    first = MetaLR(Controller())
    save = keras.callbacks.ModelCheckpoint(path)
    model = compiled("sgd", drop=False, **QUICK)
    model.fit(x, y, callbacks=[first, save], **FIT)
    assert first.trace["step"].tolist() == list(range(1, 121))
    second = MetaLR(Controller()).restore(path)
    model = keras.models.load_model(path)
    model.fit(x, y, initial_epoch=1, epochs=4, callbacks=[second], **FIT)
    steps = second.trace["step"].tolist()
    assert steps[:120] == list(range(1, 121))
    assert steps[120:] == list(range(122, 481, 2))


def test_a_resumed_run_of_total_steps_is_no_longer_than_that(tmp_path):
    path = str(tmp_path / "run.keras")
    save = keras.callbacks.ModelCheckpoint(path)
    first = MetaLR(Controller(), total_steps=24)
    resume_script.fit(resume_script.run_model(), first, save, epochs=2)
    metalr = MetaLR(Controller(), total_steps=24).restore(path)
    model = keras.models.load_model(path)
    resume_script.fit(model, metalr, initial_epoch=2)
    share = np.arange(1, 25) / 24
    np.testing.assert_allclose(metalr.trace["progress"], share - 0.5, atol=1e-6)


@pytest.mark.parametrize("total_steps", [None, 60])
@pytest.mark.parametrize("saved_at", [(2, 5), (4, 5), (5, 2)])
def test_weights_loaded_in_mid_run_do_not_turn_its_clock_back(
    tmp_path, total_steps, saved_at
):
    """Of epochs before, of the last one, and of the middle of this one."""
    path = str(tmp_path / "run.weights.h5")

    class Reload(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.save_if((self.epoch, batch))

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def save_if(self, now):
            if now == saved_at:
                self.model.save_weights(path)

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 5:
                self.model.load_weights(path)

    metalr = MetaLR(Controller(), total_steps=total_steps)
    x, y = make_data()
    model = compiled("sgd", **QUICK)
    model.fit(x, y, epochs=10, callbacks=[metalr, Reload()], **FIT)
    progress = metalr.trace["progress"] + 0.5
    assert progress[-1] == pytest.approx(1.0)
    # What was done before counts, and the rest of the run is as long as it is.
    epoch, batch = saved_at
    assert len(progress) == epoch * 6 + batch + 1 + 4 * 6
    assert (np.diff(progress) > 0.0).all()


def test_a_damaged_checkpoint_is_no_other_error(tmp_path):
    path = tmp_path / "run.keras"
    model = compiled("sgd", **QUICK)
    save = keras.callbacks.ModelCheckpoint(str(path))
    x, y = make_data()
    model.fit(x, y, callbacks=[MetaLR(Controller()), save], **FIT)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.integers(len(whole) - 4, size=60):
        noise = generator.bytes(4)
        path.write_bytes(whole[:place] + noise + whole[place + 4 :])
        try:
            MetaLR(Controller()).restore(path)
        except ValueError as error:
            refused += 1
            assert "run.keras" in str(error)
    assert refused > 30
