"""A threading HTTP/1.1 server for any WSGI application, and what serves a store with it.

One thread accepts connections; each connection has a thread, which waits for the next one when it
is done. Connections that wait for a request are ended when others need their threads.
"""

from __future__ import annotations

import errno
import logging
import queue
import selectors
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

from ._http_server_address import listen
from ._http_server_connection import ERRORS, Connection
from ._http_server_refusals import Refusals
from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

__all__ = ["Server", "serve_application"]

# What accept() says where it is the server that lacks something.
_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# How long nothing is accepted then.
_PAUSE = 0.1

# How long a thread waits for another connection.
_SPARE = 10.0

# A connection that never had a request may be one of a moment ago.
_FRESH = 1.0

# How long clients wait for a thread before they are refused, and how often it is looked for one.
_HOLD = 0.5
_LOOK = 0.01

# How often the log is told that there is too much to do.
_WARN_EVERY = 1.0

_log = logging.getLogger("encore.storage.server")


class Server:
    """An HTTP/1.1 server.

    It is bound when it is made, to the port that it says, and answers from start() or run() on.

    Parameters
    ----------
    application : callable
        A WSGI application (PEP 3333). It is called by many threads.
    host : str
        A name or an address, of IPv4 or IPv6; "" are all addresses of this computer.
    port : int
        0 takes one that is free.
    max_connections : int > 0
        How many connections there are at a time, each with a thread.
    timeout : float > 0, in seconds
        How long the server waits for a client: for a whole head, for each step of a body or an answer, for
        the next request.
    grace : float >= 0, in seconds
        How long requests may go on when the server is to stop.
    ssl_context : ssl.SSLContext, optional
        Makes it an HTTPS server.
    clock : callable
        Instead of ``time.monotonic``.

    Attributes
    ----------
    host, port : str, int
        Where it listens.
    url : str
        How it can be reached from this computer, with a slash at the end.

    Raises
    ------
    StoreOSError
        If the address cannot be used, with the errno: a port that is taken, or not permitted.
    """

    def __init__(
        self,
        application: Application,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        max_connections: int = 100,
        timeout: float = 30.0,
        grace: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(application):
            raise TypeError(f"an application is a callable, not {shown(application)}")
        _check(host, port, max_connections, timeout, grace)
        self.application = application
        self.timeout = timeout
        self.ssl_context = ssl_context
        self.clock = clock
        self.is_stopping = False
        #: Connections that wait for a request, longest first, and since when. Whoever takes one
        #: out, its thread or another one, decides what becomes of it.
        self.waiting: dict[Connection, float] = {}
        self._max_connections = max_connections
        self._grace = grace
        self._connections: set[Connection] = set()
        #: Guards the two numbers below.
        self._lock = threading.Lock()
        self._threads = 0
        #: Threads that wait for a connection, without those that one in the queue is for.
        self._spare = 0
        self._queue: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        #: When to look for clients again, while that makes no sense; 0 otherwise.
        self._resume = 0.0
        #: The client that waits for a thread, and since when there is always one who does.
        self._held: tuple[socket.socket, Any] | None = None
        self._full_since: float | None = None
        self._warned = -_WARN_EVERY
        self._thread: threading.Thread | None = None
        self._has_run = False
        self._listener = listen(host, port)
        self._wake_out, self._wake_in = socket.socketpair()
        for sock in (self._listener, self._wake_out, self._wake_in):
            sock.setblocking(False)
        self.host, self.port = self._listener.getsockname()[:2]
        self._is_bound_to_all = self.host in ("0.0.0.0", "::")
        #: What is the same in all environments.
        self.environ = {
            "SCRIPT_NAME": "",
            "SERVER_NAME": self.host,
            "SERVER_PORT": str(self.port),
            "SERVER_SOFTWARE": "encore",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http" if ssl_context is None else "https",
            "wsgi.errors": ERRORS,
            "wsgi.input_terminated": True,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }

    def __repr__(self) -> str:
        state = "stopped" if self.is_stopping else "started" if self._has_run else "not started"
        return f"<{type(self).__name__} at {self.url}, {state}>"

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def wake_fd(self) -> int:
        """A descriptor: the server looks around when something is written to it."""
        return self._wake_in.fileno()

    @property
    def url(self) -> str:
        host = self.host
        if self._is_bound_to_all:
            host = "::1" if ":" in host else "127.0.0.1"
        scheme = self.environ["wsgi.url_scheme"]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    # The life of a server

    def start(self) -> Server:
        """Answer from now on, in threads of its own; return the server."""
        self._thread = threading.Thread(target=self.run, name="encore-server", daemon=True)
        self._thread.start()
        return self

    def run(self) -> int:
        """Answer until the server is told to stop.

        Returns
        -------
        int
            How many requests were cut because they took longer than the grace time.
        """
        with self._lock:
            if self._has_run:
                raise RuntimeError("a server runs once")
            self._has_run = True
        with selectors.DefaultSelector() as selector:
            self._refusals = Refusals(selector, self.clock)
            selector.register(self._wake_out, selectors.EVENT_READ, self._drain_wakes)
            self._watch(selector)
            try:
                while not self.is_stopping:
                    self._step(selector, None)
                return self._end(selector)
            finally:
                self._refusals.close()
                self._close()

    def request_stop(self, grace: float | None = None) -> None:
        """Tell it to stop, without waiting; a signal handler may do this, and once more.

        Parameters
        ----------
        grace : float, optional
            Instead of the grace time of the server.
        """
        if grace is not None:
            self._grace = grace
        self.is_stopping = True
        self._wake()

    def stop(self, grace: float | None = None) -> None:
        """Stop: no more connections; requests that are being answered may end in the grace time."""
        self.request_stop(grace)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        elif not self._has_run:
            self._has_run = True
            self._close()

    # Accepting

    def _step(self, selector: selectors.BaseSelector, timeout: float | None) -> None:
        """Wait for what happens next, and deal with it."""
        end = self._refusals.next_end()
        if self._resume:
            end = self._resume if end is None else min(end, self._resume)
        if end is not None:
            left = max(0.0, end - self.clock())
            timeout = left if timeout is None else min(left, timeout)
        for key, _ in selector.select(timeout):
            key.data(selector)
        self._refusals.close_old()
        if self._resume and self._resume <= self.clock() and not self.is_stopping:
            self._resume = 0.0
            self._watch(selector)
            if self._held is not None:
                self._accept(selector)

    def _watch(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        # Not without end: there is more to do.
        for _ in range(self._max_connections):
            client, self._held = self._held, None
            if client is None:
                client = self._accept_one(selector)
                if client is None:
                    return
            if self._admit(*client):
                self._full_since = None
                continue
            now = self.clock()
            if self._full_since is None:
                self._full_since = now
            if now - self._full_since < _HOLD:
                # The others can wait in the queue of the system.
                self._held = client
                self._pause(selector, _LOOK)
                return
            self._refuse(client[0])

    def _accept_one(self, selector: selectors.BaseSelector) -> tuple[socket.socket, Any] | None:
        """Return the next client, None if there is none now."""
        while True:
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                self._full_since = None
                return None
            except OSError as error:
                if error.errno in _LACKING:
                    self._warn("no connection can be accepted: %s", error)
                    self._end_a_waiting_one()
                    self._pause(selector, _PAUSE)
                    return None
                # A client that is gone already, or trouble of its network (accept(2)).
                _log.debug("a connection was not accepted: %s", error)
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                sock.close()
                continue
            return sock, address

    def _pause(self, selector: selectors.BaseSelector, seconds: float) -> None:
        """Accept nobody for a while; the system keeps those who come."""
        selector.unregister(self._listener)
        self._resume = self.clock() + seconds

    def _admit(self, sock: socket.socket, address: Any) -> bool:
        """Give a client to a thread; return whether there is one for it."""
        connection = Connection(self, sock, address)
        with self._lock:
            is_taken = self._spare > 0
            may_start = not is_taken and self._threads < self._max_connections
            if is_taken:
                self._spare -= 1
            elif may_start:
                self._threads += 1
        if may_start:
            thread = threading.Thread(
                target=self._work, args=(connection,), name="encore-connection", daemon=True
            )
            try:
                thread.start()
                return True
            except RuntimeError as error:
                self._warn("no thread can be started: %s", error)
                with self._lock:
                    self._threads -= 1
        if not is_taken and self._end_a_waiting_one():
            is_taken = True
            with self._lock:
                # Its thread is about to be a spare one.
                self._spare -= 1
        if is_taken:
            self._queue.put(connection)
        return is_taken

    def _end_a_waiting_one(self) -> bool:
        """End the connection that has waited longest for a request; return whether there was one."""
        now = self.clock()
        for connection, since in list(self.waiting.items()):
            is_idle = connection.is_kept or now - since >= _FRESH
            if is_idle and self.waiting.pop(connection, None) is not None:
                connection.wake()
                return True
        return False

    def _refuse(self, sock: socket.socket) -> None:
        self._warn("there are %d connections already", self._max_connections)
        if self.ssl_context is None:
            self._refusals.add(sock)
        else:
            # The handshake would have to be waited for.
            sock.close()

    def _warn(self, message: str, *args: object) -> None:
        # Clients must not be able to fill a disk.
        now = self.clock()
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            _log.warning(message, *args)

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"!")
        except OSError:
            # It is full, or closed; either will do.
            pass

    def _drain_wakes(self, selector: selectors.BaseSelector) -> None:
        try:
            self._wake_out.recv(4096)
        except BlockingIOError:
            pass

    # The threads of connections

    def _work(self, connection: Connection | None) -> None:
        while connection is not None:
            self._connections.add(connection)
            if self.is_stopping:
                connection.close()
            else:
                connection.serve()
            self._connections.discard(connection)
            connection = self._next()
        with self._lock:
            self._threads -= 1
        if self.is_stopping:
            self._wake()

    def _next(self) -> Connection | None:
        with self._lock:
            if self.is_stopping:
                return None
            self._spare += 1
        try:
            return self._queue.get(timeout=_SPARE)
        except queue.Empty:
            with self._lock:
                if self._spare > 0:
                    self._spare -= 1
                    return None
            # One is on its way.
            return self._queue.get()

    # The end

    def _end(self, selector: selectors.BaseSelector) -> int:
        if not self._resume:
            selector.unregister(self._listener)
        self._resume = 0.0
        self._listener.close()
        if self._held is not None:
            self._held[0].close()
        for connection in list(self.waiting):
            if self.waiting.pop(connection, None) is not None:
                connection.wake()
        self._release_spare_threads()
        began = self.clock()
        # The grace time may be cut short meanwhile.
        while self._threads > 0 and (left := began + self._grace - self.clock()) > 0:
            self._step(selector, left)
        connections = list(self._connections)
        cut = sum(connection.is_busy for connection in connections)
        for connection in connections:
            connection.wake()
        if cut:
            _log.warning("requests that were cut: %d", cut)
        if connections:
            # Those that waited for their clients end at once; others are left to themselves.
            end = self.clock() + 1.0
            while self._threads > 0 and (left := end - self.clock()) > 0:
                self._step(selector, left)
        return cut

    def _release_spare_threads(self) -> None:
        # No thread begins to wait any more.
        with self._lock:
            waiting = self._spare
            while not self._queue.empty():
                try:
                    queued = self._queue.get_nowait()
                except queue.Empty:
                    break
                if queued is not None:
                    queued.close()
                waiting += 1
            for _ in range(waiting):
                self._queue.put(None)

    def _close(self) -> None:
        self.is_stopping = True
        for sock in (self._listener, self._wake_in, self._wake_out):
            sock.close()


def serve_application(
    application: Any,
    host: str,
    port: int,
    *,
    max_connections: int = 100,
    timeout: float = 30.0,
    grace: float = 30.0,
    ssl_context: ssl.SSLContext | None = None,
    ready: Callable[[str], object] | None = None,
) -> int:
    """Do what serve() of encore.storage.server promises, with a StoreApplication."""
    server = Server(
        application,
        host,
        port,
        max_connections=max_connections,
        timeout=timeout,
        grace=grace,
        ssl_context=ssl_context,
    )
    try:
        with ExitStack() as stack:
            store = application.store
            if not store.is_connected():
                store.connect()
                stack.callback(store.disconnect)
            stack.enter_context(_stopped_by_signals(server))
            if ready is not None:
                ready(server.url)
            return server.run()
    finally:
        server.stop()


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop a server; the second one does not wait for what is going on."""
    if threading.current_thread() is not threading.main_thread():
        # Signals come to the main thread.
        yield
        return

    def stop(number: int, frame: object) -> None:
        server.request_stop(grace=0.0 if server.is_stopping else None)

    with ExitStack() as stack:
        # On Windows a signal wakes no select(), but this does.
        before: Any = signal.set_wakeup_fd(server.wake_fd, warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            # Ignored: it was started in the background. None: somebody else's, not Python's.
            if before is not signal.SIG_IGN and before is not None:
                stack.callback(signal.signal, number, before)
                signal.signal(number, stop)
        yield


def _check(
    host: object, port: object, max_connections: object, timeout: object, grace: object
) -> None:
    if not isinstance(host, str):
        raise TypeError(f"host is a str, not {shown(host)}")
    for name, value, least, most in (
        ("port", port, 0, 65535),
        ("max_connections", max_connections, 1, 1 << 20),
    ):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is an int, not {shown(value)}")
        if not least <= value <= most:
            raise ValueError(f"{name} is from {least} to {most}, not {value}")
    for name, value in (("timeout", timeout), ("grace", grace)):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{name} is a number, not {shown(value)}")
        # Written so that NaN is refused, and what no system call takes.
        if not (0 if name == "grace" else 0.001) <= value <= 1e6:
            raise ValueError(f"{name} is a number of seconds, not {value}")
