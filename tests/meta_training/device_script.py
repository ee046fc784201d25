"""Evolves a controller for two generations; prints devices and weights.

    python device_script.py
    python device_script.py COORDINATOR NUM_PROCESSES PROCESS_ID

In a process of its own, because JAX counts its devices once.
"""

import json
import sys

import jax
import numpy as np

from keras_metalr.meta_training import processes
from keras_metalr.meta_training.arenas import Arena
from keras_metalr.meta_training.bank import make_bank
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.evolution import evolve
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.unroll import Unroll
from tests.fit_checks import random_controller

if len(sys.argv) > 1:
    coordinator, num_processes, process_id = sys.argv[1:]
    processes.join(coordinator, int(num_processes), int(process_id))
unroll = Unroll(FAMILIES["dense"], load_data(("digits",))[0], 8, 1)
arena = Arena("dense-8", unroll, make_bank(unroll, 4, 0))
config = EvolutionConfig(num_generations=2, num_pairs=4)
controller = evolve([arena], random_controller(), config)
weights = np.concatenate([w.ravel() for w in controller.get_weights()])
print(json.dumps({"devices": jax.device_count(), "weights": weights.tolist()}))
