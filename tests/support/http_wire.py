"""A client that sends bytes as they are, and takes answers apart strictly."""

from __future__ import annotations

import socket
from contextlib import contextmanager

from encore.storage._http_server import Server

# Nothing takes that long; it is what a test waits for that fails. Less than a server waits by default.
DEADLINE = 20.0

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Truncated(Exception):
    """The connection ended before the answer did."""


class Answer:
    def __init__(self, status, reason, fields, body):
        self.status = status
        self.reason = reason
        self.fields = fields
        self.body = body

    def __repr__(self):
        return f"<{self.status} {self.reason} {self.fields} {self.body[:100]!r}>"


class Wire:
    def __init__(self, server, tls=None, deadline=DEADLINE):
        address = ("::1" if ":" in server.host else "127.0.0.1", server.port)
        self.sock = socket.create_connection(address, timeout=deadline)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self._file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        self._file.close()
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def end(self):
        """Send no more."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            # The server has ended the connection.
            pass

    def ask(self, data, method="GET"):
        self.send(data)
        return self.answer(method)

    def answer(self, method="GET"):
        """Read one answer, exactly."""
        line = self._line()
        version, status, reason = line.split(" ", 2)
        assert version == "HTTP/1.1"
        fields = {}
        while line := self._line():
            name, _, value = line.partition(": ")
            assert name.lower() not in fields
            fields[name.lower()] = value
        status = int(status)
        if status < 200:
            assert not fields
            return Answer(status, reason, fields, b"")
        return Answer(status, reason, fields, self._body(status, fields, method))

    def rest(self):
        """Everything until the end."""
        return self._file.read()

    def has_ended(self):
        """Wait for the end; whether that is what comes next."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def _body(self, status, fields, method):
        if status in (204, 304) or method == "HEAD":
            return b""
        if "content-length" in fields:
            assert "transfer-encoding" not in fields
            return self._exactly(int(fields["content-length"]))
        if fields.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self._line(), 16):
                pieces.append(self._exactly(size))
                assert self._line() == ""
            assert self._line() == ""
            return b"".join(pieces)
        assert fields["connection"] == "close"
        return self.rest()

    def _line(self):
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise Truncated(line)
        return line[:-2].decode("latin-1")

    def _exactly(self, size):
        data = self._file.read(size)
        if len(data) < size:
            raise Truncated(data)
        return data


@contextmanager
def wired(application, **options):
    """A server of an application, and a client of it."""
    with Server(application, port=0, **options) as server, Wire(server) as wire:
        yield wire
