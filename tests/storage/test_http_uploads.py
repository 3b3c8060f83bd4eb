"""Bodies on their way to a server: in memory, from streams, announced, refused, interrupted."""

import io
import threading

import pytest
from hostile_server import (
    HostileServer,
    answer,
    close,
    ok,
    read,
    read_body,
    read_head,
    reset,
    silence,
    tell,
)
from http_clients import Clock, close_all, new_client

from encore.storage._http_errors import UnsentError
from encore.storage.errors import AuthorizationError, StoreError, StoreOSError, TemporaryError


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LARGE = bytes(range(256)) * 5000


class Stream:
    """A stream that cannot go back."""

    def __init__(self, data, piece=1 << 30, error=None):
        self._data = io.BytesIO(data)
        self._piece = piece
        self._error = error
        self.reads = 0

    def read(self, size):
        self.reads += 1
        data = self._data.read(min(size, self._piece))
        if not data and self._error is not None:
            raise self._error
        return data


def put(client, url, body, **options):
    return client.request("PUT", url, body=body, **options)


def sized(data):
    return {"Content-Length": str(len(data))}


@pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc")])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_body_in_memory_has_its_length(data, method):
    with HostileServer([ok]) as server:
        new_client().request(method, server.url, body=data)
        [request] = server.requests
        assert request.body == bytes(data)
        assert request.headers["content-length"] == str(len(data))
        assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize(
    ("method", "length"), [("PUT", "0"), ("POST", "0"), ("DELETE", None), ("GET", None)]
)
def test_no_body(method, length):
    with HostileServer([ok]) as server:
        new_client().request(method, server.url)
        assert server.requests[0].headers.get("content-length") == length


def test_a_body_is_bytes_whatever_its_items_are():
    import array

    with HostileServer([ok]) as server:
        put(new_client(), server.url, memoryview(array.array("i", [1, 2, 3])))
        assert len(server.requests[0].body) == 12


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1 << 18, (1 << 20) + 1])
@pytest.mark.parametrize("kind", ["memory", "stream", "sized stream", "small pieces"])
def test_bodies_of_every_size_arrive(size, kind):
    data = (LARGE * 2)[:size]
    script = [read_head, *([CONTINUE] if kind == "stream" else []), read_body, answer(b"done"), ok]
    with HostileServer(script) as server:
        client = new_client(continue_wait=0.0)
        body = (
            data
            if kind == "memory"
            else Stream(data, 30_000 if kind == "small pieces" else 1 << 30)
        )
        headers = sized(data) if kind == "sized stream" else {}
        assert put(client, server.url, body, headers=headers).read() == b"done"
        request = server.requests[0]
        assert request.body == data
        is_chunked = kind in ("stream", "small pieces")
        assert request.headers.get("transfer-encoding") == ("chunked" if is_chunked else None)
        assert request.headers.get("content-length") == (None if is_chunked else str(size))
        # And the connection is kept.
        assert client.request("GET", server.url).read() == b"2"
        assert server.connections == 1


def test_a_stream_is_read_from_where_it_stands_and_left_open():
    with HostileServer([ok]) as server:
        stream = io.BytesIO(b"abcdef")
        stream.read(2)
        put(new_client(continue_wait=0.0), server.url, stream)
        assert server.requests[0].body == b"cdef"
        assert not stream.closed
        assert stream.tell() == 6


@pytest.mark.parametrize("data", [5, "text", None, object()])
def test_a_body_is_a_stream_or_bytes(data):
    with HostileServer([ok]) as server:
        if data is None:
            return
        with pytest.raises(TypeError):
            put(new_client(), server.url, data)
        assert server.connections == 0


# Streams that fail


class CallersError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        CallersError("why"),
        OSError(5, "Input/output error"),
        ConnectionResetError(104, "another connection"),
        TimeoutError("another one"),
        TemporaryError("of another store"),
        StoreError("of another store"),
        StoreOSError(32, "Broken pipe"),
        UnsentError(32, "Broken pipe"),
        KeyError("key"),
        KeyboardInterrupt(),
        BrokenPipeError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("is_sized", [True, False])
