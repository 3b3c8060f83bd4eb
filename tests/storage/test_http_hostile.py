"""Answers that a server should not give."""

import gzip
import io
import threading
import zlib

import pytest
from hostile_server import (
    HostileServer,
    answer,
    close,
    drip,
    forever,
    ok,
    one_by_one,
    read,
    read_head,
    reset,
    silence,
    wait_for,
)
from http_clients import Clock, close_all, new_client

from encore.storage.errors import StoreError, StoreOSError, TemporaryError
from encore.storage.retry_policy import is_temporary


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


HEAD = b"HTTP/1.1 200 OK\r\n"
PERIOD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def get(server, piece=3, **options):
    """What a GET returns, read in every way that there is: all of them must agree."""
    found = []
    for way in (whole, at_once, in_pieces, into_buffers, through_a_buffer):
        try:
            found.append(way(server, piece, options))
        except StoreError as error:
            found.append(error.with_traceback(None))
    first = found[0]
    for each in found:
        if isinstance(first, StoreError):
            assert isinstance(each, StoreError)
            assert is_temporary(each) == is_temporary(first)
        else:
            assert each == first
    if isinstance(first, StoreError):
        raise first
    return first


def whole(server, piece, options):
    return new_client().request("GET", server.url, whole=True, **options).read()


def at_once(server, piece, options):
    with new_client().request("GET", server.url, **options) as response:
        return response.read()


def in_pieces(server, piece, options):
    with new_client().request("GET", server.url, **options) as response:
        return b"".join(iter(lambda: response.read(piece), b""))


def into_buffers(server, piece, options):
    data = bytearray()
    buffer = bytearray(piece + 2)
    with new_client().request("GET", server.url, **options) as response:
        while count := response.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def through_a_buffer(server, piece, options):
    with io.BufferedReader(new_client().request("GET", server.url, **options)) as response:
        return response.read()


