"""A DynamicURLStore on a WSGI application in the same process, without a server: fast."""

from __future__ import annotations

from urllib.parse import urlsplit

from wsgi_client import WSGIClient

from encore.storage._http_response import Headers, Response
from encore.storage.dynamic_url_store import DynamicURLStore

#: The applications by the name of the host in their URLs.
APPLICATIONS = {}


class ApplicationTransport:
    """Sends requests to an application."""

    def __init__(self, application):
        self._client = WSGIClient(application)

    def send(self, method, url, headers, body, timeout, *, foreign=False):
        parts = urlsplit(url)
        more = {}
        if body is not None and not isinstance(body, bytes):
            if "Content-Length" not in headers:
                more = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        elif method in ("PUT", "POST"):
            more = {"CONTENT_LENGTH": str(len(body or b""))}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        answer = self._client(
            method, target, b"" if body is None else body, {**headers, "Host": parts.netloc}, **more
        )
        found = Headers(answer.all_headers)
        length = found.get("Content-Length")
        size = None if length is None else int(length)
        if method == "HEAD" or answer.status in (204, 304):
            answer.close()
            return Response(answer.status, url, found, None, size)
        return Response(answer.status, url, found, _Body(answer), size)

    def close(self):
        pass


class _Body:
    def __init__(self, answer):
        self._answer = answer
        self._rest = b""

    def read(self, size):
        if not self._rest:
            self._rest = next(self._answer.chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self):
        self._answer.close()


class ApplicationStore(DynamicURLStore):
    """A store whose host is one of APPLICATIONS."""

    def _transport(self, credentials):
        application = APPLICATIONS[urlsplit(self.base_url).netloc]
        return "me", ApplicationTransport(application)


def store_on(application, **arguments):
    """Return a store on an application; it can be pickled within the process."""
    host = f"application{len(APPLICATIONS)}"
    APPLICATIONS[host] = application
    return ApplicationStore(f"http://{host}/keys", f"http://{host}/query", **arguments)
