"""Tokens that show that a form is one of ours: no other site can read them, or make them.

A token says until when it is valid, and is signed for a user.
"""

from __future__ import annotations

__all__ = ["is_valid", "make_token"]

# A page may stay open for a day at work.
_SECONDS = 12 * 3600

_LONGEST = 200


def make_token(secret: bytes, user: str | None, now: float) -> str:
    """Return a token for a user, or for nobody."""
    expires = f"{int(now) + _SECONDS:x}"
    return f"{expires}-{_signature(secret, user, expires)}"


def is_valid(token: str, secret: bytes, user: str | None, now: float) -> bool:
    """Whether a token was made for this user, and not too long ago."""
    from hmac import compare_digest

    expires, _, signature = token[:_LONGEST].partition("-")
    wanted = _signature(secret, user, expires)
    if not compare_digest(wanted.encode(), signature.encode("utf-8", "replace")):
        return False
    return now < int(expires, 16)


def _signature(secret: bytes, user: str | None, expires: str) -> str:
    from hmac import new

    who = "nobody" if user is None else f"user {user}"
    text = f"{expires}\n{who}".encode("utf-8", "backslashreplace")
    return new(secret, text, "sha256").hexdigest()