GOOD = {
    "length": answer(b"0123456789"),
    "nothing": answer(b""),
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
    "a space for a reason": b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx",
    "line feeds": b"HTTP/1.1 200 OK\nContent-Length: 3\n\na\r\n",
    "line feeds in between": b"HTTP/1.1 200 OK\r\nContent-Length: 4\n\r\na\n\r\n",
    "blank lines in the body": b"HTTP/1.1 200 OK\nContent-Length: 5\n\n\r\n\r\nx",
    "blank lines that are no end": answer(b"a\n\nb\r\n\r\nc"),
    "the same length twice": HEAD + b"Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "the same length in a list": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "no space": HEAD + b"Content-Length:3\r\n\r\nabc",
    "a tab": HEAD + b"Content-Length:\t3 \t\r\n\r\nabc",
    "a value of two lines": HEAD + b"X: a\r\n  b\r\nContent-Length: 3\r\n\r\nabc",
    "a list that goes on": HEAD
    + b"Content-Length: 3\r\nX: a\r\nContent-Length: 3\r\n\t, 3\r\n\r\nabc",
    "latin-1": HEAD + b"X: \xe4\r\nContent-Length: 3\r\n\r\nabc",
    "chunks": PERIOD + b'3\r\nabc\r\nA;x="y"\r\n0123456789\r\n0\r\n\r\n',
    "chunks with trailers": PERIOD + b"03 \r\nabc\r\n000\r\nX: y\r\n\r\n",
    "no chunks": PERIOD + b"0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nabc",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 without a length": HEAD + b"\r\nabc",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + answer(b"abc"),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"abc"),
}
EXPECTED = {
    "length": b"0123456789",
    "nothing": b"",
    "no reason": b"x",
    "a space for a reason": b"x",
    "line feeds": b"a\r\n",
    "line feeds in between": b"a\n\r\n",
    "blank lines in the body": b"\r\n\r\nx",
    "blank lines that are no end": b"a\n\nb\r\n\r\nc",
    "chunks": b"abc0123456789",
    "no chunks": b"",
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_answers_that_are_right_are_read(name):
    with HostileServer([read, GOOD[name], close]) as server:
        assert get(server) == EXPECTED.get(name, b"abc")


@pytest.mark.parametrize("name", GOOD)
def test_it_does_not_matter_in_what_pieces_an_answer_comes(name):
    with HostileServer([read, one_by_one(GOOD[name]), close]) as server:
        assert get(server) == EXPECTED.get(name, b"abc")


# What is no HTTP, or breaks its rules: it will not be better the next time.
BROKEN = {
    "garbage": b"\x00\xffgarbage\r\n\r\n",
    "text": b"hello\n",
    "HTTP/0.9": b"<html>\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "HTTP alone": b"HTTP\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a short status": b"HTTP/1.1 20\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "a status of zeros": b"HTTP/1.1 000 OK\r\n\r\n",
    "a negative status": b"HTTP/1.1 -20 OK\r\n\r\n",
    "superscripts": b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "tabs": b"HTTP/1.1\t200\tOK\r\n\r\n",
    "no colon": HEAD + b"X\r\n\r\n",
    "no name": HEAD + b": x\r\n\r\n",
    "a space before the colon": HEAD + b"Content-Length : 0\r\n\r\n",
    "a space in a name": HEAD + b"Content Length: 0\r\n\r\n",
    "first line goes on": HEAD + b" X: y\r\n\r\n",
    "a NUL": HEAD + b"X: a\x00b\r\n\r\n",
    "an escape sequence": HEAD + b"X: \x1b[31m\r\n\r\n",
    "a carriage return": HEAD + b"X: a\rContent-Length: 0\r\n\r\n",
    "a carriage return in a status line": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "too many headers": HEAD + b"X: y\r\n" * 201 + b"\r\n",
    "large headers": HEAD + b"X: " + bytes(b"y" * 70_000) + b"\r\n\r\n",
    "endless headers": HEAD + b"X: " + bytes(b"y" * 200_000),
    "a large status line": b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two lengths in a list that goes on": HEAD
    + b"Content-Length: 3\r\nX: a\r\nContent-Length: 3\r\n , 4\r\n\r\nabcd",
    "two lengths in a list": HEAD + b"Content-Length: 3, 4\r\n\r\nabcd",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a positive length": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "a hexadecimal length": HEAD + b"Content-Length: 0x3\r\n\r\nabc",
    "a length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\n0123456789",
    "no length in a length": HEAD + b"Content-Length:\r\n\r\nabc",
    "a length of many digits": HEAD + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n",
    "a length in a fraction": HEAD + b"Content-Length: 3.0\r\n\r\nabc",
    "length and chunks": HEAD
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "chunked twice": HEAD
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "interim for ever": b"HTTP/1.1 102 Processing\r\n\r\n" * 50,
    "no size of a chunk": PERIOD + b"\r\nabc\r\n0\r\n\r\n",
    "a bad size of a chunk": PERIOD + b"xyz\r\nabc\r\n0\r\n\r\n",
    "a negative chunk": PERIOD + b"-3\r\nabc\r\n0\r\n\r\n",
    "a positive chunk": PERIOD + b"+3\r\nabc\r\n0\r\n\r\n",
    "0x": PERIOD + b"0x3\r\nabc\r\n0\r\n\r\n",
    "an underscore": PERIOD + b"0_3\r\nabc\r\n0\r\n\r\n",
    "a huge chunk": PERIOD + b"f" * 20 + b"\r\nabc",
    "a chunk that is longer": PERIOD + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk that is shorter": PERIOD + b"5\r\nabc\r\n0\r\n\r\n\r\n",
    "a chunk with an endless extension": PERIOD + b"3;" + b"x" * 70_000,
    "line feeds after chunks": PERIOD + b"3\nabc\n0\n\n" + b"x" * 70_000,
    "endless trailers": PERIOD + b"0\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "a large trailer": PERIOD + b"0\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_http_is_an_error(name):
    with HostileServer([read, BROKEN[name], close]) as server:
        with pytest.raises(StoreError) as caught:
            get(server)
        assert not is_temporary(caught.value)
        assert f"127.0.0.1:{server.port}" in str(caught.value)


# Connections that break: it may be better the next time.
CUT = {
    "at once": b"",
    "in the status line": b"HTTP/1.1 2",
    "in the headers": HEAD + b"Content-Le",
    "after the headers": HEAD + b"Content-Length: 10\r\n\r\n",
    "in the body": answer(b"012345678", Content_Length="10"),
    "before a large body": answer(b"", Content_Length="999999999999999"),
    "before the chunks": PERIOD,
    "in the size of a chunk": PERIOD + b"1",
    "after the size of a chunk": PERIOD + b"3\r\n",
    "in a chunk": PERIOD + b"3\r\nab",
    "after a chunk": PERIOD + b"3\r\nabc",
    "between chunks": PERIOD + b"3\r\nabc\r\n",
    "before the last line": PERIOD + b"3\r\nabc\r\n0\r\n",
    "in the trailers": PERIOD + b"3\r\nabc\r\n0\r\nX: y\r\n",
    "after continue": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize("name", CUT)
def test_a_connection_that_ends_too_early_is_an_error(name, end):
    with HostileServer([read, CUT[name], end]) as server:
        with pytest.raises(StoreError) as caught:
            get(server)
        assert is_temporary(caught.value)
        assert f"127.0.0.1:{server.port}" in str(caught.value)


def test_a_reset_before_the_request_is_read_is_an_error():
    with HostileServer([reset]) as server, pytest.raises(TemporaryError):
        get(server)


def test_a_reset_in_a_body_without_length_is_an_error():
    go = threading.Event()
    with HostileServer([read, b"HTTP/1.0 200 OK\r\n\r\nabc", wait_for(go), reset]) as server:
        response = new_client().request("GET", server.url)
        assert response.read(3) == b"abc"
        go.set()
        for _ in range(2):
            with pytest.raises(TemporaryError, match="reset"):
                response.read(1)


def test_what_is_wrong_with_a_body_stays_wrong():
    with HostileServer([read, answer(b"abc", Content_Length="5"), close]) as server:
        response = new_client().request("GET", server.url)
        assert response.read(3) == b"abc"
        for _ in range(3):
            with pytest.raises(TemporaryError, match="2 bytes too early"):
                response.read(3)
            with pytest.raises(TemporaryError, match="2 bytes too early"):
                response.readinto(bytearray(3))


def test_more_than_was_promised_is_not_the_beginning_of_the_next_answer():
    surplus = answer(b"abc") + answer(b"evil")
    with HostileServer([read, surplus, silence], [ok]) as server:
        client = new_client()
        assert client.request("GET", server.url).read() == b"abc"
        assert client.request("GET", server.url).read() == b"2"
        assert server.connections == 2


def test_what_comes_while_a_connection_is_idle_is_not_the_next_answer():
    told = threading.Event()
    script = [read, answer(b"abc"), lambda _: told.wait(10), answer(b"evil"), silence]
    with HostileServer(script, [ok]) as server:
        client = new_client()
        assert client.request("GET", server.url).read() == b"abc"
        connection = client._transport._local.kept.connections[("http", "127.0.0.1", server.port)]
        told.set()
        assert connection.has_arrived(10)
        assert client.request("GET", server.url).read() == b"2"


NO_BODY = {
    "no content": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, 0),
    "not modified": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, 0),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5),
    "HEAD of chunks": ("HEAD", PERIOD, 200, None),
    "HEAD of who knows": ("HEAD", HEAD + b"\r\n", 200, None),
    "an empty body": ("GET", answer(), 200, 0),
}


