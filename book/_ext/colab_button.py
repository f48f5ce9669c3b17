"""Sphinx extension: the Colab button and the ``.ipynb`` download give the derived notebook.

The theme links Colab to the Markdown source, which Colab cannot open, and offers the executed MyST
notebook for download, whose directives Jupyter does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from chapters import is_executable, write_atomically
from derived_notebooks import colab_url, derive_notebook, site_config
from docutils import nodes
from sphinx.application import Sphinx


def _buttons(group: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield buttons, also those inside groups."""
    for button in group:
        yield button
        yield from _buttons(button.get("buttons", []))


def use_derived_notebook(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Redirect the theme's buttons on a page that has a kernel; on others there is no launch button."""
    root = Path(app.srcdir)
    source = root / f"{pagename}.md"
    if not (source.exists() and is_executable(source)):
        return
    config = site_config(root)
    for button in _buttons(context.get("header_buttons", [])):
        if button.get("text") == "Colab":
            button["url"] = colab_url(pagename, config)
    if context.get("ipynb_source"):
        target = Path(app.outdir) / "_sources" / context["ipynb_source"]
        write_atomically(target, nbformat.writes(derive_notebook(source, root)) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Run after the theme has made its buttons (priority 501)."""
    app.connect("html-page-context", use_derived_notebook, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
