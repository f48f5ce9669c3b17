"""The built site, as the tests of it see it."""

from __future__ import annotations

import chapters
import pytest

HTML = chapters.ROOT / "_build" / "html"

if not (HTML / "index.html").exists():
    pytest.skip("the site is not built: run `make book` first", allow_module_level=True)

# Pages written from a source of the book, as names such as "book/denoising".
PAGES = [source.relative_to(chapters.ROOT).with_suffix("").as_posix() for source in chapters.table_of_contents()]
CHAPTERS = [source.relative_to(chapters.ROOT).with_suffix("").as_posix() for source in chapters.executable_chapters()]
