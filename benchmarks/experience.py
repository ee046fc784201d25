"""What experience across runs is worth, on small tasks of meta-training.

    KERAS_BACKEND=jax python benchmarks/experience.py

Every task is trained again and again, on other batches each time, with
experience and without. The tasks are members of the families that nothing was
trained on and no constant was chosen on. About ten minutes on two CPU cores.
"""

import argparse
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_metalr import experience
from keras_metalr.benchmark.command_line import SETUP_ERRORS
from keras_metalr.benchmark.command_line import check_counts
from keras_metalr.benchmark.command_line import check_files
from keras_metalr.benchmark.command_line import check_published
from keras_metalr.benchmark.command_line import command_text
from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.identity import controller_mark
from keras_metalr.benchmark.records import write_json
from keras_metalr.benchmark.scoring import block_size
from keras_metalr.benchmark.text import bounds_text
from keras_metalr.controller import Controller
from keras_metalr.meta_training.bank import GRID_RATES
from keras_metalr.meta_training.bank import OTHER_BATCHES
from keras_metalr.meta_training.bank import Bank
from keras_metalr.meta_training.bank import make_bank
from keras_metalr.meta_training.bank import regret
from keras_metalr.meta_training.data import add_data_argument
from keras_metalr.meta_training.data import data_notes
from keras_metalr.meta_training.data import load_data
from keras_metalr.meta_training.evaluation import ControllerVector
from keras_metalr.meta_training.evaluation import summarize
from keras_metalr.meta_training.families import FAMILIES
from keras_metalr.meta_training.schedules import SCHEDULES
from keras_metalr.meta_training.train import check_backend
from keras_metalr.meta_training.unroll import Unroll
from keras_metalr.trace import Trace

SEED = 40_000
NUM_STEPS = 200
RESULT = pathlib.Path(__file__).parent / "results" / "experience.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the loops; print and store what came out."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    check_published(
        parser,
        arguments,
        ("output",),
        ("families", "controllers", "tasks", "runs", "data"),
    )
    # A single run is the first and the last at once.
    check_counts(parser, arguments, {"tasks": 1, "runs": 2})
    try:
        check_backend()
        check_files(arguments.output)
        controllers = {
            name: Controller.from_preset(name) for name in arguments.controllers
        }
        data, names = load_data(arguments.data)
    except SETUP_ERRORS as error:
        raise SystemExit(report_error(error)) from error
    rows = []
    for family in arguments.families:
        unroll = Unroll(FAMILIES[family], data, NUM_STEPS, 1)
        bank = make_bank(unroll, arguments.tasks, SEED)
        for name, controller in controllers.items():
            run = _compiled(unroll, controller)
            regrets = {
                "with": loops(run, bank, arguments.runs),
                "without": loops(run, bank, arguments.runs, learn=False),
            }
            rows.append({"family": family, "controller": name, **_row(regrets)})
            print(rows[-1], flush=True)
    command = command_text("benchmarks/experience.py", argv)
    record = {
        "command": f"KERAS_BACKEND=jax {command}",
        "controllers": {
            name: controller_mark(name) for name in arguments.controllers
        },
        "num_tasks": arguments.tasks,
        "num_runs": arguments.runs,
        "num_steps": NUM_STEPS,
        "num_tuned": len(GRID_RATES) * len(SCHEDULES),
        "data": names,
        "data_notes": data_notes(names),
        "device": jax.devices()[0].device_kind,
        "rows": rows,
    }
    write_json(arguments.output, record)
    _print(rows, block_size(arguments.runs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--families",
        nargs="+",
        choices=tuple(FAMILIES),
        default=["dense", "residual"],
        help="of tasks (default: dense residual)",
    )
    add("--controllers", nargs="+", default=["supervised", "general"])
    add("--tasks", type=int, default=32, help="of each family")
    add("--runs", type=int, default=20, help="of each task, one after another")
    add("--output", type=pathlib.Path, default=RESULT)
    add_data_argument(parser)
    return parser


def _compiled(unroll: Unroll, controller: Controller) -> Callable[..., Any]:
    """From tasks and a shift for each to the loss that each ends with."""
    vector = ControllerVector(controller)
    call = vector.function(vector.start)

    def one(pair: tuple[Bank, jnp.ndarray]) -> jnp.ndarray:
        bank, shift = pair
        result = unroll.controlled(lambda x: call(x) + shift, bank.tasks)
        return result.final_loss

    return jax.jit(
        lambda bank, shifts: jax.lax.map(one, (bank, shifts), batch_size=32)
    )


def loops(
    run: Callable[[Bank, jnp.ndarray], jnp.ndarray],
    bank: Bank,
    num_runs: int,
    learn: bool = True,
) -> np.ndarray:
    """One loop a task, side by side.

    Args:
        run: Callable from a `Bank` and shifts `(num_tasks,)` to final losses.
        bank: `Bank`.
        num_runs: Integer, runs of each task; each has batches of its own.
        learn: Boolean, whether a run learns from those before. Defaults to
            `True`.

    Returns:
        Array of regrets `(num_runs, num_tasks)`.
    """
    count = bank.best_loss.shape[0]
    gathered: list[list[experience.Experience]] = [[] for _ in range(count)]
    regrets = []
    for number in range(1, num_runs + 1):
        seeds = bank.tasks.seed + number * OTHER_BATCHES
        fresh = bank._replace(tasks=bank.tasks._replace(seed=seeds))
        shifts = [
            experience.next_shift(runs) if learn else 0.0 for runs in gathered
        ]
        losses = run(fresh, jnp.asarray(shifts, "float32"))
        regrets.append(regret(losses, bank.best_loss, bank.initial_loss))
        losses = np.where(np.isfinite(losses), losses, np.inf)
        for runs, shift, loss in zip(gathered, shifts, losses, strict=True):
            runs.append(
                experience.Experience(float(loss), "val_loss", shift, Trace())
            )
    return np.asarray(regrets)


def _row(regrets: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over tasks: run by run, and of the first and the last runs."""
    row: dict[str, Any] = {}
    size = block_size(len(regrets["with"]))
    for name, values in regrets.items():
        first = values[:size].mean(axis=0)
        last = values[-size:].mean(axis=0)
        row[name] = {
            "by_run": [round(float(v), 4) for v in values.mean(axis=1)],
            "first": summarize(first),
            "last": summarize(last),
            "last_less_first": summarize(last - first),
        }
    gain = regrets["with"][-size:] - regrets["without"][-size:]
    return {**row, "last_with_less_without": summarize(gain.mean(axis=0))}


def _print(rows: Sequence[dict[str, Any]], size: int) -> None:
    blocks = {
        "first": f"first {size}",
        "last": f"last {size}",
        "last_less_first": "last - first",
    }
    table = Table("family", "controller", "runs", "with", "without")
    for row in rows:
        for block, label in blocks.items():
            table.add_row(
                row["family"],
                row["controller"],
                label,
                *(
                    bounds_text(row[name][block])
                    for name in ("with", "without")
                ),
            )
        table.add_row(
            "",
            "",
            "with - without",
            bounds_text(row["last_with_less_without"]),
            "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
