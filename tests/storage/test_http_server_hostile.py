"""Clients that are slow, huge, broken, or want something that they should not get."""

from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from http_wire import DEADLINE, GET, Wire, wired

from encore.storage import _http_server, _http_server_refusals
from encore.storage._http_server import Server
from encore.storage._http_server_channel import Channel
from encore.storage.directory_store import DirectoryStore
from encore.storage.server import StoreApplication

SOON = 0.1


def hello(environ, start):
    environ["wsgi.input"].read()
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def drip(wire, data, size=1):
    """Send a little at a time, slowly, until something comes back; return it, b'' at the end."""
    wire.sock.settimeout(0.005)
    end = time.monotonic() + DEADLINE
    for at in range(0, len(data), size):
        assert time.monotonic() < end
        try:
            wire.send(data[at : at + size])
            return wire.sock.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("the server takes everything")


# Slow ones


def test_a_client_that_says_nothing_is_left():
    with wired(hello, timeout=SOON) as wire:
        assert wire.rest() == b""


def test_a_kept_connection_that_is_silent_is_ended_without_a_word():
    with wired(hello, timeout=SOON) as wire:
        assert wire.ask(GET).status == 200
        assert wire.rest() == b""


@pytest.mark.parametrize("beginning", [b"G", GET[:-2], GET[:-1], b"\r\n"])
def test_a_head_has_to_come_in_time(beginning):
    with wired(hello, timeout=SOON) as wire:
        wire.send(beginning)
        answer = wire.answer()
        assert answer.status == 408
        assert answer.fields["connection"] == "close"
        wire.end()
        assert wire.has_ended()


@pytest.mark.parametrize("size", [1, 50])
def test_a_head_that_drips_has_no_more_time(size):
    # 50 bytes in 5 ms would be fast enough for a body.
    with wired(hello, timeout=SOON) as wire:
        got = drip(wire, GET[:-2] + b"X: " + b"y" * 60_000, size)
        assert got.startswith(b"HTTP/1.1 408 ")


def test_the_time_between_requests_does_not_count():
    later = 0.0
    reading = threading.Event()

    def clock():
        return time.monotonic() + later

    def application(environ, start):
        reading.set()
        return hello(environ, start)

    with Server(application, port=0, timeout=100, clock=clock) as server, Wire(server) as wire:
        assert wait_until(lambda: server.waiting)
        later = 1000.0
        wire.send(GET[:-2] + b"Content-Length: 4\r\n\r\n")
        assert reading.wait(DEADLINE)
        wire.send(b"body")
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 60000", b"Transfer-Encoding: chunked\r\n\r\nea60"]
)
def test_a_body_that_drips_is_given_up(framing):
    with wired(hello, timeout=SOON) as wire:
        wire.send(GET[:-2] + framing + b"\r\n\r\n"[: 2 if b"ea60" in framing else 4])
        assert drip(wire, b"y" * 60_000).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_stops_is_given_up():
    with wired(hello, timeout=SOON) as wire:
        wire.send(GET[:-2] + b"Content-Length: 10\r\n\r\n12345")
        assert wire.answer().status == 408


def test_what_was_not_read_is_not_waited_for_without_end():
    def application(environ, start):
        start("200 OK", [])
        return [b"hello"]

    with wired(application, timeout=SOON) as wire:
        wire.send(GET[:-2] + b"Content-Length: 10\r\n\r\n12345")
        assert wire.answer().body == b"hello"
        assert wire.has_ended()


def test_a_client_that_takes_nothing_is_left():
    closed = threading.Event()

    def application(environ, start):
        start("200 OK", [])
        try:
            while True:
                yield bytes(1_000_000)
        finally:
            closed.set()

    with wired(application, timeout=SOON) as wire:
        wire.send(GET)
        assert closed.wait(DEADLINE)


