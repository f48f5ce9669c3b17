"""Turn a chapter's MyST Markdown into Markdown that Jupyter and Colab show well.

The chapters keep to a small part of MyST (roles, labelled equations, admonitions, figures), and only this
part is translated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

FENCE = re.compile(r"^(?P<mark>:{3,}|`{3,})\{(?P<name>[^}]+)\}[ \t]*(?P<title>.*)$")
OPTION = re.compile(r"^:[\w-]+:.*$")
LABELLED_MATH = re.compile(r"\$\$(?P<body>.+?)\$\$[ \t]*(?:\((?P<label>[\w:.-]+)\))?[ \t]*$", re.S | re.M)
MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?!\s)[^$\n]+(?:\n[^$\n]+)*?\$", re.S)
ROLE = re.compile(r"\{(?P<name>[\w:-]+)\}`(?P<body>[^`]+)`")
TITLED = re.compile(r"^(?P<title>.*?)\s*<(?P<target>[^<>]+)>$", re.S)
# Text inside which nothing is a role or a macro.
CODE = re.compile(r"(^```.*?^```[ \t]*$)", re.S | re.M)


@dataclass(frozen=True)
class Context:
    """What the text refers to outside itself.

    Attributes:
        site_url: Address of the published book, ending in ``/``.
        page: Name of the page below ``site_url``, such as ``book/denoising``.
        macros: TeX macros: a replacement, or a replacement and its number of arguments.
        titles: Titles of the pages by name of file without folder.
        citations: Author-year text by bibliography key, as ``("Jacot et al.", "2018")``.
        substitutions: MyST substitutions by name.
    """

    site_url: str
    page: str
    macros: dict[str, str | list] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    citations: dict[str, tuple[str, str]] = field(default_factory=dict)
    substitutions: dict[str, str] = field(default_factory=dict)


def equation_tag(label: str) -> str:
    """Give the short name of an equation: the paper's number for ``eq-ntk-16``, else the label itself."""
    return re.sub(r"^eq-(ntk-)?", "", label)


def _braced(text: str, start: int) -> tuple[str, int]:
    """Read one TeX argument at ``start``: a braced group, a command or a character."""
    while start < len(text) and text[start].isspace():
        start += 1
    if start >= len(text):
        return "", start
    if text[start] != "{":
        token = re.compile(r"\\[A-Za-z]+|.", re.S).match(text, start)
        assert token is not None  # start lies inside the text
        return token.group(), token.end()
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position], position + 1
    raise ValueError(f"unbalanced braces in the formula {text!r}")


def expand_macros(formula: str, macros: dict[str, str | list]) -> str:
    """Write out TeX macros, since a notebook has no shared list of them.

    Args:
        formula: TeX without its dollar signs.
        macros: As in :class:`Context`.

    Returns:
        The formula with every macro replaced, also inside arguments.

    Raises:
        ValueError: If braces do not balance, or the macros refer to each other in a circle.
    """
    pattern = re.compile(r"\\(" + "|".join(map(re.escape, macros)) + r")(?![A-Za-z])") if macros else None
    for _ in range(200):
        found = pattern.search(formula) if pattern else None
        if found is None:
            return formula
        definition = macros[found.group(1)]
        body, count = (definition, 0) if isinstance(definition, str) else (definition[0], int(definition[1]))
        position = found.end()
        for number in range(1, count + 1):
            argument, position = _braced(formula, position)
            body = body.replace(f"#{number}", argument)
        before, after = formula[: found.start()], formula[position:]
        # An operator keeps its spacing and limits when it is not put in braces; a script needs them.
        if before.rstrip().endswith(("_", "^")):
            body = "{" + body + "}"
        elif body[-1].isalpha() and after[:1].isalpha():
            body += " "
        formula = before + body + after
    raise ValueError(f"macros that refer to each other in a circle, in {formula[:60]!r}")


def _mathematics(text: str, context: Context) -> str:
    """Expand macros and turn the labels of display equations into tags."""

    def tag(match: re.Match[str]) -> str:
        body, label = match["body"], match["label"]
        if label is None:
            return f"$${body}$$"
        if re.search(r"\\begin\{(align|gather|equation)\*?\}", body):
            return f"$${body}$$\n\n({equation_tag(label)})"
        return f"$${body.rstrip()} \\tag{{{equation_tag(label)}}}\n$$"

    text = LABELLED_MATH.sub(tag, text)
    return MATH.sub(lambda match: expand_macros(match.group(), context.macros), text)


