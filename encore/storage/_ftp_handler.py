"""FTP for openers of urllib: ranges, and an error where the data end too early."""

from __future__ import annotations

import ftplib
import urllib.request
from io import BytesIO
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.response import addinfourl

from ._file_transport import asked_range
from .errors import AuthorizationError, StoreError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FTPHandler"]

# In no name of a file, or in no command.
_NEVER = frozenset("/\r\n\0")


class FTPHandler(urllib.request.FTPHandler):
    """Files by FTP, one connection each; unlike urllib's it lists no directories and misses no end."""

    def __init__(self, login: tuple[str, str] | None) -> None:
        self._login = login or ("anonymous", "anonymous@")

    def ftp_open(self, request: Any) -> Any:
        parts = urlsplit(request.full_url)
        names = []
        for part in parts.path.removeprefix("/").split("/"):
            names.append(unquote(part))
            # A slash that is escaped belongs to a key. It separates nothing.
            if not _NEVER.isdisjoint(names[-1]):
                return _missing(request.full_url)
        *folders, name = names
        ftp = ftplib.FTP(encoding="utf-8")
        try:
            ftp.connect(parts.hostname or "", parts.port or 0, request.timeout)
            ftp.login(*self._login)
            if name and _goes_to(ftp, folders):
                answer = _retrieve(ftp, name, request)
                if answer is not None:
                    return answer
        except ftplib.all_errors as error:
            ftp.close()
            raise _ftp_error(error) from error
        except BaseException:
            ftp.close()
            raise
        _quit(ftp)
        return _missing(request.full_url)


def _goes_to(ftp: ftplib.FTP, folders: list[str]) -> bool:
    for number, folder in enumerate(folders):
        if number and not folder:
            continue
        try:
            # What begins with two slashes begins at the root, else where the server puts the user.
            ftp.cwd(folder or "/")
        except ftplib.error_perm as error:
            if str(error)[:3] == "550":
                return False
            raise
    return True


def _retrieve(ftp: ftplib.FTP, name: str, request: Any) -> Any:
    """Begin to read a file; None if it is not there."""
    from email.message import Message

    headers = Message()
    ftp.voidcmd("TYPE I")
    try:
        stamp = ftp.voidcmd(f"MDTM {name}")[4:].strip()
        headers["Encore-Modified"] = repr(_seconds(stamp))
    except (ftplib.Error, ValueError):
        # Not every server has it; whether the file is there is seen below.
        pass
    try:
        size = ftp.size(name)
    except (ftplib.Error, ValueError):
        size = None
    if size is not None:
        headers["Content-Length"] = str(size)
    if request.get_method() == "HEAD" and size is not None:
        _quit(ftp)
        return addinfourl(BytesIO(), headers, request.full_url, 200)
    begin = 0
    asked = request.get_header("Range")
    if asked is not None and size is not None:
        first, last = asked_range(asked, size)
        # There is no way to say where it ends: who has enough closes.
        if 0 < first <= last and _restarts(ftp, first):
            begin = first
            headers.replace_header("Content-Length", str(size - begin))
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
    try:
        # A second REST for the same place changes nothing.
        connection, told = ftp.ntransfercmd(f"RETR {name}", begin or None)
    except ftplib.error_perm as error:
        if str(error)[:3] == "550":
            return None
        raise
    if size is None and told is not None:
        headers["Content-Length"] = str(told)
    transfer: Any = _Transfer(ftp, connection)
    return addinfourl(transfer, headers, request.full_url, 206 if begin else 200)


def _restarts(ftp: ftplib.FTP, position: int) -> bool:
    """Whether the server can begin in the middle of a file."""
    try:
        return ftp.sendcmd(f"REST {position}")[:1] == "3"
    except ftplib.error_perm:
        return False


class _Transfer:
    """A file that comes over a connection of its own; that all of it came is said on the other one."""

    def __init__(self, ftp: ftplib.FTP, connection: Any) -> None:
        self._ftp = ftp
        self._connection = connection
        self._file = connection.makefile("rb")
        self._is_whole = False

    def read(self, size: int = -1) -> bytes:
        if self._is_whole:
            return b""
        try:
            data: bytes = self._file.read(size)
            if not data and size:
                self._connection.close()
                self._file.close()
                self._ftp.voidresp()
                self._is_whole = True
        except ftplib.all_errors as error:
            raise _ftp_error(error) from error
        return data

    readline = read

    def close(self) -> None:
        self._file.close()
        self._connection.close()
        if self._is_whole:
            _quit(self._ftp)
        else:
            self._ftp.close()


def _quit(ftp: ftplib.FTP) -> None:
    try:
        ftp.quit()
    except ftplib.all_errors:
        ftp.close()


def _seconds(stamp: str) -> float:
    from datetime import datetime, timezone

    whole, _, part = stamp.partition(".")
    moment = datetime.strptime(whole, "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    return moment.timestamp() + (float(f"0.{part}") if part.isdigit() else 0.0)


def _missing(url: str) -> Any:
    from email.message import Message

    return addinfourl(BytesIO(), Message(), url, 404)


def _ftp_error(error: Exception) -> Exception:
    # The server's own, on one line.
    text = " ".join(str(error).split())[:300]
    if isinstance(error, OSError):
        return URLError(error)
    if isinstance(error, ftplib.error_temp):
        return TemporaryError(f"FTP: {text}")
    if text[:3] in ("530", "532"):
        return AuthorizationError(f"FTP: {text}")
    if isinstance(error, EOFError):
        return TemporaryError("FTP: the connection was broken")
    return StoreError(f"FTP: {text}")