def test_what_a_stream_raises_passes_unchanged(error, is_sized):
    with HostileServer([read], [ok]) as server:
        clock = Clock()
        client = new_client(attempts=3, continue_wait=0.0, clock=clock)
        headers = {"Content-Length": "10"} if is_sized else {}
        with pytest.raises(type(error)) as caught:
            put(client, server.url, Stream(b"abc", error=error), headers=headers)
        assert caught.value is error
        assert error.__cause__ is error.__context__ is None
        assert not getattr(error, "__notes__", None)
        assert clock.sleeps == []
        # The connection is gone, so that the server cannot take for whole what it has got.
        client.request("GET", server.url).close()
        assert server.connections == 2
        assert all(each.body == b"" for each in server.requests if each.method == "PUT")


@pytest.mark.parametrize("data", ["text", None, 5])
def test_a_stream_yields_bytes(data):
    class Odd:
        def read(self, size):
            return data

    with HostileServer([read]) as server, pytest.raises(TypeError, match="bytes"):
        put(new_client(attempts=3, continue_wait=0.0), server.url, Odd())


def test_a_stream_that_is_shorter_than_it_says_is_an_error():
    with (
        HostileServer([read]) as server,
        pytest.raises(StoreError, match="2 bytes less than the 5"),
    ):
        put(new_client(attempts=3), server.url, Stream(b"abc"), headers={"Content-Length": "5"})


def test_a_stream_is_read_no_further_than_it_says():
    with HostileServer([ok]) as server:
        stream = io.BytesIO(b"abcdef")
        put(new_client(), server.url, stream, headers={"Content-Length": "4"})
        assert server.requests[0].body == b"abcd"


def test_a_stream_that_gives_more_than_it_was_asked_for_is_an_error():
    class Generous:
        def read(self, size):
            return b"x" * (size + 1)

    with HostileServer([read]) as server, pytest.raises(StoreError, match="1 bytes more"):
        put(new_client(), server.url, Generous(), headers={"Content-Length": "4"})


def test_a_stream_may_use_the_same_client():
    """As a copy within one server does."""
    data = b"x" * 300_000
    with HostileServer([read, answer(data)], [ok]) as server:
        client = new_client(continue_wait=0.0)
        with client.request("GET", server.url) as source:
            put(client, server.url, source)
        assert server.requests[1].body == data


# Again


BUSY = answer(b"", "503 Busy")


def test_a_stream_that_can_go_back_is_sent_again():
    with HostileServer([read, BUSY, ok]) as server:
        stream = io.BytesIO(b"abcdef")
        stream.read(2)
        put(new_client(attempts=2, continue_wait=0.0), server.url, stream)
        assert [each.body for each in server.requests] == [b"cdef", b"cdef"]


def test_a_stream_that_cannot_go_back_is_not_sent_again():
    with HostileServer([read, BUSY, ok]) as server:
        with pytest.raises(TemporaryError):
            put(new_client(attempts=2, continue_wait=0.0), server.url, Stream(b"abc"))
        assert len(server.requests) == 1


def test_a_stream_that_was_not_read_is_sent_again():
    with HostileServer([read_head, BUSY, close], [ok]) as server:
        stream = Stream(b"abc")
        put(new_client(attempts=2), server.url, stream)
        assert server.requests[1].body == b"abc"


class Stubborn(io.BytesIO):
    """A stream that says that it can go back, but does not."""

    def seek(self, *_):
        raise OSError("no")


def test_a_stream_that_does_not_go_back_is_not_sent_again():
    with HostileServer([read, BUSY, ok]) as server:
        with pytest.raises(TemporaryError):
            put(new_client(attempts=2, continue_wait=0.0), server.url, Stubborn(b"abc"))
        assert len(server.requests) == 1


