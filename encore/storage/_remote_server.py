"""A server of keys, as a client sees it: the scheme of EnCore 0.8, which any server can have.

Data, metadata and permissions of a key have a URL each. Nothing is said about both of data and metadata, so
what takes two requests is not atomic for others.
"""

from __future__ import annotations

from ._http_errors import shown_url
from ._http_ranges import part_of, range_header, whole_of
from ._keys import check_key
from ._metadata import loads, matches
from ._remote_value import RemoteValue, number_of
from .errors import AuthorizationError, StoreError, TemporaryError
from .retry_policy import is_temporary, may_have_happened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any, BinaryIO

    from ._http import Client
    from ._http_response import Headers, Response
    from ._request_body import RequestBody
    from .value import Value

    Metadata = dict[str, Any]
    #: Whether the key is new, and the metadata that it has now, or had.
    Written = tuple[bool, Metadata]

__all__ = [
    "BYTES",
    "JSON",
    "RemoteServer",
    "is_conditional",
    "is_page",
    "parsed_json",
    "parsed_metadata",
    "written",
]

_MISSING = (404, 410)

JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}

# An answer that is awaited whole has to come at 500 bytes a second if the timeout is 30 seconds: a drip
# would be awaited without end.
_PACE = 1 << 14

# Sizes are those of what is sent.
_PLAIN = {"Accept-Encoding": "identity"}


