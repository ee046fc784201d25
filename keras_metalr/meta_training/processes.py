"""Several processes that evolve one population, on one machine or many.

Each has devices of its own, plays its share of a generation, and is told all
scores; what follows from them each works out for itself, from the same seed.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the others; before anything is computed, and in each of them.

    Args:
        coordinator: String, `HOST:PORT` that process 0 listens at.
        num_processes: Integer (>= 1).
        process_id: Integer from 0 to `num_processes - 1`, another one in each.

    Raises:
        ValueError: for an address or numbers that cannot be.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            "`coordinator` must be HOST:PORT, where process 0 listens. "
            f"Received: coordinator={coordinator!r}."
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            "`process_id` must be from 0 to `num_processes - 1`. Received: "
            f"process_id={process_id}, num_processes={num_processes}."
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def is_first() -> bool:
    """Whether this process is the one that writes files and reports."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when every process has come here.

    Args:
        name: String, of the place.
    """
    multihost_utils.sync_global_devices(name)


def own_share(count: int) -> np.ndarray:
    """Which of `count` runs are this process's: as many as any other's.

    Where they cannot be shared evenly some are run twice.
    """
    size = math.ceil(count / jax.process_count())
    return (jax.process_index() * size + np.arange(size)) % count


def gathered(values: Any, count: int) -> np.ndarray:
    """The values of all `count` runs, from every process's of its share."""
    every = multihost_utils.process_allgather(np.asarray(values), tiled=True)
    return np.asarray(every)[:count]
