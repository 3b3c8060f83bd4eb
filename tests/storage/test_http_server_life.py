"""How a server begins and ends: addresses, TLS, stopping, signals."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import threading
import time

import pytest
from certificates import Authority
from http_wire import DEADLINE, GET, Truncated, Wire

from encore.storage import _http_server
from encore.storage._http_server import Server
from encore.storage._http_server_address import is_loopback
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.server import serve


def hello(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class Halting:
    """An application that waits in the middle of its answer."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, environ, start):
        start("200 OK", [("Content-Length", "10")])
        yield b"first"
        self.begun.release()
        assert self.go.wait(DEADLINE)
        yield b"final"


@pytest.fixture
def halting():
    application = Halting()
    yield application
    application.go.set()


def begin(wire, application):
    wire.send(GET)
    assert application.begun.acquire(timeout=DEADLINE)


# Addresses


def test_it_says_where_it_is():
    server = Server(hello, port=0)
    try:
        assert server.host == "127.0.0.1"
        assert server.port > 0
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert repr(server) == f"<Server at {server.url}, not started>"
        with server:
            assert repr(server).endswith(", started>")
        assert repr(server).endswith(", stopped>")
    finally:
        server.stop()


def test_the_port_is_free_again():
    with Server(hello, port=0) as server, Wire(server) as wire:
        wire.ask(GET)
    with Server(hello, port=server.port) as other, Wire(other) as wire:
        assert wire.ask(GET).status == 200


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this computer has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(host):
    with Server(hello, host, port=0) as server:
        assert server.host == host
        assert server.url == f"http://[::1]:{server.port}/"
        with Wire(server) as wire:
            assert wire.ask(GET).status == 200
        if host == "::":
            with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as sock:
                sock.sendall(GET)
                assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("host", ["0.0.0.0", "", "localhost"])
def test_other_hosts(host):
    with Server(hello, host, port=0) as server, Wire(server) as wire:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert wire.ask(GET).status == 200


def test_a_port_that_is_taken():
    with Server(hello, port=0) as server:
        with pytest.raises(StoreOSError) as caught:
            Server(hello, port=server.port)
        assert caught.value.errno == errno.EADDRINUSE
        assert f"127.0.0.1:{server.port}" in str(caught.value)


def test_a_port_that_is_not_permitted(monkeypatch):
    class Socket(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(StoreOSError) as caught:
        Server(hello, port=80)
    assert caught.value.errno == errno.EACCES
    assert "127.0.0.1:80" in str(caught.value)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "a" * 300, "\udcff", "a..b"])
def test_a_host_that_is_none(monkeypatch, host):
    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host[0] != "a" and host[0] != "\udcff":
        # Nobody is asked for it.
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StoreOSError):
        Server(hello, host, 0)


def test_an_address_of_another_computer():
    # TEST-NET-1 of RFC 5737.
    with pytest.raises(StoreOSError) as caught:
        Server(hello, "192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"host": None}, TypeError),
        ({"port": "80"}, TypeError),
        ({"port": True}, TypeError),
        ({"port": -1}, ValueError),
        ({"port": 65536}, ValueError),
        ({"max_connections": 0}, ValueError),
        ({"max_connections": 1.5}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": None}, TypeError),
        ({"grace": -1}, ValueError),
        ({"grace": float("inf")}, ValueError),
        ({"application": 5}, TypeError),
    ],
)
def test_arguments_are_checked(options, error):
    options = {"application": hello, "port": 0, **options}
    with pytest.raises(error):
        Server(**options)


def test_what_only_this_computer_can_reach():
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("", "0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example.org"):
        assert not is_loopback(host)


# Stopping


def test_a_server_runs_once():
    with Server(hello, port=0) as server:
        pass
    with pytest.raises(RuntimeError):
        server.run()
    server.stop()


def test_a_server_that_never_ran_can_be_stopped():
    server = Server(hello, port=0)
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        Wire(server)
    with pytest.raises(RuntimeError):
        server.run()


def test_threads_end_with_the_server():
    before = set(threading.enumerate())
    with Server(hello, port=0) as server:
        wires = [Wire(server) for _ in range(5)]
        for wire in wires:
            assert wire.ask(GET).status == 200
        wires.pop().close()
        assert set(threading.enumerate()) > before
    for wire in wires:
        wire.close()
    # They have nothing to wait for.
    assert wait_until(lambda: set(threading.enumerate()) <= before)
    assert server._threads == 0


