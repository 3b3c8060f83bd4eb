"""Basic (RFC 7617) and Digest (RFC 7616) authentication, with passwords out of urllib's handlers.

Of a handler only its passwords are used, as urllib's own know neither SHA-256 nor threads.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class Origin(Protocol):
        """Whom to log in at."""

        key: tuple[object, ...]
        login: tuple[str, str] | None

    class Scheme(Protocol):
        """How a user shows who they are, to one server."""

        def header(self, method: str, target: str) -> str: ...


# A name, and what it is set to if it is no scheme.
_PART = (
    r"[\s,]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)"
    r"(?:[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*)))?"
)

# What is read of a challenge.
_LONGEST = 8192

# The hashes of Digest, the best one first.
_ALGORITHMS = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "MD5": "md5"}


def challenges(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the schemes of a WWW-Authenticate header, in lower case, with their parameters."""
    import re

    part = re.compile(_PART)
    scheme = ""
    parameters: dict[str, str] = {}
    position = 0
    text = text[:_LONGEST]
    while match := part.match(text, position):
        position = match.end()
        name, quoted, plain = match.groups()
        if quoted is None and plain is None:
            if scheme:
                yield scheme, parameters
            scheme, parameters = name.lower(), {}
        else:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
    if scheme:
        yield scheme, parameters


def _bytes_of(text: str) -> str:
    """Return a text as its bytes in UTF-8 stand in a header, a character each."""
    return text.encode().decode("latin-1")


