"""Put the notebooks that pytest executed into the cache that the site is built from.

Run between ``pytest --nbmake --overwrite book`` and ``jupyter-book build``, so that a chapter runs once
for both and the site shows the outputs that were tested. With ``--run N`` it first runs what is not in the
cache, N chapters at a time, and nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from chapters import (
    ROOT,
    cache_dir,
    executable_chapters,
    executed_path,
    fingerprint,
    read_chapter,
    stored_mark,
    write_atomically,
)
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn


def store_executed(sources: Iterable[Path], root: Path = ROOT) -> list[str]:
    """Store the executed notebooks of chapters.

    Args:
        sources: The chapters.
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
    for source in sources:
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


def not_stored(root: Path = ROOT) -> list[Path]:
    """List the chapters whose outputs the cache of the present package and records does not hold."""
    directory = cache_dir(root)
    directory.mkdir(parents=True, exist_ok=True)
    cache = get_cache(directory)
    missing = []
    for source in executable_chapters(root):
        try:
            cache.match_cache_notebook(read_chapter(source))
        except KeyError:
            missing.append(source)
    return missing


def main() -> None:
    """Store what was executed, or with ``--run`` execute and store what is missing."""
    parser = argparse.ArgumentParser(description="Put executed chapters into the cache of the site.")
    parser.add_argument("--run", metavar="N", help="first run the chapters that the cache lacks, so many at a time")
    jobs = parser.parse_args().run
    sources = executable_chapters() if jobs is None else not_stored()
    if jobs is not None and sources:
        options = ("-n", jobs, "--nbmake", "--overwrite", "--nbmake-timeout=600")
        done = subprocess.run([sys.executable, "-m", "pytest", *options, *map(str, sources)], cwd=ROOT)
        if done.returncode:
            sys.exit(done.returncode)
    try:
        names = store_executed(sources)
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"outputs of {len(names)} chapters kept for the site: {', '.join(names) or 'all are there'}")


if __name__ == "__main__":
    main()
