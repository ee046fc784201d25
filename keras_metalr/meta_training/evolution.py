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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from keras_metalr.controller import Controller
from keras_metalr.features import FEATURE_VERSION
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import choose
from keras_metalr.meta_training.bank import regret
from keras_metalr.meta_training.bank import score
from keras_metalr.meta_training.checkpoint import load_tree
from keras_metalr.meta_training.checkpoint import save_tree
from keras_metalr.meta_training.tasks import TASK_VERSION
from keras_metalr.meta_training.unroll import Unroll
from keras_metalr.update_rule import RULE_VERSION

# Generations from one checkpoint to the next.
SAVE_EVERY = 25
# Tasks that are evaluated side by side.
CHUNK = 64


class Arena(NamedTuple):
    """A kind of run, with its tasks."""

    name: str
    unroll: Unroll
    bank: Bank


class EvolutionConfig(NamedTuple):
    """Hyperparameters of the evolution.

    `sigma` and `learning_rate` fall over the run, linearly and by a cosine.
    """

    num_generations: int = 800
    num_pairs: int = 128
    sigma: float = 0.05
    final_sigma: float = 0.03
    learning_rate: float = 1e-2
    seed: int = 0


class ControllerVector:
    """A `Controller`'s weights as one vector, and the function they make.

    Args:
        controller: Built `Controller`; it gives the architecture.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        values = [jnp.asarray(w) for w in controller.get_weights()]
        self.start, self._unravel = ravel_pytree(values)

    def function(
        self, vector: jnp.ndarray
    ) -> Callable[[jnp.ndarray], jnp.ndarray]:
        """From features `(NUM_FEATURES,)` to the output, a scalar."""
        weights = self._unravel(vector)

        def call(features: jnp.ndarray) -> jnp.ndarray:
            outputs, _ = self.controller.stateless_call(
                weights, [], features[None, :]
            )
            return outputs.reshape(())

        return call

    def to_controller(self, vector: jnp.ndarray) -> Controller:
        """A new `Controller` with these weights."""
        controller = Controller.from_config(self.controller.get_config())
        weights = [np.asarray(w) for w in self._unravel(vector)]
        controller.set_weights(weights)
        return controller


def evolve(
    arenas: Sequence[Arena],
    start: Controller,
    config: EvolutionConfig,
    checkpoint: pathlib.Path | None = None,
    report: Callable[[int, str, float, float], None] | None = None,
) -> Controller:
    """Evolve a controller; goes on from the checkpoint where there is one.

    Args:
        arenas: Sequence of `Arena`; each generation plays in the next one.
        start: `Controller` to start from.
        config: `EvolutionConfig`.
        checkpoint: Path of an `.npz` file. Defaults to `None`, none is kept.
        report: Callable that is told the generation, the arena's name, the mean
            score and the seconds left. Defaults to `None`.

    Returns:
        The controller at the mean of the last population.

    Raises:
        ValueError: if the checkpoint is of other arenas, another start or
            another configuration.
    """
    from evosax.algorithms import Open_ES
    from evosax.core.fitness_shaping import standardize_fitness_shaping_fn

    vector = ControllerVector(start)
    rate = optax.cosine_decay_schedule(
        config.learning_rate, config.num_generations, 0.05
    )
    strategy = Open_ES(
        population_size=2 * config.num_pairs,
        solution=vector.start,
        optimizer=optax.adam(rate),
        std_schedule=optax.linear_schedule(
            config.sigma, config.final_sigma, config.num_generations
        ),
        fitness_shaping_fn=standardize_fitness_shaping_fn,
    )
    params = strategy.default_params
    key = jax.random.key(config.seed)
    state = strategy.init(key, vector.start, params)
    first, origin = 0, _origin(arenas, vector, config)
    if checkpoint is not None and checkpoint.is_file():
        state, done = load_tree(checkpoint, (state, 0), origin)
        first = int(done)
    split = _split(2 * config.num_pairs)
    population, _ = strategy.ask(key, state, params)

    def example(arena: Arena) -> Any:
        tasks = _draw(arena.bank, key, config.num_pairs)
        return jax.device_put((population, tasks), split)

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
        scores = fitness[arena.name](
            *jax.device_put((population, tasks), split)
        )
        scores = jax.device_put(scores, jax.devices()[0])
        state, _ = strategy.tell(tell_key, population, scores, state, params)
        done = generation + 1
        if report is not None:
            spent = (time.monotonic() - began) / (done - first)
            left = spent * (config.num_generations - done)
            report(generation, arena.name, float(scores.mean()), left)
        last = done == config.num_generations
        if checkpoint is not None and (last or done % SAVE_EVERY == 0):
            save_tree(checkpoint, (state, done), origin)
    return vector.to_controller(state.mean)


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
    names = [arena.name for arena in arenas]
    versions = [FEATURE_VERSION, RULE_VERSION, TASK_VERSION]
    return json.dumps([versions, names, start[:16], config._asdict()])


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

    The runs know nothing of each other, so where each one runs changes nothing.
    """
    count = math.gcd(population_size, jax.device_count())
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("runs",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("runs"))


def _fitness(arena: Arena, vector: ControllerVector) -> Any:
    def one(weights: jnp.ndarray, bank: Bank) -> jnp.ndarray:
        result = arena.unroll.controlled(vector.function(weights), bank.tasks)
        return score(result, bank)

    return jax.jit(jax.vmap(one))


def evaluate(
    arena: Arena,
    controller: Controller,
    mask: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Run a controller on every task of an arena.

    Args:
        arena: `Arena`, with tasks that nothing was trained on.
        controller: `Controller`.
        mask: Array `(NUM_FEATURES,)`, factors on the features. Defaults to
            `None`, all 1.

    Returns:
        Dict of arrays with one row a task: `regret`, `score` and `trace`.
    """
    vector = ControllerVector(controller)
    call = vector.function(vector.start)
    factors = 1.0 if mask is None else jnp.asarray(mask)

    def one(bank: Bank) -> dict[str, jnp.ndarray]:
        result = arena.unroll.controlled(
            lambda features: call(features * factors), bank.tasks
        )
        final = regret(result.final_loss, bank.best_loss, bank.initial_loss)
        return {
            "regret": final,
            "score": score(result, bank),
            "trace": result.trace,
        }

    count = arena.bank.best_loss.shape[0]
    size = min(CHUNK, count)
    rows = jax.jit(lambda b: jax.lax.map(one, b, batch_size=size))(arena.bank)
    return {name: np.asarray(value) for name, value in rows.items()}


def summarize(regrets: np.ndarray) -> dict[str, float]:
    """Mean with its 95 % interval (bootstrap), median and worst.

    Args:
        regrets: Array `(num_tasks,)`.
    """
    draws = np.random.default_rng(0).integers(
        0, len(regrets), (2000, len(regrets))
    )
    low, high = np.percentile(regrets[draws].mean(1), [2.5, 97.5])
    values = {
        "mean": regrets.mean(),
        "low": low,
        "high": high,
        "median": np.median(regrets),
        "worst": regrets.max(),
    }
    return {name: round(float(value), 4) for name, value in values.items()}
