"""Learning-rate control for Keras 3 that is learned, not tuned."""

from keras_metalr.callback import MetaLR
from keras_metalr.controller import Controller
from keras_metalr.plotting import plot_comparison
from keras_metalr.plotting import plot_trace
from keras_metalr.trace import Trace
from keras_metalr.version import __version__

__all__ = [
    "Controller",
    "MetaLR",
    "Trace",
    "__version__",
    "plot_comparison",
    "plot_trace",
]