def _cite(body: str, textual: bool, context: Context) -> str:
    """Write a citation as author and year."""
    parts = []
    for key in re.split(r"\s*,\s*", body.strip()):
        if key not in context.citations:
            raise ValueError(f"{context.page} cites {key!r}, which references.bib does not have")
        author, year = context.citations[key]
        parts.append(f"{author} ({year})" if textual else f"{author}, {year}")
    return ", ".join(parts) if textual else f"({'; '.join(parts)})"


def _role(match: re.Match[str], context: Context) -> str:
    """Write one MyST role as plain Markdown."""
    name, body = match["name"], match["body"].strip()
    here = f"{context.site_url}{context.page}.html"
    titled = TITLED.match(body)
    title, target = (titled["title"], titled["target"]) if titled else ("", body)
    if name == "eq":
        return f"({equation_tag(target)})"
    if name.startswith("cite"):
        return _cite(body, name in {"cite:t", "cite:ts"}, context)
    if name == "doc":
        slug = target.rsplit("/", 1)[-1]
        return f"[{title or context.titles.get(slug, slug)}]({context.site_url}book/{slug}.html)"
    if name in {"ref", "numref"}:
        return f"[{title or target.replace('-', ' ')}]({here})"
    if name.startswith("glue"):
        return f"[`{body.split(':')[0]}`]({here})"
    if name == "math":
        return f"${body}$"
    if name.split(":")[-1] in {"func", "class", "mod", "meth", "attr", "data", "exc", "obj"}:
        if title:
            return f"`{title}`"
        return f"`{target.rsplit('.', 1)[-1]}`" if target.startswith("~") else f"`{target}`"
    return f"`{body}`"


def _quote(lines: list[str]) -> list[str]:
    """Set lines as a block quotation."""
    return [f"> {line}".rstrip() for line in lines]


def _directive(name: str, title: str, body: list[str], context: Context) -> list[str]:
    """Write the content of one directive as plain Markdown lines."""
    here = f"{context.site_url}{context.page}.html"
    if name == "math":
        return ["$$", *body, "$$"]
    if name == "dropdown":
        return ["<details>", f"<summary>{title or 'Details'}</summary>", "", *body, "", "</details>"]
    if name in {"figure", "image"}:
        return [*body, "", f"*(figure on [the page]({here}))*"]
    if name.startswith("glue"):
        return [f"*(the value or figure `{title}` is computed by the code)*"]
    if name in {"table", "list-table", "csv-table"}:
        return [f"**{title}**", "", *body] if title else body
    if name in {"bibliography", "contents", "tableofcontents", "toctree"} or name.startswith("auto"):
        return [f"*(see [the page]({here}))*"]
    heading = title if name == "admonition" or not title else f"{name.capitalize()}: {title}"
    return _quote([f"**{heading or name.capitalize()}**", "", *body])


def _directives(lines: list[str], context: Context) -> list[str]:
    """Replace directives, inner ones first."""
    result: list[str] = []
    position = 0
    while position < len(lines):
        opened = FENCE.match(lines[position])
        position += 1
        if opened is None:
            result.append(lines[position - 1])
            continue
        closing = re.compile(rf"^{re.escape(opened['mark'])}[ \t]*$")
        end = position
        while end < len(lines) and not closing.match(lines[end]):
            end += 1
        body = lines[position:end]
        while body and OPTION.match(body[0]):
            body.pop(0)
        inner = _directives(body, context)
        while inner and not inner[0].strip():
            inner.pop(0)
        result += _directive(opened["name"], opened["title"].strip(), inner, context)
        position = end + 1
    return result


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to everything but fenced code."""
    parts = CODE.split(text)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def to_plain_markdown(text: str, context: Context) -> str:
    """Translate one Markdown cell.

    Args:
        text: MyST Markdown.
        context: What it refers to.

    Returns:
        Markdown without directives, roles, labels, comments, substitutions or private TeX macros.

    Raises:
        ValueError: If a citation is unknown or a formula's braces do not balance.
    """
    text = "\n".join(_directives(text.split("\n"), context))

    def change(part: str) -> str:
        part = re.sub(r"^\([\w:.-]+\)=[ \t]*\n?", "", part, flags=re.M)
        part = re.sub(r"^%.*\n?", "", part, flags=re.M)
        for name, value in context.substitutions.items():
            part = re.sub(r"\{\{\s*" + re.escape(name) + r"\s*\}\}", lambda _, value=value: str(value), part)
        part = _mathematics(part, context)
        return ROLE.sub(lambda match: _role(match, context), part)

    return _outside_code(text, change).strip("\n")
