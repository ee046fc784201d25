"""A controller for the tests of meta-training."""

import numpy as np

from keras_metalr import Controller


def moving_controller(seed=0, scale=0.5):
    """A controller that answers something else in every state."""
    controller = Controller()
    generator = np.random.default_rng(seed)
    controller.set_weights(
        [
            scale * generator.normal(size=w.shape) / np.sqrt(w.shape[0])
            for w in controller.get_weights()
        ]
    )
    return controller
