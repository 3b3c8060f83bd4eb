"""Who may use the server: HTTP Basic (RFC 7617), and a file of users."""

from __future__ import annotations

import os
import time

from ._passwords import is_token, make_token, password_bytes, verify
from ._server_requests import RequestError
from .errors import AuthorizationError, StoreError, os_errors, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._server_requests import Request

    Authenticate = Callable[[str, str], bool]

__all__ = ["Login", "UsersFile", "set_password"]

# What has been verified is remembered so long, and so many of them.
_SECONDS = 60.0
_MOST = 1000

# Of a header that is longer nothing is decoded.
_LONGEST = 4096


class Verified:
    """What has been verified a short while ago: hashing a password anew for each request takes too long.

    Nothing of a password is kept but a digest with a key that is made here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        self._until: dict[bytes, float] = {}

    def digest(self, *parts: bytes) -> bytes:
        from hashlib import blake2b

        hashed = blake2b(key=self._key)
        for part in parts:
            hashed.update(len(part).to_bytes(8, "big"))
            hashed.update(part)
        return hashed.digest()

    def knows(self, digest: bytes) -> bool:
        until = self._until.get(digest)
        return until is not None and self._clock() < until

    def add(self, digest: bytes) -> None:
        now = self._clock()
        if len(self._until) >= _MOST:
            # A copy: other threads add to it. They lose what they add now, and verify it again.
            kept = {each: until for each, until in self._until.copy().items() if until > now}
            # Those that came first go first.
            for each in list(kept)[: max(0, len(kept) - _MOST // 2)]:
                del kept[each]
            self._until = kept
        self._until[digest] = now + _SECONDS


class Login:
    """Tells who a request comes from.

    Parameters
    ----------
    authenticate : callable
    realm : str
    """

    def __init__(self, authenticate: Authenticate, realm: str) -> None:
        if not (realm.isascii() and realm.isprintable()):
            raise ValueError(f"a realm is printable ASCII, not {shown(realm)}")
        quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
        self._challenge = ("WWW-Authenticate", f'Basic realm="{quoted}", charset="UTF-8"')
        self._authenticate = authenticate
        self._verified = None if isinstance(authenticate, UsersFile) else Verified()

    def user_of(self, request: Request) -> str:
        """Return the name of who has logged in; RequestError if nobody has."""
        header = request.header("Authorization")
        given = None if header is None else _basic(header)
        if given is None or not self._is_valid(*given):
            message = "log in" if header is None else "this is no user, or not the password"
            raise RequestError(401, message, "AuthorizationError", [self._challenge])
        return given[0]

    def _is_valid(self, name: str, password: str) -> bool:
        verified = self._verified
        if verified is not None:
            digest = verified.digest(name.encode(), password.encode())
            if verified.knows(digest):
                return True
        try:
            if not self._authenticate(name, password):
                return False
        except AuthorizationError:
            return False
        if verified is not None:
            verified.add(digest)
        return True


def _basic(header: str) -> tuple[str, str] | None:
    """Return name and password; None if there are none."""
    from base64 import b64decode

    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic" or len(encoded) > _LONGEST:
        return None
    try:
        given = b64decode(encoded.strip(), validate=True)
    except ValueError:
        return None
    try:
        text = given.decode()
    except UnicodeDecodeError:
        # What programs send that know no better.
        text = given.decode("latin-1")
    name, colon, password = text.partition(":")
    return (name, password) if colon and name else None


class UsersFile:
    """Users in a file, for ``authenticate``.

    A line of it is ``name:scrypt$n$r$p$salt$hash``, as ``python -m encore user FILE NAME`` writes it;
    there may be empty lines, and comments that begin with ``#``. When the file has changed it is read
    again: who is in it no more, or has a new password, is logged out at once.

    Parameters
    ----------
    path : str or PathLike
        Read at once; StoreError if it is not such a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._verified = Verified()
        from threading import Semaphore

        # Each one takes 16 MiB, and a core.
        self._hashing = Semaphore(min(4, os.cpu_count() or 1))
        self._stand_in = make_token(os.urandom(16))
        # What the file looked like, and what was in it: one object, for all threads to see at once.
        self._known: tuple[tuple[int, ...] | None, dict[str, bytes]] = (None, {})
        self._tokens()

    def __repr__(self) -> str:
        return f"UsersFile({self.path!r})"

    def __call__(self, name: str, password: str) -> bool:
        token = self._tokens().get(name)
        # Of one that is unknown too, so that the time tells nobody who is known.
        digest = self._verified.digest(name.encode(), password.encode(), token or b"")
        if token is not None and self._verified.knows(digest):
            return True
        with self._hashing:
            if self._verified.knows(digest):
                # A browser sends many requests at once.
                return True
            is_right = verify(token or self._stand_in, password.encode())
            if token is not None and is_right:
                self._verified.add(digest)
                return True
        return False

    def _tokens(self) -> dict[str, bytes]:
        with os_errors():
            status = os.stat(self.path)
        seen = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        known, tokens = self._known
        if seen != known:
            tokens = _tokens_of(_lines_of(self.path), self.path)
            # What was written in the last moment may be written again without another stamp.
            is_settled = time.time_ns() - status.st_mtime_ns > 2_000_000_000
            self._known = (seen if is_settled else None, tokens)
        return tokens


def _lines_of(path: str) -> list[str]:
    with os_errors(), open(path, "rb") as file:
        text = file.read()
    try:
        return text.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path!r} is no UTF-8") from error


def _name_in(line: str) -> str | None:
    """Return the name of the user that a line is about, None if it is about none."""
    return None if not line.strip() or line.lstrip().startswith("#") else line.partition(":")[0]


def _tokens_of(lines: list[str], path: str) -> dict[str, bytes]:
    tokens: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        name = _name_in(line)
        if name is None:
            continue
        token = line.partition(":")[2].strip().encode()
        # Without the line: it may hold a password.
        if not name or not is_token(token):
            raise StoreError(f"line {number} of {path!r} is not name:scrypt$n$r$p$salt$hash")
        if name in tokens:
            raise StoreError(f"line {number} of {path!r} has a name that was there before")
        tokens[name] = token
    return tokens


def set_password(path: str | os.PathLike[str], name: str, password: str) -> bool:
    """Add a user to a file of users, or change the password of one; return whether it is a new one.

    Parameters
    ----------
    path : str or PathLike
        Made if there is none, for its owner alone.
    name, password : str
    """
    from ._files import writing
    from .file_lock import FileLock

    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {shown(name)}")
    if (
        not name.isprintable()
        or name != name.strip()
        or not name
        or ":" in name
        or name.startswith("#")
    ):
        raise ValueError(f"no name of a user: {name!a}")
    if not password:
        raise ValueError("a password is not empty")
    path = os.path.abspath(os.fspath(path))
    line = f"{name}:{make_token(password_bytes(password)).decode()}"
    with FileLock(path, timeout=10.0):
        lines = _lines_of(path) if os.path.lexists(path) else []
        _tokens_of(lines, path)
        is_new = all(_name_in(each) != name for each in lines)
        if is_new:
            while lines and not lines[-1]:
                lines.pop()
            lines += [line, ""]
        else:
            lines = [line if _name_in(each) == name else each for each in lines]
        with writing(path, 0o600) as write:
            write("\n".join(lines).encode())
    return is_new
