"""The feedback loop: run after run of a workload, each learning from the last.

Within a run nothing is needed beside `MetaLR(experience_dir=...)`; here is the
loop around it, to see what experience is worth.
"""

import os
from collections.abc import Callable
from typing import Any

import keras

from keras_metalr import experience
from keras_metalr.arguments import is_positive_integer
from keras_metalr.arguments import load_controller
from keras_metalr.callback import MetaLR
from keras_metalr.phases.fit_arguments import callbacks_of


def gather_experience(
    make_model: Callable[[], keras.Model],
    fit_arguments: Callable[[int], dict[str, Any]],
    folder: str | os.PathLike[str],
    *,
    num_runs: int = 20,
    first_seed: int = 0,
    controller: str | os.PathLike[str] | keras.Model = "general",
    progress: Callable[[experience.Experience], None] | None = None,
) -> list[experience.Experience]:
    """Train again and again, with a folder of experience.

    Seeds Python's, NumPy's and the backend's global generators
    (`keras.utils.set_random_seed`).

    Args:
        make_model: Callable that returns a new, compiled model.
        fit_arguments: Callable from a seed to the keyword arguments of `fit`
            (`x`, `epochs`, `validation_data`, ...).
        folder: String or path, the experience. Runs of this controller that
            are there already count, so that an interrupted call goes on where
            it was.
        num_runs: Integer (>= 1), runs in all. Defaults to `20`.
        first_seed: Integer, seed of the first run; each of the others has the
            next one. Defaults to `0`.
        controller: As in `MetaLR`, used in every run. Defaults to `"general"`.
        progress: Callable that is given each finished run. Defaults to `None`.

    Returns:
        List of `Experience`, in order: of seed `first_seed`, of the next one,
        and so on.

    Raises:
        ValueError: if `num_runs` is not a positive integer, if the folder
            cannot be read or written, or if a run leaves no experience there.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> def make_model():
    ...     model = keras.Sequential([keras.layers.Dense(1)])
    ...     model.compile("sgd", loss="mse")
    ...     return model
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> arguments = lambda seed: {"x": x, "y": 2 * x, "epochs": 4, "verbose": 0}
    >>> folder = tempfile.mkdtemp()
    >>> len(gather_experience(make_model, arguments, folder, num_runs=2))
    2
    """
    if not is_positive_integer(num_runs):
        raise ValueError(
            "`num_runs` must be a positive integer. "
            f"Received: num_runs={num_runs!r}."
        )
    network = load_controller(controller)
    for index in range(len(experience.load(folder, network)), num_runs):
        seed = first_seed + index
        keras.utils.set_random_seed(seed)
        model = make_model()
        arguments = dict(fit_arguments(seed))
        metalr = MetaLR(network, experience_dir=folder)
        callbacks = [*callbacks_of(arguments), metalr]
        model.fit(callbacks=callbacks, **arguments)
        found = experience.load(folder, network)
        # Or the runs to come would be taken for those of other seeds.
        if len(found) != index + 1:
            raise ValueError(
                f"There must be {index + 1} runs in {str(folder)!r} after that "
                f"with seed {seed}. Received: {len(found)}. A run must make "
                "two decisions to leave one, and nothing else may write there."
            )
        if progress is not None:
            progress(found[-1])
    return experience.load(folder, network)[:num_runs]
