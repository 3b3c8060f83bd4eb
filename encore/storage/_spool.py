"""What has to be read whole before it is used: in memory if it is little, else in a temporary file."""

from __future__ import annotations

import io

from .errors import os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from ._streams import Readable

__all__ = ["spooled"]

# More than this is not kept in memory.
_IN_MEMORY = 4 << 20

_PIECE = 1 << 18


def spooled(stream: Readable, in_memory: int = _IN_MEMORY) -> tuple[BinaryIO, int]:
    """Read a stream to its end; return a file with the same bytes, at its beginning, and its size.

    Parameters
    ----------
    stream : binary stream
    in_memory : int, in bytes
        More goes to a file without a name.

    Raises
    ------
    StoreOSError
        If there is no room for the file.
    """
    file: BinaryIO = io.BytesIO()
    size = 0
    try:
        while piece := stream.read(_PIECE):
            size += len(piece)
            if size > in_memory and type(file) is io.BytesIO:
                file = _on_disk(file)
            with os_errors():
                file.write(piece)
        with os_errors():
            file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, size


def _on_disk(kept: io.BytesIO) -> BinaryIO:
    from tempfile import TemporaryFile

    with os_errors():
        file: BinaryIO = TemporaryFile()  # noqa: SIM115 - it is returned
    try:
        with os_errors():
            file.write(kept.getbuffer())
    except BaseException:
        file.close()
        raise
    return file