class Clock:
    """Runs only while a socket is waited for: so long for each call."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = seconds

    def __call__(self):
        # A wait is between two looks at the clock.
        self.now += self.seconds
        return self.now


class Taking(socket.socket):
    """Takes a certain number of bytes at a time."""

    size = 1

    def send(self, data, flags=0):
        return len(data[: self.size])

    def recv(self, size, flags=0):
        return b"x" * min(size, self.size)


@pytest.fixture
def slow():
    with Taking() as sock:

        def slow(seconds, size):
            sock.size = size
            return Channel(sock, 10.0, Clock(seconds))

        yield slow


def receive(channel, times):
    for _ in range(times):
        channel.receive()


def test_patience_is_one_span_and_a_rate(slow):
    # 3 s for each byte: 10 s are used up after 4.
    channel = slow(3.0, 1)
    receive(channel, 4)
    with pytest.raises(TimeoutError):
        channel.receive()
    channel = slow(3.0, 1)
    with pytest.raises(TimeoutError):
        channel.send(bytes(10))
    # A request later there is patience again.
    channel.renew()
    channel.receive()


def test_a_slow_line_has_as_long_as_it_takes(slow):
    # 9 s for 5000 bytes: 555 a second.
    channel = slow(9.0, 5000)
    receive(channel, 100)
    channel.send(bytes(500_000))
    # But for 4000 bytes it is too long: 444 a second.
    channel = slow(9.0, 4000)
    with pytest.raises(TimeoutError):
        receive(channel, 100)
    with pytest.raises(TimeoutError):
        channel.send(bytes(500_000))


def test_saved_time_is_not_kept_without_end(slow):
    channel = slow(0.5, 100_000)
    receive(channel, 100)
    channel.sock.size = 1
    with pytest.raises(TimeoutError):
        receive(channel, 25)


# Huge ones


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"G" * 70_000, 414),
        (b"GET /" + b"a" * 70_000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 65_536 + b"\r\n\r\n", 431),
    ],
)
def test_heads_are_bounded(data, status):
    with wired(hello) as wire:
        wire.send(data)
        answer = wire.answer()
        assert answer.status == status
        wire.end()
        assert wire.has_ended()


def test_a_body_without_end_is_not_read_to_its_end():
    def application(environ, start):
        environ["wsgi.input"].read(10)
        start("200 OK", [])
        return [b"enough"]

    with wired(application) as wire:
        wire.send(GET[:-2] + b"Content-Length: 99999999999\r\n\r\n" + bytes(100_000))
        assert wire.answer().body == b"enough"
        wire.end()
        assert wire.has_ended()


# Broken ones


@pytest.mark.parametrize(
    ("data", "status"),
    [
        # A TLS ClientHello begins like this, and has no end of a line.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30), 505),
        (b"GET /\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET /\n", 400),
        (b"\0", 400),
        (b"\r\n\r\n", 400),
        (b"\n", 400),
        (b"HELO example.org\r\n", 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 501),
    ],
)
def test_what_is_no_request_is_refused_at_once(data, status):
    with wired(hello) as wire:
        wire.send(data)
        answer = wire.answer()
        assert answer.status == status
        assert answer.fields["connection"] == "close"
        assert answer.fields["content-type"] == "application/json"
        wire.end()
        assert wire.has_ended()


@pytest.mark.parametrize("end", [1, 10, len(GET) - 1])
def test_half_a_request_is_none(end):
    with wired(hello) as wire:
        wire.send(GET[:end])
        wire.end()
        assert wire.rest() == b""


def test_connections_that_are_reset_harm_nobody():
    with Server(hello, port=0) as server:
        for data in (b"", GET[:10], GET, GET * 10, GET[:-2] + b"Content-Length: 100\r\n\r\n"):
            with Wire(server) as wire:
                wire.send(data)
                # Closing sends a reset.
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
        with Wire(server) as wire:
            assert wire.ask(GET).status == 200


# Those that hide a request in another one

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 6",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: chunked\r\n x",
        b"X: y\nTransfer-Encoding: chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity, chunked",
        b"Content-Length: 0\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 0, 5",
        b"Content-Length: +0",
        b"Content-Length: -0",
        b"Content-Length: 0x0",
        b"Content-Length:\r\n 0",
        b"Content-Length : 0",
        b"Content-Length: 0\0",
    ],
)
def test_no_request_is_smuggled(fields):
    seen = []

    def application(environ, start):
        seen.append(environ["PATH_INFO"])
        return hello(environ, start)

    with wired(application) as wire:
        request = b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n\r\n"
        wire.send(request + b"0\r\n\r\n" + HIDDEN)
        assert wire.answer().status in (400, 501)
        wire.end()
        assert wire.rest() == b""
    assert seen == []


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"CONTENT_LENGTH"])
def test_names_that_an_environment_would_confuse_are_not_there(name):
    seen = []

    def application(environ, start):
        seen.append(environ.get("CONTENT_LENGTH", environ.get("HTTP_TRANSFER_ENCODING")))
        return hello(environ, start)

    with wired(application) as wire:
        wire.ask(b"POST / HTTP/1.1\r\nHost: h\r\n" + name + b": 5\r\n\r\n")
        assert wire.ask(GET).status == 200
    assert seen == [None, None]


# Those that look for files


@pytest.mark.parametrize(
    "path",
    [
        "/data/../secret",
        "/data/..%2fsecret",
        "/data/%2e%2e/secret",
        "/data/%2e%2e%2fsecret",
        "/data/%252e%252e%252fsecret",
        "/data/..%5csecret",
        "/data//../secret",
        "/data//etc/passwd",
        "/data/%00../secret",
        "/data/..%c0%afsecret",
        "/../secret",
        "/%2e%2e/secret",
        "http://h/data/../secret",
        "/data/./../secret",
    ],
)
def test_no_path_leads_out_of_a_store(tmp_path, path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    with DirectoryStore(tmp_path / "tree") as store, wired(StoreApplication(store)) as wire:
        answer = wire.ask(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert answer.status in (400, 404)
        assert b"outside" not in answer.body
        answer = wire.ask(b"GET /data/a HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.body == b"inside"


# Many of them


@pytest.fixture
def patient(monkeypatch):
    """Clients wait for a thread, as long as it takes."""
    monkeypatch.setattr(_http_server, "_HOLD", 1000.0)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_http_server, "_HOLD", 0.01)


def test_more_connections_than_threads_take_turns(patient):
    with Server(hello, port=0, max_connections=5) as server, ExitStack() as stack:
        wires = []
        for _ in range(200):
            wire = stack.enter_context(Wire(server))
            # Others wait for a request: the one that has waited longest gives way.
            assert wire.ask(GET).status == 200
            wires.append(wire)
            assert server._threads <= 5
        assert wires[0].has_ended()
        assert wires[-1].ask(GET).status == 200


def test_a_request_that_comes_when_the_connection_is_given_up_is_not_answered():
    seen = []

    def application(environ, start):
        seen.append(environ)
        return hello(environ, start)

    with Server(application, port=0) as server, Wire(server) as wire:
        assert wait_until(lambda: server.waiting)
        # As whoever ends it does first.
        server.waiting.clear()
        wire.send(GET)
        assert wire.has_ended()
    assert seen == []


class Busy:
    """An application that is busy until it may go on."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, environ, start):
        self.begun.release()
        assert self.go.wait(DEADLINE)
        return hello(environ, start)


