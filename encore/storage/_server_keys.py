"""The keys: ``/keys/KEY/data``, ``/metadata``, ``/value``, ``/auth``, and ``/keys/KEY`` to delete.

The last segment of a path is the part, however many slashes the key has. Only DELETE, which has no
part, takes all of it for the key.
"""

from __future__ import annotations

import io

from ._metadata import normalise
from ._server_changes import write
from ._server_conditions import check_read, is_conditional, write_conditions
from ._server_requests import RequestError, read_json
from ._server_responses import REVALIDATED, Response, json_response
from ._server_values import answer_data, answer_metadata, answer_value
from .abstract_store import AbstractAuthorizingStore, AbstractReadOnlyStore, AbstractStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._server_requests import Body, Request
    from ._streams import Readable

__all__ = ["PARTS", "delete_key", "read_part", "write_part"]

#: The methods of each part.
PARTS = {
    "data": ("GET", "HEAD", "PUT"),
    "value": ("GET", "HEAD", "PUT"),
    "metadata": ("GET", "HEAD", "PUT", "POST"),
    "auth": ("GET", "HEAD", "PUT", "POST"),
}

# A body of up to this size is read before the store is asked for anything: one that is at hand keeps
# no store waiting.
_AT_HAND = 1 << 18


def read_part(request: Request, store: AbstractReadOnlyStore, key: str, part: str) -> Response:
    """GET or HEAD."""
    if part == "auth":
        return _read_permissions(request, store, key)
    value = store.get(key)
    if part == "data":
        return answer_data(request, value, key)
    return (answer_value if part == "value" else answer_metadata)(request, value)


def write_part(
    request: Request, store: AbstractStore, key: str, part: str, max_body: int, max_json: int
) -> Response:
    """PUT or POST."""
    if part == "auth":
        return _write_permissions(request, store, key, max_json)
    conditions = write_conditions(request, store, key)
    if part == "metadata":
        metadata = _metadata_of(request.json(max_json))
        method = "set_metadata" if request.method == "PUT" else "update_metadata"
        return write(request, store, method, key, (metadata,), conditions)
    body = request.body(max_body)
    method, before = "set_data", None
    if part == "value":
        method, before = "set", _metadata_before(request, body, max_json)
    rest = body.missing
    at_hand = rest is not None and rest <= _AT_HAND
    stream: Readable = io.BytesIO(body.read_exactly(rest or 0)) if at_hand else body
    given = stream if before is None else (stream, before)
    try:
        return write(request, store, method, key, (given,), conditions, at_hand)
    except Exception as error:
        if body.error is not None and body.error is not error:
            # The store has made something else of it.
            raise body.error from error
        raise


def delete_key(request: Request, store: AbstractStore, key: str) -> Response:
    return write(request, store, "delete", key, (), write_conditions(request, store, key))


def _metadata_before(request: Request, body: Body, most: int) -> dict[str, Any]:
    """Return the metadata that stand before the data."""
    length = request.number("Encore-Metadata-Length")
    if length is None:
        raise RequestError(400, "Encore-Metadata-Length says where the data begin")
    if length > most:
        raise RequestError(413, f"metadata have at most {most} bytes here")
    return _metadata_of(read_json(body.read_exactly(length)))


def _metadata_of(content: Any) -> dict[str, Any]:
    try:
        return normalise(content)
    except (TypeError, ValueError) as error:
        # It is about what the client has sent.
        raise RequestError(400, str(error), type(error).__name__) from error


# Permissions


def _authorizing(store: AbstractReadOnlyStore) -> AbstractAuthorizingStore:
    if not isinstance(store, AbstractAuthorizingStore):
        raise NotImplementedError("the store has no permissions")
    return store


def _read_permissions(request: Request, store: AbstractReadOnlyStore, key: str) -> Response:
    from ._metadata import digest

    found = _authorizing(store).get_permissions(key)
    content = {name: sorted(tags) for name, tags in sorted(found.items())}
    # Not the etag of the value, which is the same with other permissions.
    tag = f'"{digest(content)}"'
    headers = [REVALIDATED, ("ETag", tag)]
    if is_conditional(request) and not check_read(request, (tag,), None):
        return Response(304, headers)
    return json_response(200, content, headers)


def _write_permissions(request: Request, store: AbstractStore, key: str, most: int) -> Response:
    owned = _authorizing(store)
    if request.header("If-Match") is not None or request.header("If-None-Match") is not None:
        raise NotImplementedError("permissions are set without conditions")
    content = request.json(most)
    if not isinstance(content, dict) or not all(
        isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
        for tags in content.values()
    ):
        raise RequestError(400, "permissions are an object of lists of tags", "TypeError")
    permissions = {name: set(tags) for name, tags in content.items()}
    if request.method == "PUT":
        if not permissions.get("owned"):
            raise RequestError(400, "'owned' needs at least one tag")
        owned.set_permissions(key, permissions)
    else:
        owned.update_permissions(key, permissions)
    return Response(204, [REVALIDATED])
