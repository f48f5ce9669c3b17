"""Every page in a browser: no other host, no script error, formulas set, phone width, sliders."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from playwright.sync_api import Browser
from site_pages import HTML, PAGES
from visits import Visit, open_settled, visit_page, watched_page


@pytest.fixture(scope="session")
def visited(browser: Browser, site_url: str) -> Callable[[str], Visit]:
    """Visit a page, once for all tests."""
    context = browser.new_context()
    return cache(lambda name: visit_page(context, site_url, name))


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_of_another_host(visited, name):
    assert visited(name).foreign == []


@pytest.mark.parametrize("name", PAGES)
def test_no_script_error(visited, name):
    assert visited(name).errors == []


@pytest.mark.parametrize("name", PAGES)
def test_formulas_are_typeset(visited, name):
    formulas = visited(name).formulas
    assert formulas["errors"] == []
    assert formulas["raw"] == []
    assert formulas["typeset"] >= formulas["written"]


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(visited, name):
    assert visited(name).overflow == {"excess": 0, "wide": [], "captions": []}


@pytest.mark.parametrize("name", PAGES)
def test_images_load_and_keep_their_grey_values_in_dark_mode(visited, name):
    bad = [image for image in visited(name).images if not image["loaded"] or image["filter"] != "none"]
    assert bad == []


WITH_WIDGETS = [
    name for name in PAGES if "application/vnd.jupyter.widget-view+json" in (HTML / f"{name}.html").read_text()
]

# The frames that a reader sees, as pixels: the widget makes a new address each time it shows a frame.
VISIBLE_FRAMES = """() => JSON.stringify([...document.querySelectorAll('article .jupyter-widgets img')]
  .filter(image => image.getClientRects().length > 0 && getComputedStyle(image).visibility !== 'hidden')
  .filter(image => image.complete && image.naturalWidth > 0)
  .map(image => {
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL();
  }))"""


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_slider_shows_another_picture(browser, site_url, name):
    visit = Visit()
    context = browser.new_context()
    page = watched_page(context, site_url, visit)
    open_settled(page, f"{site_url}/{name}.html")
    handle = page.locator("article .jupyter-widgets .noUi-handle").first
    handle.wait_for(timeout=30_000)
    page.wait_for_function(f"({VISIBLE_FRAMES})() !== '[]'")
    before = page.evaluate(VISIBLE_FRAMES)
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"before => !['[]', before].includes(({VISIBLE_FRAMES})())", arg=before, timeout=10_000)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"before => ({VISIBLE_FRAMES})() === before", arg=before, timeout=10_000)
    assert visit.foreign == []
    assert visit.errors == []
    context.close()
