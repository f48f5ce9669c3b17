"""The command ``ntkbook``: denoise a picture, run what the plan still lacks, say what is there.

Every bad input gets one sentence on the standard error stream and a non-zero exit code. Whatever needs PyTorch is
imported inside the commands, so that ``--help`` answers at once.
"""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

try:
    import typer

    from ntkbook import cli_plan
    from ntkbook.cli_errors import Commands, DeviceOption, number, whole_option
except ModuleNotFoundError:
    raise SystemExit("ntkbook: the command needs typer, which is not installed; pip install 'ntkbook[cli]'.") from None

if TYPE_CHECKING:
    from ntkbook.restoration import Restoration

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
        whole_option("Twicing iterations; default: chosen by SURE."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="fastest, fast, best (slower) or paper (the whole picture at once).")
    ] = "fast",
    seed: Annotated[int, whole_option("Of the landmarks' draw and of SURE's probe.")] = 0,
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
    from ntkbook.denoise import as_recipe, estimated_sigma, progress_bar
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
    with progress_bar(not quiet, leave=False, disable=None) as report:
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


app.command()(cli_plan.run)
app.command()(cli_plan.status)
app.command()(cli_plan.merge)


def main() -> None:
    """The entry point of the command."""
    app(prog_name="ntkbook")
