"""MetaLR on two virtual CPU devices. Run by test_distribution.py.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 \\
        python tests/distribution_script.py

Trains the same model on one device and on two, with and without MetaLR, and
prints the weights and what was measured as JSON.
"""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import tests.torch_first  # noqa: F401

# isort: split

import keras
import numpy as np

from tests.fit_checks import FIT
from tests.fit_checks import HOOKS
from tests.fit_checks import compiled
from tests.fit_checks import constant_controller
from tests.fit_checks import make_data

BACKEND = keras.backend.backend()


def _two_devices() -> Callable[[], Any]:
    """Makes contexts in which a model is spread over two devices."""
    if BACKEND == "jax":
        devices = keras.distribution.list_devices("cpu")
        assert len(devices) == 2
        distribution = keras.distribution.DataParallel(devices=devices)
        return distribution.scope
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == 2
    return tf.distribute.MirroredStrategy(devices).scope


def _train(scope: Callable[[], Any], metalr: bool, output: float = 0.0) -> dict:
    from keras_metalr import MetaLR

    x, y = make_data()
    with scope():
        # Running statistics and dropout masks are each replica's own.
        optimizer = keras.optimizers.Adam(0.01)
        # That of a whole is no mean of those of its parts.
        overlap = keras.metrics.MeanIoU(3, sparse_y_pred=False, name="overlap")
        model = compiled(
            optimizer, normalize=False, drop=False, metrics=[overlap]
        )
    callbacks = []
    if metalr:
        controller = constant_controller(output)
        callbacks = [MetaLR(controller, safe_start=output != 0.0)]
    # JAX reads the distribution in `fit` too.
    with scope() if BACKEND == "jax" else contextlib.nullcontext():
        history = model.fit(
            x,
            y,
            validation_data=(x + 0.5, y),
            epochs=2,
            callbacks=callbacks,
            **FIT,
        ).history
    result = {
        "weights": [w.tolist() for w in model.get_weights()],
        "loss": history["loss"],
        "overlap": history["overlap"],
        "clean": model.optimizer is optimizer
        and not [name for name in HOOKS if name in vars(model)],
    }
    if metalr:
        trace = callbacks[0].trace
        result["trace"] = {name: trace[name].tolist() for name in trace.columns}
        result["grad_norm"] = history["grad_norm"]
    return result


def _num_examples(scope: Callable[[], Any]) -> list[float]:
    """What decisions are told of the size of a batch, in place of the trace."""
    from keras_metalr import control

    decide = control.decide

    def telling(*arguments: Any, **kwargs: Any) -> Any:
        scalars, row = decide(*arguments, **kwargs)
        return scalars, keras.ops.zeros_like(row) + arguments[1].num_examples

    control.decide = telling
    try:
        return _train(scope, metalr=True)["trace"]["loss"]
    finally:
        control.decide = decide


def _split_over_devices(metalr: bool) -> dict:
    """A model whose kernels are shared out, and what is gathered of one."""
    import jax

    from keras_metalr import MetaLR
    from keras_metalr import backend

    devices = keras.distribution.list_devices("cpu")
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    split = keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    )
    x, y = make_data()
    controller = constant_controller(0.0)
    with split.scope():
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense
        model = keras.Sequential(
            [keras.Input(x.shape[1:]), dense(2048, "relu"), dense(4)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        callbacks = []
        if metalr:
            # The shipped one, whose last kernel is not to be split.
            MetaLR()
            callbacks = [MetaLR(controller, safe_start=False)]
        model.fit(x, y, epochs=2, callbacks=callbacks, **FIT)
        kernel = model.layers[0].kernel.value
        positions = backend.constant_positions(np.arange(0, 12288, 3))
        compiled = jax.jit(lambda value: backend.elements(value, positions))
        program = compiled.lower(kernel).compile().as_text()
        values = np.asarray(kernel).reshape(-1)[::3]
        np.testing.assert_array_equal(compiled(kernel), values)
    return {
        "weights": [w.tolist() for w in model.get_weights()],
        "gathers": "all-gather" in program,
        "reduces": "all-reduce" in program,
    }


def main() -> None:
    """Run everything and print it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        halves = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, halves)
    # What all draws without a seed come from is no replica's own.
    keras.random.normal((1,))
    one, two = contextlib.nullcontext, _two_devices()
    print(
        json.dumps(
            {
                "plain on one": _train(one, metalr=False),
                "plain on two": _train(two, metalr=False),
                "metalr on one": _train(one, metalr=True),
                "metalr on two": _train(two, metalr=True),
                "moving on one": _train(one, metalr=True, output=0.5),
                "moving on two": _train(two, metalr=True, output=0.5),
                "examples": _num_examples(two),
                "split": None
                if BACKEND != "jax"
                else [_split_over_devices(metalr) for metalr in (False, True)],
            }
        )
    )


if __name__ == "__main__":
    main()
