"""A run that is killed in the middle of an epoch. Run by test_resume.py.

    python tests/resume_script.py FOLDER

It saves itself in every way that Keras has, and then dies by SIGKILL: nothing
gets the time to clean up.
"""

import os
import pathlib
import signal
import sys
from typing import Any

import tests.torch_first  # noqa: F401

# isort: split

import keras

from tests.fit_checks import BATCH_SIZE
from tests.fit_checks import FIT
from tests.fit_checks import QUICK
from tests.fit_checks import compiled
from tests.fit_checks import make_data
from tests.fit_checks import random_controller

EPOCHS = 4
STEPS = 6
# In the second batch of the third epoch.
KILLED_AT = (2, 1)


def make_metalr(seed: int = 27) -> Any:
    """The callback of the run, which moves the rate all the time."""
    from keras_metalr import MetaLR

    return MetaLR(random_controller(seed, scale=1.0))


def run_model() -> keras.Model:
    """The model of the run: with running statistics and many slots.

    And without Dropout, whose random state Keras does not save.
    """
    optimizer = keras.optimizers.Adam(0.01, amsgrad=True)
    return compiled(optimizer, drop=False, **QUICK)


def fit(
    model: keras.Model,
    *callbacks: keras.callbacks.Callback,
    **kwargs: Any,
) -> keras.callbacks.History:
    """`fit` as in the run that is killed."""
    x, y = make_data(STEPS * BATCH_SIZE)
    arguments = {
        **FIT,
        "epochs": EPOCHS,
        "validation_data": (x + 0.5, y),
        **kwargs,
    }
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def savers(folder: pathlib.Path) -> dict[str, keras.callbacks.Callback]:
    """Every way to save a run, each in a place of its own."""
    checkpoint = keras.callbacks.ModelCheckpoint
    return {
        "before": keras.callbacks.BackupAndRestore(str(folder / "before")),
        "after": keras.callbacks.BackupAndRestore(str(folder / "after")),
        "keras": checkpoint(str(folder / "run.keras")),
        "weights": checkpoint(
            str(folder / "run.weights.h5"), save_weights_only=True
        ),
    }


class _Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (self.epoch, batch) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: pathlib.Path) -> None:
    """Run until killed."""
    by_name = savers(folder)
    model = run_model()
    before, rest = by_name.pop("before"), by_name.values()
    fit(model, before, make_metalr(), *rest, _Kill())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
