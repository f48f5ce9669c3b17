"""The Sphinx extensions and scripts in ``book/_ext``: what they decide, and one small build."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import chapters
import derived_notebooks
import fetch_assets
import fresh_execution
import nbformat
import pytest
import yaml
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager
from plain_markdown import Context, expand_macros, to_plain_markdown
from store_executed import not_stored, store_executed

FRONT_MATTER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""

CONTEXT = Context(
    site_url="https://example.org/",
    page="book/here",
    macros={"Id": r"\mathrm{I}", "norm": [r"\lVert #1 \rVert", 1]},
    titles={"twicing": "Twicing"},
    citations={"jacot2018ntk": ("Jacot et al.", "2018"), "stein1981": ("Stein", "1981")},
    substitutions={"paper": "the paper"},
)


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    """A repository with a package, a record and pinned versions."""
    for name, text in [
        ("ntkbook/a.py", "VALUE = 1\n"),
        ("results/r.json", "{}"),
        ("requirements.txt", "a==1\n"),
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("changed", ["ntkbook/a.py", "ntkbook/new.py", "results/r.json", "requirements.txt"])
def test_fingerprint_follows_package_and_records(small_root, changed):
    before = chapters.fingerprint(small_root)
    assert chapters.fingerprint(small_root) == before
    (small_root / changed).write_text("VALUE = 2\n")
    assert chapters.fingerprint(small_root) != before


def test_fingerprint_follows_scale_and_not_the_chapters(small_root):
    before = chapters.fingerprint(small_root, scale="quick")
    assert chapters.fingerprint(small_root, scale="paper") != before
    (small_root / "book").mkdir()
    (small_root / "book" / "page.md").write_text("# Page\n")
    assert chapters.fingerprint(small_root, scale="quick") == before


def test_no_page_keeps_a_number_of_an_earlier_package(small_root):
    """Build with the repository's own list of extensions, change the package, and build again."""
    config = yaml.safe_load((chapters.ROOT / "_config.yml").read_text())
    own = {name: str(chapters.ROOT / folder) for name, folder in config["sphinx"]["local_extensions"].items()}
    del own["colab_button"]  # needs the whole book
    small = {"title": "Small", "execute": config["execute"], "sphinx": {"local_extensions": own}}
    (small_root / "_config.yml").write_text(yaml.safe_dump(small))
    (small_root / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    cell = "```{code-cell} ipython3\nfrom pathlib import Path\nprint(Path('ntkbook/a.py').read_text())\n```\n"
    (small_root / "page.md").write_text(f"{FRONT_MATTER}# Page\n\n{cell}")

    def build() -> str:
        script = Path(sys.executable).with_name("jupyter-book")
        run = subprocess.run([script, "build", small_root, "-W"], capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        return (small_root / "_build" / "html" / "page.html").read_text()

    assert "VALUE = 1" in build()
    (small_root / "ntkbook" / "a.py").write_text("VALUE = 2\n")
    page = build()
    assert "VALUE = 2" in page
    assert "VALUE = 1" not in page
    assert len(list((small_root / "_build" / ".jupyter_cache").iterdir())) == 1


def test_a_chapter_is_run_again_when_it_or_the_package_has_changed(small_root):
    (small_root / "_toc.yml").write_text("format: jb-book\nroot: page\nparts:\n- chapters:\n  - file: other\n")
    pages = {name: small_root / f"{name}.md" for name in ("page", "other")}
    for name, page in pages.items():
        page.write_text(f"{FRONT_MATTER}# Page\n\n```{{code-cell}} ipython3\nprint('{name}')\n```\n")
        executed = chapters.read_chapter(page)
        executed.cells[-1] |= {
            "execution_count": 1,
            "outputs": [nbformat.v4.new_output("stream", text=f"{name}\n")],
        }
        chapters.write_atomically(chapters.executed_path(page, small_root), nbformat.writes(executed))
    assert not_stored(small_root) == list(pages.values())
    assert store_executed([pages["page"]], small_root) == ["page"]
    assert not_stored(small_root) == [pages["other"]]
    store_executed([pages["other"]], small_root)
    assert not_stored(small_root) == []
    pages["page"].write_text(pages["page"].read_text().replace("print('page')", "print('changed')"))
    assert not_stored(small_root) == [pages["page"]]
    (small_root / "ntkbook" / "a.py").write_text("VALUE = 2\n")
    assert not_stored(small_root) == list(pages.values())
    chapters.executed_path(pages["page"], small_root).unlink()
    with pytest.raises(FileNotFoundError, match=r"\.page\.ipynb is missing: run `pytest --nbmake --overwrite book`"):
        store_executed(pages.values(), small_root)


def test_pages_are_outdated_once_after_a_change(small_root):
    app = SimpleNamespace(srcdir=str(small_root))
    env = SimpleNamespace(found_docs={"page", "api"})
    assert fresh_execution.outdate_pages(app, env, set(), set(), set()) == ["api", "page"]
    assert fresh_execution.outdate_pages(app, env, set(), set(), set()) == []
    (small_root / "results" / "r.json").write_text('{"psnr": 28.7}')
    assert fresh_execution.outdate_pages(app, env, set(), set(), set()) == ["api", "page"]


def test_kernel_is_this_interpreter(monkeypatch, tmp_path):
    """A kernel of the same name elsewhere on Jupyter's path is not taken."""
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["/nowhere/python"], "display_name": "other"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    chapters.prefer_own_kernel()
    specs = KernelSpecManager()
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=specs)
    assert manager.format_kernel_cmd()[0] == sys.executable


def test_chapter_ids_are_reproducible(tmp_path):
    source = tmp_path / "page.md"
    source.write_text(FRONT_MATTER + "# Page\n\n```{code-cell} ipython3\n:tags: [check]\n1 + 1\n```\n")
    first, second = chapters.read_chapter(source), chapters.read_chapter(source)
    assert nbformat.writes(first) == nbformat.writes(second)
    assert first.cells[1].metadata["tags"] == ["check"]
    assert chapters.is_executable(source)


def test_page_without_kernel_is_not_executable(tmp_path):
    source = tmp_path / "notation.md"
    source.write_text("# Notation\n\n---\n\nkernelspec: no\n")
    assert not chapters.is_executable(source)


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("By {eq}`eq-ntk-16` and {eq}`eq-sb-rate`.", "By (16) and (sb-rate)."),
        ("$$\n\\Id y\n$$ (eq-ntk-6)", "$$\n\\mathrm{I} y \\tag{6}\n$$"),
        ("$\\norm{\\Id x}$ costs 3", "$\\lVert \\mathrm{I} x \\rVert$ costs 3"),
        (
            "{cite:t}`stein1981`; {cite:p}`stein1981,jacot2018ntk`",
            "Stein (1981); (Stein, 1981; Jacot et al., 2018)",
        ),
        ("{doc}`twicing`", "[Twicing](https://example.org/book/twicing.html)"),
        ("{func}`~ntkbook.filters.apply` {class}`ntkbook.A`", "`apply` `ntkbook.A`"),
        ("(sec-a)=\n## A\n% a comment\n{{ paper }}", "## A\nthe paper"),
        (":::{note}\n:class: x\n\nText.\n:::", "> **Note**\n>\n> Text."),
        (":::{admonition} Exercise 1\nShow $\\Id$.\n:::", "> **Exercise 1**\n>\n> Show $\\mathrm{I}$."),
        ("::::{note}\n:::{tip}\nInner.\n:::\n::::", "> **Note**\n>\n> > **Tip**\n> >\n> > Inner."),
        (
            ":::{dropdown} Proof\nClear.\n:::",
            "<details>\n<summary>Proof</summary>\n\nClear.\n\n</details>",
        ),
        ("```python\n{eq}`kept`\n```", "```python\n{eq}`kept`\n```"),
    ],
)
def test_plain_markdown(myst, plain):
    assert to_plain_markdown(myst, CONTEXT) == plain


