"""A server that does what a script says: each connection plays the next list of steps.

A step is called with the peer; bytes are sent as they are. What is left at the end of a list is
closed. Everything that waits gives up after twenty seconds.
"""

import re
import socket
import struct
import threading
from dataclasses import dataclass, field

PATIENCE = 20.0

# What a client that has gone leaves behind is no failure of the script.
GONE = (ConnectionError, TimeoutError)


@dataclass
class Received:
    """A request, as it came."""

    method: str
    target: str
    headers: dict
    body: bytes = b""
    raw: bytes = field(default=b"", repr=False)


class Peer:
    """The other end of a connection."""

    def __init__(self, sock, server):
        self.sock = sock
        self.server = server
        self.data = b""

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("the client has gone")
        self.data += data

    def head(self):
        while b"\r\n\r\n" not in self.data:
            self.more()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        request = Received(method, target, headers, raw=head)
        self.server.requests.append(request)
        return request

    def take(self, size):
        while len(self.data) < size:
            self.more()
        data, self.data = self.data[:size], self.data[size:]
        return data

    def line(self):
        while b"\r\n" not in self.data:
            self.more()
        line, _, self.data = self.data.partition(b"\r\n")
        return line

    def body(self, request):
        if request.headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.line(), 16):
                pieces.append(self.take(size))
                assert self.take(2) == b"\r\n"
            assert self.line() == b""
            request.body = b"".join(pieces)
        else:
            request.body = self.take(int(request.headers.get("content-length", 0)))


# Steps


def read_head(peer):
    """Read the head of a request."""
    peer.request = peer.head()


def read(peer):
    """Read a request, with its body."""
    read_head(peer)
    peer.body(peer.request)


def read_body(peer):
    """Read the body of the request whose head was read."""
    peer.body(peer.request)


def drip(data, turn):
    """Send one byte at a time, each when `turn` (a semaphore) is released."""

    def step(peer):
        peer.server.wakers.append(turn.release)
        for position in range(len(data)):
            if not turn.acquire(timeout=PATIENCE) or peer.server.is_over:
                return
            peer.sock.sendall(data[position : position + 1])

    return step


def one_by_one(data):
    """Send one byte at a time."""

    def step(peer):
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(data)):
            peer.sock.sendall(data[position : position + 1])

    return step


def reset(peer):
    """Close with a reset (RST)."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


def close(peer):
    """Close; what was sent arrives."""
    try:
        peer.sock.shutdown(socket.SHUT_WR)
        while peer.sock.recv(65536):
            pass
    except OSError:
        pass
    peer.sock.close()


def silence(peer):
    """Say nothing until the client goes."""
    try:
        while peer.sock.recv(65536):
            pass
    except ConnectionError:
        pass


def tell(event):
    """Set an event."""

    def step(peer):
        event.set()

    return step


def wait_for(event):
    """Wait for an event."""

    def step(peer):
        assert event.wait(PATIENCE), "it did not happen"

    return step


def start_tls(context):
    """Go on with TLS."""

    def step(peer):
        peer.sock = context.wrap_socket(peer.sock, server_side=True)

    return step


def forever(*steps):
    """Do these steps until the client goes."""

    def step(peer):
        while True:
            for each in steps:
                peer.server.do(each, peer)

    return step


def answer(body=b"", status="200 OK", **headers):
    """Return an answer with a Content-Length; names of headers have _ for -."""
    lines = [f"HTTP/1.1 {status}"]
    if "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ok(peer):
    """Read a request and answer it with its number."""
    read(peer)
    peer.sock.sendall(answer(b"%d" % len(peer.server.requests)))


class HostileServer:
    """A server on a free port of the loopback.

    Parameters
    ----------
    *scripts : list of steps
        The first is for the first connection, and so on; who comes later finds the last one.
    listener : socket, optional
    """

    def __init__(self, *scripts, listener=None):
        self.scripts = list(scripts)
        #: All requests that came, those of all connections.
        self.requests = []
        #: How many connections there were.
        self.connections = 0
        self.failures = []
        #: Called at the end.
        self.wakers = []
        self.is_over = False
        self._threads = []
        self._peers = []
        self._socket = listener or socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, kind, *exc_info):
        self.is_over = True
        for wake in self.wakers:
            wake()
        self.leave()
        for peer in self._peers:
            try:
                peer.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        if kind is None:
            assert not self.failures, self.failures

    def leave(self):
        """Accept no more connections."""
        try:
            # Wakes accept() where closing does not.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def _start(self, target, *arguments):
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            peer = Peer(sock, self)
            self._peers.append(peer)
            self.connections += 1
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self._start(self._play, peer, script)

    def _play(self, peer, script):
        try:
            for step in script:
                self.do(step, peer)
            close(peer)
        except GONE:
            pass
        except OSError as error:
            if not re.search("SSL|EOF|Bad file", f"{type(error).__name__}{error}"):
                self.failures.append(error)
        except BaseException as error:
            self.failures.append(error)
        finally:
            peer.sock.close()

    def do(self, step, peer):
        """Do a step."""
        if isinstance(step, bytes):
            peer.sock.sendall(step)
        else:
            step(peer)
