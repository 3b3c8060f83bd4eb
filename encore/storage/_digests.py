"""Digests in metadata: how they are named, and how they are hidden.

The digest of the data is kept in the metadata of the inner store, as ``encore:sha256`` (or what the
algorithm is), so that data, metadata and digest change at once. Outside it is not seen. A name of the
caller's that looks like one of these, ``encore:sha256`` or ``encore::sha256``, has one more colon
within, so that any number of these wrappers may be around each other.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Metadata = dict[str, Any]

RESERVED = "encore:"

_algorithms: frozenset[str] = frozenset()


def algorithms() -> frozenset[str]:
    """Return the algorithms that every Python has, and whose digests have one size."""
    global _algorithms  # noqa: PLW0603 - made on first use, as hashlib is heavy
    if not _algorithms:
        from hashlib import algorithms_guaranteed

        # The SHAKEs (FIPS 202, section 6.2) give as much as is asked for.
        _algorithms = frozenset(
            each for each in algorithms_guaranteed if not each.startswith("shake_")
        )
    return _algorithms


def _is_reserved(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.startswith(RESERVED)
        and name[len(RESERVED) :].lstrip(":") in algorithms()
    )


def inner_name(name: str) -> str:
    return f"{RESERVED}:{name[len(RESERVED) :]}" if _is_reserved(name) else name


def inner_of(metadata: Mapping[str, Any]) -> Metadata:
    """Return metadata as they are in the inner store, without a digest."""
    return {inner_name(name): item for name, item in metadata.items()}


def outer_of(metadata: Mapping[str, Any]) -> Metadata:
    """Return metadata of the inner store as they are here."""
    metadata_here = {}
    for name, item in metadata.items():
        if _is_reserved(name):
            rest = name[len(RESERVED) :]
            if rest[0] == ":":
                metadata_here[RESERVED + rest[1:]] = item
        else:
            metadata_here[name] = item
    return metadata_here


def digests_of(metadata: Mapping[str, Any]) -> Metadata:
    """Return the names and digests that there are in metadata of the inner store."""
    return {
        name: item
        for name, item in metadata.items()
        if _is_reserved(name) and name[len(RESERVED)] != ":"
    }


def new_hash(algorithm: str) -> Any:
    import hashlib

    # It guards against accidents; where FIPS 140 is enforced, md5 is there for nothing else.
    return hashlib.new(algorithm, usedforsecurity=False)
