"""Put the notebooks that pytest executed into the cache that the site is built from.

Run between ``pytest --nbmake --overwrite book`` and ``jupyter-book build``, so that a chapter runs once
for both and the site shows the outputs that were tested.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from chapters import ROOT, cache_dir, executable_chapters, executed_path, fingerprint, stored_mark, write_atomically
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn


def store_executed(root: Path = ROOT) -> list[str]:
    """Store the executed notebook of every chapter.

    Args:
        root: The repository.

    Returns:
        Names of the chapters stored.

    Raises:
        FileNotFoundError: If a chapter has not been executed.
    """
    directory = cache_dir(root)
    directory.mkdir(parents=True, exist_ok=True)
    cache = get_cache(directory)
    stored = []
    for source in executable_chapters(root):
        path = executed_path(source, root)
        if not path.exists():
            raise FileNotFoundError(
                f"{path.name} is missing: run `pytest --nbmake --overwrite book` before storing its outputs"
            )
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            # nbmake's timestamps would enter the cache's key, which the site computes without them.
            cell.metadata.pop("execution", None)
        cache.cache_notebook_bundle(CacheBundleIn(notebook, uri=str(source)), overwrite=True)
        stored.append(source.stem)
    write_atomically(stored_mark(root), fingerprint(root) + "\n")
    return stored


if __name__ == "__main__":
    try:
        names = store_executed()
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"outputs of {len(names)} chapters kept for the site: {', '.join(names)}")
