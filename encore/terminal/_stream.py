"""What a stream can do: terminal, size, colours, characters; and writing that never fails."""

from __future__ import annotations

import os

from ._format import Style

__all__ = ["Stream"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

_PROBE = "━╸─⠋✓✗…"
_DEFAULT_SIZE = (80, 24)
_PIECE = 256
"""Characters that the buffer of a terminal has room for, if it is empty: 1024 bytes on Linux."""


class Stream:
    """A text stream that may be a terminal, may be a file, and may break.

    Parameters
    ----------
    stream : text file or None
        Anything with `write(str)`; `flush`, `isatty`, `fileno` and `encoding` are used where they
        exist and work. None, which `sys.stderr` is in a program without a console, takes everything
        and shows nothing.
    environ : mapping, optional
        The environment, `os.environ` by default.
    """

    __slots__ = (
        "_ascii",
        "_environ",
        "_full",
        "_rest",
        "broken",
        "encoding",
        "file",
        "handed",
        "style",
        "terminal",
    )

    def __init__(self, stream: TextIO | None, environ: Mapping[str, str] | None = None) -> None:
        self.file = stream
        self._environ = environ = os.environ if environ is None else environ
        self._ascii = False
        # What the stream has not got yet, and whether it may have to be flushed before.
        self._rest = ""
        self._full = False
        self.broken = stream is None
        #: Set by `write` when the stream gets the text: what interrupts it later comes too late.
        self.handed = False
        try:
            tty = bool(stream.isatty()) if stream is not None else False
        except Exception:  # no such method, a closed file, or a stand-in that can do nothing
            tty = False
        try:
            encoding = getattr(stream, "encoding", None)
        except Exception:
            encoding = None
        self.encoding: str | None = encoding if isinstance(encoding, str) else None
        term = environ.get("TERM", "")
        #: Whether the cursor can be moved.
        self.terminal = tty and term != "dumb"
        # The console of the Linux kernel has neither heavy lines nor Braille in its fonts.
        unicode = term != "linux" and self._takes(_PROBE)
        # https://no-color.org: set to anything but the empty string.
        self.style = Style(unicode, self.terminal and not environ.get("NO_COLOR"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.file!r})"

    def _takes(self, text: str) -> bool:
        if self.encoding is None:
            return True
        try:
            text.encode(self.encoding)
        except (UnicodeError, LookupError):
            return False
        return True

    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal, as they are now."""
        try:
            fd = self.file.fileno()  # type: ignore[union-attr]
            width, height = os.get_terminal_size(fd)
        except (
            Exception
        ):  # no descriptor, no terminal, closed: the documents of io allow anything here
            width = height = 0
        return width or self._from_environ("COLUMNS", 0), height or self._from_environ("LINES", 1)

    def _from_environ(self, name: str, which: int) -> int:
        try:
            return (
                int(self._environ[name]) if int(self._environ[name]) > 0 else _DEFAULT_SIZE[which]
            )
        except (KeyError, ValueError):
            return _DEFAULT_SIZE[which]

    def legible(self, text: str) -> str:
        """The text with '?' for every character that the stream cannot take.

        Its own error handler would do otherwise, and could write more columns than there are.
        """
        if text.isascii():
            return text
        encoding = "ascii" if self._ascii else self.encoding or "utf-8"
        try:
            return text.encode(encoding, "replace").decode(encoding)
        except LookupError:
            return text.encode("ascii", "replace").decode("ascii")

    def write(self, text: str) -> None:
        """Write and flush; a stream that fails is left alone from then on.

        Characters that it cannot take become '?'. What it cannot take at the moment it gets with
        the next text, or when it is asked whether it is `ready`.
        """
        if not self.broken:
            text = self.legible(text)
            self.handed = True
            self._rest += text
            self.ready()

    def ready(self) -> bool:
        """Whether the stream works and has taken everything."""
        if self.broken:
            return False
        try:
            if self._full:
                self._flush()
            while self._rest:
                # One that does not block loses of a text what its buffer has no room for. What it
                # complains about after a piece of this size is in its buffer.
                size = len(self._rest) if self._blocks() else _PIECE
                piece, self._rest = self._rest[:size], self._rest[size:]
                self._full = True
                self._put(piece)
                self._flush()
        except BlockingIOError:
            return False
        except Exception:  # a pipe without reader, a closed file: nothing a program should end for
            self.broken = True
        return not self.broken

    def drain(self, seconds: float) -> None:
        """Wait until the stream is ready, but not longer than that."""
        if self.ready() or self.broken:
            return
        from select import select
        from time import monotonic

        until = monotonic() + seconds
        try:
            while not self.ready() and not self.broken and (left := until - monotonic()) > 0:
                select([], [self.file], [], left)  # type: ignore[type-var]
        except Exception:  # it has no descriptor to wait for
            pass

    def _blocks(self) -> bool:
        try:
            return os.get_blocking(self.file.fileno())  # type: ignore[union-attr]
        except Exception:
            return True

    def _put(self, text: str) -> None:
        stream = self.file
        if TYPE_CHECKING:
            assert stream is not None
        try:
            stream.write(text)
        except UnicodeEncodeError:
            # It does not take what it said it would.
            self._ascii = True
            self.style = Style(unicode=False, color=self.style.color)
            stream.write(text.encode("ascii", "replace").decode("ascii"))

    def _flush(self) -> None:
        flush = getattr(self.file, "flush", None)
        if flush is not None:
            flush()
        self._full = False
