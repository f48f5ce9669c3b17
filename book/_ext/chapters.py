"""Where the book's chapters are, and what their outputs depend on.

Shared by the Sphinx extensions, the test collection in the root ``conftest.py`` and the scripts that
``make`` calls.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]

# Hidden notebooks that pytest executes; the site is built from their outputs.
EXECUTED_DIR = ROOT / "notebooks"


def front_matter(source: Path) -> dict[str, Any]:
    """Read the YAML block at the head of a Markdown file.

    Args:
        source: A ``.md`` file.

    Returns:
        The block as a dictionary, empty when there is none.
    """
    text = source.read_text(encoding="utf-8")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    return yaml.safe_load(text[4 : text.index("\n---", 4)]) or {}


def is_executable(source: Path) -> bool:
    """Say whether a Markdown file is a notebook, that is, names a kernel in its front matter."""
    return source.suffix == ".md" and "kernelspec" in front_matter(source)


def table_of_contents(root: Path = ROOT) -> list[Path]:
    """List the pages named in ``_toc.yml``, in reading order.

    Args:
        root: The repository.

    Returns:
        Paths of the ``.md`` sources.
    """
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]]
    for part in toc.get("parts", []):
        names += [chapter["file"] for chapter in part["chapters"]]
    return [root / f"{name}.md" for name in names]


def executable_chapters(root: Path = ROOT) -> list[Path]:
    """List the pages of ``_toc.yml`` that hold code to run, in reading order."""
    return [source for source in table_of_contents(root) if is_executable(source)]


def read_chapter(source: Path) -> nbformat.NotebookNode:
    """Read a MyST Markdown chapter as a notebook without outputs.

    Args:
        source: A ``.md`` file in Jupytext's ``md:myst`` format.

    Returns:
        A notebook of nbformat 4. Cell ids are derived from file and position, so that the same source
        gives the same bytes.
    """
    notebook = jupytext.read(source, fmt="md:myst")
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem}-{position}"[-64:]
    return notebook


def executed_path(source: Path, root: Path = ROOT) -> Path:
    """Name the hidden notebook that holds the outputs of a chapter's tested run."""
    return root / EXECUTED_DIR.name / f".{source.stem}.ipynb"


def stored_mark(root: Path = ROOT) -> Path:
    """Name the file that says for which fingerprint the executed notebooks were stored for the site."""
    return root / EXECUTED_DIR.name / ".fingerprint"


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".part{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _inputs(root: Path) -> Iterator[Path]:
    """Yield the files that a chapter's outputs depend on, besides its own code."""
    yield from sorted((root / "ntkbook").rglob("*.py"))
    yield from sorted(path for path in (root / "results").rglob("*") if path.is_file())
    yield from sorted((root / "benchmarks").glob("*.json"))
    yield from (path for path in [root / "requirements.txt"] if path.exists())


def fingerprint(root: Path = ROOT, scale: str | None = None) -> str:
    """Hash everything outside a chapter that its outputs depend on.

    That is the package, the records, the benchmarks' tables, the pinned versions and the scale of the run.
    jupyter-cache knows only a chapter's own code, so it would keep old numbers after a change in any of these.

    Args:
        root: The repository.
        scale: The value of ``NTKBOOK_SCALE``; read from the environment when ``None``.

    Returns:
        Sixteen hexadecimal digits.
    """
    scale = os.environ.get("NTKBOOK_SCALE", "") if scale is None else scale
    digest = hashlib.sha256(scale.encode())
    for path in _inputs(root):
        digest.update(b"\0" + path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def cache_dir(root: Path = ROOT) -> Path:
    """Name the jupyter-cache that belongs to the present package and records."""
    return root / "_build" / ".jupyter_cache" / fingerprint(root)


def prefer_own_kernel() -> None:
    """Make the kernel called ``python3`` the one of this interpreter.

    Jupyter searches ``JUPYTER_PATH`` first. Without this a kernel of the same name that the system or
    the user has installed can run the chapters with another Python.
    """
    own = str(Path(sys.prefix) / "share" / "jupyter")
    others = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path and path != own]
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, *others])
