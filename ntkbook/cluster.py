"""Several runs at a time, on one machine or on many, by dask.distributed (``pip install 'ntkbook[cluster]'``).

The workers run; the process that asked keeps what they send back, so that only it needs the store. A worker that is
killed loses the run it was at, and another worker takes that up: from its checkpoint, where both see the same disk.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ntkbook.configuration import Configuration
from ntkbook.devices import keep_freed_memory, resolve_device
from ntkbook.records import Record
from ntkbook.results import Store
from ntkbook.runner import Finished, checkpoint_of, checkpoints, claim_of, keep, perform


def run_distributed(
    configurations: Sequence[Configuration],
    store: Store,
    device: str,
    budget: float,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Iterator[tuple[Configuration, Record]]:
    """Run what the store does not hold yet on the workers of a cluster.

    Args:
        configurations: what to run, in order of importance.
        store: where records are looked up and added, by this process alone.
        device: of every worker, by name.
        budget: seconds after which no further run is started, and a resumable one saves its state and stops.
        workers: processes to start on this machine, with one thread each; or
        scheduler: address of a running scheduler.

    Yields:
        Each configuration that was finished, with its record, which is in the store by then.

    Raises:
        ModuleNotFoundError: dask.distributed is not installed.
        OSError: there is no scheduler at the address.
    """
    try:
        from distributed import Client, LocalCluster, as_completed
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "--workers and --scheduler need dask.distributed; pip install 'ntkbook[cluster]'"
        ) from None
    end = time.time() + budget
    missing = [configuration for configuration in configurations if store.get(configuration) is None]
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            scheduler = stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            )
        client = stack.enter_context(Client(scheduler))
        folder = str(checkpoints(store).resolve())
        pending = {
            client.submit(_work, configuration, device, folder, end, pure=False, priority=-place): configuration
            for place, configuration in enumerate(missing)
        }
        for future in as_completed(pending):
            sent = future.result()
            if sent is not None:
                finished = Finished(Record.from_json(sent[0]), sent[1])
                keep(finished, store)
                checkpoint_of(finished.record.configuration, checkpoints(store)).discard()
                yield pending[future], finished.record


def _work(configuration: Configuration, device: str, folder: str, end: float) -> tuple[str, bytes | None] | None:
    """One run, on a worker: the text of its record and its picture; None when the time is up or it is not ours."""
    left = end - time.time()
    if left <= 0:
        return None
    keep_freed_memory()
    place = Path(folder) if Path(folder).parent.is_dir() else Path.cwd() / ".checkpoints"  # another machine's disk
    with claim_of(configuration, place) as ours:
        if not ours:
            return None
        checkpoint = checkpoint_of(configuration, place, time.monotonic() + left)
        finished = perform(configuration, resolve_device(device), checkpoint)
    return None if finished is None else (finished.record.to_json(), finished.picture)