def test_connections_that_wait_end_at_once():
    with Server(hello, port=0, grace=1000) as server:
        kept, silent = Wire(server), Wire(server)
        kept.ask(GET)
    # It would have taken the grace time otherwise.
    with kept, silent:
        assert kept.has_ended()
        assert silent.has_ended()


def wait_until_it_listens_no_more(server):
    end = time.monotonic() + DEADLINE
    try:
        while time.monotonic() < end:
            Wire(server).close()
    except ConnectionError:
        return
    raise AssertionError("it listens")


def test_what_is_being_answered_is_answered(halting):
    server = Server(halting, port=0, grace=1000).start()
    with Wire(server) as wire, Wire(server) as late:
        begin(wire, halting)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        # It says nothing to those who have not asked yet, and listens no more.
        assert late.has_ended()
        wait_until_it_listens_no_more(server)
        assert stopping.is_alive()
        halting.go.set()
        assert wire.answer().body == b"firstfinal"
        assert wire.has_ended()
        stopping.join(DEADLINE)
        assert not stopping.is_alive()


def test_an_upload_is_taken_to_its_end():
    reading = threading.Event()

    def application(environ, start):
        data = environ["wsgi.input"].read(1)
        reading.set()
        data += environ["wsgi.input"].read()
        start("200 OK", [])
        return [data]

    server = Server(application, port=0, grace=1000).start()
    with Wire(server) as wire, Wire(server) as late:
        wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n1")
        assert reading.wait(DEADLINE)
        server.request_stop()
        assert late.has_ended()
        wire.send(b"234")
        answer = wire.answer()
        assert answer.body == b"1234"
        # The client is told not to go on.
        assert answer.fields["connection"] == "close"
        assert wire.has_ended()
        server.stop()


def test_what_takes_too_long_is_cut(halting, caplog):
    server = Server(halting, port=0, grace=0.02)
    cut = []
    thread = threading.Thread(target=lambda: cut.append(server.run()))
    thread.start()
    with Wire(server) as wire:
        begin(wire, halting)
        server.request_stop()
        with pytest.raises((Truncated, ConnectionResetError)):
            wire.answer()
        halting.go.set()
        thread.join(DEADLINE)
    assert cut == [1]
    assert caplog.records[0].getMessage() == "requests that were cut: 1"


def test_who_is_in_a_hurry_can_say_so_later(halting, caplog):
    server = Server(halting, port=0, grace=1000).start()
    with Wire(server) as wire, Wire(server) as late:
        begin(wire, halting)
        server.request_stop()
        assert late.has_ended()
        server.request_stop(grace=0)
        with pytest.raises((Truncated, ConnectionResetError)):
            wire.answer()
        halting.go.set()
        server.stop()


def test_requests_that_were_pipelined_are_not_begun_any_more(halting):
    server = Server(halting, port=0, grace=1000).start()
    with Wire(server) as wire, Wire(server) as late:
        wire.send(GET * 3)
        assert halting.begun.acquire(timeout=DEADLINE)
        server.request_stop()
        assert late.has_ended()
        halting.go.set()
        assert wire.answer().body == b"firstfinal"
        wire.end()
        assert wire.has_ended()
        server.stop()


def test_clients_that_linger_do_not_hold_a_server_that_stops():
    with Server(hello, port=0, grace=1000) as server, Wire(server) as wire:
        assert wire.ask(b"nonsense\r\n\r\n").status == 400
        # The client does not close its side.


def test_who_took_the_thread_of_another_is_ended_too(monkeypatch):
    monkeypatch.setattr(_http_server, "_HOLD", 1000.0)
    with Server(hello, port=0, max_connections=1, grace=1000) as server, Wire(server) as first:
        first.ask(GET)
        with Wire(server) as second:
            server.stop()
            assert first.has_ended()
            assert second.has_ended()


def test_a_client_that_waits_for_a_thread_is_ended(monkeypatch, halting):
    monkeypatch.setattr(_http_server, "_HOLD", 1000.0)
    server = Server(halting, port=0, max_connections=1, grace=1000).start()
    with Wire(server) as wire, Wire(server) as late:
        begin(wire, halting)
        assert wait_until(lambda: server._held)
        server.request_stop()
        assert late.has_ended()
        halting.go.set()
        assert wire.answer().body == b"firstfinal"
        server.stop()
        # It would have looked again and again otherwise.
        assert server._resume == 0.0


