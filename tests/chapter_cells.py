"""The cells of a chapter that are tagged `setup` and `check`, run without the rest of it."""

import dataclasses
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import jupytext
import pytest

import ntkbook
from ntkbook.checks import CheckFailed

ONE_PER_CENT_OFF = 1.01


def named_in(source: str) -> frozenset[str]:
    """What a cell checks: equation numbers ("74 and 75" are two), or a name up to its comma ("footnote 2, rows")."""
    names = re.findall(r"\bchecks\.\w+\(\s*[\"']([^\"']+)[\"']", source)
    numbered = re.compile(r"\d+((, | and )\d+)*")
    split = (re.findall(r"\d+", name) if numbered.fullmatch(name) else [name.split(",")[0]] for name in names)
    return frozenset(name for group in split for name in group)


@dataclass(frozen=True)
class CheckCell:
    """A cell tagged `check`: what it names, and its code."""

    names: frozenset[str]
    code: CodeType


@dataclass(frozen=True)
class ChapterCells:
    """The cells of a chapter that its checks need, and the checks."""

    setup: tuple[CodeType, ...]
    checks: tuple[CheckCell, ...]

    def namespace(self) -> dict[str, Any]:
        """The names that the `setup` cells leave behind."""
        names: dict[str, Any] = {"__name__": "__main__"}
        for code in self.setup:
            exec(code, names)
        return names

    def run_checks(self, equation: str | None = None) -> Iterator[CheckFailed | None]:
        """Run each check (that names the equation) on what `setup` alone leaves; yield what it raised, if anything.

        Any other error than CheckFailed is passed on.
        """
        names = self.namespace()
        after_setup = dict(names)
        for cell in self.checks:
            if equation is None or equation in cell.names:
                names.clear()
                names.update(after_setup)
                try:
                    exec(cell.code, names)
                except CheckFailed as failure:
                    yield failure
                else:
                    yield None


def read_cells(path: Path) -> ChapterCells:
    """Read a chapter in Jupytext's ``md:myst`` format."""
    setup, checks = [], []
    for position, cell in enumerate(jupytext.read(path, fmt="md:myst").cells):
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        if "setup" in tags or "check" in tags:
            code = compile(cell.source, f"{path.name}, cell {position}", "exec")
            if "setup" in tags:
                setup.append(code)
            else:
                checks.append(CheckCell(named_in(cell.source), code))
    return ChapterCells(tuple(setup), tuple(checks))


def package_modules() -> list[Any]:
    """Every module of the package, imported now: an import under a mutation would keep the mutant."""
    names = [module.name for module in pkgutil.iter_modules(ntkbook.__path__) if module.name != "__main__"]
    return [importlib.import_module(f"ntkbook.{name}") for name in names]


def scaled(result: Any, part: int | None) -> Any:
    """A result times 1.01: a number or tensor, the items of a collection or an iterator, or one part of a tuple."""
    if part is not None:
        if dataclasses.is_dataclass(result):
            name = dataclasses.fields(result)[part].name
            return dataclasses.replace(result, **{name: scaled(getattr(result, name), None)})
        items = [scaled(item, None) if i == part else item for i, item in enumerate(result)]
        return result._make(items) if hasattr(result, "_make") else tuple(items)
    if isinstance(result, dict):
        return {name: scaled(item, None) for name, item in result.items()}
    if isinstance(result, list):
        return [scaled(item, None) for item in result]
    return result * ONE_PER_CENT_OFF


def shifted(result: Any) -> Any:
    """A tensor plus one per cent of its root mean square: what is zero on average is not any more."""
    return result + (ONE_PER_CENT_OFF - 1) * result.square().mean().sqrt()


def off_by_one_per_cent(function: Callable, part: int | None, shift: bool = False) -> Callable:
    """The function with its result, or one part of a tuple or a dataclass, times 1.01; or shifted by as much."""

    @functools.wraps(function)
    def mutant(*arguments, **named):
        result = function(*arguments, **named)
        return shifted(result) if shift else scaled(result, part)

    return mutant


def mutate(patch: pytest.MonkeyPatch, function: str, part: int | None = None, shift: bool = False) -> None:
    """Put the mutant of a function of the package wherever the package holds it.

    That is its module or class, every module that imported it by name, and the default arguments of functions
    and classes.

    Args:
        patch: undoes it all.
        function: path within the package, such as ``kernels.relu_affinity`` or ``filters.SpectralFilter.apply``.
        part: which part of the result is off, where the result is a tuple or a dataclass.
        shift: add to the result instead of scaling it, for what is zero on average.
    """
    modules = package_modules()
    module, *owners, name = function.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(f"ntkbook.{module}"))
    original = getattr(owner, name)
    mutant = off_by_one_per_cent(original, part, shift)
    patch.setattr(owner, name, mutant)
    for holder in modules:
        for held, value in tuple(vars(holder).items()):
            if value is original:
                patch.setattr(holder, held, mutant)
            called = vars(value).get("__init__") if isinstance(value, type) else value
            defaults = called.__defaults__ if isinstance(called, FunctionType) else None
            if any(default is original for default in defaults or ()):
                replaced = tuple(mutant if default is original else default for default in defaults)
                patch.setattr(called, "__defaults__", replaced)


def notices(cells: ChapterCells, equation: str, function: str, part: int | None = None, shift: bool = False) -> bool:
    """Whether a check that names the equation fails when the function is one per cent off."""
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, function, part, shift)
        return any(failure is not None for failure in cells.run_checks(equation))
