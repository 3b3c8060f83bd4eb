"""A server of keys that is one of ours: data and metadata in one request, conditions, queries in JSON."""

from __future__ import annotations

from os import urandom

from ._etags import parse_etag
from ._http_errors import shown_url
from ._keys import MAX_PATTERN, check_key
from ._metadata import check_depth, dumps
from ._remote_server import (
    JSON,
    RemoteServer,
    is_conditional,
    parsed_json,
    parsed_metadata,
)
from ._remote_value import RemoteValue, number_of
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from ._http import Client
    from ._http_response import Response
    from ._remote_server import Metadata, Written
    from ._request_body import RequestBody
    from .value import Value

__all__ = ["EncoreServer"]

# Data of up to this size come with the metadata.
_SMALL = 65536

_MINIMAL = {"Prefer": "return=minimal"}

_WRITES = frozenset(("DELETE", "POST", "PUT"))

_END = b"null\n"


def _believed(info: dict[str, Any]) -> dict[str, Any]:
    """Return of a description what can be one."""
    found = {
        name: info[name]
        for name in ("readonly", "conditional", "streaming")
        if isinstance(info.get(name), bool)
    }
    if info.get("durable") in ("none", "process", "power"):
        found["durable"] = info["durable"]
    limit = info.get("max_key_bytes")
    if type(limit) is int and limit > 0:
        found["max_key_bytes"] = limit
    return found


def _check_end(file: BinaryIO, size: int) -> bool:
    """Whether the answer to a query has come to its end."""
    file.seek(max(0, size - len(_END)))
    return file.read() == _END


class EncoreServer(RemoteServer):
    """The server of a store that is connected, if it is one of ours.

    Parameters
    ----------
    client, url, query_url, current
        See RemoteServer.
    info : dict
        What it says of its store.
    """

    compares_keys = True

    def __init__(
        self,
        client: Client,
        url: Callable[[str, str], str],
        query_url: str,
        current: Callable[[], RemoteServer],
        info: dict[str, Any],
    ) -> None:
        super().__init__(client, url, query_url, current)
        self.info = _believed(info)
        self.knows_repetitions = info.get("repeats") is True

    def request(
        self,
        method: str,
        key: str,
        part: str,
        *,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Response:
        if method in _WRITES:
            # The same at each attempt: it is done once, and tells each time what it has done.
            headers = {**(headers or {}), "Encore-Request": urandom(12).hex()}
        return super().request(method, key, part, headers=headers, **options)

    # Reading

    def metadata(self, key: str) -> tuple[Metadata, Any]:
        with self.request("GET", key, "metadata") as response:
            return parsed_metadata(response.read(), response, key), response.headers

    def value(self, key: str) -> Value:
        with self.request(
            "GET", key, "value", headers={"Encore-Data-Limit": str(_SMALL)}
        ) as response:
            content = response.read()
        headers = response.headers
        length = number_of(headers, "Encore-Metadata-Length")
        size = number_of(headers, "Encore-Data-Length")
        if length is None or length > len(content):
            raise StoreError(f"{shown_url(response.url)}: the answer has no metadata", key=key)
        metadata = parsed_metadata(content[:length], response, key)
        data: bytes | None = content[length:]
        if len(content) - length != size:
            if data:
                raise StoreError(f"{shown_url(response.url)}: the data are not whole", key=key)
            # They are large.
            data = None
        etag = parse_etag(headers.get("ETag"))
        return RemoteValue(key, headers, size, etag, metadata, data, self._current)

    # Finding

    def items(self, criteria: Metadata, select: list[str] | None) -> Iterator[tuple[str, Metadata]]:
        return self._items({"where": criteria, "select": select})

    def _items(self, query: dict[str, Any]) -> Iterator[tuple[str, Metadata]]:
        for item, line in self._answers(query):
            if type(item) is list and len(item) == 2 and type(item[1]) is dict:
                try:
                    check_depth(line, item[1])
                    yield check_key(item[0]), item[1]
                    continue
                except (TypeError, ValueError):
                    pass
            raise self._nonsense()

    def keys(self, criteria: Metadata) -> Iterator[str]:
        return self._keys({"where": criteria})

    def glob(self, pattern: str) -> Iterator[str] | None:
        return self._keys({"glob": pattern}) if len(pattern) <= MAX_PATTERN else None

    def page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        # With a start they come in order, even where it is the start of all.
        return self._keys({"prefix": prefix, "start_after": start_after or "", "limit": limit})

    def _keys(self, query: dict[str, Any]) -> Iterator[str]:
        for key, _ in self._answers({**query, "keys_only": True}):
            try:
                yield check_key(key)
            except (TypeError, ValueError) as error:
                raise self._nonsense() from error

    def _answers(self, query: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
        """Yield what each line says, and the line, when all of them are there."""
        import json

        body = dumps(query).encode("ascii")
        # It changes nothing, whatever the method is called.
        with self.whole("POST", self._query_url, body, _check_end) as file:
            for line in file:
                try:
                    item = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise self._nonsense() from error
                if item is None:
                    break
                yield item, line

    def _nonsense(self) -> StoreError:
        return StoreError(f"{shown_url(self._query_url)}: the answer is none to a query")

    # Writing

    def set(
        self, key: str, metadata: Metadata, body: RequestBody, headers: dict[str, str]
    ) -> Written:
        text = dumps(metadata).encode("ascii")
        body.put_before(text)
        headers.update(_MINIMAL)
        headers["Encore-Metadata-Length"] = str(len(text))
        with self.upload(key, "value", body, headers) as response:
            return response.status == 201, metadata

    def set_data(self, key: str, body: RequestBody, headers: dict[str, str], told: bool) -> Written:
        if not told:
            headers.update(_MINIMAL)
        return self._outcome(self.upload(key, "data", body, headers))

    def set_metadata(
        self, key: str, metadata: Metadata, headers: dict[str, str], told: bool
    ) -> Written:
        with self._send_metadata("PUT", key, metadata, {**headers, **_MINIMAL}) as response:
            return response.status == 201, metadata

    def update_metadata(
        self, key: str, metadata: Metadata, headers: dict[str, str], told: bool
    ) -> Written:
        wish = {} if told else _MINIMAL
        return self._outcome(self._send_metadata("POST", key, metadata, {**headers, **wish}))

    def _send_metadata(
        self, method: str, key: str, metadata: Metadata, headers: dict[str, str]
    ) -> Response:
        return self.request(
            method,
            key,
            "metadata",
            headers={**headers, **JSON},
            body=dumps(metadata).encode("ascii"),
            # What is merged twice is there once.
            safe=not is_conditional(headers),
        )

    def delete(self, key: str, headers: dict[str, str], told: bool) -> Written:
        answer = self.removed(key, headers if told else {**headers, **_MINIMAL})
        return (False, {}) if answer is None else self._outcome(answer)

    def _outcome(self, response: Response) -> Written:
        """Return what the answer to a write says."""
        with response:
            content: Any = None
            if response.status in (200, 201) and response.size != 0:
                content = parsed_json(response)
        if not isinstance(content, dict):
            return response.status == 201, {}
        metadata = content.get("metadata")
        return response.status == 201, metadata if isinstance(metadata, dict) else {}
