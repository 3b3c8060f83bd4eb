"""What a program has to say while operations are shown."""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from _weakref import ref
from io import TextIOBase

from ._stream import Stream

__all__ = ["DisplayStream", "log_handler", "write"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import Handler
    from typing import Any, TextIO

    from ._screen import Screen
    from .progress_display import ProgressDisplay

# The displays that are open, the newest last, by their id().
_open: dict[int, ref[ProgressDisplay]] = {}


def opened(display: ProgressDisplay) -> None:
    """Take note of a display that shows something from now on."""
    key = id(display)

    def gone(_: object) -> None:
        _open.pop(key, None)

    _open[key] = ref(display, gone)


def closed(display: ProgressDisplay) -> None:
    """Take note of a display that shows nothing any more."""
    _open.pop(id(display), None)


def displays() -> list[ProgressDisplay]:
    """The displays that are open, the newest first."""
    found = [reference() for reference in reversed(list(_open.values()))]
    return [display for display in found if display is not None]


def write(text: str, stream: TextIO | None = None) -> None:
    """Print text above the lines of the operations, whoever shows them.

    That is the newest display on the stream, be it one that :func:`~encore.terminal.tracking.track`
    has made for a loop. Without a display the text is printed as it is. A stream that fails is no
    error.

    Parameters
    ----------
    text : str
        One line or several; the line end after the last is optional.
    stream : text file, optional
        Where it is to be seen, by default `sys.stderr`. A display on any other stream is nobody's
        business, unless both are the same terminal.
    """
    if stream is None:
        stream = sys.stderr
    for display in displays():
        if _same(display._screen.stream.file, stream):
            display.write(text)
            return
    text = str(text)
    Stream(stream).write(text if text.endswith("\n") else f"{text}\n")


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or os.path.sameopenfile(one.fileno(), other.fileno())
    except Exception:  # no descriptor; the documents of io allow anything here
        return False


def log_handler(level: int | str = 0, stream: TextIO | None = None) -> Handler:
    """Return a handler that prints the records of loggers as :func:`write` does.

    Parameters
    ----------
    level : int or str
        The least level of the records that are printed.
    stream : text file, optional
        As for :func:`write`.

    Returns
    -------
    logging.Handler
        A new handler, which takes a formatter and filters as any other.
    """
    from ._log_handler import DisplayHandler

    return DisplayHandler(lambda text: write(text, stream), "the newest display", level)


class DisplayStream(TextIOBase):
    """A text stream whose lines are printed above those of the operations.

    An unfinished line is kept, for each thread, until it ends.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._unfinished: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._screen.stream!r}>"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        thread = get_ident()
        whole, end, rest = (self._unfinished.pop(thread, "") + text).rpartition("\n")
        if rest:
            self._unfinished[thread] = rest
        if end:
            self._screen.write(whole + end)
        return len(text)

    def finish(self) -> None:
        """Print what is unfinished."""
        while self._unfinished:
            self._screen.write(self._unfinished.popitem()[1])
