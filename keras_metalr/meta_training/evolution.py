"""Evolution of the controller on the end of the run.

Never on the next step: rates trained that way come out too small by orders of
magnitude (Wu et al., 2018, https://arxiv.org/abs/1803.02021). The strategy is
evosax's Open_ES (Salimans et al., 2017, https://arxiv.org/abs/1703.03864) with
antithetic pairs: both of a pair run the same task with the same batches, so
that what differs between them is the controller alone. The next generation that
draws the task sees other batches of it.
"""

import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from keras_metalr.controller import Controller
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.meta_training.arenas import Arena
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import choose
from keras_metalr.meta_training.bank import score
from keras_metalr.meta_training.checkpoint import load_tree
from keras_metalr.meta_training.checkpoint import save_tree
from keras_metalr.meta_training.configs import EvolutionConfig
from keras_metalr.meta_training.evaluation import ControllerVector
from keras_metalr.meta_training.processes import gathered
from keras_metalr.meta_training.processes import is_first
from keras_metalr.meta_training.processes import own_share
from keras_metalr.meta_training.tasks import TASK_VERSION
from keras_metalr.update_rule import RULE_VERSION

# Generations from one checkpoint to the next.
SAVE_EVERY = 25


def evolve(
    arenas: Sequence[Arena],
    start: Controller,
    config: EvolutionConfig,
    checkpoint: pathlib.Path | None = None,
    report: Callable[[int, str, float, float], None] | None = None,
) -> Controller:
    """Evolve a controller; goes on from the checkpoint where there is one.

    Where there are several processes (`processes.join`), each calls this with
    the same arguments, and they share every generation's runs.

    Args:
        arenas: Sequence of `Arena`; each generation plays in the next one.
        start: `Controller` to start from.
        config: `EvolutionConfig`.
        checkpoint: Path of an `.npz` file, which the first process writes and
            all read. Defaults to `None`, none is kept.
        report: Callable that is told the generation, the arena's name, the mean
            score and the seconds left. Defaults to `None`.

    Returns:
        The controller at the mean of the last population.

    Raises:
        ValueError: if the checkpoint is of other arenas or tasks, another start
            or another configuration.
    """
    vector = ControllerVector(start)
    strategy = _strategy(config, vector)
    params = strategy.default_params
    key = jax.random.key(config.seed)
    state = strategy.init(key, vector.start, params)
    first, origin = 0, _origin(arenas, vector, config)
    if checkpoint is not None and checkpoint.is_file():
        state, done = load_tree(checkpoint, (state, 0), origin)
        first = int(done)
    count = 2 * config.num_pairs
    mine = own_share(count)
    split = _split(len(mine))

    def own(*every: Any) -> Any:
        chosen = jax.tree.map(lambda leaf: leaf[mine], every)
        return jax.device_put(chosen, split)

    population, _ = strategy.ask(key, state, params)

    def example(arena: Arena) -> Any:
        return own(population, _draw(arena.bank, key, config.num_pairs))

    is_finished = first >= config.num_generations
    fitness = _compiled(() if is_finished else arenas, vector, example)
    began = time.monotonic()
    for generation in range(first, config.num_generations):
        arena = arenas[generation % len(arenas)]
        ask_key, tell_key, task_key = jax.random.split(
            jax.random.fold_in(key, generation), 3
        )
        population, state = strategy.ask(ask_key, state, params)
        tasks = _draw(arena.bank, task_key, config.num_pairs)
        scores = gathered(fitness[arena.name](*own(population, tasks)), count)
        state, _ = strategy.tell(tell_key, population, scores, state, params)
        done = generation + 1
        if report is not None:
            spent = (time.monotonic() - began) / (done - first)
            left = spent * (config.num_generations - done)
            report(generation, arena.name, float(scores.mean()), left)
        last = done == config.num_generations
        is_due = last or done % SAVE_EVERY == 0
        if checkpoint is not None and is_due and is_first():
            save_tree(checkpoint, (state, done), origin)
    return vector.to_controller(state.mean)