def test_unknown_citation_is_refused():
    with pytest.raises(ValueError, match="nobody1900"):
        to_plain_markdown("{cite:p}`nobody1900`", CONTEXT)


def test_circular_macros_are_refused():
    with pytest.raises(ValueError, match="circle"):
        expand_macros(r"\a", {"a": r"\b", "b": r"\a"})


def test_colab_address_follows_the_configuration():
    config = {
        "repository": {"url": "https://github.com/someone/fork"},
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
    url = derived_notebooks.colab_url("book/twicing", config)
    assert url == "https://colab.research.google.com/github/someone/fork/blob/notebooks/twicing.ipynb"


def test_repository_is_named_once():
    """The address in pyproject.toml and in CITATION.cff is the one of _config.yml."""
    url = derived_notebooks.site_config()["repository"]["url"]
    for name in ("pyproject.toml", "CITATION.cff"):
        assert f'"{url}"' in (chapters.ROOT / name).read_text()


def test_download_with_another_hash_is_refused(tmp_path):
    archive = tmp_path / "a.tgz"
    archive.write_bytes(b"content")
    good = "sha512-" + base64.b64encode(hashlib.sha512(b"content").digest()).decode()
    fetch_assets.check_integrity(archive, good)
    archive.write_bytes(b"other content")
    with pytest.raises(ValueError, match="expects sha512"):
        fetch_assets.check_integrity(archive, good)


def test_unpack_takes_only_the_parts_asked_for(tmp_path):
    archive = tmp_path / "a.tgz"
    with tarfile.open(archive, "w:gz") as bundle:
        for name in ["package/es5/a.js", "package/es5/fonts/f.woff", "package/README.md", "../escape.js"]:
            member = tarfile.TarInfo(name)
            member.size = 1
            bundle.addfile(member, io.BytesIO(b"x"))
    assert fetch_assets.unpack(archive, tmp_path / "out", ("es5/a.js", "es5/*/*.woff")) == 2
    assert (tmp_path / "out/es5/fonts/f.woff").exists()
    assert not (tmp_path / "out/README.md").exists()
    assert not (tmp_path / "escape.js").exists()