class RemoteServer:
    """The server of a store that is connected.

    Parameters
    ----------
    client : Client
    url : callable
        Given key and part ('data', 'metadata', 'permissions', 'value', or '' for the key as a whole).
    query_url : str
    current : callable
        Returns the server that the store has when it is called.
    """

    #: Whether it looks at the header Encore-Key.
    compares_keys = False

    #: Whether it does once what is sent twice.
    knows_repetitions = False

    #: What its description says; there is none.
    info: dict[str, Any] = {"durable": "process"}

    def __init__(
        self,
        client: Client,
        url: Callable[[str, str], str],
        query_url: str,
        current: Callable[[], RemoteServer],
    ) -> None:
        self.client = client
        self._url = url
        self._query_url = query_url
        self._current = current

    # Requests

    def request(
        self,
        method: str,
        key: str,
        part: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | RequestBody | None = None,
        expect: Collection[int] = (),
        safe: bool | None = None,
        whole: bool = True,
    ) -> Response:
        """Send a request about a key; KeyError where there is no such key."""
        url = self._url(key, part)
        if self.compares_keys and ("%2F" in url or "%2E" in url):
            from urllib.parse import quote

            # A proxy may take dots and slashes out of paths: then it would be another key.
            headers = {**(headers or {}), "Encore-Key": quote(key, "")}
        try:
            return self.client.request(
                method,
                url,
                headers=headers,
                body=body,
                key=key,
                expect=expect,
                safe=safe,
                whole=whole,
            )
        except KeyError as error:
            if method != "PUT" or part == "permissions":
                raise
            # What is to be written need not be there before.
            status = getattr(error, "status", 404)
            raise StoreError(
                f"{shown_url(url)}: {key!r} cannot be written here: status {status}", key=key
            ) from error

    def upload(
        self,
        key: str,
        part: str,
        body: RequestBody,
        headers: dict[str, str],
        expect: Collection[int] = (),
    ) -> Response:
        """PUT data; what the stream raises passes through as it is."""
        try:
            data = body.at_hand()
            if data is None and body.size is not None:
                headers["Content-Length"] = str(body.size)
            headers.update(BYTES)
            return self.request(
                "PUT",
                key,
                part,
                headers=headers,
                body=body if data is None else data,
                expect=expect,
                # With a condition that holds no more because of the attempt whose answer was lost.
                safe=False if is_conditional(headers) else None,
            )
        except BaseException:
            if body.failure is not None:
                raise body.failure from None
            raise

    # Reading

    def holds(self, key: str) -> bool:
        with self.request("HEAD", key, "data", expect=_MISSING) as response:
            return response.status not in _MISSING

    def metadata(self, key: str) -> tuple[Metadata, Headers]:
        response = self.request("GET", key, "metadata", expect=_MISSING)
        with response:
            if response.status not in _MISSING:
                return parsed_metadata(response.read(), response, key), response.headers
        if not self.holds(key):
            raise KeyError(key)
        # There are data, and nobody has given it metadata.
        return {}, response.headers

    def value(self, key: str) -> Value:
        with self.request("HEAD", key, "data") as response:
            headers = response.headers
        metadata, _ = self.metadata(key)
        size = number_of(headers, "Content-Length")
        return RemoteValue(key, headers, size, None, metadata, None, self._current)

    def open_data(self, key: str, headers: dict[str, str], expect: Collection[int]) -> Response:
        """Ask for data, or a part of them."""
        return self.request(
            "GET", key, "data", headers={**_PLAIN, **headers}, expect=expect, whole=False
        )

    def data(self, key: str) -> BinaryIO:
        return whole_of(self.open_data(key, {}, ()))

    def data_range(self, key: str, start: int | None, end: int | None) -> BinaryIO:
        """Return a stream of a part, by one request where the bounds alone say which it is."""
        begin, length = start or 0, None if end is None else end - (start or 0)
        if (begin < 0 and end is not None) or (length is not None and (end or 0) <= max(begin, 0)):
            return self.value(key).range(start, end)
        if not begin and length is None:
            return self.data(key)
        response = self.open_data(key, {"Range": range_header(begin, length)}, (416,))
        return part_of(response, begin, length)

    def permissions(self, key: str) -> dict[str, set[str]]:
        with self._ask_permissions("GET", key, None) as response:
            found = parsed_json(response)
        if not isinstance(found, dict) or not all(
            isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
            for tags in found.values()
        ):
            raise StoreError(f"the permissions of {key!r} are no lists of tags", key=key)
        return {name: set(tags) for name, tags in found.items()}

    def write_permissions(self, method: str, key: str, permissions: dict[str, list[str]]) -> None:
        import json

        # Tags that are added twice are there once.
        self._ask_permissions(method, key, json.dumps(permissions).encode()).close()

    def _ask_permissions(self, method: str, key: str, body: bytes | None) -> Response:
        try:
            headers = None if body is None else dict(JSON)
            return self.request(method, key, "permissions", headers=headers, body=body, safe=True)
        except NotImplementedError as error:
            raise AuthorizationError(
                f"there are no permissions of {key!r}: the store behind the server has none",
                key=key,
            ) from error

    # Finding

    def items(self, criteria: Metadata, select: list[str] | None) -> Iterator[tuple[str, Metadata]]:
        for key in self.keys(criteria):
            try:
                metadata, _ = self.metadata(key)
            except KeyError:
                continue
            # It may have changed; and 1 may be True for the server.
            if matches(metadata, criteria):
                yield key, metadata

    def keys(self, criteria: Metadata) -> Iterator[str]:
        import json
        from urllib.parse import urlencode

        url = self._query_url
        if criteria:
            pairs = {name: json.dumps(value) for name, value in criteria.items()}
            url += ("&" if "?" in url else "?") + urlencode(pairs)
        with self.whole("GET", url, None, lambda file, size: True) as file:
            for line in file:
                try:
                    # A key may hold any character but the one that ends the line.
                    key = line.removesuffix(b"\n").decode()
                    if key:
                        yield check_key(key)
                except ValueError as error:
                    raise StoreError(f"{shown_url(url)}: {line[:80]!r} is no key") from error

    def whole(
        self, method: str, url: str, body: bytes | None, is_whole: Callable[[BinaryIO, int], bool]
    ) -> BinaryIO:
        """Return the answer to a query as a file, when all of it has come; it is asked for again once if not.

        Parameters
        ----------
        method, url : str
        body : bytes or None
            JSON.
        is_whole : callable
            Given the file and its size, says whether it has its end.
        """
        from ._spool import spooled

        headers = None if body is None else dict(JSON)
        last = False
        while True:
            response = self.client.request(method, url, headers=headers, body=body, safe=True)
            try:
                with response:
                    response.paced(_PACE)
                    file, size = spooled(response)
                    _check_no_page(response, file)
                if is_whole(file, size):
                    file.seek(0)
                    return file
                file.close()
                raise TemporaryError(f"{shown_url(url)}: the answer ends too early")
            except TemporaryError:
                if last:
                    raise
                last = True

    def glob(self, pattern: str) -> Iterator[str] | None:
        """Return keys that match and perhaps others; None if they cannot be asked for."""
        return None

    def page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str] | None:
        """Return keys in code point order; None if they cannot be asked for."""
        return None

    # Writing. `told` is whether anybody wants to know what has changed.

    def set(
        self, key: str, metadata: Metadata, body: RequestBody, headers: dict[str, str]
    ) -> Written:
        """Write both, the data last: a key is there when its data are, and then so are its metadata."""
        before = self._before(key)
        with self._safe(body) as safe:
            is_put = self._put_metadata(key, metadata)
            try:
                self.upload(key, "data", safe, {}).close()
            except BaseException as error:
                if is_put:
                    self._undo_metadata(key, before, safe.size or 0, error)
                raise
        if not is_put and not self._put_metadata(key, metadata):
            raise StoreError(f"the metadata of {key!r} cannot be written", key=key)
        return before is None, metadata

    def _safe(self, body: RequestBody) -> RequestBody:
        """Return what is left of a stream when all has gone wrong that can go wrong with it."""
        try:
            return body.spooled()
        except BaseException:
            if body.failure is not None:
                raise body.failure from None
            raise

    def _before(self, key: str) -> Metadata | None:
        try:
            return self.metadata(key)[0]
        except KeyError:
            return None

    def _put_metadata(self, key: str, metadata: Metadata) -> bool:
        """Write metadata; return False where the server wants the data to be there before."""
        with self.request(
            "PUT", key, "metadata", headers=dict(JSON), body=written(metadata), expect=_MISSING
        ) as response:
            return response.status not in _MISSING

    def _undo_metadata(
        self, key: str, before: Metadata | None, size: int, error: BaseException
    ) -> None:
        """Take the metadata back whose data could not be written, unless there are data that are not the old ones."""
        try:
            if before is None or (is_temporary(error) and may_have_happened(error)):
                with self.request("HEAD", key, "data", expect=_MISSING) as response:
                    there: int | None = 0
                    if response.status not in _MISSING:
                        there = number_of(response.headers, "Content-Length")
                # Others have written them meanwhile, or they are ours and the answer was lost.
                if there == size if before is not None else there != 0:
                    return
            if before is None:
                self.request("DELETE", key, "", expect=_MISSING).close()
            else:
                self._put_metadata(key, before)
        except StoreError as second:
            if hasattr(error, "add_note"):
                error.add_note(f"The old metadata could not be put back: {second}")

    def set_data(self, key: str, body: RequestBody, headers: dict[str, str], told: bool) -> Written:
        before = self._before(key) if told else None
        with self.upload(key, "data", body, headers):
            return before is None, before or {}

    def set_metadata(
        self, key: str, metadata: Metadata, headers: dict[str, str], told: bool
    ) -> Written:
        before = self._before(key) if told else None
        if not self._put_metadata(key, metadata):
            self.request("PUT", key, "data", headers=dict(BYTES), body=b"").close()
            if not self._put_metadata(key, metadata):
                raise StoreError(f"the metadata of {key!r} cannot be written", key=key)
        return before is None, metadata

    def update_metadata(
        self, key: str, metadata: Metadata, headers: dict[str, str], told: bool
    ) -> Written:
        before = self.metadata(key)[0] if told else {}
        # What is merged twice is there once.
        self.request(
            "POST", key, "metadata", headers=dict(JSON), body=written(metadata), safe=True
        ).close()
        return False, {**before, **metadata}

    def delete(self, key: str, headers: dict[str, str], told: bool) -> Written:
        before = self.metadata(key)[0] if told else {}
        answer = self.removed(key, headers)
        if answer is not None:
            answer.close()
        return False, before

    def removed(self, key: str, headers: dict[str, str]) -> Response | None:
        """Return the answer to a DELETE, None if an attempt has deleted the key before that could not say so."""
        try:
            return self.request("DELETE", key, "", headers=headers)
        except KeyError as error:
            if getattr(error, "repeated", False) and not self.knows_repetitions:
                return None
            raise


