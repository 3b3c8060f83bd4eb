"""The static layout, as a StaticURLStore reads it: ``/index.json`` and ``/data/KEY``."""

from __future__ import annotations

from ._metadata import dumps
from ._server_conditions import check_read, is_conditional
from ._server_queries import metadata_unless_damaged
from ._server_responses import REVALIDATED, Response, body_of
from .errors import StoreError, StoreOSError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import Any

    from ._server_requests import Request
    from .abstract_store import AbstractReadOnlyStore

__all__ = ["accepts_gzip", "answer_index"]

_PIECE = 1 << 18

# Of zlib: most of what is to be gained, in half the time of its default.
_LEVEL = 4


def answer_index(request: Request, store: AbstractReadOnlyStore) -> Response:
    """Answer with all keys and metadata as one JSON object."""
    entries = _entries(store)
    tag = _digest(entries)
    zipped = accepts_gzip(request.header("Accept-Encoding"))
    tags = (f'"{tag}"', f'"{tag}-gzip"')
    headers = [REVALIDATED, ("ETag", tags[zipped]), ("Vary", "Accept-Encoding")]
    if is_conditional(request) and not check_read(request, tags, None):
        return Response(304, headers)
    headers.append(("Content-Type", "application/json"))
    if zipped:
        headers.append(("Content-Encoding", "gzip"))
        return Response(200, headers, body_of(_zipped(entries)))
    return Response(200, headers, body_of(_pieces(entries)), sum(map(len, entries)))


def _entries(store: AbstractReadOnlyStore) -> list[bytes]:
    """Return the parts of the index, in the order of the keys, so that the same is always the same."""
    from json.encoder import encode_basestring_ascii as text_of

    try:
        texts = _texts_of(store.query())
    except (TemporaryError, StoreOSError):
        raise
    except StoreError:
        # One that is damaged does not hide the others, in a store that does not see to that itself.
        found = ((key, metadata_unless_damaged(store, key)) for key in store.query_keys())
        texts = _texts_of((key, metadata) for key, metadata in found if metadata is not None)
    entries: list[bytes] = []
    for key in sorted(texts):
        start = ",\n" if entries else "{\n"
        entries.append(f"{start}{text_of(key)}:{texts.pop(key)}".encode("ascii"))
    entries.append(b"\n}\n" if entries else b"{}\n")
    return entries


def _texts_of(items: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    # At once: metadata take several times the memory of their JSON.
    texts = {}
    for key, metadata in items:
        try:
            texts[key] = dumps(metadata)
        except ValueError:
            # Another program has written NaN: it does not hide the others.
            continue
    return texts


def _digest(entries: list[bytes]) -> str:
    from hashlib import blake2b

    hashed = blake2b(digest_size=16)
    for piece in _pieces(entries):
        hashed.update(piece)
    return hashed.hexdigest()


def _pieces(entries: list[bytes]) -> Generator[bytes, None, None]:
    piece: list[bytes] = []
    size = 0
    for entry in entries:
        piece.append(entry)
        size += len(entry)
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _zipped(entries: list[bytes]) -> Generator[bytes, None, None]:
    import zlib

    # 31: in the format of gzip. It has no time in it, so that the same is always the same.
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    piece: list[bytes] = []
    size = 0
    for entry in _pieces(entries):
        part = compressor.compress(entry)
        piece.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    piece.append(compressor.flush())
    yield b"".join(piece)


def accepts_gzip(accepted: str | None) -> bool:
    """Whether an Accept-Encoding header likes gzip at least as much as no coding (RFC 9110, section 12.5.3)."""
    if not accepted:
        return False
    weights: dict[str, float] = {}
    for each in accepted.lower().split(","):
        coding, *parameters = (part.strip() for part in each.split(";"))
        weights[coding] = _weight(parameters)
    otherwise = weights.get("*", 0.0)
    zipped = weights.get("gzip", weights.get("x-gzip", otherwise))
    # Without being named it is as good as anything; but who asks for gzip wants it.
    plain = weights.get("identity", weights.get("*", 0.0))
    return zipped > 0 and zipped >= plain


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            digits = value.strip()
            if (
                len(digits) > 5
                or not digits.replace(".", "", 1).isdecimal()
                or not digits.isascii()
            ):
                return 0.0
            return min(float(digits), 1.0)
    return 1.0
