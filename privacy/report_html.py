"""HTML from values: every text is escaped unless it is `Html` already, so that nothing in a ledger or a folder becomes markup."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias


class Html(str):
    """Markup that was made here, from escaped parts."""

    __slots__ = ()


Cell: TypeAlias = str | Html


def text(value: str) -> Html:
    """The value as text: escaped, and without characters that do not print or that turn the reading direction around."""
    if isinstance(value, Html):
        return value
    return Html(escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value), quote=True))


def join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def element(name: str, content: Cell, **attributes: str) -> Html:
    """One element; `class_` is written as class, `aria_label` as aria-label."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{text(content)}</{name}>")


def paragraph(*parts: Cell, class_: str = "") -> Html:
    content = join(text(part) for part in parts)
    return element("p", content, class_=class_) if class_ else element("p", content)


def bullets(items: Iterable[Cell]) -> Html:
    return element("ul", join(element("li", item) for item in items))


def code(value: str) -> Html:
    return element("code", value)


def tag(words: str, how: str) -> Html:
    """A verdict in a word, told by the word and not by its colour alone; `how`: good, bad or mind."""
    sign = {"good": "✓", "bad": "✗", "mind": "▲"}[how]
    return element("span", f"{sign} {words}", class_=f"tag {how}")


def table(caption: str, names: Sequence[str], rows: Sequence[Sequence[Cell]], *, kind: str = "") -> Html:
    """A table whose first column heads its rows; a name that begins with "#" heads a column of numbers, with "~" one of words
    that must not be broken. `kind`: "small" fits a telephone, "rounds" is long."""
    kinds = ["n" if name.startswith("#") else "w" if name.startswith("~") else "" for name in names]
    head = join(
        Html(f'<th scope="col"{_class(kind_)}>{text(name.lstrip("#~"))}</th>') for name, kind_ in zip(names, kinds, strict=True)
    )
    body = "".join(_row(row, kinds) for row in rows)
    inside = f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Html(f'<div class="scroll {kind}" role="region" aria-label="{text(caption)}" tabindex="0">{inside}</div>')


def _row(row: Sequence[Cell], kinds: Sequence[str]) -> str:
    first, *rest = row
    cells = "".join(f"<td{_class(kind)}>{text(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
    return f'<tr><th scope="row"{_class(kinds[0])}>{text(first)}</th>{cells}</tr>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
