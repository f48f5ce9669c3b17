"""Let ``pytest --nbmake book`` run the chapters, which are Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Turn each chapter with a kernel into a hidden notebook, and have nbmake run that."""
    if not parent.config.getoption("nbmake", default=False):
        return None
    # Imported here: the package's own tests need neither the book's tools nor nbmake.
    import chapters
    import nbformat
    from nbmake.pytest_items import NotebookFile, NotebookItem

    if file_path.parent != chapters.ROOT / "book" or not chapters.is_executable(file_path):
        return None
    chapters.prefer_own_kernel()
    # From here on the hidden notebooks are no longer those that the site was built from.
    chapters.stored_mark().unlink(missing_ok=True)
    notebook = chapters.executed_path(file_path)
    chapters.write_atomically(notebook, nbformat.writes(chapters.read_chapter(file_path)) + "\n")

    class ChapterFile(NotebookFile):
        # The node keeps the chapter's own path, so that `pytest --nbmake book/twicing.md` finds it.
        def collect(self):
            yield NotebookItem.from_parent(self, filename=str(notebook))

    return ChapterFile.from_parent(parent, path=file_path)
