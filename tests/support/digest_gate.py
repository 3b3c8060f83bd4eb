"""HTTP Digest (RFC 7616) before a WSGI application, as a server checks it."""

from __future__ import annotations

import hashlib
import re
from itertools import count


class DigestGate:
    """Lets those through who know the password of ``alibaba``, which is ``sesame``.

    Parameters
    ----------
    application : callable
    algorithm : {'MD5', 'SHA-256'}
    uses : int, optional
        How often a nonce may be used; then it is stale.
    """

    realm = "caf\u00e9"

    def __init__(self, application, algorithm="MD5", uses=None):
        self.application = application
        self.algorithm = algorithm
        self.hash = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[algorithm]
        self.uses = uses
        self.numbers = count()
        #: Numbers that were used, by nonce.
        self.used = {}
        #: How many were sent away.
        self.refused = 0

    def __call__(self, environ, start_response):
        header = environ.get("HTTP_AUTHORIZATION", "")
        given = {
            name: quoted or plain
            for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]*))', header)
        }
        is_right = header.startswith("Digest ") and self._is_right(given, environ)
        used = self.used.get(given.get("nonce"))
        is_stale = is_right and (used is None or len(used) == self.uses)
        if is_right and not is_stale:
            assert given["nc"] not in used, "a number was used twice"
            used.add(given["nc"])
            return self.application(environ, start_response)
        self.refused += 1
        nonce = f"nonce{next(self.numbers)}"
        self.used[nonce] = set()
        challenge = (
            f'Digest realm="{self.realm}", nonce="{nonce}", qop="auth", opaque="o", '
            f"algorithm={self.algorithm}, stale={str(is_stale).lower()}"
        )
        challenge = challenge.encode().decode("latin-1")
        start_response(
            "401 Unauthorized", [("WWW-Authenticate", challenge), ("Content-Length", "0")]
        )
        return []

    def _is_right(self, given, environ):
        target = environ["REQUEST_URI"]
        if given.get("uri") != target or given.get("qop") != "auth":
            return False
        secret = self._hashed("alibaba", self.realm, "sesame")
        request = self._hashed(environ["REQUEST_METHOD"], target)
        names = ("nonce", "nc", "cnonce", "qop")
        return given["response"] == self._hashed(secret, *(given[name] for name in names), request)

    def _hashed(self, *parts):
        return self.hash(":".join(parts).encode()).hexdigest()