def test_a_server_that_lacks_descriptors_can_be_stopped(monkeypatch):
    """It does not accept just then."""
    paused = threading.Event()

    class Lacking:
        def __init__(self, listener):
            self._listener = listener

        def accept(self):
            paused.set()
            raise OSError(errno.EMFILE, "of the test")

        def __getattr__(self, name):
            return getattr(self._listener, name)

    monkeypatch.setattr(_http_server, "_PAUSE", 1000.0)
    server = Server(hello, port=0, grace=1000)
    server._listener = Lacking(server._listener)
    with server, Wire(server) as wire:
        assert paused.wait(DEADLINE)
        server.stop()
        assert wire.has_ended()


def test_a_connection_that_no_thread_has_taken_yet_is_closed():
    class Queued:
        is_closed = False

        def close(self):
            self.is_closed = True

    server = Server(hello, port=0)
    queued = Queued()
    # As it is between the end of a connection and the next one of its thread.
    server._queue.put(queued)
    server._spare = -1
    server.is_stopping = True
    server._release_spare_threads()
    assert queued.is_closed
    assert server._queue.empty()
    assert server._next() is None
    server.stop()


# serve()


@pytest.fixture
def store():
    return DictMemoryStore()


def signalled(*numbers):
    """Return a `ready` that makes the process get signals after a request."""
    seen = []

    def ready(url):
        def act():
            port = int(url.rstrip("/").rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
                sock.sendall(b"GET /alive HTTP/1.1\r\nHost: localhost\r\n\r\n")
                seen.append(sock.recv(65536))
            for number in numbers:
                os.kill(os.getpid(), number)

        thread = threading.Thread(target=act)
        thread.start()

    return ready, seen


needs_signals = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_a_signal(store, number):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    # As it is at a terminal, wherever the tests run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ready, seen = signalled(number)
        assert serve(store, port=0, ready=ready) == 0
        assert seen[0].startswith(b"HTTP/1.1 200 ")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
    # It was not connected before.
    assert not store.is_connected()


@needs_signals
def test_a_signal_that_is_ignored_stays_ignored(store):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ready, _ = signalled(signal.SIGINT, signal.SIGTERM)
        serve(store, port=0, ready=ready)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@needs_signals
def test_a_store_that_is_connected_stays_connected(store):
    with store:
        ready, _ = signalled(signal.SIGTERM)
        serve(store, port=0, ready=ready)
        assert store.is_connected()


@needs_signals
def test_a_second_signal_does_not_wait(store, caplog):
    """A download that is never taken holds the server until somebody is in a hurry."""
    with store:
        store.from_bytes("large", bytes(50_000_000))
        held = []

        def ready(url):
            port = int(url.rstrip("/").rpartition(":")[2])

            def act():
                sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
                held.append(sock)
                sock.sendall(b"GET /data/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
                os.kill(os.getpid(), signal.SIGTERM)
                try:
                    # It listens no more when it has seen the first.
                    while True:
                        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()
                except ConnectionError:
                    pass
                os.kill(os.getpid(), signal.SIGTERM)

            threading.Thread(target=act).start()

        assert serve(store, port=0, grace=1000, ready=ready) == 1
        held[0].close()


def test_what_cannot_be_served_changes_nothing(store):
    with Server(hello, port=0) as server, pytest.raises(StoreOSError):
        serve(store, port=server.port)
    assert not store.is_connected()


def test_a_store_that_cannot_be_connected_frees_the_port():
    ports = []

    class Broken(DictMemoryStore):
        def connect(self, credentials=None):
            raise StoreError("no")

    listen = _http_server.listen

    def listening(*arguments):
        sock = listen(*arguments)
        ports.append(sock.getsockname()[1])
        return sock

    patch = pytest.MonkeyPatch()
    patch.setattr(_http_server, "listen", listening)
    with pytest.raises(StoreError, match="no"):
        serve(Broken(), port=0)
    patch.undo()
    with Server(hello, port=ports[0]):
        pass


def test_a_ready_that_fails_ends_it(store):
    def ready(url):
        raise LookupError(url)

    with pytest.raises(LookupError):
        serve(store, port=0, ready=ready)
    assert not store.is_connected()


def test_only_names_of_this_computer_are_answered(store):
    """A page that lets its own name stand for this computer reads nothing."""
    answers = []

    def ask(port, host):
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
            sock.sendall(f"GET /about HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return int(sock.recv(65536)[9:12])

    def served(**options):
        def ready(url):
            port = int(url.rstrip("/").rpartition(":")[2])

            def act():
                answers.append([ask(port, host) for host in hosts])
                os.kill(os.getpid(), signal.SIGTERM)

            threading.Thread(target=act).start()

        serve(store, port=0, ready=ready, **options)
        return answers.pop()

    if os.name != "posix":
        pytest.skip("needs POSIX signals")
    hosts = ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]", "evil.example", "10.0.0.1"]
    assert served() == [200] * 4 + [421] * 2
    assert served(hosts=["evil.example"])[-2:] == [200, 421]
    assert served(host="0.0.0.0") == [200] * 6
    assert served(authenticate=lambda name, password: True) == [401] * 6


# TLS


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return authority.issue("server"), authority.trusting()


def echo(environ, start):
    body = environ["wsgi.input"].read()
    start("200 OK", [("X-Scheme", environ["wsgi.url_scheme"])])
    return [body] if environ["REQUEST_METHOD"] == "PUT" else iter([b"a", b"b"])


def test_https(contexts):
    server_side, client_side = contexts
    body = bytes(range(256)) * 5000
    with Server(echo, port=0, ssl_context=server_side) as server:
        assert server.url.startswith("https://")
        with Wire(server, tls=client_side) as wire:
            wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
            answer = wire.ask(body)
            assert answer.body == body
            assert answer.fields["x-scheme"] == "https"
            assert wire.ask(GET).body == b"ab"


def test_https_ends_with_a_close_notify(contexts):
    server_side, client_side = contexts
    with Server(echo, port=0, ssl_context=server_side) as server:
        address = ("127.0.0.1", server.port)
        with (
            socket.create_connection(address, timeout=DEADLINE) as sock,
            client_side.wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            # Without it this is an SSLEOFError.
            while piece := tls.recv(65536):
                data += piece
            assert data.endswith(b"\r\n\r\nab")


def test_an_answer_over_https_that_is_not_finished_looks_unfinished(contexts, caplog):
    server_side, client_side = contexts

    def application(environ, start):
        start("200 OK", [])
        yield b"begun"
        raise RuntimeError

    with Server(application, port=0, ssl_context=server_side) as server:
        address = ("127.0.0.1", server.port)
        with (
            socket.create_connection(address, timeout=DEADLINE) as sock,
            client_side.wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                b"".join(iter(lambda: tls.recv(65536), b""))


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01", bytes(1000)])
def test_a_handshake_has_to_come_in_time(contexts, data):
    with Server(echo, port=0, timeout=0.1, ssl_context=contexts[0]) as server:
        with Wire(server) as wire:
            wire.send(data)
            try:
                got = wire.rest()
            except ConnectionResetError:
                got = b""
            # At most an alert of TLS.
            assert b"HTTP" not in got
        with Wire(server, tls=contexts[1]) as wire:
            assert wire.ask(GET).body == b"ab"


def test_a_client_of_http_is_told_that_this_is_https(contexts):
    with Server(echo, port=0, ssl_context=contexts[0]) as server, Wire(server) as wire:
        answer = wire.ask(GET)
        assert answer.status == 426
        assert b"this server speaks HTTPS" in answer.body


def test_http_is_told_that_this_is_https(contexts):
    with Server(echo, port=0, ssl_context=contexts[0]) as server:
        for request in (GET, b"OPTIONS /a", b"P"):
            with Wire(server) as wire:
                answer = wire.ask(request)
                assert (answer.status, answer.fields["connection"]) == (426, "close")
                assert b"HTTPS" in answer.body
                wire.end()
                assert wire.has_ended()
        with Wire(server, tls=contexts[1]) as wire:
            assert wire.ask(GET).body == b"ab"


def test_silent_handshakes_do_not_hold_a_server_that_stops(contexts):
    server = Server(echo, port=0, grace=0.02, ssl_context=contexts[0])
    with server, Wire(server) as wire:
        wire.send(b"\x16")
        assert wait_until(lambda: server._connections)


def wait_until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.001)
    return True


def test_too_many_https_clients_are_closed(contexts, monkeypatch):
    monkeypatch.setattr(_http_server, "_HOLD", 0.01)
    server_side, client_side = contexts
    with (
        Server(echo, port=0, max_connections=1, ssl_context=server_side) as server,
        Wire(server, tls=client_side) as busy,
    ):
        busy.send(GET[:10])
        with Wire(server) as wire:
            assert wire.rest() == b""
        assert busy.ask(GET[10:]).body == b"ab"
        # One that waits gives way here too.
        assert wait_until(lambda: server.waiting)
        with Wire(server, tls=client_side) as wire:
            assert wire.ask(GET).body == b"ab"
        assert busy.has_ended()


def test_a_client_that_trusts_nobody_gets_nothing(contexts):
    with Server(echo, port=0, ssl_context=contexts[0]) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            Wire(server, tls=ssl.create_default_context())
        with Wire(server, tls=contexts[1]) as wire:
            assert wire.ask(GET).body == b"ab"
