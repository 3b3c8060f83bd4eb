"""Bytes that are kept until they can be written, so that no stream is read while others wait."""

from __future__ import annotations

import io

from ._streams import buffers_of
from .errors import os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from ._streams import Readable

# What is kept in memory.
IN_MEMORY = 1048576


class Copy:
    """Bytes that are kept until they are written, in memory or a temporary file."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._file: Any = io.BytesIO()
        #: How many they are.
        self.size = 0

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def take(self, stream: Readable, buffer_size: int, hash: Any = None) -> None:
        """Read a stream to its end, in place of what was read before; a hash object is given it too."""
        self._file.close()
        self._file = memory = io.BytesIO()
        self.size = 0
        for chunk in buffers_of(stream, buffer_size, None):
            self.size += len(chunk)
            if hash is not None:
                hash.update(chunk)
            if self._file is memory and memory.tell() + len(chunk) <= IN_MEMORY:
                memory.write(chunk)
                continue
            with os_errors(self._key):
                if self._file is memory:
                    import tempfile

                    self._file = tempfile.TemporaryFile()  # noqa: SIM115
                    self._file.write(memory.getbuffer())
                self._file.write(chunk)
        with os_errors(self._key):
            self._file.flush()

    def stream(self) -> BinaryIO:
        """Return what was read, from its beginning."""
        file: BinaryIO = self._file
        file.seek(0)
        return file