@pytest.mark.parametrize("name", NO_BODY)
def test_answers_without_a_body_keep_the_connection(name):
    method, data, status, size = NO_BODY[name]
    with HostileServer([read, data, ok]) as server:
        client = new_client()
        response = client.request(method, server.url, expect=(304,))
        assert (response.status, response.size, response.read()) == (status, size, b"")
        assert response.read(1) == b""
        assert client.request("GET", server.url).read() == b"2"
        assert server.connections == 1


@pytest.mark.parametrize("name", ["no content", "not modified", "HEAD"])
def test_a_body_where_there_is_none_is_not_the_next_answer(name):
    method, data, *_ = NO_BODY[name]
    with HostileServer([read, data + b"evil!", silence], [ok]) as server:
        client = new_client()
        assert client.request(method, server.url, expect=(304,)).read() == b""
        # The surplus may come later than the head.
        assert client.request("GET", server.url).read() in (b"2", b"3")


# Time


def dripping(data, end=silence, **options):
    """What a client finds that gets one byte whenever it looks at its clock, which is a second."""
    turn = threading.Semaphore(0)
    clock = Clock(step=1.0)
    clock.on_look = turn.release
    with HostileServer([read, drip(data, turn), end]) as server:
        return new_client(clock=clock, timeout=30.0).request("GET", server.url, **options).read()


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"X: y\r\n" * 30 + b"\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 10,
        PERIOD + b"1;" + b"x" * 200,
        PERIOD + b"0\r\n" + b"X: y\r\n" * 50,
        answer(b"x" * 300),
        HEAD + b"\r\n" + b"x" * 300,
    ],
    ids=["headers", "interim", "chunk size", "trailers", "body", "endless body"],
)
def test_a_slow_drip_does_not_outlast_the_time_of_a_call(data):
    with pytest.raises(TemporaryError, match="timed out"):
        dripping(data, whole=True)


