"""Passwords and the tokens that are stored in their place.

A token of ours is ``scrypt$n$r$p$salt$hash``: the parameters in decimal, salt and hash in hex. Any
other token is what an encoder, which the user of the store brings, makes of a password.
"""

from __future__ import annotations

from .errors import StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Encoder = Callable[[bytes], bytes]

__all__ = [
    "SaltedEncoder",
    "is_token",
    "make_encoder",
    "make_token",
    "password_bytes",
    "sha1_hasher",
    "verify",
]

# What OWASP and RFC 7914 advised for interactive logins: 16 MiB and about 50 ms.
_N, _R, _P = 2**14, 8, 1

# A token may come from others, and should cost no more than this: n * r * p, where ours has 2**17;
# memory is 128 * n * r bytes.
_MOST_WORK = 2**20


def password_bytes(password: str | bytes) -> bytes:
    """Return what is hashed; TypeError or ValueError where it is no password."""
    if isinstance(password, bytes):
        return bytes(password)
    if not isinstance(password, str):
        # Without its repr: it may be nearly one.
        raise TypeError(f"a password is a str or bytes, not {type(password).__name__}")
    try:
        return str.encode(password)
    except UnicodeEncodeError:
        pass
    raise ValueError("a password must encode to UTF-8")


def make_token(password: bytes) -> bytes:
    """Return a new token, with a salt of its own."""
    from os import urandom

    salt = urandom(16)
    hashed = _scrypt(password, salt, _N, _R, _P, 32)
    return b"scrypt$%d$%d$%d$%s$%s" % (_N, _R, _P, salt.hex().encode(), hashed.hex().encode())


def is_token(token: bytes) -> bool:
    """Whether it is a token of the form that make_token() gives."""
    return _parse(token) is not None


def verify(token: bytes, password: bytes) -> bool:
    """Whether a token of that form stands for a password."""
    from hmac import compare_digest

    found = _parse(token)
    if found is None:
        return False
    n, r, p, salt, hashed = found
    return compare_digest(_scrypt(password, salt, n, r, p, len(hashed)), hashed)


def _scrypt(password: bytes, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    from hashlib import scrypt

    # Without maxmem OpenSSL refuses more than 32 MiB; this is what it counts.
    return scrypt(
        password, salt=salt, n=n, r=r, p=p, maxmem=128 * r * (n + p + 2) + 2**16, dklen=size
    )


def _parse(token: bytes) -> tuple[int, int, int, bytes, bytes] | None:
    if len(token) > 400:
        return None
    scheme, *parts = token.split(b"$")
    if scheme != b"scrypt" or len(parts) != 5:
        return None
    numbers = [int(part) for part in parts[:3] if part.isdigit() and len(part) <= 8]
    try:
        salt, hashed = (bytes.fromhex(part.decode("ascii")) for part in parts[3:])
    except ValueError:
        return None
    if len(numbers) != 3 or not 1 <= len(salt) <= 64 or not 16 <= len(hashed) <= 64:
        return None
    n, r, p = numbers
    if n < 2 or n & (n - 1) or r < 1 or p < 1 or n * r * p > _MOST_WORK:
        return None
    # RFC 7914, section 2: n is less than 2 ** (128 * r / 8).
    if n.bit_length() > 16 * r:
        return None
    return n, r, p, salt, hashed


# What tokens of EnCore 0.8 are


def sha1_hasher(s: bytes) -> bytes:
    """Return the SHA-1 digest of bytes.

    It is here for the tokens that EnCore 0.8 made: a machine guesses billions of such passwords a
    second. SimpleAuthStore takes them at one more login, and replaces them.
    """
    from hashlib import sha1

    return sha1(s, usedforsecurity=False).digest()


class SaltedEncoder:
    """What make_encoder() returns."""

    def __init__(self, salt: bytes, hasher: Encoder) -> None:
        self._salt = salt
        self.hasher = hasher

    def __call__(self, password: str | bytes) -> bytes:
        return self.hasher(self._salt + password_bytes(password))

    def __repr__(self) -> str:
        # The salt is a secret.
        return f"<encoder with {getattr(self.hasher, '__name__', type(self.hasher).__name__)}>"

    def __reduce__(self) -> tuple[type[_Saltless], tuple[Encoder]]:
        return _Saltless, (self.hasher,)


class _Saltless(SaltedEncoder):
    """What arrives when a SaltedEncoder is pickled: the salt, a secret, stays behind."""

    def __init__(self, hasher: Encoder) -> None:
        super().__init__(b"", hasher)

    def __call__(self, password: str | bytes) -> bytes:
        raise StoreError("the secret salt of this encoder was not pickled; set the encoder anew")


def make_encoder(salt: bytes, hasher: Encoder | None = None) -> SaltedEncoder:
    """Return an encoder for SimpleAuthStore: it hashes the salt followed by the password.

    It is here for the tokens that EnCore 0.8 made. Without an encoder SimpleAuthStore uses scrypt,
    with a salt for each user.

    Parameters
    ----------
    salt : bytes
        To be kept secret, and the same each time.
    hasher : callable, optional
        Takes bytes and returns bytes; by default sha1_hasher().
    """
    if not isinstance(salt, bytes):
        raise TypeError(f"a salt is bytes, not {type(salt).__name__}")
    if hasher is not None and not callable(hasher):
        raise TypeError(f"a hasher is a callable, not {shown(hasher)}")
    return SaltedEncoder(salt, sha1_hasher if hasher is None else hasher)
