"""What the commands share: how they refuse, one sentence on the standard error stream and a non-zero exit code."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

INTERRUPTED = 130  # the exit code shells use for Ctrl-C
DeviceOption = Annotated[str, typer.Option(help="auto (cuda where there is one, then cpu), cpu, cuda or cuda:N.")]


def leave(sentence: str, code: int) -> NoReturn:
    """Say the sentence on the standard error stream and end the command with this exit code."""
    typer.echo(f"ntkbook: {sentence.rstrip('.')}.", err=True)
    raise typer.Exit(code)


def _sentence(error: Exception) -> str | None:
    """What to tell the user, on one line; None when the error is a bug of ours and deserves its traceback."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "this needs more memory than there is; take a smaller picture, another recipe or another device"
    if hasattr(error, "format_message"):  # what typer itself refuses
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        text = str(error)
    else:
        return None
    return " ".join(text.split())


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        leave("interrupted; nothing was written", INTERRUPTED)
    except BrokenPipeError:  # `ntkbook status | head` is no error
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        leave(sentence, getattr(error, "exit_code", 1))


class Commands(TyperGroup):
    """The group of commands; turns an error of any of them into one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _one_sentence():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_sentence():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands:
            raise ValueError(f"there is no command {args[0]!r}; accepted are {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


def whole_number(text: str) -> int:
    """An option's whole number; typer's own refusal would not name what was given.

    Raises:
        typer.BadParameter: it is not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str, option: str | None = None) -> float:
    """An option's number, likewise; typer adds the option's name where it asks for the number itself.

    Raises:
        typer.BadParameter: it is not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number", param_hint=option) from None


def whole_option(text: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(parser=whole_number, metavar="<int>", help=text)
