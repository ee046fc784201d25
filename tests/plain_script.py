"""Plain Keras with the files of a run. Run by test_resume.py.

    python tests/plain_script.py FOLDER

Loads what MetaLR's run saved, in a process that has no keras_metalr, and trains
on; prints what it found as JSON.
"""

import json
import pathlib
import sys

import tests.torch_first  # noqa: F401

# isort: split

import keras
import numpy as np

from tests.fit_checks import make_data
from tests.resume_script import fit
from tests.resume_script import run_model


def _values(variables: list) -> list:
    return [
        np.asarray(keras.ops.convert_to_numpy(v)).tolist() for v in variables
    ]


def _describe(model: keras.Model) -> dict:
    x, y = make_data()
    found = {
        "optimizer": type(model.optimizer).__name__,
        "weights": _values(model.variables),
        "slots": _values(model.optimizer.variables),
        "loss": model.evaluate(x, y, verbose=0),
    }
    fit(model, epochs=1)
    finite = [np.isfinite(w).all() for w in model.get_weights()]
    return {**found, "trains_on": bool(np.all(finite))}


def main(folder: pathlib.Path) -> None:
    """Load both files and print what is in them."""
    loaded = _describe(keras.models.load_model(folder / "run.keras"))
    model = run_model()
    # As `load_weights` needs it: it skips an optimizer that is not built.
    model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / "run.weights.h5")
    weights = _describe(model)
    metalr = [name for name in sys.modules if "metalr" in name]
    print(json.dumps({"keras": loaded, "weights": weights, "modules": metalr}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
