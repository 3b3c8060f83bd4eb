"""Small helpers for text terminals."""

from __future__ import annotations

from ._stream import Stream
from ._text import clean, columns, fit

__all__ = ["write_static"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def write_static(s: str, stream: TextIO | None = None) -> None:
    """Write a text and put the cursor back to where it was, so that the next output covers it.

    The text is one line: control characters in it are replaced, and on a terminal
    it is cut where it could reach into the next line. A stream that fails is no error.

    Parameters
    ----------
    s : str
        The text.
    stream : text file, optional
        Where to write it, by default `sys.stdout`.
    """
    if stream is None:
        import sys

        stream = sys.stdout
    target = Stream(stream)
    text = clean(s)
    if target.terminal:
        room = max(1, target.size()[0] - 1)
        if columns(text) > room:
            text = fit(text, room, target.style.ellipsis)
    target.write(text + "\b" * columns(text))
