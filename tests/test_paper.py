"""The list of equations is whole, and agrees with the package and the book."""

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

from ntkbook import checks, paper
from ntkbook.errata import ERRATA

BOOK = Path(__file__).resolve().parents[1] / "book"
CHAPTERS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(BOOK.rglob("*.md"))}
DERIVED = pytest.mark.parametrize("entry", paper.derived(), ids=lambda entry: entry.label)


def labels_in(text: str) -> list[int]:
    """Numbers of the equations labelled in a chapter: ``$$ ... $$ (eq-ntk-N)``."""
    return [int(number) for number in re.findall(r"\$\$\s*\(eq-ntk-(\d+)\)", text)]


def checked_in(text: str) -> set[tuple[str, int]]:
    """Pairs of (form of check, equation's number) called in a chapter's code."""
    calls = re.findall(r"\bchecks\.(\w+)\(\s*[\"']([\d, and]+)[\"']", text)
    return {(form, int(number)) for form, name in calls for number in re.findall(r"\d+", name)}


def test_numbering_is_complete():
    assert [entry.number for entry in paper.EQUATIONS] == list(range(1, 76))


def test_repeats_share_one_entry():
    repeats = {entry.number: entry.same_as for entry in paper.EQUATIONS if entry.same_as}
    assert repeats == {31: 13, 37: 14, 49: 15, 51: 24}
    for number, original in repeats.items():
        assert paper.equation(number) is paper.EQUATIONS[original - 1]
        assert paper.EQUATIONS[number - 1].kind == paper.equation(original).kind
        assert paper.EQUATIONS[number - 1].label == f"eq-ntk-{original}"


def test_labels_and_titles():
    own = [entry for entry in paper.EQUATIONS if not entry.same_as]
    assert len({entry.label for entry in own}) == len(own) == 71
    assert len({entry.title for entry in own}) == 71
    assert {entry.kind for entry in own} == {"definition", "claim"}


def test_derived_and_pending_part_the_list():
    numbers = sorted(entry.number for entry in (*paper.derived(), *paper.pending()))
    assert numbers == [entry.number for entry in paper.EQUATIONS if not entry.same_as]
    for entry in paper.pending():
        assert (entry.chapter, entry.function, entry.check, entry.erratum) == (None,) * 4


@pytest.mark.parametrize("number", [0, 76, 1.0, True, "6"])
def test_equations_that_do_not_exist_are_refused(number):
    with pytest.raises(ValueError, match=r"The paper has no equation .* from 1 to 75"):
        paper.equation(number)


@DERIVED
def test_function_of_a_derived_equation_resolves(entry):
    parts = entry.function.split(".")
    found = importlib.import_module(".".join(parts[:2]))
    for name in parts[2:]:
        found = getattr(found, name)
    assert callable(found)
    assert f"eq-ntk-{entry.number}`" in found.__doc__, f"{entry.function} does not cite :eq:`{entry.label}`"


@DERIVED
def test_derived_equation_stands_once_in_its_chapter_and_is_checked_there(entry):
    places = [chapter for chapter, text in CHAPTERS.items() for n in labels_in(text) if n == entry.number]
    assert places == [entry.chapter]
    assert hasattr(checks, entry.check)
    called = checked_in(CHAPTERS[entry.chapter])
    assert (entry.check, entry.number) in called
    if entry.erratum:
        assert ("printed_fails", entry.number) in called


def test_every_labelled_equation_is_listed():
    found = Counter((n, chapter) for chapter, text in CHAPTERS.items() for n in labels_in(text))
    assert found == Counter((entry.number, entry.chapter) for entry in paper.derived())


def test_each_erratum_is_of_a_derived_equation_and_its_page_runs_it():
    text = CHAPTERS["errata"]
    run = {int(n) for names in re.findall(r'entry\(\s*f?"([^"]+)"', text) for n in re.findall(r"\((\d+)\)", names)}
    assert set(ERRATA) == run & set(ERRATA)
    assert run - set(ERRATA) <= {31}  # the repeat of (13)
    assert all(paper.equation(number).chapter for number in ERRATA)


def test_reading_of_labels_and_checks():
    text = '$$ z = Wy $$ (eq-ntk-5)\n\n$$\nx\n$$ (eq-ntk-16)\n{eq}`eq-ntk-7`\nchecks.identity("5", a, b)\n'
    text += 'checks.printed_fails(\n    "74 and 75", a, b, at_least=0.1)\nchecks.identity("footnote 2", a, b)\n'
    assert labels_in(text) == [5, 16]
    assert checked_in(text) == {("identity", 5), ("printed_fails", 74), ("printed_fails", 75)}


def test_numbers_of_the_link_paper():
    assert len(paper.TABLE1) == len(paper.TABLE5) == 14
    assert paper.TABLE1[("vanilla", "nystrom", "image")] == 28.3
    assert paper.TABLE1[("vanilla", "nystrom", "noise")] == 15.2
    assert paper.TABLE1[("unet", "gd", "noise")] == 16.5
    assert paper.TABLE1[("autoencoder", "adam", "image")] == 29.3
    assert paper.TABLE4[(100, "vanilla", "nystrom", "image")] == 22.3
    assert paper.TABLE5[("vanilla", "gd", "noise")] == paper.MoreThan(1_000_000)
    assert paper.TABLE5[("vanilla", "adam", "image")] == 64
    assert paper.TABLE5[("autoencoder", "gd", "image")] == 286042
    assert paper.BASELINES == {"color_nlm": 30.26, "cbm3d": 31.42}
    assert paper.SECONDS[("autoencoder", "adam")] == 806
    # Appendix I.2 states the difference of the first row.
    row = [paper.TABLE4[(5, "autoencoder", "adam", name)] for name in ("image", "noise")]
    assert row[0] - row[1] == pytest.approx(1.8)


def test_weights_follow_from_the_kernel_sizes():
    assert paper.TRAINABLE_WEIGHTS["vanilla"] == 512 * (11 * 11 * 3 + 3)
    assert paper.TRAINABLE_WEIGHTS["autoencoder"] == 128 * (9 * 3 + 7 * 9 * 128 + 3)
    assert paper.TRAINABLE_WEIGHTS["unet"] == paper.TRAINABLE_WEIGHTS["autoencoder"]


@pytest.mark.parametrize("model", paper.SPECTRAL_BIAS_MODELS)
def test_means_of_the_spectral_bias_paper_follow_from_its_images(model):
    cells = [paper.SPECTRAL_BIAS_TABLE2[(image, model)].mean for image in paper.IMAGES]
    assert paper.SPECTRAL_BIAS_TABLE1[model] == pytest.approx(sum(cells) / 9, abs=0.0101)


def test_tables_are_read_only():
    with pytest.raises(TypeError):
        paper.TABLE1[("vanilla", "nystrom", "image")] = 30.0