@pytest.mark.parametrize("body", [io.BytesIO(b"abc"), b"abc"])
def test_a_body_that_can_be_given_again_is_redirected(body):
    elsewhere = answer(b"", "307 Elsewhere", Location="/b")
    with HostileServer([read, elsewhere, ok]) as server:
        put(new_client(continue_wait=0.0), server.url, body)
        assert [each.body for each in server.requests] == [b"abc", b"abc"]


def test_a_stream_that_cannot_be_given_again_is_not_redirected():
    elsewhere = answer(b"", "307 Elsewhere", Location="/b")
    with HostileServer([read, elsewhere, close]) as server:
        with pytest.raises(StoreError, match="cannot be read again"):
            put(new_client(attempts=3, continue_wait=0.0), server.url, Stream(b"abc"))
        assert len(server.requests) == 1


# Expect: 100-continue


def test_a_large_body_is_announced():
    with HostileServer([read_head, CONTINUE, read_body, answer()]) as server:
        put(new_client(continue_wait=10.0), server.url, LARGE)
        [request] = server.requests
        assert request.headers["expect"] == "100-continue"
        assert request.body == LARGE


@pytest.mark.parametrize(
    ("body", "is_announced"),
    [
        (LARGE[: 1 << 20], False),
        (LARGE[: (1 << 20) + 1], True),
        (Stream(b"abc"), True),
        (None, False),
    ],
)
def test_what_is_announced(body, is_announced):
    with HostileServer([ok]) as server:
        put(new_client(continue_wait=0.0), server.url, body)
        assert ("expect" in server.requests[0].headers) == is_announced


def test_a_small_stream_of_known_size_is_not_announced():
    with HostileServer([ok]) as server:
        put(new_client(continue_wait=10.0), server.url, Stream(b"abc"), headers=sized(b"abc"))
        assert "expect" not in server.requests[0].headers


def test_a_server_that_does_not_know_it_gets_the_body_and_is_not_asked_again():
    with HostileServer([ok, ok]) as server:
        client = new_client(continue_wait=0.01)
        for _ in range(2):
            put(client, server.url, LARGE)
        assert ["expect" in each.headers for each in server.requests] == [True, False]
        assert [each.body for each in server.requests] == [LARGE, LARGE]


def test_other_interim_answers_are_passed_over():
    hints = b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"
    with HostileServer(
        [read_head, hints, CONTINUE, hints, read_body, hints, answer(b"x")]
    ) as server:
        assert put(new_client(continue_wait=10.0), server.url, LARGE).read() == b"x"


def test_another_protocol_instead_of_continue_is_an_error():
    script = [read_head, b"HTTP/1.1 101 Switching Protocols\r\n\r\n", silence]
    with HostileServer(script) as server, pytest.raises(StoreError, match="another protocol"):
        put(new_client(continue_wait=10.0), server.url, LARGE)


@pytest.mark.parametrize(
    ("status", "error"),
    [("413 Too large", StoreError), ("403 No", AuthorizationError), ("500 Error", TemporaryError)],
)
def test_a_refusal_spares_the_body(status, error):
    with HostileServer([read_head, answer(b"why", status), silence], [ok]) as server:
        client = new_client(continue_wait=10.0)
        stream = Stream(LARGE)
        with pytest.raises(error):
            put(client, server.url, stream)
        assert stream.reads == 0
        # The server may wait for the body still.
        assert client.request("GET", server.url).read() == b"2"
        assert server.connections == 2


def test_a_server_that_does_not_want_to_be_asked_is_not():
    no = answer(b"", "417 Expectation Failed")
    with HostileServer([read_head, no, close], [ok, ok]) as server:
        client = new_client(continue_wait=10.0)
        assert put(client, server.url, Stream(b"abc")).read() == b"2"
        assert put(client, server.url, Stream(b"def")).read() == b"3"
        assert ["expect" in each.headers for each in server.requests] == [True, False, False]


def test_a_server_that_refuses_what_was_not_asked_is_answered():
    with HostileServer([read, answer(b"", "417 Expectation Failed"), close]) as server:
        with pytest.raises(StoreError, match="417"):
            put(new_client(), server.url, b"abc")
        assert len(server.requests) == 1


