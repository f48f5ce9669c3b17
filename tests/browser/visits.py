"""One visit of a page by a browser, and everything that was seen on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

FORMULAS = """() => {
  const article = document.querySelector('article');
  const bare = article.cloneNode(true);
  bare.querySelectorAll('pre, code, script, mjx-container').forEach(node => node.remove());
  return {
    written: article.querySelectorAll('.math').length,
    typeset: article.querySelectorAll('mjx-container').length,
    errors: [...article.querySelectorAll('mjx-merror, [data-mjx-error]')]
      .map(node => node.title || node.textContent),
    raw: bare.textContent.match(/\\$\\$|\\\\\\(|\\\\\\[/g) || [],
  };
}"""

IMAGES = """() => [...document.querySelectorAll('article img')].map(image => ({
  source: image.src.slice(0, 80),
  loaded: image.complete && image.naturalWidth > 0,
  filter: getComputedStyle(image).filter,
}))"""

OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  const excess = document.documentElement.scrollWidth - width;
  const wide = [...document.querySelectorAll('article *')]
    .filter(node => node.getBoundingClientRect().right > width + 1)
    .slice(0, 5).map(node => node.tagName + '.' + node.className);
  const captions = [...document.querySelectorAll('article caption')]
    .filter(node => node.getBoundingClientRect().right > width + 1)
    .map(node => node.textContent.slice(0, 60));
  return {excess, wide: excess > 0 ? wide : [], captions};
}"""


@dataclass
class Visit:
    """What a browser saw on one page.

    Attributes:
        foreign: Requests to any other host.
        errors: Script errors and messages of level error.
        formulas: Counts of formulas written and typeset, errors in them, TeX left raw.
        images: For each image: source, whether it loaded, its CSS filter in dark mode.
        overflow: At phone width: pixels by which the page is too wide, some elements that are, and the captions of
            tables that are.
    """

    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    formulas: dict = field(default_factory=dict)
    images: list[dict] = field(default_factory=list)
    overflow: dict = field(default_factory=dict)


def watched_page(context: BrowserContext, site_url: str, visit: Visit) -> Page:
    """Open a tab that writes its requests to other hosts and its errors into ``visit``."""
    page = context.new_page()

    def note_request(request: Request) -> None:
        if not request.url.startswith((site_url, "data:", "blob:")):
            visit.foreign.append(request.url)

    def note_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            visit.errors.append(message.text)

    def note_response(response: Response) -> None:
        if response.status >= 400:
            visit.errors.append(f"{response.status} for {response.url}")

    page.on("request", note_request)
    page.on("response", note_response)
    page.on("console", note_console)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    return page


def open_settled(page: Page, address: str) -> None:
    """Load a page, have it load its images, and wait for its formulas."""
    page.goto(address, wait_until="load")
    page.evaluate("async () => { if (window.MathJax?.startup) await window.MathJax.startup.promise }")
    page.evaluate(
        """async () => {
          const images = [...document.querySelectorAll('article img')];
          images.forEach(image => { image.loading = 'eager' });
          await Promise.allSettled(images.map(image => image.decode()));
        }"""
    )


def visit_page(context: BrowserContext, site_url: str, name: str) -> Visit:
    """Look at one page on a desktop, in dark mode and on a phone.

    Args:
        context: A browser with a fresh profile.
        site_url: Address of the served site.
        name: Page without ``.html``, such as ``book/denoising``.

    Returns:
        What was seen.
    """
    visit = Visit()
    page = watched_page(context, site_url, visit)
    page.set_viewport_size(DESKTOP)
    open_settled(page, f"{site_url}/{name}.html")
    visit.formulas = page.evaluate(FORMULAS)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    visit.images = page.evaluate(IMAGES)
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(200)  # the layout follows the new width
    visit.overflow = page.evaluate(OVERFLOW)
    page.close()
    return visit