@pytest.fixture
def busy():
    application = Busy()
    yield application
    application.go.set()


def test_when_all_are_busy_others_are_told_to_come_back(impatient, busy):
    with Server(busy, port=0, max_connections=3) as server, ExitStack() as stack:
        stack.callback(busy.go.set)
        first = [stack.enter_context(Wire(server)) for _ in range(3)]
        for wire in first:
            wire.send(GET)
            assert busy.begun.acquire(timeout=DEADLINE)
        others = [stack.enter_context(Wire(server)) for _ in range(200)]
        for wire in others:
            answer = wire.answer()
            assert answer.status == 503
            assert answer.fields["retry-after"] == "1"
            assert answer.fields["connection"] == "close"
            wire.end()
            assert wire.has_ended()
        busy.go.set()
        for wire in first:
            assert wire.answer().status == 200
        assert wait_until(lambda: server.waiting)
        with Wire(server) as wire:
            assert wire.ask(GET).status == 200


def test_a_moment_is_waited_for_a_thread(patient, busy):
    with Server(busy, port=0, max_connections=1) as server, ExitStack() as stack:
        stack.callback(busy.go.set)
        wires = [stack.enter_context(Wire(server)) for _ in range(20)]
        for wire in wires:
            wire.send(b"GET / HTTP/1.0\r\n\r\n")
        assert busy.begun.acquire(timeout=DEADLINE)
        # It looks for a thread, and finds none.
        assert wait_until(lambda: server._resume)
        busy.go.set()
        for wire in wires:
            assert wire.answer().status == 200
        assert server._threads == 1


def test_a_refused_client_that_has_sent_its_request_gets_its_answer(impatient):
    with Server(hello, port=0, max_connections=1) as server, Wire(server) as busy:
        busy.send(GET[:10])
        for _ in range(20):
            with Wire(server) as wire:
                wire.send(GET * 100)
                assert wire.answer().status == 503
                wire.end()
                assert wire.has_ended()


def test_200_that_never_finish_a_head_give_way_in_the_end(impatient):
    with Server(hello, port=0, max_connections=5, timeout=SOON) as server, ExitStack() as stack:
        wires = [stack.enter_context(Wire(server)) for _ in range(200)]
        for wire in wires:
            try:
                wire.send(GET[:10])
            except ConnectionError:
                # It was refused, and did not look.
                pass
        assert server._threads <= 5
        end = time.monotonic() + DEADLINE
        while True:
            with Wire(server) as wire:
                if wire.ask(GET).status == 200:
                    break
            assert time.monotonic() < end


