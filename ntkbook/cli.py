"""The command ``ntkbook``: denoise a picture, run what the plan still lacks, say what is there.

Every bad input gets one sentence on the standard error stream and a non-zero exit code. Whatever needs PyTorch is
imported inside the commands, so that ``--help`` answers at once.
"""

import contextlib
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

try:
    import typer

    from ntkbook.cli_errors import INTERRUPTED, Commands, leave, number, whole_number
except ModuleNotFoundError:
    raise SystemExit("ntkbook: the command needs typer, which is not installed; pip install 'ntkbook[cli]'.") from None

if TYPE_CHECKING:
    from ntkbook.configuration import Configuration
    from ntkbook.records import Record
    from ntkbook.restoration import Restoration

Value = TypeVar("Value")

SECONDS = {"s": 1, "m": 60, "h": 3600}
DeviceOption = Annotated[str, typer.Option(help="auto (cuda where there is one, then cpu), cpu, cuda or cuda:N.")]
ResultsOption = Annotated[
    Path | None, typer.Option(help="Folder of the records; default: $NTKBOOK_RESULTS, or results of the checkout.")
]


def _whole(text: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(parser=whole_number, metavar="<int>", help=text)


app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def _top(ctx: typer.Context) -> None:
    """Denoise a picture with the filter of an infinitely wide network, or run the plan of the book's tables."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


@app.command()
def denoise(
    source: Annotated[Path, typer.Argument(metavar="IN", help="PNG, JPEG, TIFF or WebP; grey or colour.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="8-bit .png, .jpg, .tif or .webp.")],
    sigma: Annotated[
        float | None,
        typer.Option(parser=number, metavar="<number>", help="Noise level on the scale 0 to 255; default: estimated."),
    ] = None,
    iterations: Annotated[
        int | None,
        _whole("Twicing iterations; default: chosen by SURE."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="fastest, fast, best (slower) or paper (the whole picture at once).")
    ] = "fast",
    seed: Annotated[int, _whole("Of the landmarks' draw and of SURE's probe.")] = 0,
    device: DeviceOption = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no line.")] = False,
) -> None:
    """Remove white Gaussian noise from a picture. Nothing is trained: the filter comes from the noisy picture alone.

    The noise level serves only to choose the number of iterations. OUT appears once it is complete.
    """
    from ntkbook.image_files import check_writable

    check_writable(target)
    if sigma is not None and not 0 <= sigma < math.inf:
        raise ValueError(f"--sigma is {sigma:g}; a finite number of 0 or more is needed, on the scale 0 to 255")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; a whole number of 0 or more is needed")
    from ntkbook.denoise import as_recipe, estimated_sigma
    from ntkbook.devices import resolve_device
    from ntkbook.images import read, save
    from ntkbook.restoration import restore

    followed = as_recipe(recipe)
    place = resolve_device(device)
    noisy = read(source)
    started = time.perf_counter()
    noise_std = None if sigma is None else sigma / 255
    if noise_std is None and iterations is None:
        noise_std = estimated_sigma(noisy.numpy())
    with _progress_bar(quiet) as report:
        found = restore(noisy.to(place), noise_std, iterations, followed, seed, report)
        restored = found.image.cpu()
    save(restored, target)
    if not quiet:
        channels, height, width = noisy.shape
        kind = "grey" if channels == 1 else "colour"
        origin = "given" if sigma is not None else "estimated"
        level = "sigma not needed" if noise_std is None else f"sigma {255 * noise_std:.1f} ({origin})"
        seconds = time.perf_counter() - started
        how = _iterations(found, iterations, noise_std)
        typer.echo(f"{target}: {width} x {height} {kind}, {level}, {how}, {seconds:.1f} s on {place}")


def _iterations(found: "Restoration", given: float | None, noise_std: float | None) -> str:
    if given is not None:
        return f"{given} iterations (given)"
    filtered = found.landmarks >= 0
    if not filtered.any():
        reason = "there is no noise" if noise_std == 0 else "SURE expects the filter to be worse than none"
        return f"0 iterations: left as it was, since {reason}"
    low, high = (round(value) for value in (found.iterations[filtered].min().item(), found.iterations.max().item()))
    span = str(low) if low == high else f"{low} to {high}"
    count = len(found.windows.origins)
    where = "" if count == 1 else f" in {count} windows"
    return f"{span} iterations{where} (chosen by SURE, which expects {found.expected_psnr:.1f} dB)"


@contextlib.contextmanager
def _progress_bar(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over the computed columns on a terminal's error stream; it appears with the first of them."""
    if quiet:
        yield None
        return
    from tqdm import tqdm

    bar: tqdm | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit="pixel", unit_scale=True, desc="columns", leave=False, disable=None)
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


@app.command()
def run(
    table: Annotated[str, typer.Argument(help="A table of the plan; `ntkbook status` lists them.")],
    images: Annotated[str | None, typer.Option(help="Only these images, such as house,f16.")] = None,
    sigma: Annotated[str | None, typer.Option(help="Only these noise levels, such as 5,100.")] = None,
    seeds: Annotated[int | None, _whole("Only the noise seeds below this number.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="Only runs with this input: image or noise.")] = None,
    only: Annotated[str | None, typer.Option(help="Only this method, such as nystrom or nlm_fast.")] = None,
    device: DeviceOption = "auto",
    budget: Annotated[str | None, typer.Option(help="Start no run after this time, such as 90s, 8m or 1h.")] = None,
    results: ResultsOption = None,
) -> None:
    """Run the records of TABLE that are missing, one after the other; each is kept as soon as it is done."""
    allowed = math.inf if budget is None else parse_budget(budget)
    from tqdm import tqdm

    from ntkbook.devices import resolve_device
    from ntkbook.experiments import TABLES, run_missing
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
        plan = _narrowed(plan, "--only", [only], lambda c: {c.method, c.settings.get("denoiser", c.method)})
    place = resolve_device(device)
    store = Store(results)
    missing = [configuration for configuration in plan if store.get(configuration) is None]
    if not missing:
        typer.echo(f"nothing to do: all {len(plan)} records asked for are in {store.folder}")
        return
    done = 0
    try:
        with tqdm(total=len(missing), unit="run", desc=table, leave=False, disable=None) as bar:
            for configuration, record in run_missing(missing, store, place, allowed):
                done += 1
                with tqdm.external_write_mode(file=sys.stdout):
                    typer.echo(_finished(configuration, record))
                bar.update()
    except KeyboardInterrupt:
        leave(f"interrupted; {done} of {len(missing)} runs are done and kept in {store.folder}", INTERRUPTED)
    why = f", stopped by the budget of {budget}" if done < len(missing) else ""
    typer.echo(f"{done} of {len(missing)} missing records of {table} made{why}")


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


def _label(configuration: "Configuration") -> str:
    """Method, input, columns or landmarks, as both commands name them."""
    settings = configuration.settings
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


@app.command()
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


def main() -> None:
    """The entry point of the command."""
    app(prog_name="ntkbook")