def _text_of(value: str) -> str:
    """Return the text whose bytes stand in a header: UTF-8, or else Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def basic(user: str, password: str) -> str:
    """Return what Basic sends."""
    from base64 import b64encode

    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class Basic:
    """A password that is sent as it is."""

    def __init__(self, user: str, password: str) -> None:
        self._header = basic(user, password)

    def header(self, method: str, target: str) -> str:
        return self._header


class Digest:
    """A password that is shown to be known.

    Parameters
    ----------
    user, password : str
    challenge : dict
        What the server sent, by lower-case name.

    Raises
    ------
    ValueError
        If the server wants what we do not know.
    """

    def __init__(self, user: str, password: str, challenge: dict[str, str]) -> None:
        from itertools import count

        algorithm = challenge.get("algorithm", "MD5")
        name = algorithm.upper().removesuffix("-SESS")
        if name not in _ALGORITHMS or "nonce" not in challenge:
            raise ValueError(algorithm)
        options = {each.strip().lower() for each in challenge.get("qop", "").split(",")}
        if "qop" in challenge and "auth" not in options:
            raise ValueError("qop")
        self._hash = _hash(_ALGORITHMS[name])
        self._has_qop = "qop" in challenge
        self._nonce = challenge["nonce"]
        self._user = user
        self._realm = challenge.get("realm", "")
        self._algorithm = algorithm if "algorithm" in challenge else None
        self._opaque = challenge.get("opaque")
        self._is_session = name != algorithm.upper()
        self._secret = self._hash(f"{_bytes_of(user)}:{self._realm}:{_bytes_of(password)}")
        # Each request has a number of its own, in each thread.
        self._numbers = count(1)

    def header(self, method: str, target: str) -> str:
        number = f"{next(self._numbers):08x}"
        client = _new_number()
        secret = self._secret
        if self._is_session:
            secret = self._hash(f"{secret}:{self._nonce}:{client}")
        request = self._hash(f"{method}:{target}")
        if self._has_qop:
            response = self._hash(f"{secret}:{self._nonce}:{number}:{client}:auth:{request}")
        else:
            response = self._hash(f"{secret}:{self._nonce}:{request}")
        parts = [
            f'username="{_quote(_bytes_of(self._user))}"',
            f'realm="{_quote(self._realm)}"',
            f'nonce="{_quote(self._nonce)}"',
            f'uri="{_quote(target)}"',
            f'response="{response}"',
        ]
        if self._algorithm is not None:
            parts.append(f"algorithm={self._algorithm}")
        if self._opaque is not None:
            parts.append(f'opaque="{_quote(self._opaque)}"')
        if self._has_qop:
            parts += ["qop=auth", f"nc={number}"]
        if self._has_qop or self._is_session:
            parts.append(f'cnonce="{client}"')
        return "Digest " + ", ".join(parts)


def _new_number() -> str:
    """Return what nobody knows beforehand."""
    import os

    return os.urandom(16).hex()


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _hash(name: str) -> Callable[[str], str]:
    import hashlib

    # Raises ValueError for what this Python does not have.
    hashlib.new(name, usedforsecurity=False)

    def hashed(text: str) -> str:
        return hashlib.new(name, text.encode("latin-1"), usedforsecurity=False).hexdigest()

    return hashed


class Logins:
    """What has been found out about servers that want to know who asks.

    Parameters
    ----------
    handlers : iterable
        Each has ``passwd.find_user_password(realm, url)``.
    """

    def __init__(self, handlers: Any = ()) -> None:
        self._handlers = tuple(handlers)
        self._known: dict[object, Scheme] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_handlers": self._handlers, "_known": {}}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def header(self, origin: Origin, url: str, method: str, target: str) -> str | None:
        """Return what to send without being asked: what this server has accepted before."""
        known = self._known.get(origin.key)
        if known is not None:
            return known.header(method, target)
        for handler in self._handlers:
            # urllib's HTTPPasswordMgrWithPriorAuth
            is_known = getattr(handler.passwd, "is_authenticated", None)
            if is_known is not None and is_known(url) and not _is_digest(handler):
                user, password = handler.passwd.find_user_password(None, url)
                if user is not None:
                    return basic(user, password)
        return None

    def is_curious(self, origin: Origin) -> bool:
        """Whether a server may ask for a password that it gets then."""
        has_some = bool(self._handlers) or origin.login is not None
        return has_some and origin.key not in self._known

    def learn(
        self, origin: Origin, url: str, text: str | None, sent: str | None, *, again: bool
    ) -> bool:
        """Whether to try again after a refusal.

        Parameters
        ----------
        origin : Origin
        url : str
        text : str or None
            The challenge.
        sent : str or None
            What was sent with the request that is refused.
        again : bool
            Whether that was made of the challenge before this one: then it is wrong, unless only its
            number was too old.
        """
        for scheme, challenge in self._by_strength(text or ""):
            found = self._password(origin, url, challenge.get("realm"), scheme)
            if found is None:
                continue
            if scheme == "basic":
                known: Scheme = Basic(*found)
                if known.header("", "") == sent:
                    return False
            else:
                try:
                    known = Digest(*found, challenge)
                except ValueError:
                    continue
                if again and challenge.get("stale", "").lower() != "true":
                    return False
            self._known[origin.key] = known
            return True
        return False

    def _by_strength(self, text: str) -> list[tuple[str, dict[str, str]]]:
        def strength(found: tuple[str, dict[str, str]]) -> int:
            if found[0] == "basic":
                return len(_ALGORITHMS)
            name = found[1].get("algorithm", "MD5").upper().removesuffix("-SESS")
            return list(_ALGORITHMS).index(name) if name in _ALGORITHMS else -1

        offered = [each for each in challenges(text) if each[0] in ("basic", "digest")]
        return sorted(offered, key=strength)

    def _password(
        self, origin: Origin, url: str, realm: str | None, scheme: str
    ) -> tuple[str, str] | None:
        realm = None if realm is None else _text_of(realm)
        for handler in self._handlers:
            if scheme == "basic" and _is_digest(handler):
                # Whoever has chosen Digest does not want the password sent.
                continue
            user, password = handler.passwd.find_user_password(realm, url)
            if user is not None and password is not None:
                return user, password
        return origin.login


def _is_digest(handler: Any) -> bool:
    from urllib.request import AbstractDigestAuthHandler

    return isinstance(handler, AbstractDigestAuthHandler)
