"""Requests to a WSGI application, without a server."""

from __future__ import annotations

import base64
import io
import json
from urllib.parse import unquote_to_bytes


class Answer:
    """What an application has answered; the body is read when it is asked for."""

    def __init__(self, application, environ):
        self.status = None
        self.headers = {}
        self.all_headers = []
        self._iterable = application(environ, self._start)
        self.chunks = iter(self._iterable)
        self._body = None

    def _start(self, status, headers, exc_info=None):
        assert self.status is None, "start_response() was called twice"
        self.status = int(status.split()[0])
        self.all_headers = headers
        self.headers = {name.lower(): value for name, value in headers}

    @property
    def body(self):
        if self._body is None:
            try:
                self._body = b"".join(self.chunks)
            finally:
                self.close()
        return self._body

    def close(self):
        close = getattr(self._iterable, "close", None)
        if close is not None:
            close()

    @property
    def json(self):
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def lines(self):
        return [json.loads(line) for line in self.body.decode().splitlines()]

    def __getitem__(self, name):
        return self.headers[name.lower()]

    def __contains__(self, name):
        return name.lower() in self.headers


class ChunkedInput(io.BytesIO):
    """What a server gives that takes chunked bodies: it ends by itself."""


class WSGIClient:
    """Makes requests to an application.

    Parameters
    ----------
    application : callable
    user : (str, str), optional
        Name and password for each request.
    """

    def __init__(self, application, user=None):
        self.application = application
        self.user = user

    def environ(self, method, target, body=b"", headers=None, **environ):
        path, _, query = target.partition("?")
        result = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": body if hasattr(body, "read") else io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if isinstance(body, ChunkedInput):
            result["HTTP_TRANSFER_ENCODING"] = "chunked"
            result["wsgi.input_terminated"] = True
        elif isinstance(body, bytes) and body:
            result["CONTENT_LENGTH"] = str(len(body))
        if self.user is not None:
            encoded = base64.b64encode(":".join(self.user).encode()).decode()
            result["HTTP_AUTHORIZATION"] = f"Basic {encoded}"
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_LENGTH", "CONTENT_TYPE"):
                key = f"HTTP_{key}"
            result[key] = value
        result.update(environ)
        return result

    def __call__(self, method, target, body=b"", headers=None, **environ):
        if not isinstance(body, bytes) and not hasattr(body, "read"):
            body = json.dumps(body).encode()
        return Answer(self.application, self.environ(method, target, body, headers, **environ))

    def get(self, target, headers=None, **environ):
        return self("GET", target, headers=headers, **environ)

    def put(self, target, body=b"", headers=None, **environ):
        return self("PUT", target, body, headers, **environ)

    def post(self, target, body=b"", headers=None, **environ):
        return self("POST", target, body, headers, **environ)

    def delete(self, target, headers=None, **environ):
        return self("DELETE", target, headers=headers, **environ)
