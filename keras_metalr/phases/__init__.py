"""The three phases: collect static runs, fit a controller, train with it.

runs = collect(make_model, fit_arguments)          # phase 1
controller = fit_controller(runs)                   # phase 2
model.fit(..., callbacks=[MetaLR(controller)])      # phase 3

The feedback loop goes on from there: `gather_experience`.
"""

from keras_metalr.phases.collect import Run
from keras_metalr.phases.collect import collect
from keras_metalr.phases.collect import load_runs
from keras_metalr.phases.feedback import gather_experience
from keras_metalr.phases.fit import fit_controller

__all__ = [
    "Run",
    "collect",
    "fit_controller",
    "gather_experience",
    "load_runs",
]
