"""Large values of an SqliteStore on their way in.

A stream is a stranger, which may take its time or use the store; so it is copied to a file first,
before the transaction begins. Where it is a file on disk or in memory itself, that is spared.
"""

from __future__ import annotations

import os
from io import BufferedReader, BytesIO, FileIO
from stat import S_ISREG

from ._sqlite_blobs import CHUNK
from .errors import os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ._streams import Readable


def make_temporary_file(folder: str) -> Any:
    """Return an unnamed file in a folder, or elsewhere if that cannot be written."""
    import errno
    import tempfile

    with os_errors():
        try:
            return tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOENT):
                raise
            return tempfile.TemporaryFile()


def stage(chunks: Iterator[bytes], make_file: Any) -> Any:
    """Return what the chunks are together: bytes, or a file if they are too many for a row."""
    held: list[bytes] = []
    total = 0
    for chunk in chunks:
        held.append(chunk)
        total += len(chunk)
        if total > CHUNK:
            break
    else:
        return held[0] if len(held) == 1 else b"".join(held)
    file = make_file()
    try:
        for chunk in held:
            _write(file, chunk)
        held.clear()
        for chunk in chunks:
            _write(file, chunk)
        with os_errors():
            file.flush()
            file.seek(0)
    except BaseException:
        close_quietly(file)
        raise
    return file


def _write(file: Any, chunk: bytes) -> None:
    with os_errors():
        file.write(chunk)


def close_quietly(file: Any) -> None:
    # On a full disk closing fails once more for what is still buffered.
    try:
        file.close()
    except OSError:
        pass


def is_tame(stream: Readable) -> bool:
    """Whether reading runs nobody's code, and ends soon: what is in memory, or a plain file."""
    kind = type(stream)
    if kind is BytesIO:
        return True
    if kind is not FileIO and not (kind is BufferedReader and type(stream.raw) is FileIO):  # type: ignore[attr-defined]
        return False
    try:
        return S_ISREG(os.fstat(stream.fileno()).st_mode)  # type: ignore[attr-defined]
    except (OSError, ValueError):
        # It is closed; whoever reads it will say so.
        return False


def stage_tame(stream: Readable, buffer_size: int) -> Any:
    """Return all data of a tame stream, or what reads them when they are saved, if they are many."""
    begun = b""
    if type(stream) is BytesIO:
        begun = stream.read(min(buffer_size, CHUNK + 1))
        # In memory a short read is the end.
        if len(begun) <= CHUNK and len(begun) < buffer_size:
            return begun
    unstaged = Unstaged(stream, buffer_size, begun)
    small = unstaged.as_small()
    return unstaged if small is None else small


class Unstaged:
    """A tame stream that needs no copy: a file for _save(), which reads it once."""

    def __init__(self, stream: Readable, buffer_size: int, begun: bytes = b"") -> None:
        self._stream = stream
        self._most = min(buffer_size, CHUNK)
        # What has been read of it already, and where it goes on.
        self._begin(begun)
        #: What the stream has raised.
        self.error: BaseException | None = None

    def as_small(self) -> bytes | None:
        """Return all of it if it fits into a row."""
        data = self.read(CHUNK + 1)
        if len(data) <= CHUNK:
            return data
        self._begin(data)
        return None

    def _begin(self, held: bytes) -> None:
        self._held = self._begun = held
        try:
            self._position = self._stream.tell()  # type: ignore[attr-defined]
        except (AttributeError, OSError, ValueError):
            # Reading it will say what is wrong.
            self._position = -1

    def seek(self, position: int) -> None:
        """Begin anew."""
        self._held, self.error = self._begun, None
        if self._position >= 0:
            self._stream.seek(self._position)  # type: ignore[attr-defined]

    def read(self, size: int) -> bytes:
        data, self._held = self._held[:size], self._held[size:]
        try:
            while len(data) < size:
                piece = self._stream.read(min(self._most, size - len(data)))
                if not piece:
                    break
                data = data + piece if data else piece
        except BaseException as error:
            self.error = error
            raise
        return data

    def close(self) -> None:
        """Leave the stream open: it is its owner's."""