def test_a_drip_may_take_its_time_while_a_body_is_streamed():
    # Each read has the time of a call for itself.
    assert dripping(HEAD + b"\r\n" + b"x" * 100, end=close) == b"x" * 100


def test_values_may_go_on_in_the_next_line():
    head = b"X: a\r\n  b \r\n\tc\r\nY: d\r\nX: e\r\n f\r\n"
    with HostileServer([read, HEAD + head + b"Content-Length: 0\r\n\r\n", close]) as server:
        headers = new_client().request("GET", server.url).headers
        assert headers.get("x") == "a b c, e f"
        assert headers.get("y") == "d"


def test_silence_is_an_error_in_time():
    with HostileServer([silence]) as server:
        with pytest.raises(TemporaryError, match="timed out") as caught:
            new_client(timeout=0.05).request("GET", server.url)
        assert isinstance(caught.value, StoreOSError)


def test_silence_in_a_body_is_an_error_in_time():
    with HostileServer([read, answer(b"abc", Content_Length="5"), silence]) as server:
        response = new_client(timeout=0.05).request("GET", server.url)
        assert response.read(3) == b"abc"
        with pytest.raises(TemporaryError, match="timed out"):
            response.read(3)
        with pytest.raises(TemporaryError, match="timed out"):
            new_client(timeout=0.05).request("GET", server.url, whole=True)


# gzip

ASKED = {"Accept-Encoding": "gzip"}


def packed(data):
    return gzip.compress(data, mtime=0)


def zipped(body, **headers):
    return answer(body, Content_Encoding="gzip", **headers)


def test_a_compressed_body_is_decompressed_if_that_was_asked_for():
    data = bytes(range(256)) * 100
    with HostileServer([read, zipped(packed(data)), close]) as server:
        assert get(server, headers=ASKED) == data
        response = new_client().request("GET", server.url, headers=ASKED)
        assert response.size is None
        assert get(server) == packed(data)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (packed(b"abc") + packed(b"def"), b"abcdef"),
        (packed(b"") * 100 + packed(b"abc"), b"abc"),
        (packed(b""), b""),
    ],
)
def test_members_of_a_compressed_body_are_joined(body, expected):
    with HostileServer([read, zipped(body), close]) as server:
        assert get(server, headers=ASKED) == expected


def test_a_compressed_body_may_come_in_chunks():
    body = b"".join(b"1\r\n%c\r\n" % each for each in packed(b"abc" * 100)) + b"0\r\n\r\n"
    head = HEAD + b"Content-Encoding: x-gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    with HostileServer([read, head + body, close]) as server:
        assert get(server, headers=ASKED) == b"abc" * 100


