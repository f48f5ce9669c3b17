"""Making the records of a plan: one run after the other, each kept as soon as it is done.

What is already in the store is not run again, what another process is at is left to it, and a long run that was
stopped or killed goes on from its checkpoint.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ntkbook.checkpoints import Checkpoint, claim
from ntkbook.configuration import Configuration
from ntkbook.experiments import METHODS, RESUMABLE, TABLES, problem
from ntkbook.image_files import encode
from ntkbook.records import Record, provenance
from ntkbook.results import Store
from ntkbook.resumable import Expired


class Finished(NamedTuple):
    """What a run leaves: its record, and the picture that a figure needs, as the bytes of a PNG file."""

    record: Record
    picture: bytes | None


def perform(configuration: Configuration, device: torch.device, checkpoint: Checkpoint) -> Finished | None:
    """Make one run, or go on with it.

    Args:
        configuration: what to run; its method must be one of ``METHODS`` or ``RESUMABLE`` of
            :mod:`ntkbook.experiments`.
        device: where.
        checkpoint: where a resumable run keeps its state, and until when it may go on.

    Returns:
        What it leaves; None when the checkpoint's deadline came first.

    Raises:
        ValueError: the method is not known.
    """
    accepted = (*METHODS, *RESUMABLE)
    if configuration.method not in accepted:
        raise ValueError(f"Unknown method {configuration.method!r}; accepted are {', '.join(accepted)}.")
    given = problem(configuration, device)
    started = time.perf_counter()
    if configuration.method in METHODS:
        outcome = METHODS[configuration.method](configuration, given)
    else:
        try:
            outcome = RESUMABLE[configuration.method](configuration, given, checkpoint)
        except Expired:
            return None
    best = outcome.best
    if best is None:
        best = max(outcome.curve.items(), key=lambda item: item[1])
    record = Record(
        configuration=configuration,
        best_psnr=best[1],
        best_iteration=best[0],
        curve=outcome.curve,
        levels=given.levels,
        seconds=outcome.earlier_seconds + time.perf_counter() - started,
        provenance=provenance(device),
        outcome=outcome.numbers,
    )
    return Finished(record, None if outcome.picture is None else encode(outcome.picture))


def run(configuration: Configuration, device: torch.device) -> Record:
    """The record of one run from its beginning to its end; arguments and errors as in :func:`perform`."""
    return perform(configuration, device, Checkpoint()).record


def checkpoints(store: Store) -> Path:
    """The folder of the checkpoints that belong to a store; it lies beside the store's."""
    return store.folder.parent / ".checkpoints"


def checkpoint_of(configuration: Configuration, folder: Path, deadline: float = math.inf) -> Checkpoint:
    """The checkpoint of a run among others in a folder; the deadline is on the clock of ``time.monotonic``."""
    return Checkpoint(folder / f"{configuration.key}.pt", deadline)


@contextlib.contextmanager
def claim_of(configuration: Configuration, folder: Path) -> Iterator[bool]:
    """The claim to a run, :func:`ntkbook.checkpoints.claim`, beside its checkpoint."""
    with claim(folder / f"{configuration.key}.claim") as ours:
        yield ours


def run_missing(
    configurations: Iterable[Configuration], store: Store, device: torch.device, budget: float = math.inf
) -> Iterator[tuple[Configuration, Record]]:
    """Run what the store does not hold yet, one after the other, and put each record into it when it is done.

    Args:
        configurations: what to run, in order. What another process on the same store is at is passed over.
        store: where records are looked up and added.
        device: where to run.
        budget: seconds after which no further run is started, and a resumable one saves its state and stops.

    Yields:
        Each configuration that was finished, with its record.
    """
    deadline = time.monotonic() + budget
    folder = checkpoints(store)
    for configuration in configurations:
        if time.monotonic() >= deadline:
            return
        checkpoint = checkpoint_of(configuration, folder, deadline)
        if store.get(configuration) is not None:
            if checkpoint.path.exists():  # a kill came between the record and the end of its checkpoint
                checkpoint.discard()
            continue
        with claim_of(configuration, folder) as ours:
            if not ours or store.get(configuration) is not None:
                continue
            finished = perform(configuration, device, checkpoint)
            if finished is None:
                return
            keep(finished, store)
            checkpoint.discard()
        yield configuration, finished.record


def keep(finished: Finished, store: Store) -> None:
    """Put a record and its picture into the store, the picture first: where the record is, all is there."""
    if finished.picture is not None:
        store.add_picture(finished.record.configuration, finished.picture)
    store.add(finished.record)


def coverage(store: Store) -> dict[str, tuple[int, int]]:
    """For each table: how many of its records are there, and how many it plans."""
    held = {record.configuration.key for record in store}
    return {name: (sum(c.key in held for c in plan), len(plan)) for name, plan in TABLES.items()}