def test_success_before_the_body_does_not_spare_it():
    all_there = threading.Event()
    with HostileServer([read_head, answer(b"x"), read_body, tell(all_there)]) as server:
        assert put(new_client(continue_wait=10.0), server.url, LARGE).read() == b"x"
        assert all_there.wait(10)
        assert server.requests[0].body == LARGE


# Early answers


def test_an_early_answer_ends_the_upload():
    class Endless:
        def read(self, size):
            return b"x" * size

    with HostileServer(
        [read_head, CONTINUE, answer(b"why", "413 Too large"), silence], [ok]
    ) as server:
        client = new_client(continue_wait=10.0)
        with pytest.raises(StoreError, match="status 413"):
            put(client, server.url, Endless())
        assert client.request("GET", server.url).read() == b"2"


@pytest.mark.parametrize("end", [close, reset])
def test_an_early_answer_is_seen_though_the_connection_is_closed(end):
    """The server has answered before it read anything, and hangs up on who goes on sending."""
    closed = threading.Event()

    class Waiting:
        def __init__(self):
            self.count = 0

        def read(self, size):
            self.count += 1
            if self.count == 2:
                assert closed.wait(10)
            return b"x" * size

    def refuse(peer):
        peer.sock.sendall(answer(b"why", "413 Too large"))

    def end_and_tell(peer):
        end(peer) if end is reset else peer.sock.close()
        closed.set()

    with HostileServer([read_head, CONTINUE, refuse, end_and_tell]) as server:
        with pytest.raises(StoreError) as caught:
            put(new_client(continue_wait=10.0), server.url, Waiting())
        assert "status 413" in str(caught.value)


@pytest.mark.parametrize("end", [close, reset])
def test_an_early_answer_is_seen_in_the_middle_of_a_piece(end, monkeypatch):
    # More than any buffer takes: the client is stuck in it.
    monkeypatch.setattr("encore.storage._http_requests.PIECE", 1 << 26)

    def refuse(peer):
        peer.more()
        peer.sock.sendall(answer(b"why", "413 Too large"))
        # With the data of the client unread, this is a reset in either case.
        reset(peer) if end is reset else peer.sock.close()

    with HostileServer([read_head, CONTINUE, refuse], [ok]) as server:
        client = new_client(continue_wait=10.0)
        with pytest.raises(StoreError, match="status 413"):
            put(client, server.url, bytes(1 << 25))
        assert client.request("GET", server.url).read() == b"2"


@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize("kind", [bytes, Stream])
def test_a_connection_that_breaks_in_an_upload_is_an_error(end, kind):
    def hang_up(peer):
        peer.take(1000)
        reset(peer) if end is reset else peer.sock.close()

    with HostileServer([read_head, CONTINUE, hang_up]) as server:
        with pytest.raises(TemporaryError) as caught:
            put(new_client(continue_wait=10.0), server.url, kind(LARGE), safe=False)
        assert caught.value.happened is None
        assert f"127.0.0.1:{server.port}" in str(caught.value)


def test_a_server_that_does_not_take_the_body_is_an_error_in_time():
    with HostileServer([read_head, lambda peer: peer.server.go.wait(10)]) as server:
        server.go = threading.Event()
        with pytest.raises(TemporaryError, match="timed out"):
            put(new_client(timeout=0.1, continue_wait=0.0), server.url, LARGE * 20)
        server.go.set()


def test_each_piece_that_is_taken_gives_new_time():
    """A large upload may last longer than the time of a call."""
    clock = Clock()

    class Slow(Stream):
        def read(self, size):
            clock.now += 8.0
            return super().read(size)

    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    with HostileServer([read, chunked, close]) as server:
        client = new_client(timeout=10.0, clock=clock, continue_wait=0.0)
        assert put(client, server.url, Slow(b"abcdef", piece=1), whole=True).read() == b"ab"
        assert clock.now > 50