def written(metadata: Metadata) -> bytes:
    """Return metadata as they are sent: as 0.8 writes them."""
    import json

    return json.dumps(metadata).encode("ascii")


def is_conditional(headers: dict[str, str]) -> bool:
    return "If-Match" in headers or "If-None-Match" in headers


def is_page(response: Response) -> bool:
    """Whether an answer says that it is a page for people."""
    kind = (response.headers.get("Content-Type") or "").lower()
    return kind.startswith(("text/html", "application/xhtml"))


def _check_no_page(response: Response, file: BinaryIO) -> None:
    """Raise a StoreError if the answer to a query is a page."""
    # Some frameworks call everything text/html, keys too.
    if is_page(response):
        start = file.read(1024).lstrip()
        file.seek(0)
        if start.startswith((b"<", b"\xef\xbb\xbf<")):
            file.close()
            raise StoreError(f"{shown_url(response.url)}: the answer is HTML, and no keys")


def parsed_json(response: Response) -> Any:
    """Return what an answer says; StoreError if that is no JSON."""
    import json

    try:
        return json.loads(response.read())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{shown_url(response.url)}: the answer is no JSON") from error


def parsed_metadata(text: bytes, response: Response, key: str) -> Metadata:
    """Return metadata that a server has sent; StoreError if they are none."""
    try:
        return loads(text)
    except ValueError as error:
        raise StoreError(
            f"{shown_url(response.url)}: the metadata of {key!r} are damaged", key=key
        ) from error
