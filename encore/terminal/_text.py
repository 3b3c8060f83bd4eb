"""Text that is safe to show, and how many columns of a terminal it takes.

Columns are not characters: an ideograph takes two, a combining accent none. Where terminals
disagree the greater width is assumed, so that a line may be short but never too long.
"""

from __future__ import annotations

__all__ = ["clean", "columns", "fit", "painted_columns", "printable", "wrap"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST = 2000
"""Characters of a message that are looked at; no terminal shows more in one line."""


def clean(message: object) -> str:
    """One line of text that is safe to show: nothing in it moves the cursor or hides text."""
    try:
        # Exactly a str, since a subclass may do anything when it is compared or formatted.
        text = str.__str__(str(message))[:_LONGEST]
    except Exception:  # a message is foreign code, and no reason to lose the progress
        text = f"<{type(message).__name__}>"
    if text.isprintable():
        return text
    from unicodedata import category

    shown = []
    for char in " ".join(text.split()):
        kind = category(char)
        if (
            kind != "Cf"
        ):  # joiners, marks of direction and the like, which take no column themselves
            shown.append("?" if kind in ("Cc", "Cs") else char)
    return "".join(shown)


def printable(text: str) -> list[str]:
    """The lines of a text of many, with its colours, and nothing else that moves the cursor."""
    lines = []
    for line in text.expandtabs().splitlines() or [""]:
        first, *parts = line.split("\x1b[")
        shown = _harmless(first)
        color = ""
        for part in parts:
            code, end, rest = part.partition("m")
            if end and not code.strip("0123456789;:"):
                color = code
                shown += f"\x1b[{code}m{_harmless(rest)}"
            else:
                shown += f"?[{_harmless(part)}"
        lines.append(f"{shown}\x1b[0m" if color.strip("0;") else shown)
    return lines


def _harmless(text: str) -> str:
    if text.isprintable():
        return text
    from unicodedata import category

    return "".join("?" if category(char) in ("Cc", "Cs") else char for char in text)


def _char_widths(text: str) -> Iterator[int]:
    from unicodedata import category, east_asian_width

    width = 0
    for char in text:
        if char == "\ufe0f":  # asks for the preceding symbol as a picture, two columns wide
            width = 1 if width == 1 else 0
        elif category(char) in ("Mn", "Me"):
            width = 0
        else:
            width = 2 if east_asian_width(char) in "WF" else 1
        yield width


def columns(text: str) -> int:
    """The number of columns that a clean text takes."""
    return len(text) if text.isascii() else sum(_char_widths(text))


def painted_columns(text: str) -> int:
    """The number of columns that a clean text with colours takes."""
    return columns("".join(part.partition("m")[2] for part in f"m{text}".split("\x1b[")))


def _cut(text: str, width: int) -> str:
    """As much of the beginning as fits."""
    kept = 0
    for size in _char_widths(text):
        width -= size
        if width < 0:
            break
        kept += 1
    return text[:kept]


def fit(text: str, width: int, ellipsis: str = "…") -> str:
    """The text in exactly `width` columns: filled up with spaces, or cut, with an ellipsis."""
    taken = columns(text)
    if taken > width:
        text = _cut(text, width - 1) + ellipsis[:width]
        taken = columns(text)
    return text + " " * (width - taken)


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """The text on as many lines as it needs, broken at spaces; those after the first indented."""
    margin = " " * indent if indent < width // 2 else ""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if line and columns(joined) > width >= columns(margin + word):
            lines.append(line)
            joined = margin + word
        line = joined
        while line and len(head := _cut(line, width)) < len(line):  # a word longer than a line
            if head:
                lines.append(head.rstrip())
                line = margin + line[len(head) :].lstrip()
            else:
                line = line[1:]  # what is wider than the terminal cannot be shown
    return [*lines, line] if line.strip() else lines
