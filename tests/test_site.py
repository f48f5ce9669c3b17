"""The built site on disk: links, outputs, buttons, notebooks. Run by ``make test`` after the build."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chapters
import derived_notebooks
import nbformat
import pytest
from bs4 import BeautifulSoup
from site_pages import CHAPTERS, HTML, PAGES

ALL_HTML = sorted(path for path in HTML.rglob("*.html") if "_static" not in path.parts)


@cache
def parsed(path: Path) -> BeautifulSoup:
    """Read a built page."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path: Path) -> frozenset[str]:
    """List what a fragment can point at on a page."""
    names = [tag.get("id") or tag.get("name") for tag in parsed(path).find_all(lambda t: t.get("id") or t.get("name"))]
    return frozenset(names)


@pytest.mark.parametrize("page", ALL_HTML, ids=lambda path: path.relative_to(HTML).as_posix())
def test_internal_links_resolve(page):
    broken = []
    for tag in parsed(page).find_all(["a", "img", "link", "script", "source"]):
        address = tag.get("href") or tag.get("src")
        if not address or tag.get("rel") == ["canonical"]:
            continue
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if target.is_dir():
            target /= "index.html"
        missing = not target.is_file()
        if not missing and parts.fragment and target.suffix == ".html":
            missing = unquote(parts.fragment) not in anchors(target)
        if missing:
            broken.append(address)
    assert not broken, f"links that lead nowhere: {sorted(set(broken))}"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_built_with_a_title(page):
    heading = parsed(HTML / f"{page}.html").find("h1")
    assert heading is not None
    assert heading.get_text(strip=True)


@pytest.mark.parametrize("page", PAGES)
def test_images_have_alternative_text(page):
    article = parsed(HTML / f"{page}.html").find("article")
    # MyST-NB falls back to the file's name, which tells a reader nothing.
    silent = [
        image["src"]
        for image in article.find_all("img")
        if not image.get("alt", "").strip() or "_images/" in image["alt"] or image["alt"].endswith(".png")
    ]
    assert not silent, f"images without a text (cell metadata `mystnb: image: alt:`): {silent}"


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_is_left_over(page):
    article = parsed(HTML / f"{page}.html").find("article")
    for code in article.find_all(["pre", "code", "script"]):
        code.extract()
    text = article.get_text()
    parsed.cache_clear()  # the tree has been cut
    for mark in ("{eq}", "{cite", "{glue", "{func}", ":::", "Traceback (most recent call last)"):
        assert mark not in text


@pytest.mark.parametrize("page", PAGES)
def test_colab_button_opens_a_derived_notebook(page):
    links = {tag["href"] for tag in parsed(HTML / f"{page}.html").find_all("a", href=True)}
    colab = {link for link in links if "colab" in urlsplit(link).netloc}
    if page not in CHAPTERS:
        assert not colab
        return
    assert colab == {derived_notebooks.colab_url(page, derived_notebooks.site_config())}
    assert (chapters.EXECUTED_DIR / colab.pop().rsplit("/", 1)[-1]).is_file(), "run `make notebooks`"


@pytest.mark.parametrize("page", CHAPTERS)
def test_derived_notebook_is_valid_and_installs_the_package(page):
    path = chapters.EXECUTED_DIR / derived_notebooks.notebook_name(page)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "code"
    assert 'find_spec("ntkbook") is None' in first.source
    assert derived_notebooks.site_config()["repository"]["url"] in first.source
    downloaded = HTML / "_sources" / f"{page}.ipynb"
    assert downloaded.read_text() == path.read_text()


@pytest.mark.parametrize("page", CHAPTERS)
def test_derived_notebook_has_no_myst_left(page):
    notebook = nbformat.read(chapters.EXECUTED_DIR / derived_notebooks.notebook_name(page), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for mark in (":::", "```{", "{eq}`", "{cite", "{func}`", "{glue", "{ref}`", "{numref}`", "{{ "):
                assert mark not in cell.source


@pytest.mark.parametrize("page", CHAPTERS)
def test_page_shows_the_tested_run(page):
    """What the chapter printed under pytest stands on its page, so it was not executed a second time."""
    source = chapters.ROOT / f"{page}.md"
    executed = chapters.executed_path(source)
    mark = chapters.stored_mark()
    if not mark.exists() or mark.read_text().strip() != chapters.fingerprint():
        pytest.skip("the site was not built from the last run of the chapters: run `make test`")
    if executed.stat().st_mtime < source.stat().st_mtime:
        pytest.skip("the chapter has changed since it was tested: run `make test`")
    cells = nbformat.read(executed, as_version=4).cells
    printed = [
        line.strip()
        for cell in cells
        if cell.cell_type == "code" and not {"remove-output", "remove-cell"} & set(cell.metadata.get("tags", []))
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
        for line in output.text.splitlines()
        if line.strip()
    ]
    assert printed, "a chapter prints how long it took"
    text = parsed(HTML / f"{page}.html").get_text()
    assert [line for line in printed if line not in text] == []
