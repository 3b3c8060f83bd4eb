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

# NAME_MAX is 255 bytes on all file systems in use, and the longest suffix is ".metadata".
MAX_NAME = 255 - len(".metadata")

_PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789_-."
_PLAIN_BYTES = frozenset(_PLAIN.encode())
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)
_MAY_BE_RESERVED = frozenset(name[:3] for name in _RESERVED)


def is_plain(key: str) -> bool:
    """Whether a key is its own file name."""
    # No regular expressions here: they take 10 ms to load, and longer to match.
    return (
        0 < len(key) <= MAX_NAME
        and not key.strip(_PLAIN)
        and key[0] != "." != key[-1]
        and (key[:3] not in _MAY_BE_RESERVED or key.partition(".")[0] not in _RESERVED)
    )


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
    return len(name) == 67 and name.startswith("%%%") and not name[3:].strip("0123456789abcdef")


def decode(name: str) -> str | None:
    """Return the key of a file name that encode() made, None for others and for digests."""
    if is_plain(name):
        return name
    if not name.startswith("%%"):
        return None
    try:
        raw = b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in name[2:].split("%"))
        key = raw.decode()
    except ValueError:
        return None
    # A look-alike that encode() would have written differently is not ours.
    return key if key and encode(key) == name else None


def may_be_old(key: str) -> bool:
    """Whether EnCore 0.8 may have used this key as a file name although it is not plain."""
    return (
        not is_plain(key)
        and "/" not in key
        and "\0" not in key
        and not key.startswith(".FS")
        and len(key.encode()) <= MAX_NAME
    )
