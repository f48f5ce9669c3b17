"""Derive a self-sufficient notebook from each chapter, for Colab and for download.

Its first cell installs the package when it is not there. The text is translated by ``plain_markdown``.
The notebooks hold no outputs. ``make notebooks`` writes them; nothing here is committed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import yaml
from chapters import (
    EXECUTED_DIR,
    ROOT,
    executable_chapters,
    read_chapter,
    table_of_contents,
    write_atomically,
)
from plain_markdown import Context, to_plain_markdown
from pybtex.database import Entry, parse_file

INSTALL_CELL = """\
# Fetch the package and its records when they are not here yet, as on Colab.
import importlib.util
import os
import sys

if importlib.util.find_spec("ntkbook") is None:
    if not os.path.isdir("ntkbook-repository"):
        !git clone --quiet --depth 1 {repository} ntkbook-repository
    %pip install --quiet "./ntkbook-repository[book]"
    sys.path.insert(0, os.path.abspath("ntkbook-repository"))"""


def site_config(root: Path = ROOT) -> dict[str, Any]:
    """Read ``_config.yml``."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


def notebook_name(docname: str) -> str:
    """Name the derived notebook of a page: ``book/denoising`` gives ``denoising.ipynb``."""
    return docname.rsplit("/", 1)[-1] + ".ipynb"


def colab_url(docname: str, config: dict[str, Any]) -> str:
    """Address at which Colab opens a page's derived notebook.

    Args:
        docname: Name of a page, such as ``book/denoising``.
        config: Content of ``_config.yml``; its ``repository.url`` says where the book lives.

    Returns:
        An address on the branch ``notebooks`` of the repository.
    """
    repository = config["repository"]["url"].rstrip("/").removeprefix("https://github.com/")
    colab = config["launch_buttons"]["colab_url"].rstrip("/")
    return f"{colab}/github/{repository}/blob/notebooks/{notebook_name(docname)}"


def _author_year(entry: Entry) -> tuple[str, str]:
    """Shorten a bibliography entry to its authors and year."""
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]]
    names = [re.sub(r"[{}]", "", name) for name in names]
    author = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return author, entry.fields["year"]


def _title(source: Path) -> str:
    """Read a page's first heading."""
    found = re.search(r"^# (.+)$", source.read_text(encoding="utf-8"), re.M)
    return found.group(1).strip() if found else source.stem


def reading_context(source: Path, root: Path = ROOT) -> Context:
    """Collect what a chapter's text refers to: macros, titles, citations, substitutions."""
    config = site_config(root)
    sphinx = config["sphinx"]["config"]
    bibliography = parse_file(str(root / sphinx["bibtex_bibfiles"][0]))
    return Context(
        site_url=config["html"]["baseurl"].rstrip("/") + "/",
        page=source.relative_to(root).with_suffix("").as_posix(),
        macros=sphinx["mathjax3_config"]["tex"]["macros"],
        titles={page.stem: _title(page) for page in table_of_contents(root) if page.exists()},
        citations={key: _author_year(entry) for key, entry in bibliography.entries.items()},
        substitutions=config.get("parse", {}).get("myst_substitutions", {}),
    )


def derive_notebook(source: Path, root: Path = ROOT) -> nbformat.NotebookNode:
    """Derive the notebook of one chapter.

    Args:
        source: The chapter's ``.md`` file.
        root: The repository.

    Returns:
        A valid notebook without outputs, whose first cell installs the package.

    Raises:
        ValueError: If the chapter's text cannot be translated.
    """
    context = reading_context(source, root)
    notebook = read_chapter(source)
    repository = site_config(root)["repository"]["url"]
    install = nbformat.v4.new_code_cell(INSTALL_CELL.format(repository=repository), id=f"{source.stem}-install")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = to_plain_markdown(cell.source, context)
        # Front matter for MyST-NB (captions, alternative texts) means nothing elsewhere.
        cell.metadata.pop("mystnb", None)
    notebook.cells = [install, *notebook.cells]
    notebook.metadata.pop("jupytext", None)
    nbformat.validate(notebook)
    return notebook


def write_notebooks(root: Path = ROOT) -> list[Path]:
    """Write the derived notebook of every chapter into ``notebooks/``.

    Args:
        root: The repository.

    Returns:
        The files written.
    """
    written = []
    for source in executable_chapters(root):
        target = root / EXECUTED_DIR.name / notebook_name(source.stem)
        write_atomically(target, nbformat.writes(derive_notebook(source, root)) + "\n")
        written.append(target)
    return written


if __name__ == "__main__":
    for path in write_notebooks():
        print(path.relative_to(ROOT))
