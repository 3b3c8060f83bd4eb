"""One connection of the server: requests are read, and answered by the application."""

from __future__ import annotations

import logging
import socket
from _thread import allocate_lock

from ._http_server_answer import Answer, Disconnected, plain_answer
from ._http_server_body import ChunkedBody, RequestBody, RequestBodyError
from ._http_server_channel import Channel, interrupt
from ._http_server_head import MAX_HEAD, RequestError, RequestHead, check_beginning, parse_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._http_server import Server

__all__ = ["Connection"]

# Of a body that nobody has read, so much is read to keep the connection. RFC 9112, 9.3.
_DRAINED = 65536

# How long what a client still sends is thrown away, after an answer that it may not have read yet:
# closing at once would reset the connection, and take the answer away. RFC 9112, 9.6.
LINGER = 2.0

_ENDLESS = float("inf")

_log = logging.getLogger("encore.storage.server")


class _Errors:
    """``wsgi.errors``: lines that go to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            _log.error("%s", text.rstrip())
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        pass


ERRORS = _Errors()


class Connection:
    """A connection, served by the one thread that calls serve().

    Parameters
    ----------
    server : Server
    sock : socket.socket
        Owned from now on.
    address : tuple
        That of the client.
    """

    def __init__(self, server: Server, sock: socket.socket, address: tuple[Any, ...]) -> None:
        self._server = server
        self._sock = sock
        self._address = address
        #: Whether it has had a request, and whether one is being answered.
        self.is_kept = False
        self.is_busy = False
        #: Nobody else touches the socket when it is closed: its number is another file's then.
        self._lock = allocate_lock()
        self._is_open = True

    def __repr__(self) -> str:
        return f"<connection of {self._address[0]} port {self._address[1]}>"

    def serve(self) -> None:
        """Answer requests until the client or the server has enough."""
        try:
            is_ready = self._start()
            while is_ready and self._serve_one() and not self._server.is_stopping:
                self.is_kept = True
        except (OSError, Disconnected) as error:
            _log.debug("%r: %s", self, error)
        except Exception:
            _log.exception("%r failed", self)
        finally:
            self.close()

    def wake(self) -> None:
        """End it from another thread; what waits for the client sees the end at once."""
        with self._lock:
            if self._is_open:
                interrupt(self._sock)

    def close(self) -> None:
        """Close the socket, by whose thread it is."""
        with self._lock:
            self._is_open = False
            try:
                self._sock.close()
            except OSError:
                # What could not be sent is lost.
                pass

    def _start(self) -> bool:
        """Get ready; return whether there may be a request."""
        server = self._server
        sock = self._sock
        if server.ssl_context is not None:
            sock.settimeout(server.timeout)
            # TLS begins with the type of a record, HTTP with the name of a method: to that no handshake
            # would be an answer.
            if sock.recv(1, socket.MSG_PEEK).isalpha():
                self._channel = Channel(sock, server.timeout, server.clock)
                # RFC 9110, 15.5.22
                self._refuse(426, "this server speaks HTTPS", "", "Upgrade: TLS/1.2, HTTP/1.1")
                return False
            with self._lock:
                # It is another object from now on.
                sock = self._sock = server.ssl_context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
            sock.do_handshake()
        self._channel = Channel(sock, server.timeout, server.clock)
        host, port = self._address[:2]
        self._environ = {**server.environ, "REMOTE_ADDR": host, "REMOTE_PORT": str(port)}
        return True

    # A request

    def _serve_one(self) -> bool:
        """Read and answer a request; return whether there may be another one."""
        try:
            data = self._read_head()
            if data is None:
                return False
            head = parse_head(data)
        except RequestError as error:
            self._refuse(error.status, error.message)
            return False
        self.is_busy = True
        try:
            return self._answer(head)
        finally:
            self.is_busy = False

    def _read_head(self) -> bytes | None:
        """Return a head without its last lines' ends; None if there is to be none."""
        channel = self._channel
        channel.renew()
        data = channel.take_all() or self._wait()
        if not data:
            return None
        # The time in which nothing was to be sent does not count.
        channel.renew()
        if data[:2] == b"\r\n":
            # RFC 9112, 2.2: some clients end a body with it.
            data = data[2:]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            data = self._read_rest(data)
            if not data:
                return None
            end = data.find(b"\r\n\r\n")
        channel.put_back(data, end + 4)
        return data[:end]

    def _wait(self) -> bytes:
        """Wait for the beginning of a request. Meanwhile the server may end the connection."""
        server = self._server
        server.waiting[self] = server.clock()
        try:
            if server.is_stopping:
                return b""
            data = self._channel.receive(MAX_HEAD)
        except TimeoutError:
            return b""
        finally:
            # Whoever takes it out decides: this thread, or the one that ends the connection.
            is_left_alone = server.waiting.pop(self, None) is not None
        return data if is_left_alone else b""

    def _read_rest(self, data: bytes) -> bytes:
        """Read on until a head is whole, or refused; return b"" if the client goes away."""
        channel = self._channel
        head = bytearray(data)
        is_checked = False
        searched = 0
        while True:
            if not is_checked and head:
                is_checked = check_beginning(bytes(head))
            end = head.find(b"\r\n\r\n", searched)
            if end >= 0:
                return bytes(head)
            if len(head) > MAX_HEAD:
                raise RequestError(431, "the head is too large")
            searched = max(0, len(head) - 3)
            try:
                # However much comes, the time for all of it is the same.
                piece = channel.receive(rate=_ENDLESS)
            except TimeoutError as error:
                raise RequestError(408, "the head did not come in time") from error
            if not piece:
                return b""
            head += piece

    def _answer(self, head: RequestHead) -> bool:
        channel = self._channel
        server = self._server

        def ask_for_body() -> None:
            # In the middle of an answer it would be taken for a part of that.
            if not answer.has_begun:
                channel.send(b"HTTP/1.1 100 Continue\r\n\r\n")

        ask = ask_for_body if head.expects_continue else None
        if head.length is None:
            body: RequestBody = ChunkedBody(channel, ask)
        else:
            body = RequestBody(channel, head.length, ask)
        environ = self._environ.copy()
        environ.update(head.fields)
        for name in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            value = environ.pop(f"HTTP_{name}", None)
            if value is not None:
                environ[name] = value
        environ["REQUEST_METHOD"] = head.method
        environ["PATH_INFO"] = head.path
        environ["QUERY_STRING"] = head.query
        environ["REQUEST_URI"] = head.target
        environ["SERVER_PROTOCOL"] = head.version
        environ["wsgi.input"] = body

        def keep_alive() -> bool:
            return head.keep_alive and not server.is_stopping and _can_be_drained(body)

        answer = Answer(channel, head.method, head.version == "HTTP/1.0", keep_alive)
        is_whole = False
        result: Any = None
        try:
            try:
                result = server.application(environ, answer.start)
                answer.send(result)
                is_whole = True
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except Disconnected as error:
            _log.debug("%r: %s", self, error.__cause__)
        except BaseException as error:
            # SystemExit too: it would end this thread, and nothing else.
            failure = body.failure
            if is_whole:
                _log.exception("%s was answered, and then failed", _request_line(head))
            elif not answer.has_begun:
                if failure is None:
                    _log.exception("%s failed", _request_line(head))
                    self._refuse(500, "the server failed", head.method)
                else:
                    self._refuse(failure.status, failure.message, head.method)
                return False
            else:
                # A StoreApplication has logged what it was.
                _log.warning("%s is cut: %s", _request_line(head), type(error).__name__)
                _log.debug("because of this", exc_info=True)
        if not is_whole:
            if answer.needs_reset:
                channel.reset()
            return False
        if answer.keeps_alive:
            return self._drain(body)
        if body.unread == 0 and not channel.has_data:
            channel.finish()
        else:
            self._linger()
        return False

    def _drain(self, body: RequestBody) -> bool:
        """Read what the application has left of a body; return whether that was all."""
        if body.unread:
            try:
                body.read()
            except RequestBodyError:
                return False
        return True

    def _refuse(self, status: int, message: str, method: str = "", *fields: str) -> None:
        # StoreApplication logs what it answers, the server what never comes to it.
        _log.info("%s refused: %d, %s", self._address[0], status, message)
        self._channel.send(plain_answer(status, message, *fields, has_body=method != "HEAD"))
        self._linger()

    def _linger(self) -> None:
        """Throw away what still comes, until the client has closed its side."""
        server = self._server
        self._channel.finish()
        self.is_kept = True
        server.waiting[self] = server.clock()
        try:
            end = server.clock() + LINGER
            while not server.is_stopping:
                left = end - server.clock()
                if left <= 0:
                    break
                self._sock.settimeout(left)
                if not self._sock.recv(65536):
                    break
        finally:
            server.waiting.pop(self, None)


def _can_be_drained(body: RequestBody) -> bool:
    if body.failure is not None:
        return False
    unread = body.unread
    # A client that waits to be asked may send the body or not.
    return unread == 0 or (unread is not None and unread <= _DRAINED and not body.is_pending)


def _request_line(head: RequestHead) -> str:
    return f"{_shown(head.method)} {_shown(head.target)} {head.version}"


def _shown(text: str) -> str:
    """Return what fits into a line of a log: printable ASCII, without quotes, and not too long."""
    if len(text) > 500:
        text = text[:500] + "..."
    return ascii(text)[1:-1].replace('"', "%22").replace(" ", "%20")