@pytest.mark.parametrize(
    "body",
    [
        b"not gzip",
        b"\x1f\x8b",
        zlib.compress(b"abc"),
        packed(b"abc" * 1000)[:-9],
        packed(b"abc")[:-8] + bytes(8),
        packed(b"abc") + b"and more",
    ],
)
def test_bad_gzip_is_an_error(body):
    with (
        HostileServer([read, zipped(body), close]) as server,
        pytest.raises(StoreError, match="gzip"),
    ):
        get(server, headers=ASKED)


def test_gzip_that_is_cut_off_is_an_error():
    body = packed(bytes(range(256)) * 100)
    with (
        HostileServer([read, zipped(body[:-20], Content_Length=str(len(body))), close]) as server,
        pytest.raises(TemporaryError, match="20 bytes too early"),
    ):
        get(server, headers=ASKED)


def test_another_coding_than_was_asked_for_is_an_error():
    with HostileServer([read, answer(b"abc", Content_Encoding="br"), close]) as server:
        with pytest.raises(StoreError, match="Content-Encoding"):
            get(server, headers=ASKED)
        assert get(server) == b"abc"


def bomb(size):
    """A gzip body of `size` zeros, 1/1000 of that size."""
    packer = zlib.compressobj(9, wbits=31)
    piece = bytes(1 << 20)
    return b"".join(packer.compress(piece) for _ in range(size >> 20)) + packer.flush()


def test_a_bomb_does_not_go_off():
    with HostileServer([read, zipped(bomb(2 << 20)), close]) as server:
        with pytest.raises(StoreError, match="too large"):
            get(server, 65536, headers=ASKED, limit=1 << 20)
        response = new_client().request("GET", server.url, headers=ASKED, limit=1 << 20)
        # No more is made of it than is read.
        assert response.read(1000) == bytes(1000)
        assert get(server, 65536, headers=ASKED, limit=2 << 20) == bytes(2 << 20)


def test_a_bomb_has_a_limit_of_its_own(monkeypatch):
    monkeypatch.setattr("encore.storage._http_response._INFLATED", 1 << 20)
    with (
        HostileServer([read, zipped(bomb(2 << 20)), close]) as server,
        pytest.raises(StoreError, match="too large"),
    ):
        get(server, 65536, headers=ASKED)


# Limits


@pytest.mark.parametrize(
    "data",
    [
        answer(b"x" * 100),
        HEAD + b"\r\n" + b"x" * 100,
        PERIOD + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n",
    ],
    ids=["length", "endless", "chunks"],
)
def test_a_body_has_no_more_than_the_limit(data):
    with HostileServer([read, data, close]) as server:
        with pytest.raises(StoreError, match="too large"):
            get(server, limit=99)
        assert get(server, limit=100) == b"x" * 100


def test_an_endless_body_is_not_collected():
    with (
        HostileServer([read, HEAD + b"\r\n", forever(b"x" * 65536)]) as server,
        pytest.raises(StoreError, match="too large"),
    ):
        new_client().request("GET", server.url, whole=True, limit=1 << 20)


def test_a_length_that_is_not_true_takes_no_memory():
    size = 1 << 50
    with HostileServer([read, answer(b"abc", Content_Length=str(size)), close]) as server:
        response = new_client().request("GET", server.url)
        assert response.size == size
        with pytest.raises(TemporaryError, match="too early"):
            response.read()
        response = new_client().request("GET", server.url)
        assert response.read(3) == b"abc"


def test_the_body_of_a_refusal_is_not_read_to_its_end():
    head = b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\n\r\n"
    with (
        HostileServer([read, head, forever(b"x" * 65536)]) as server,
        pytest.raises(TemporaryError, match="status 500"),
    ):
        new_client().request("GET", server.url)


@pytest.mark.parametrize("end", [close, reset, silence])
def test_a_body_that_nobody_reads_is_closed(end):
    with HostileServer([read_head, answer(b"x" * 100_000, Content_Length="200000"), end]) as server:
        response = new_client().request("GET", server.url)
        response.close()
        response.close()
        with pytest.raises(ValueError, match="closed"):
            response.read(1)
        with pytest.raises(ValueError, match="closed"):
            response.readinto(bytearray(1))
