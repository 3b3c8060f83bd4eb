"""Files behind ``file:`` URLs, as a server would give them: etags, ranges, 304."""

from __future__ import annotations

import os
import stat
import time
from errno import ENOENT

from ._http_errors import shown_url
from ._http_response import Headers, Response
from .errors import StoreError, StoreOSError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["FileTransport", "asked_range"]

# No waiting for the other end of a FIFO.
_FLAGS = os.O_RDONLY
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _name, 0)

_SEPARATORS = {*filter(None, (os.sep, os.altsep)), "\0"}


class FileTransport:
    """Reads the local files that URLs name; see `Transport`."""

    def __repr__(self) -> str:
        return "<FileTransport>"

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any,
        timeout: float,
        *,
        foreign: bool = False,
    ) -> Response:
        if method not in ("GET", "HEAD"):
            raise StoreError(f"{shown_url(url)}: a file: URL can only be read")
        path = _path_of(url)
        try:
            fd = os.open(path, _FLAGS)
        except OSError as error:
            raise from_os_error(error) from error
        file = _Body(fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise _absent(path)
        known = {
            "ETag": f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"',
            "Accept-Ranges": "bytes",
            "Encore-Modified": repr(status.st_mtime),
            # As FileValue: where no birth time is kept, the change time.
            "Encore-Created": repr(
                min(getattr(status, "st_birthtime", status.st_ctime), status.st_mtime)
            ),
        }
        code, first, last, size = 200, 0, status.st_size - 1, status.st_size
        # A file may be changed again before the clock of the file system ticks.
        is_settled = abs(time.time() - status.st_mtime) > 1
        if headers.get("If-None-Match") == known["ETag"] and is_settled:
            code, last = 304, -1
        elif "Range" in headers:
            first, last = asked_range(headers["Range"], size)
            code = 206 if first <= last else 416
            known["Content-Range"] = (
                f"bytes {first}-{last}/{size}" if code == 206 else f"bytes */{size}"
            )
        length = max(0, last - first + 1)
        known["Content-Length"] = str(length)
        if method == "HEAD" or not length:
            file.close()
            return Response(code, url, Headers(known.items()), None, length)
        os.lseek(fd, first, os.SEEK_SET)
        file.left = length
        return Response(code, url, Headers(known.items()), file, length)

    def close(self) -> None:
        pass


class _Body:
    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self.left = 0

    def read(self, size: int, /) -> bytes:
        assert self._fd is not None
        try:
            data = os.read(self._fd, min(size, self.left))
        except OSError as error:
            raise from_os_error(error) from error
        self.left -= len(data)
        return data

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def asked_range(text: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte of a range that a client of ours asks for."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def _path_of(url: str) -> str:
    """Return the path that a URL names; StoreOSError if what is escaped in it is in no name of a file.

    A slash that is escaped belongs to a key. It separates nothing, so that ``../x`` leads nowhere.
    """
    from urllib.parse import unquote_to_bytes

    # As urllib: a question mark is part of the path.
    path = url.partition(":")[2].partition("#")[0]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = slash + path
        if host.lower() not in ("", "localhost"):
            raise StoreError(f"{shown_url(url)}: not on this machine")
    for part in path.split("/"):
        if "%" in part and not _SEPARATORS.isdisjoint(os.fsdecode(unquote_to_bytes(part))):
            raise _absent(shown_url(url))
    if os.name == "nt":
        from urllib.request import url2pathname

        return url2pathname(path)
    # Names of files are bytes; a URL has the UTF-8 of them, whatever the locale says.
    return os.fsdecode(unquote_to_bytes(path))


def _absent(name: str) -> StoreOSError:
    return StoreOSError(ENOENT, os.strerror(ENOENT), name)