def test_a_connection_without_a_request_gives_way_after_a_moment(impatient):
    later = 0.0

    def clock():
        return time.monotonic() + later

    with Server(hello, port=0, max_connections=1, clock=clock) as server, Wire(server) as silent:
        with Wire(server) as wire:
            # A request may be on its way.
            assert wire.ask(GET).status == 503
        assert wait_until(lambda: server.waiting)
        later = 1.5
        with Wire(server) as wire:
            assert wire.ask(GET).status == 200
            assert silent.has_ended()


def test_refused_clients_do_not_pile_up(impatient, monkeypatch):
    monkeypatch.setattr(_http_server_refusals, "_KEPT", 3)
    with Server(hello, port=0, max_connections=1) as server, Wire(server) as busy:
        busy.send(GET[:10])
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(server)) for _ in range(10)]
            for wire in wires:
                assert wire.answer().status == 503
            assert len(server._refusals) <= 3
            for wire in wires[:7]:
                assert wire.has_ended()


def test_refused_clients_that_stay_are_left(impatient, monkeypatch):
    monkeypatch.setattr(_http_server_refusals, "_LINGER", 0.02)
    with Server(hello, port=0, max_connections=1) as server, Wire(server) as busy:
        busy.send(GET[:10])
        with Wire(server) as wire:
            assert wire.answer().status == 503
            assert wire.has_ended()
            assert wait_until(lambda: not server._refusals)


def wait_until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.001)
    return True


class Failing:
    """A listener whose accept() fails so many times."""

    def __init__(self, listener, number, times):
        self._listener = listener
        self._number = number
        self._lock = threading.Lock()
        self._times = times

    def accept(self):
        with self._lock:
            if self._times:
                self._times -= 1
                raise OSError(self._number, "of the test")
            return self._listener.accept()

    def fail(self, times):
        with self._lock:
            self._times = times

    def __getattr__(self, name):
        return getattr(self._listener, name)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_lack_of_descriptors_passes(monkeypatch, caplog, number):
    monkeypatch.setattr(_http_server, "_PAUSE", 0.005)
    server = Server(hello, port=0)
    server._listener = Failing(server._listener, number, 0)
    with server, Wire(server) as kept:
        assert kept.ask(GET).status == 200
        assert wait_until(lambda: server.waiting)
        server._listener.fail(3)
        with Wire(server) as wire:
            assert wire.ask(GET).status == 200
        # Its descriptor may help.
        assert kept.has_ended()
    # Once, not each time.
    [record] = caplog.records
    assert "no connection can be accepted" in record.getMessage()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_a_client_that_has_gone_before_it_was_accepted_harms_nobody(number):
    server = Server(hello, port=0)
    server._listener = Failing(server._listener, number, 3)
    with server, Wire(server) as wire:
        assert wire.ask(GET).status == 200


def test_a_lack_of_threads_is_told(impatient, monkeypatch, caplog):
    def start(thread):
        raise RuntimeError("can't start new thread")

    with Server(hello, port=0) as server:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with Wire(server) as wire:
                assert wire.answer().status == 503
        with Wire(server) as wire, monkeypatch.context() as patch:
            assert wire.ask(GET).status == 200
            assert wait_until(lambda: server.waiting)
            # The one that there is serves another client.
            patch.setattr(threading.Thread, "start", start)
            with Wire(server) as other:
                assert other.ask(GET).status == 200
            assert wire.has_ended()
    assert "no thread can be started" in caplog.records[0].getMessage()


def test_threads_are_used_again():
    with Server(hello, port=0) as server:
        for _ in range(20):
            with Wire(server) as wire:
                assert wire.ask(GET).status == 200
            assert wait_until(lambda: server._spare == 1)
        assert server._threads == 1


def test_threads_that_nobody_needs_end(monkeypatch):
    monkeypatch.setattr(_http_server, "_SPARE", 0.005)
    with Server(hello, port=0) as server:
        for _ in range(3):
            with Wire(server) as wire:
                assert wire.ask(GET).status == 200
            assert wait_until(lambda: server._threads == 0)


def test_lots_of_clients_at_once(patient, monkeypatch):
    """Threads come and go, and connections give way, under load: nobody is left without an answer."""
    monkeypatch.setattr(_http_server, "_SPARE", 0.001)
    failures = []

    def client(server):
        try:
            for _ in range(20):
                with Wire(server) as wire:
                    assert wire.ask(GET).status == 200
        except BaseException as error:
            failures.append(error)

    with Server(hello, port=0, max_connections=4) as server:
        threads = [threading.Thread(target=client, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert failures == []
        assert server._threads <= 4
        with Wire(server) as wire:
            assert wire.ask(GET).status == 200
