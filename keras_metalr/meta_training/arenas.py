"""Stages with their banks of tuned tasks, and the data, kept in a folder."""

import json
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from keras_metalr.benchmark.records import write_json
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import make_bank
from keras_metalr.meta_training.checkpoint import load_tree
from keras_metalr.meta_training.checkpoint import save_tree
from keras_metalr.meta_training.configs import Stage
from keras_metalr.meta_training.data import DATA_NAMES
from keras_metalr.meta_training.data import Data
from keras_metalr.meta_training.data import data_notes
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.optimizers import OptimizerSpec
from keras_metalr.meta_training.tasks import TASK_VERSION
from keras_metalr.meta_training.tasks import Task
from keras_metalr.meta_training.unroll import Unroll

TRAINING_SEED = 0
# Tasks of this seed and above are never trained on.
HELD_OUT_SEED = 10_000
_NOTES_FILE = "data_notes.json"


class Arena(NamedTuple):
    """A kind of run, with its tasks."""

    name: str
    unroll: Unroll
    bank: Bank


def kept_data(
    work: pathlib.Path, wanted: Sequence[str] | None = None
) -> tuple[Data, list[str]]:
    """The data, which the folder keeps.

    It can be taken to a machine that has neither the data sets nor what reads
    them.

    Args:
        work: Path of the folder.
        wanted: Sequence of names of data sets. Defaults to `None`, those that
            the folder keeps, or else all.

    Raises:
        DataNotAvailableError: If one is not prepared on this machine.
        ValueError: If the folder keeps others.
    """
    path, names_path = work / "data.npz", work / "data.json"
    if names_path.is_file():
        names = json.loads(names_path.read_text())
        if wanted is not None and set(wanted) != set(names):
            raise ValueError(
                f"{str(work)!r} keeps the data sets {names}, not "
                f"{list(wanted)}. Name them with `--data`, or another folder "
                "with `--work`."
            )
        like = Data._make(range(len(Data._fields)))
        return load_tree(path, like, _origin(names)), names
    data, names = load_data(wanted or DATA_NAMES)
    save_tree(path, data, _origin(names))
    write_json(work / _NOTES_FILE, data_notes(names))
    write_json(names_path, names)
    return data, names


def kept_notes(work: pathlib.Path) -> dict[str, str]:
    """What the data that the folder keeps have lost, by name.

    Args:
        work: Path of a folder that `kept_data` has written to.
    """
    notes: dict[str, str] = json.loads((work / _NOTES_FILE).read_text())
    return notes


def stage_arena(
    stage: Stage,
    data: Data,
    names: list[str],
    work: pathlib.Path,
    seed: int,
    say: Callable[[str], None],
) -> Arena:
    """A stage with its bank; tuning it takes minutes, so it is kept.

    Args:
        stage: `Stage`.
        data: `Data`.
        names: List of strings, the data sets in it.
        work: Path of the folder that keeps banks.
        seed: Integer, `TRAINING_SEED` or `HELD_OUT_SEED`.
        say: Callable that is given each line of progress.
    """
    held_out = seed >= HELD_OUT_SEED
    count = stage.num_held_out if held_out else stage.num_tasks
    unroll = Unroll(
        FAMILIES[stage.family], data, stage.num_decisions, stage.interval
    )
    path = work / f"bank-{stage.name}-{'held-out' if held_out else 'train'}.npz"
    kind = [stage.family, stage.num_decisions, stage.interval]
    origin = _origin([*kind, unroll.num_weights, count, seed, *names])
    if path.is_file():
        bank = load_tree(path, _bank_structure(), origin)
        return Arena(stage.name, unroll, bank)
    say(f"tuning {count} tasks of {stage.name}")
    bank = make_bank(unroll, count, seed)
    save_tree(path, bank, origin)
    return Arena(stage.name, unroll, bank)


def _origin(made_of: list[Any]) -> str:
    return json.dumps([TASK_VERSION, *made_of])


def _bank_structure() -> Bank:
    task = Task._make(range(len(Task._fields)))
    spec = OptimizerSpec._make(range(len(OptimizerSpec._fields)))
    return Bank(task._replace(optimizer=spec), *([0] * 3))
