"""The commands that make and look after records: ``run``, ``status`` and ``merge``."""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ntkbook.cli_errors import INTERRUPTED, DeviceOption, leave, number, whole_option

if TYPE_CHECKING:
    import torch

    from ntkbook.configuration import Configuration
    from ntkbook.records import Record
    from ntkbook.results import Store

Value = TypeVar("Value")

SECONDS = {"s": 1, "m": 60, "h": 3600}
ResultsOption = Annotated[
    Path | None, typer.Option(help="Folder of the records; default: $NTKBOOK_RESULTS, or results of the checkout.")
]


def run(
    table: Annotated[str, typer.Argument(help="A table of the plan; `ntkbook status` lists them.")],
    images: Annotated[str | None, typer.Option(help="Only these images, such as house,f16.")] = None,
    sigma: Annotated[str | None, typer.Option(help="Only these noise levels, such as 5,100.")] = None,
    seeds: Annotated[int | None, whole_option("Only the noise seeds below this number.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="Only runs with this input: image or noise.")] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Only this method or part of a cell, such as nystrom, nlm_fast or autoencoder/adam."),
    ] = None,
    device: DeviceOption = "auto",
    budget: Annotated[
        str | None, typer.Option(help="Stop after this time, such as 90s, 8m or 1h; training goes on from there.")
    ] = None,
    workers: Annotated[int | None, whole_option("Run so many at a time, in processes of their own.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on the workers of this dask scheduler, such as tcp://10.0.0.1:8786.")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Run the records of TABLE that are missing; each is kept as soon as it is done.

    A run that was stopped or killed goes on from its checkpoint, which lies in .checkpoints beside the records' folder.
    """
    allowed = math.inf if budget is None else parse_budget(budget)
    from tqdm import tqdm

    from ntkbook.devices import keep_freed_memory, resolve_device
    from ntkbook.experiments import TABLES
    from ntkbook.results import Store

    if table not in TABLES:
        raise ValueError(f"there is no table {table!r} in the plan; accepted are {', '.join(TABLES)}")
    plan = TABLES[table]
    if images is not None:
        plan = _narrowed(plan, "--images", [name.strip() for name in images.lower().split(",")], lambda c: {c.image})
    if sigma is not None:
        plan = _narrowed(plan, "--sigma", [number(part, "'--sigma'") for part in sigma.split(",")], lambda c: {c.sigma})
    if seeds is not None:
        plan = _narrowed(plan, "--seeds", range(seeds), lambda c: {c.noise_seed}, f"{seeds}, which leaves no run")
    if input_ is not None:
        plan = _narrowed(plan, "--input", [input_], lambda c: {c.input} - {None})
    if only is not None:
        plan = _narrowed(plan, "--only", [only], _names)
    if workers is not None and (scheduler is not None or workers < 1):
        raise ValueError(f"--workers is {workers}; accepted is 1 or more, and not together with --scheduler")
    place = resolve_device(device)
    store = Store(results)
    missing = [configuration for configuration in plan if store.get(configuration) is None]
    if not missing:
        typer.echo(f"nothing to do: all {len(plan)} records asked for are in {store.folder}")
        return
    done = 0
    made = _made(missing, store, place, allowed, workers, scheduler)
    keep_freed_memory()
    try:
        with tqdm(total=len(missing), unit="run", desc=table, leave=False, disable=None) as bar:
            for configuration, record in made:
                done += 1
                with tqdm.external_write_mode(file=sys.stdout):
                    typer.echo(_finished(configuration, record))
                bar.update()
    except KeyboardInterrupt:
        leave(f"interrupted; {done} of {len(missing)} runs are done and kept in {store.folder}", INTERRUPTED)
    why = f", stopped by the budget of {budget}" if done < len(missing) else ""
    typer.echo(f"{done} of {len(missing)} missing records of {table} made{why}")


def _made(
    missing: Sequence["Configuration"],
    store: "Store",
    device: "torch.device",
    budget: float,
    workers: int | None,
    scheduler: str | None,
) -> Iterator[tuple["Configuration", "Record"]]:
    """The missing records as they are made: here, in processes of this machine, or by a scheduler's workers."""
    if workers is None and scheduler is None:
        from ntkbook.runner import run_missing

        return run_missing(missing, store, device, budget)
    from ntkbook.cluster import run_distributed

    return run_distributed(missing, store, str(device), budget, workers=workers, scheduler=scheduler)


def parse_budget(text: str) -> float:
    """Seconds from a text such as ``90s``, ``8m`` or ``1.5h``.

    Raises:
        ValueError: it is not a positive number followed by s, m or h.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = float(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds < math.inf:
        raise ValueError(f"--budget is {text!r}; accepted is a positive number with s, m or h, such as 90s, 8m or 1h")
    return seconds


def _narrowed(
    plan: Sequence["Configuration"],
    option: str,
    wanted: Iterable[Value],
    values: Callable[["Configuration"], set[Value]],
    said: str | None = None,
) -> Sequence["Configuration"]:
    """The part of a plan with one of the wanted values; every wanted value must occur, or some for a range."""
    wanted = list(wanted)
    there = sorted(set().union(*(values(configuration) for configuration in plan)))
    accepted = ", ".join(str(value) for value in there) or "none"
    unknown = [f"{value:g}" if isinstance(value, float) else repr(value) for value in wanted if value not in there]
    kept = [configuration for configuration in plan if values(configuration) & set(wanted)]
    if (said is None and unknown) or not kept:
        raise ValueError(f"{option} is {said or ', '.join(unknown)}; the plan has {accepted}")
    return kept


def _names(configuration: "Configuration") -> set[str]:
    """What ``--only`` may say for a run: its method, its denoiser, and its cell with or without the last parts."""
    from ntkbook.training_runs import cell_of

    settings = configuration.settings
    names = {configuration.method, settings.get("denoiser", configuration.method)}
    if "optimiser" in settings:
        cell = cell_of(configuration)
        names |= {"/".join(cell[:count]) for count in (1, 2, 3)}
    return names


def _label(configuration: "Configuration") -> str:
    """Method, input, columns or landmarks, as both commands name them."""
    from ntkbook.training_runs import cell_of

    settings = configuration.settings
    if "optimiser" in settings:
        cell = cell_of(configuration).name
        return cell if configuration.method == "training" else f"{configuration.method} of {cell}"
    parts = [settings.get("denoiser", configuration.method)]
    if configuration.input is not None:
        parts.append(f"of {configuration.input}")
    if "columns" in settings:
        count = settings["columns"]
        parts.append(f"with {count if count >= 1 else f'{100 * count:g} %'} {settings['selection']} columns")
    if "landmarks" in settings:
        kinds = " or ".join(f"{count} {kind} of {size}x{size}" for kind, count, size in settings["landmarks"])
        windows = "the whole image" if settings["window"] is None else f"windows of {settings['window']}"
        parts.append(f"with {kinds}, {windows}, stages: {settings['stages']}")
    return " ".join(parts)


def _finished(configuration: "Configuration", record: "Record") -> str:
    what = (
        f"{configuration.image}, {_label(configuration)}, sigma {configuration.sigma}, seed {configuration.noise_seed}"
    )
    when = f" at {record.best_iteration} iterations" if record.best_iteration else ""
    return f"{what}: {record.best_psnr:.2f} dB{when}, {record.seconds:.1f} s"


def status(results: ResultsOption = None) -> None:
    """Say which records of each table are there, on what devices they were made, and which are missing."""
    from ntkbook.experiments import TABLES
    from ntkbook.results import Store

    store = Store(results)
    if results is not None and not results.is_dir():
        raise FileNotFoundError(f"there is no folder {results}; --results takes a folder of records")
    held = {record.configuration.key: record for record in store}
    for table, plan in TABLES.items():
        there = sum(configuration.key in held for configuration in plan)
        typer.echo(f"{table}: {there} of {len(plan)}")
        for label in dict.fromkeys(map(_label, plan)):
            part = [configuration for configuration in plan if _label(configuration) == label]
            devices = Counter(held[c.key].provenance.device for c in part if c.key in held)
            missing = Counter(c.image for c in part if c.key not in held)
            line = f"  {label}: {devices.total()} of {len(part)}"
            line += "".join(f", {count} on {device}" for device, count in sorted(devices.items()))
            typer.echo(line + (f"; missing: {_listed(missing)}" if devices and missing else ""))
    typer.echo(f"{len(held)} records in {store.folder}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" if count > 1 else name for name, count in counts.items())


def merge(
    archive: Annotated[Path, typer.Argument(help="A folder of records, or a .tar, .tar.gz, .tar.xz or .zip of one.")],
    results: ResultsOption = None,
) -> None:
    """Take over the records of ARCHIVE: all of them, or none when one is damaged or disagrees with one that is here."""
    from ntkbook.archives import record_folder
    from ntkbook.results import Store

    store = Store(results)
    with record_folder(archive) as folder:
        total = sum(1 for _ in Store(folder))
        new = store.merge(folder)
    typer.echo(f"{new} of {total} records of {archive} were new; {store.folder} has them")