def _strategy(config: EvolutionConfig, vector: ControllerVector) -> Any:
    """evosax's, its spread and its rate falling over the run."""
    from evosax.algorithms import Open_ES
    from evosax.core.fitness_shaping import standardize_fitness_shaping_fn

    rate = optax.cosine_decay_schedule(
        config.learning_rate, config.num_generations, 0.05
    )
    return Open_ES(
        population_size=2 * config.num_pairs,
        solution=vector.start,
        optimizer=optax.adam(rate),
        std_schedule=optax.linear_schedule(
            config.sigma, config.final_sigma, config.num_generations
        ),
        fitness_shaping_fn=standardize_fitness_shaping_fn,
    )


def progress_line(
    config: EvolutionConfig,
    generation: int,
    stage: str,
    value: float,
    left: float,
) -> str:
    """What `evolve` told its `report`, on one line."""
    return (
        f"generation {generation + 1}/{config.num_generations}"
        f"  {stage:20s} score {value:7.3f}  {left / 60:5.1f} min left"
    )


def _origin(
    arenas: Sequence[Arena], vector: ControllerVector, config: EvolutionConfig
) -> str:
    start = hashlib.sha256(np.asarray(vector.start).tobytes()).hexdigest()
    tasks = {arena.name: _tasks_digest(arena) for arena in arenas}
    played = [f"{arena.name} of {tasks[arena.name]}" for arena in arenas]
    versions = [FEATURE_VERSION, RULE_VERSION, TASK_VERSION]
    return json.dumps([versions, played, start[:16], config._asdict()])


def _tasks_digest(arena: Arena) -> str:
    """What tells an arena's tasks from others under the same name."""
    numbers = (arena.unroll.num_decisions, arena.unroll.interval)
    digest = hashlib.sha256(repr(numbers).encode())
    for values in (arena.bank.tasks.seed, arena.bank.best_loss):
        digest.update(np.asarray(values).tobytes())
    return digest.hexdigest()[:16]


def _draw(bank: Bank, key: Any, num_pairs: int) -> Bank:
    """Tasks for a population, whose second half mirrors the first.

    A task keeps its data and its start; the batches are drawn afresh, so that
    no controller learns one order of them by heart.
    """
    index_key, seed_key = jax.random.split(key)
    count = bank.best_loss.shape[0]
    index = jax.random.randint(index_key, (num_pairs,), 0, count)
    seeds = jax.random.randint(seed_key, (num_pairs,), 0, 2**30)
    chosen = choose(bank, jnp.tile(index, 2))
    tasks = chosen.tasks._replace(seed=jnp.tile(seeds, 2))
    return chosen._replace(tasks=tasks)


def _compiled(
    arenas: Sequence[Arena],
    vector: ControllerVector,
    example: Callable[[Arena], Any],
) -> dict[str, Callable[..., Any]]:
    """The fitness of each arena by name, compiled side by side.

    A GPU's compiler takes longer over a dozen of them than the card takes over
    a hundred generations.
    """
    different = {arena.name: arena for arena in arenas}

    def build(arena: Arena) -> Callable[..., Any]:
        return _fitness(arena, vector).lower(*example(arena)).compile()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = pool.map(build, different.values())
        return dict(zip(different, built, strict=True))


def _split(population_size: int) -> jax.sharding.Sharding:
    """The population's leading axis, cut over all devices that share it evenly.

    Those of this process: others have populations of their own. The runs know
    nothing of each other, so where each one runs changes nothing.
    """
    devices = jax.local_devices()
    count = math.gcd(population_size, len(devices))
    mesh = jax.sharding.Mesh(np.array(devices[:count]), ("runs",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("runs"))


def _fitness(arena: Arena, vector: ControllerVector) -> Any:
    def one(weights: jnp.ndarray, bank: Bank) -> jnp.ndarray:
        result = arena.unroll.controlled(vector.function(weights), bank.tasks)
        return score(result, bank)

    return jax.jit(jax.vmap(one))
