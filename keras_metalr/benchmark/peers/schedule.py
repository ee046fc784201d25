"""Makes all runs of a plan: cell by cell, in as many processes as asked for."""

import contextlib
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_metalr.benchmark.experiment import JobProgress
from keras_metalr.benchmark.peers.cell import missing_runs
from keras_metalr.benchmark.peers.cell import read_runs
from keras_metalr.benchmark.peers.cell import run_cell
from keras_metalr.benchmark.peers.plan import Cell
from keras_metalr.benchmark.peers.plan import Plan
from keras_metalr.benchmark.peers.plan import sweep_cells
from keras_metalr.benchmark.peers.plan import tuning_cells
from keras_metalr.benchmark.peers.summary import best_start
from keras_metalr.benchmark.peers.timing import timed_workload
from keras_metalr.workloads.suite import SUITE

JOBLIB_BACKENDS = ("loky", "dask", "sequential")
_MISSING = (
    "The benchmark shares its runs out with joblib. Install it with "
    "`pip install joblib`."
)


def make_all(
    plan: Plan,
    output: Path,
    *,
    num_processes: int = 1,
    joblib_backend: str = "loky",
    cluster: str | None = None,
    console: Console | None = None,
) -> None:
    """Tune what is tuned, then make the runs that are compared.

    Runs that have a record are not made again, so an interrupted call goes on
    where it was.

    Args:
        plan: `Plan`.
        output: Path of the folder for the records.
        num_processes: Integer (>= 1). Defaults to `1`.
        joblib_backend: String, `"loky"` (processes of this machine), `"dask"`
            (workers of a Dask cluster), or `"sequential"` (this process).
            Defaults to `"loky"`.
        cluster: String, the address of the scheduler of a Dask cluster, whose
            workers must see `output` under the same path. Defaults to `None`,
            a cluster of `num_processes` workers on this machine.
        console: `rich.console.Console` for progress. Defaults to `None`, the
            terminal.

    Raises:
        DataNotAvailableError: If the data of a workload are missing, or of one
            that is timed; found before the first run, unless other machines
            are to make it.
        ImportError: If joblib, or for `"dask"` Dask, is missing.
        ValueError: If `joblib_backend` is unknown, or does not go with
            `cluster`.
    """
    if joblib_backend not in JOBLIB_BACKENDS:
        raise ValueError(
            f"`joblib_backend` must be one of {JOBLIB_BACKENDS}. "
            f"Received: joblib_backend={joblib_backend!r}."
        )
    if cluster is not None and joblib_backend != "dask":
        raise ValueError(
            "`cluster` goes with `joblib_backend='dask'`. Received: "
            f"cluster={cluster!r}, joblib_backend={joblib_backend!r}."
        )
    if cluster is None:
        for name in plan.workloads:
            SUITE[name].load_data()
    for name in plan.timed:
        timed_workload(name).load_data()
    console = console or Console()
    output = output.resolve()
    make = _Maker(output, num_processes, joblib_backend, console)
    with _client(joblib_backend, cluster, num_processes):
        make("tuning", tuning_cells(plan))
        make("sweep", sweep_cells(plan, tuned_starts(plan, output)))


def tuned_starts(plan: Plan, output: Path) -> dict[tuple[str, str], float]:
    """The best start of every method that is tuned, by its trials' mean loss.

    Args:
        plan: `Plan`.
        output: Path of the folder with the records of its trials.
    """
    return {
        (cell.workload, cell.method): best_start(read_runs(cell, output))
        for cell in tuning_cells(plan)
    }


class _Maker:
    """Shares cells out to processes, with a bar that says how long it takes."""

    def __init__(
        self, output: Path, num_processes: int, backend: str, console: Console
    ) -> None:
        self._output = output
        self._num_processes = num_processes
        self._backend = backend
        self._console = console

    def __call__(self, title: str, cells: Sequence[Cell]) -> None:
        counts = {cell: len(missing_runs(cell, self._output)) for cell in cells}
        weights = [float(counts[cell] or cell.num_runs) for cell in cells]
        with JobProgress(self._console, weights) as progress:
            for cell, weight in zip(cells, weights, strict=True):
                if not counts[cell]:
                    progress.found(weight)
            missing = [cell for cell in cells if counts[cell]]
            progress.start(title)
            for cell in self._made(missing):
                progress.made(float(counts[cell]))
                made = f"{title}: {cell.workload}, {cell.method}"
                progress.start(made)
                # A file of output shows no bar before its end.
                if not self._console.is_terminal:
                    progress.print(f"{made}{progress.minutes_left}")

    def _made(self, cells: Sequence[Cell]) -> Iterable[Cell]:
        if self._backend == "sequential":
            yield from (_run(cell, self._output) for cell in cells)
            return
        try:
            import joblib
        except ImportError as error:
            raise ImportError(_MISSING) from error
        is_local = self._backend == "loky"
        # Dask is known to joblib once a context asks for it.
        with joblib.parallel_config(self._backend, n_jobs=self._num_processes):
            parallel = joblib.Parallel(
                # Only joblib's own backends hand results over one by one.
                return_as="generator_unordered" if is_local else "list",
                batch_size=1,
            )
            yield from parallel(
                joblib.delayed(_run)(cell, self._output) for cell in cells
            )


def _client(
    backend: str, cluster: str | None, num_processes: int
) -> contextlib.AbstractContextManager[Any]:
    """The connection that joblib's Dask backend works through."""
    if backend != "dask":
        return contextlib.nullcontext()
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "The backend 'dask' needs Dask. Install it with "
            '`pip install "dask[distributed]"`.'
        ) from error
    if cluster is not None:
        return Client(cluster)  # type: ignore[no-any-return]
    return Client(  # type: ignore[no-any-return]
        n_workers=num_processes, threads_per_worker=1, dashboard_address=None
    )


def _run(cell: Cell, output: Path) -> Cell:
    run_cell(cell, output)
    return cell
