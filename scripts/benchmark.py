"""Compare every method on small workloads, side by side, on JAX.

    python scripts/benchmark.py --set smoke

Makes the runs that are missing in `--output`, one JSON per run, times the
methods in turn, and writes the page. An interrupted call goes on where it was.
`smoke` takes minutes on two CPU cores and says nothing about the methods, `cpu`
some hours; `full` is for a GPU or a cluster. `--publish` writes the packed runs
and the page to where the project keeps them. A method or a workload that
has changed leaves its old runs behind: delete them in `--output`, and make them
again without `--resume-published`.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.peers.__main__ import main as write_page
from keras_metalr.benchmark.peers.packed import PAGE
from keras_metalr.benchmark.peers.packed import RECORDS
from keras_metalr.benchmark.peers.packed import pack
from keras_metalr.benchmark.peers.packed import unpack
from keras_metalr.benchmark.peers.plan import SETS
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.schedule import JOBLIB_BACKENDS
from keras_metalr.benchmark.peers.schedule import make_all
from keras_metalr.benchmark.peers.store import save_plan
from keras_metalr.benchmark.peers.timing import time_methods
from keras_metalr.workloads import DataNotAvailableError


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags, make the runs, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--set", choices=tuple(SETS), default="smoke", help="which runs")
    add("--workloads", nargs="+", metavar="NAME", help="these of the set alone")
    add("--seeds", type=int, help="instead of the set's number")
    add(
        "--output",
        type=pathlib.Path,
        help="folder of the runs (runs/peers-SET)",
    )
    add(
        "--resume-published",
        action="store_true",
        help=f"begin with the runs in {RECORDS}, and make what they lack",
    )
    add("--publish", action="store_true", help=f"write {RECORDS} and {PAGE}")
    add("--processes", type=int, default=1, help="side by side")
    add("--joblib-backend", choices=JOBLIB_BACKENDS, default="loky")
    add("--cluster", help="address of a Dask scheduler (a cluster of its own)")
    arguments = parser.parse_args(argv)
    runs = arguments.output or pathlib.Path(f"runs/peers-{arguments.set}")
    packed = RECORDS if arguments.publish else runs / "packed"
    page = PAGE if arguments.publish else runs / PAGE.name
    is_part = arguments.workloads or arguments.seeds is not None
    if arguments.publish and (arguments.set == "smoke" or is_part):
        parser.error(
            "--publish is for all of a set whose figures mean something: leave "
            "--workloads and --seeds out, and name another --set than smoke"
        )
    if keras.backend.backend() != "jax":
        return report_error(
            ValueError(
                "The benchmark runs on JAX. Received: KERAS_BACKEND="
                f"{keras.backend.backend()}. Set KERAS_BACKEND=jax."
            )
        )
    try:
        plan = _plan(arguments)
        save_plan(plan, runs)
        if arguments.resume_published:
            unpack(RECORDS, runs, plan)
        make_all(
            plan,
            runs,
            num_processes=arguments.processes,
            joblib_backend=arguments.joblib_backend,
            cluster=arguments.cluster,
        )
        time_methods(plan, runs)
        pack(plan, runs, packed)
    except (DataNotAvailableError, ImportError, OSError, ValueError) as error:
        return report_error(error)
    return write_page(["--records", str(packed), "--page", str(page)])


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = SETS[arguments.set]
    if arguments.seeds is not None:
        plan = dataclasses.replace(plan, seeds=arguments.seeds)
    if arguments.workloads:
        named = tuple(arguments.workloads)
        # The data of others may not be there.
        timed = tuple(name for name in plan.timed if name in named)
        plan = dataclasses.replace(
            plan, workloads=named, timed=timed or named[:1]
        )
    return plan


if __name__ == "__main__":
    sys.exit(main())
