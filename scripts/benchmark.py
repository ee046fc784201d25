"""Compare every method on small workloads, side by side, on JAX.

    python scripts/benchmark.py --set smoke

Makes the runs that are missing in `--output`, one JSON a run, and writes the
page from them. An interrupted call goes on where it was. `smoke` takes minutes
on two CPU cores and says nothing about the methods, `cpu` some hours; `full` is
for a GPU or a cluster.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_metalr.benchmark.command_line import report_error
from keras_metalr.benchmark.peers.__main__ import PAGE
from keras_metalr.benchmark.peers.__main__ import RECORDS
from keras_metalr.benchmark.peers.__main__ import main as write_page
from keras_metalr.benchmark.peers.plan import SETS
from keras_metalr.benchmark.peers.schedule import JOBLIB_BACKENDS
from keras_metalr.benchmark.peers.schedule import make_all
from keras_metalr.benchmark.peers.store import save_plan
from keras_metalr.workloads import DataNotAvailableError

SMOKE = pathlib.Path("runs/peers-smoke")


def main(arguments: list[str] | None = None) -> int:
    """Read the flags, make the runs, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--set", choices=tuple(SETS), default="smoke", help="which runs")
    add(
        "--output",
        type=pathlib.Path,
        help=f"folder of the records ({RECORDS}; for smoke {SMOKE})",
    )
    add(
        "--page",
        type=pathlib.Path,
        help=f"the page ({PAGE}; for smoke {SMOKE / PAGE.name})",
    )
    add("--processes", type=int, default=1, help="side by side")
    add("--joblib-backend", choices=JOBLIB_BACKENDS, default="loky")
    options = parser.parse_args(arguments)
    plan = SETS[options.set]
    is_smoke = options.set == "smoke"
    output = options.output or (SMOKE if is_smoke else RECORDS)
    page = options.page or (output / PAGE.name if is_smoke else PAGE)
    try:
        save_plan(plan, output)
        make_all(
            plan,
            output,
            num_processes=options.processes,
            joblib_backend=options.joblib_backend,
        )
    except (DataNotAvailableError, ImportError, ValueError) as error:
        return report_error(error)
    return write_page(["--records", str(output), "--page", str(page)])


if __name__ == "__main__":
    sys.exit(main())
