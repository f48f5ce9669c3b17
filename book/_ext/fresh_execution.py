"""Sphinx extension: no page keeps a number that the present package would not give.

jupyter-cache is keyed on a chapter's code and Sphinx's stored pages on its text. Both miss a change in
``ntkbook/`` or ``results/``. Here both are keyed on a hash of these folders as well: the cache by living in
a folder named by the hash, the stored pages by being read again when the hash has changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from chapters import cache_dir, fingerprint, prefer_own_kernel
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def use_matching_cache(app: Sphinx, config: Config) -> None:
    """Point MyST-NB at the cache of the present hash and drop the caches of earlier ones."""
    prefer_own_kernel()
    cache = cache_dir(Path(app.srcdir))
    for old in cache.parent.glob("*/"):
        if old != cache:
            LOGGER.info("package or records changed: dropping the outputs kept in %s", old.name)
            shutil.rmtree(old)
    cache.mkdir(parents=True, exist_ok=True)
    config.nb_execution_cache_path = str(cache)


def outdate_pages(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Have every page read again when the hash differs from that of the last build.

    Returns:
        Names of all pages, or of none.
    """
    present = fingerprint(Path(app.srcdir))
    if getattr(env, "ntkbook_fingerprint", None) == present:
        return []
    env.ntkbook_fingerprint = present
    return sorted(env.found_docs)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the two handlers."""
    app.connect("config-inited", use_matching_cache)
    app.connect("env-get-outdated", outdate_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
