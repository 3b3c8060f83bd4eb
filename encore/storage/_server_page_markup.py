"""HTML, made of elements: all text is escaped here, and nowhere else."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    Content: TypeAlias = "str | Iterable[Content] | None"

__all__ = ["Html", "element", "escape", "join", "text_field"]

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"},
)
_EMPTY = frozenset(("input", "meta"))


class Html(str):
    """Text that is HTML; every other text is escaped before it becomes a part of it."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Return HTML that shows a text; it may also be the value of an attribute in double quotes."""
    return text if isinstance(text, Html) else Html(text.translate(_ESCAPES))


def join(*content: Content) -> Html:
    """Return HTML one after the other; None is nothing, what is iterable is joined too."""
    pieces: list[str] = []
    for each in content:
        if isinstance(each, str):
            pieces.append(escape(each))
        elif each is not None:
            pieces.append(join(*each))
    return Html("".join(pieces))


def element(tag: str, /, *content: Content, **attributes: str | bool | None) -> Html:
    """Return an element.

    Parameters
    ----------
    tag : str
    *content
        As for join().
    **attributes
        An underscore stands for a dash, at the end for nothing. One that is True has no value, one
        that is False or None is left out.
    """
    pieces = [f"<{tag}"]
    for attribute, value in attributes.items():
        if value is None or value is False:
            continue
        pieces.append(f" {attribute.rstrip('_').replace('_', '-')}")
        if value is not True:
            pieces.append(f'="{escape(value)}"')
    pieces.append(">")
    if tag not in _EMPTY:
        pieces.append(join(*content))
        pieces.append(f"</{tag}>")
    return Html("".join(pieces))


def text_field(
    label: str, name: str, value: str | None = None, number: int = 0, hint: Content = None
) -> Html:
    """Return a labelled field of one line, whose text is taken as it is typed.

    Parameters
    ----------
    label, name : str
    value : str, optional
    number : int
        Which one it is of those with this name.
    hint : content, optional
    """
    id_ = f"{name}{number or ''}"
    field = element(
        "input",
        id=id_,
        name=name,
        value=value or None,
        spellcheck="false",
        autocapitalize="off",
        autocomplete="off",
        aria_describedby=f"{id_}-hint" if hint else None,
    )
    about = element("p", hint, id=f"{id_}-hint", class_="hint") if hint else None
    return join(element("label", label, for_=id_), field, about)
