"""Which file holds which key.

A key that is a plain file name everywhere is its own file name, as in EnCore 0.8: lower-case ASCII
letters, digits and ``_-.``, not first or last a dot, no name that Windows reserves. All other keys
are percent-encoded: a ``%`` and two lower-case hex digits for each byte in UTF-8 that is not
plain, and for the first byte always; and one more ``%`` before all that, since EnCore 0.8 took
keys like ``%20a`` for file names, but hardly one that begins with ``%%``. They survive file systems
that fold case or normalise Unicode. Where that would be too long for a file name, the name is
``%%%`` and the SHA-256 of the key, and the key itself stands in a file beside it.
"""

from __future__ import annotations

import re

# NAME_MAX is 255 bytes on all file systems in use, and the longest suffix is ".metadata".
MAX_NAME = 255 - len(".metadata")

_PLAIN = re.compile(
    r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z))[a-z0-9_-](?:[a-z0-9_.-]*[a-z0-9_-])?\Z"
)
_ENCODED = re.compile(r"%(?:%[0-9a-f]{2})(?:[a-z0-9_.-]|%[0-9a-f]{2})*\Z")
_PLAIN_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.")
_DIGEST = re.compile(r"%%%[0-9a-f]{64}\Z")


def is_plain(key: str) -> bool:
    """Whether a key is its own file name."""
    return len(key) <= MAX_NAME and _PLAIN.match(key) is not None


def encode(key: str) -> str:
    """Return the file name of a key, without suffix."""
    if is_plain(key):
        return key
    raw = key.encode()
    name = f"%%{raw[0]:02x}" + "".join(
        chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02x}" for byte in raw[1:]
    )
    if name.endswith("."):
        name = name[:-1] + "%2e"
    if len(name) <= MAX_NAME:
        return name
    from hashlib import sha256

    return "%%%" + sha256(raw).hexdigest()


def is_digest(name: str) -> bool:
    """Whether the key of a file name stands in a file beside it."""
    return _DIGEST.match(name) is not None


def decode(name: str) -> str | None:
    """Return the key of a file name that encode() made, None for others and for digests."""
    if is_plain(name):
        return name
    if not _ENCODED.match(name):
        return None
    raw = bytes.fromhex(
        re.sub(r"%(..)|(.)", lambda match: match[1] or f"{ord(match[2]):02x}", name[1:])
    )
    try:
        key = raw.decode()
    except UnicodeDecodeError:
        return None
    # A look-alike that encode() would have written differently is not ours.
    return key if encode(key) == name else None


def may_be_old(key: str) -> bool:
    """Whether EnCore 0.8 may have used this key as a file name although it is not plain."""
    return (
        not is_plain(key)
        and "/" not in key
        and "\0" not in key
        and not key.startswith(".FS")
        and len(key.encode()) <= MAX_NAME
    )
