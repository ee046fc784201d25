"""What the unfamiliar nets have in common."""

from collections.abc import Callable
from typing import Any

import keras

from keras_metalr.workloads.workload import Data
from keras_metalr.workloads.workload import Workload

# Validations in a run, however long it is.
NUM_VALIDATIONS = 5
# The rate that MetaLR begins with.
START = 1e-3


def net(
    name: str,
    load_data: Callable[[], Data],
    build_model: Callable[[], keras.Model],
    make_optimizer: Callable[[Any], keras.optimizers.Optimizer],
    batch_size: int = 64,
    loss: Any = None,
) -> Workload:
    """A net as a workload.

    Args:
        name: String.
        load_data: Callable that returns a `Data`.
        build_model: Callable that returns a `keras.Model`, not compiled.
        make_optimizer: Callable from a rate to a Keras optimizer.
        batch_size: Integer. Defaults to `64`.
        loss: Keras loss, or a callable from targets and outputs. Defaults to
            `None`: the cross-entropy of logits, with the accuracy beside it,
            which other losses go without.

    Returns:
        A `Workload`.
    """
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Workload(
        name=name,
        load_data=load_data,
        build_model=build_model,
        make_optimizer=make_optimizer,
        loss=classes if loss is None else loss,
        metrics=("accuracy",) if loss is None else (),
        batch_size=batch_size,
        epochs=NUM_VALIDATIONS,
        learning_rate=START,
        target_accuracy=0.0,
    )
