"""Sphinx extension: the built site serves MathJax, RequireJS and the widget manager itself.

``fetch_assets.py`` has put them into ``.vendor/``. They are copied into the output when the build is done.
They stay out of the source's ``_static`` folder, since Jupyter Book adds every script found there to every
page. Without ``.vendor/`` the pages use the public CDN, and the log says so.

Jupyter Book also puts Thebe (code run from the page, on a public server) on every page. The book does not
offer it, and its script declares a constant twice, which is a script error: it is left out.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

# Relative to the output's _static folder.
MATHJAX = "vendor/mathjax/es5/tex-mml-chtml.js"
REQUIREJS = "vendor/requirejs/require.js"
# In book/_static; loaded only with the widgets.
WIDGET_PATHS = "widget-paths.js"
MATHJAX_HUB = "mathjax-hub.js"
HTML_MANAGER = "vendor/html-manager/dist/embed-amd.js"


def vendor_dir(app: Sphinx) -> Path:
    """Name the folder of fetched scripts."""
    return Path(app.srcdir) / ".vendor"


def is_fetched(app: Sphinx) -> bool:
    """Say whether all three scripts are in ``.vendor/``."""
    names = (MATHJAX, REQUIREJS, HTML_MANAGER)
    return all((vendor_dir(app) / Path(name).relative_to("vendor")).exists() for name in names)


def point_at_own_copies(app: Sphinx, config: Config) -> None:
    """Replace the CDN addresses by the site's own."""
    config.nb_ipywidgets_js = {MATHJAX_HUB: {}, **config.nb_ipywidgets_js}
    if not is_fetched(app):
        LOGGER.info("`make book` has not fetched .vendor/: the pages will load MathJax and widgets from a CDN")
        return
    config.mathjax_path = MATHJAX
    config.nb_ipywidgets_js = {MATHJAX_HUB: {}, REQUIREJS: {}, WIDGET_PATHS: {}, HTML_MANAGER: {}}


def copy_to_output(app: Sphinx, exception: Exception | None) -> None:
    """Copy the scripts beside the pages."""
    if exception is not None or app.builder.format != "html" or not is_fetched(app):
        return
    target = Path(app.outdir) / "_static" / "vendor"
    shutil.copytree(vendor_dir(app), target, dirs_exist_ok=True)


def leave_out_thebe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Take Thebe's scripts and style sheet off a page."""
    for kind in ("script_files", "css_files"):
        context[kind] = [
            file
            for file in context.get(kind, [])
            if "thebe" not in str(file.filename) and "THEBE_JS_URL" not in str(file.attributes.get("body"))
        ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the handlers."""
    app.connect("config-inited", point_at_own_copies)
    app.connect("html-page-context", leave_out_thebe)
    app.connect("build-finished", copy_to_output)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
