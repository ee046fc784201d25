"""Checks the installed wheel: it is whole, and it trains with what it requires.

Run it from outside the checkout, with the checkout's folder as argument.
"""

import sys
from pathlib import Path


def main(checkout: Path) -> None:
    """Raise `SystemExit` with what is wrong."""
    import keras
    import numpy as np

    import keras_metalr

    installed = Path(keras_metalr.__file__).parent
    if installed.is_relative_to(checkout):
        raise SystemExit(f"Imported from the checkout: {installed}")
    missing = package_files(checkout / "keras_metalr") - package_files(
        installed
    )
    if missing:
        raise SystemExit(f"Not in the wheel: {sorted(map(str, missing))}")

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    history = model.fit(
        np.ones((32, 4), "float32"),
        np.ones((32, 1), "float32"),
        batch_size=8,
        epochs=2,
        callbacks=[keras_metalr.MetaLR()],
        verbose=0,
    )
    for name in ("learning_rate", "grad_norm"):
        values = history.history.get(name)
        if values is None or not np.all(np.isfinite(values)):
            raise SystemExit(f"history.history[{name!r}] is {values}")
    print(f"keras_metalr {keras_metalr.__version__} works from {installed}")


def package_files(folder: Path) -> set[Path]:
    """Every file of the package, relative to its folder."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
