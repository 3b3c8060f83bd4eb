"""What passes between a client, the server, and an application: bodies, answers, connections."""

from __future__ import annotations

import io
import logging
import re
import threading
from wsgiref.validate import validator

import pytest
from http_wire import DEADLINE, GET, Truncated, Wire, wired

from encore.storage._http_server import Server

TEXT = [("Content-Type", "text/plain")]


def hello(environ, start):
    start("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"hello"]


def echo(environ, start):
    body = environ["wsgi.input"].read()
    start("200 OK", TEXT)
    return [body]


def put(body, *fields, line="PUT / HTTP/1.1", framing=None):
    if framing is None:
        framing = f"Content-Length: {len(body)}"
    return "\r\n".join([line, "Host: h", framing, *fields, "", ""]).encode() + body


CHUNKED = "Transfer-Encoding: chunked"


def chunks(*pieces, trailers=b""):
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n" + trailers + b"\r\n"


# What the application sees


def test_the_environment():
    seen = {}

    def application(environ, start):
        seen.update(environ)
        return hello(environ, start)

    with Server(application, port=0) as server, Wire(server) as wire:
        wire.ask(
            b"PUT //a%2Fb/%C3%A9?x=%20 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 0\r\n"
            b"Content-Type: text/x\r\nX-One: 1\r\nIf_Match: x\r\n\r\n"
        )
        assert isinstance(seen.pop("wsgi.input").read(), bytes)
        port = wire.sock.getsockname()[1]
        assert seen.pop("wsgi.errors").write("a line\n") == 7
        assert seen == {
            "REQUEST_METHOD": "PUT",
            "SCRIPT_NAME": "",
            "PATH_INFO": "//a/b/\xc3\xa9",
            "QUERY_STRING": "x=%20",
            "REQUEST_URI": "//a%2Fb/%C3%A9?x=%20",
            "CONTENT_TYPE": "text/x",
            "CONTENT_LENGTH": "0",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(server.port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "encore",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": str(port),
            "HTTP_HOST": "h:1",
            "HTTP_X_ONE": "1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input_terminated": True,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }


def test_it_keeps_to_wsgi():
    def application(environ, start):
        environ["wsgi.errors"].write("one\n")
        environ["wsgi.errors"].writelines(["two\n"])
        environ["wsgi.errors"].flush()
        stream = environ["wsgi.input"]
        data = stream.read(2) + stream.readline() + b"".join(stream.readlines(3))
        data += b"".join(stream)
        start("200 OK", TEXT)
        return [data]

    body = b"ab\ncd\nef\n\ngh"
    with wired(validator(application)) as wire:
        # The validator wants a CONTENT_LENGTH that is a number, or none.
        assert wire.ask(put(body)).body == body
        assert wire.ask(put(chunks(body[:4], body[4:]), framing=CHUNKED)).body == body


def test_lines_of_wsgi_errors_are_logged(caplog):
    def application(environ, start):
        environ["wsgi.errors"].write("oh dear\n\n")
        return hello(environ, start)

    with wired(application) as wire:
        wire.ask(GET)
    assert [record.getMessage() for record in caplog.records] == ["oh dear"]


# Bodies of requests


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 1_000_000])
def test_a_body_of_known_size(size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with wired(echo) as wire:
        assert wire.ask(put(body)).body == body
        assert wire.ask(put(b"next")).body == b"next"


@pytest.mark.parametrize(
    "pieces", [[], [b"x"], [b"x" * 10] * 1000, [b"y" * 100_000] * 5, [b"a", b"b" * 65536, b"c"]]
)
def test_a_body_in_chunks(pieces):
    with wired(echo) as wire:
        assert wire.ask(put(chunks(*pieces), framing=CHUNKED)).body == b"".join(pieces)
        assert wire.ask(put(b"next")).body == b"next"


def test_chunks_byte_by_byte():
    body = put(
        b"5;a=b;c\r\nhello\r\n 3".replace(b" 3", b"0003 \t;x") + b"\r\nabc\r\n00\r\nX: y\r\n\r\n",
        framing=CHUNKED,
    )
    with wired(echo) as wire:
        for at in range(len(body)):
            wire.send(body[at : at + 1])
        assert wire.answer().body == b"helloabc"
        assert wire.ask(GET).status == 200


def test_trailers_are_no_fields():
    seen = []

    def application(environ, start):
        answer = echo(environ, start)
        seen.append(environ.get("HTTP_X_ADMIN"))
        return answer

    with wired(application) as wire:
        trailers = b"X-Admin: yes\r\nContent-Length: 100\r\n"
        assert wire.ask(put(chunks(b"x", trailers=trailers), framing=CHUNKED)).body == b"x"
        assert wire.ask(GET).body == b""
    assert seen == [None, None]


def test_every_way_to_read_a_body():
    body = b"one\ntwo\n\nfour"

    def application(environ, start):
        stream = environ["wsgi.input"]
        method = environ["REQUEST_METHOD"]
        if method == "READ":
            pieces = [stream.read(0), stream.read(3), stream.read(None), stream.read(9)]
        elif method == "INTO":
            buffer = bytearray(5)
            pieces = [bytes(buffer[: stream.readinto(buffer)]) for _ in range(4)]
        elif method == "LINE":
            pieces = [stream.readline(2), stream.readline(), stream.read(3), *stream.readlines()]
        elif method == "LINES":
            pieces = [*stream.readlines(5), b"|", *stream.readlines(0)]
        else:
            pieces = list(stream)
        start("200 OK", TEXT)
        return [b"_".join(pieces)]

    with wired(application) as wire:
        for framing, data in ((None, body), (CHUNKED, chunks(body[:2], body[2:5], body[5:]))):

            def asked(method, data=data, framing=framing):
                return wire.ask(put(data, line=f"{method} / HTTP/1.1", framing=framing)).body

            assert asked("READ") == b"_one_\ntwo\n\nfour_"
            assert asked("INTO") == b"one\nt_wo\n\nf_our_"
            assert asked("LINE") == b"on_e\n_two_\n_\n_four"
            assert asked("LINES") == b"one\n_two\n_|_\n_four"
            assert asked("ITER") == b"one\n_two\n_\n_four"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\n",
    ],
)
def test_a_body_that_is_cut_is_no_body(body):
    seen = []

    def application(environ, start):
        stream = environ["wsgi.input"]
        try:
            stream.read()
        except OSError as error:
            seen.append((type(error).__name__, str(error)))
        # It stays broken.
        stream.read(1)

    with wired(application) as wire:
        wire.send(put(body, framing=CHUNKED))
        wire.end()
        answer = wire.answer()
        assert answer.status == 400
        assert answer.fields["connection"] == "close"
        assert wire.has_ended()
    assert seen[0][0] == "RequestBodyError"


def test_a_body_shorter_than_its_length_is_no_body():
    with wired(echo) as wire:
        wire.send(put(b"four", framing="Content-Length: 5"))
        wire.end()
        assert wire.answer().status == 400
        assert wire.has_ended()


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n\r\n",
        b"-1\r\n\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"1_0\r\nx\r\n",
        b"\r\nx\r\n",
        b";a\r\nx\r\n",
        b"1\nx\r\n",
        b"1\rx\r\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"2\r\nx\r\n0\r\n\r\n",
        b"1;\0\r\nx\r\n",
        b"1;a\rb\r\nx\r\n",
        b"1;a\nb\r\nx\r\n",
        b"f" * 16 + b"\r\nx",
        b"1;" + b"e" * 5000 + b"\r\nx\r\n",
        b"1;" + b"e" * 50_000,
        (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 20,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nX: \0\r\n\r\n",
        b"0\r\nX: a\nY: b\r\n\r\n",
        b"0\r\nX: a\r\n\n",
        b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 20 + b"\r\n",
        b"0\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
    ],
)
def test_chunks_that_are_malformed(body):
    with wired(echo) as wire:
        # As if all were well; and whatever follows is not taken for a request.
        wire.send(put(body + b"0\r\n\r\n" + GET, framing=CHUNKED))
        answer = wire.answer()
        assert answer.status == 400
        assert answer.fields["connection"] == "close"
        wire.end()
        assert wire.has_ended()


def test_what_an_application_answers_to_a_broken_body_is_sent():
    def application(environ, start):
        try:
            environ["wsgi.input"].read()
        except OSError:
            start("418 Oh", TEXT)
            return [b"mine"]

    with wired(application) as wire:
        wire.send(put(b"zz\r\n", framing=CHUNKED))
        answer = wire.answer()
        assert (answer.status, answer.body) == (418, b"mine")
        assert answer.fields["connection"] == "close"


# 100-continue


def test_a_client_is_asked_for_the_body_when_it_is_read():
    asked = threading.Event()

    def application(environ, start):
        assert not asked.is_set()
        return echo(environ, start)

    with wired(application) as wire:
        for framing, body in (("Content-Length: 4", b"body"), (CHUNKED, chunks(b"body"))):
            asked.clear()
            wire.send(put(b"", "Expect: 100-continue", framing=framing))
            assert wire.answer().status == 100
            asked.set()
            wire.send(body)
            assert wire.answer().body == b"body"


def test_a_client_that_does_not_wait_is_not_asked():
    with wired(echo) as wire:
        wire.send(put(b"body", "Expect: 100-continue"))
        assert wire.answer().status == 200
        wire.send(put(chunks(b"body"), "Expect: 100-continue", framing=CHUNKED))
        assert wire.answer().body == b"body"


def test_a_body_that_nobody_wants_is_not_asked_for():
    with wired(hello) as wire:
        wire.send(put(b"", "Expect: 100-continue", framing="Content-Length: 4"))
        answer = wire.answer()
        assert answer.status == 200
        # It may send the body or another request: nobody could know.
        assert answer.fields["connection"] == "close"
        wire.end()
        assert wire.has_ended()


def test_a_client_is_not_asked_in_the_middle_of_an_answer():
    def application(environ, start):
        start("200 OK", TEXT)
        yield b"begun "
        yield environ["wsgi.input"].read()

    with wired(application) as wire:
        wire.send(put(b"", "Expect: 100-continue", framing="Content-Length: 4"))
        got = wire.sock.recv(65536)
        assert got.startswith(b"HTTP/1.1 200 ")
        wire.send(b"body")
        wire.end()
        assert (got + wire.rest()).endswith(b"\r\n6\r\nbegun \r\n4\r\nbody\r\n0\r\n\r\n")


# Bodies that are not read


@pytest.mark.parametrize("size", [1, 100, 65536])
def test_a_little_that_was_not_read_is_drained(size):
    def application(environ, start):
        environ["wsgi.input"].read(1)
        return hello(environ, start)

    with wired(application) as wire:
        wire.send(put(GET * (size // len(GET)) + b"x" * (size % len(GET))))
        assert "connection" not in wire.answer().fields
        assert wire.ask(GET).body == b"hello"


def test_much_that_was_not_read_ends_the_connection():
    with wired(hello) as wire:
        wire.send(put(b"", framing="Content-Length: 65537"))
        answer = wire.answer()
        assert answer.body == b"hello"
        assert answer.fields["connection"] == "close"
        # The answer is not lost because the client still sends.
        wire.send(GET * 1000)
        wire.end()
        assert wire.has_ended()


def test_an_answer_to_a_client_that_goes_on_sending_is_not_lost():
    with wired(hello) as wire:
        size = 20_000_000
        wire.send(put(b"", framing=f"Content-Length: {size}"))
        # Closing at once would break the connection in the middle of this.
        wire.send(bytes(size))
        assert wire.answer().body == b"hello"
        wire.end()
        assert wire.has_ended()


def test_chunks_that_were_not_read_end_the_connection():
    with wired(hello) as wire:
        wire.send(put(chunks(b"x"), framing=CHUNKED))
        assert wire.answer().fields["connection"] == "close"
        wire.end()
        assert wire.has_ended()


# Connections


def test_a_connection_is_kept():
    with wired(hello) as wire:
        for _ in range(3):
            answer = wire.ask(GET)
            assert answer.body == b"hello"
            assert "connection" not in answer.fields


def test_pipelined_requests_are_answered_in_order():
    def application(environ, start):
        body = environ["wsgi.input"].read()
        start("200 OK", TEXT)
        return [environ["PATH_INFO"].encode() + body]

    requests = b"".join(
        put(b"%d" % number, line=f"PUT /{number} HTTP/1.1") for number in range(1000)
    )
    with wired(application) as wire:
        thread = threading.Thread(target=wire.send, args=(requests + GET,))
        thread.start()
        for number in range(1000):
            assert wire.answer().body == b"/%d%d" % (number, number)
        assert wire.answer().body == b"/"
        thread.join()


def test_one_empty_line_before_a_request_is_ignored():
    with wired(hello) as wire:
        assert wire.ask(b"\r\n" + GET).status == 200
        wire.send(b"\r\n")
        assert wire.ask(GET).status == 200
        assert wire.ask(b"\r\n\r\n" + GET).status == 400


def test_a_request_may_come_byte_by_byte():
    with wired(hello) as wire:
        for at in range(len(GET)):
            wire.send(GET[at : at + 1])
        assert wire.answer().body == b"hello"
        half = GET[:20]
        wire.send(GET + half)
        assert wire.answer().body == b"hello"
        wire.send(GET[20:])
        assert wire.answer().body == b"hello"


def test_the_client_may_end_the_connection():
    with wired(hello) as wire:
        answer = wire.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET)
        assert answer.fields["connection"] == "close"
        wire.end()
        assert wire.has_ended()


def test_a_client_of_http_1_0():
    with Server(hello, port=0) as server:
        with Wire(server) as wire:
            answer = wire.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert (answer.body, answer.fields["connection"]) == (b"hello", "close")
            assert wire.has_ended()
        with Wire(server) as wire:
            for _ in range(2):
                answer = wire.ask(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                assert answer.fields["connection"] == "keep-alive"


def test_http_1_0_has_no_chunks():
    def application(environ, start):
        start("200 OK", TEXT)
        yield b"a"
        yield b"b"

    with wired(application) as wire:
        answer = wire.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert "transfer-encoding" not in answer.fields
        assert answer.body == b"ab"


# Answers


def test_a_plain_answer():
    with wired(hello) as wire:
        answer = wire.ask(GET)
        assert (answer.status, answer.reason) == (200, "OK")
        date = answer.fields.pop("date")
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)
        assert answer.fields == {"content-type": "text/plain", "content-length": "5"}


def test_an_answer_is_dated_now():
    import time
    from email.utils import parsedate_to_datetime

    with wired(hello) as wire:
        before = int(time.time())
        stamp = parsedate_to_datetime(wire.ask(GET).fields["date"]).timestamp()
        assert before <= stamp <= time.time()


def test_an_application_may_date_its_answer():
    def application(environ, start):
        start("200 OK", [("DATE", "yesterday")])
        return []

    with wired(application) as wire:
        assert wire.ask(GET).fields == {"date": "yesterday", "content-length": "0"}


@pytest.mark.parametrize(
    ("result", "body", "framing"),
    [
        ([], b"", "0"),
        ([b"abc"], b"abc", "3"),
        ((b"abc",), b"abc", "3"),
        ([b"a", b"", b"bc"], b"abc", "3"),
        (iter([]), b"", "0"),
        (iter([b"", b""]), b"", "0"),
        (iter([b"abc"]), b"abc", None),
        (iter([b"a", b"", b"bc"]), b"abc", None),
        ([b"x" * 1_000_000], b"x" * 1_000_000, "1000000"),
        (iter([b"x" * 1_000_000] * 3), b"x" * 3_000_000, None),
        (io.BytesIO(b"a\nb"), b"a\nb", None),
    ],
    ids=str,
)
def test_an_answer_is_framed(result, body, framing):
    def application(environ, start):
        start("200 OK", TEXT)
        return result

    with wired(application) as wire:
        answer = wire.ask(GET)
        assert answer.body == body
        assert answer.fields.get("content-length") == framing
        assert ("transfer-encoding" in answer.fields) == (framing is None)


def test_an_iterator_that_starts_late():
    def application(environ, start):
        start("201 Created", TEXT)
        yield b"x"

    with wired(application) as wire:
        assert wire.ask(GET).status == 201
        assert wire.ask(GET.replace(b"GET", b"HEAD"), "HEAD").status == 201


def test_write():
    def application(environ, start):
        write = start("200 OK", [*TEXT, ("Content-Length", "6")])
        write(b"abc")
        write(b"")
        write(b"de")
        return [b"f"]

    def chunked(environ, start):
        start("200 OK", TEXT)(b"abc")
        return []

    with wired(application) as wire:
        assert wire.ask(GET).body == b"abcdef"
    with wired(chunked) as wire:
        assert wire.ask(GET).body == b"abc"
        assert wire.ask(GET).body == b"abc"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified", "404 No"])
@pytest.mark.parametrize("result", [list, iter])
@pytest.mark.parametrize("length", [[], [("Content-Length", "3")]])
def test_answers_without_a_body_have_none(method, status, result, length):
    def application(environ, start):
        start(status, [*TEXT, *length])
        return result([b"abc"])

    has_body = method == "GET" and status[0] not in "3" and status[:3] != "204"
    request = GET.replace(b"GET", method.encode())
    with wired(application) as wire:
        for _ in range(2):
            answer = wire.ask(request, method)
            assert answer.status == int(status[:3])
            assert answer.body == (b"abc" if has_body else b"")
            size = answer.fields.get("content-length")
            if status[:3] == "204":
                assert size is None
            elif length:
                assert size == "3"
            elif status[:3] == "304":
                assert size is None
            if not has_body:
                assert "transfer-encoding" not in answer.fields


def test_a_head_reads_nothing_that_it_does_not_send():
    pulled = []

    def application(environ, start):
        start("200 OK", TEXT)
        for number in range(10):
            pulled.append(number)
            yield b"x"

    with wired(application) as wire:
        wire.ask(GET.replace(b"GET", b"HEAD"), "HEAD")
        assert wire.ask(GET).body == b"x" * 10
    assert pulled == [0, *range(10)]


def test_pieces_are_sent_as_they_come():
    step = threading.Semaphore(0)

    def application(environ, start):
        start("200 OK", [*TEXT, ("Content-Length", "2")])
        yield b"a"
        assert step.acquire(timeout=DEADLINE)
        yield b"b"

    with wired(application) as wire:
        wire.send(GET)
        assert wire.sock.recv(65536).endswith(b"\r\n\r\na")
        step.release()
        assert wire.sock.recv(65536) == b"b"


def test_what_is_small_is_sent_at_once(monkeypatch):
    from encore.storage._http_server_channel import Channel

    sent = []
    send = Channel.send
    monkeypatch.setattr(Channel, "send", lambda self, data: (sent.append(data), send(self, data)))

    def application(environ, start):
        start("200 OK", [*TEXT, ("Content-Length", "4096")])
        return [bytes(4096)] if environ["PATH_INFO"] == "/" else iter([bytes(4096)])

    with wired(application) as wire:
        assert len(wire.ask(GET).body) == 4096
        assert len(wire.ask(GET.replace(b"/ ", b"/x ")).body) == 4096
    assert len(sent) == 2


# Applications that fail, or do not keep to the rules


def fails_at_once(environ, start):
    raise RuntimeError("secret")


def fails_after_start(environ, start):
    start("200 OK", TEXT)
    raise RuntimeError("secret")


def fails_at_first(environ, start):
    start("200 OK", TEXT)
    yield b""
    raise RuntimeError("secret")


def never_starts(environ, start):
    return [b"x"]


def ends_the_thread(environ, start):
    raise SystemExit


def starts_twice(environ, start):
    start("200 OK", TEXT)
    start("200 OK", TEXT)
    return [b"x"]


def gives_text(environ, start):
    start("200 OK", TEXT)
    return ["text"]


def gives_text_later(environ, start):
    start("200 OK", TEXT)
    return iter(["text"])


def gives_nothing(environ, start):
    start("200 OK", TEXT)


@pytest.mark.parametrize(
    "application",
    [
        fails_at_once,
        fails_after_start,
        fails_at_first,
        never_starts,
        ends_the_thread,
        starts_twice,
        gives_text,
        gives_text_later,
        gives_nothing,
    ],
)
def test_an_application_that_fails_is_a_500_that_tells_nothing(application, caplog):
    with wired(application) as wire:
        answer = wire.ask(GET)
        assert answer.status == 500
        assert answer.body == b'{"error": "the server failed", "kind": "StoreError"}\n'
        assert answer.fields["connection"] == "close"
        wire.end()
        assert wire.has_ended()
    [record] = caplog.records
    assert record.exc_info


def test_a_failure_has_no_body_for_head(caplog):
    with wired(fails_at_once) as wire:
        wire.send(GET.replace(b"GET", b"HEAD"))
        assert wire.answer("HEAD").status == 500
        wire.end()
        assert wire.rest() == b""


@pytest.mark.parametrize(
    "status",
    ["200", "200OK", "", "20 OK", "2x0 OK", "\xb200 OK", "200 OK\r\nX: y", "200 \n", "100 Continue"]
    + ["101 Up", "099 Low", "200 \u20ac", "+20 OK", 200, None],
)
def test_a_status_is_checked(status, caplog):
    def application(environ, start):
        start(status, [])
        return []

    with wired(application) as wire:
        answer = wire.ask(GET)
        assert answer.status == 500


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nY: b"),
        ("X", "a\nY: b"),
        ("X", "a\rb"),
        ("X", "\0"),
        ("X", "\x7f"),
        ("X", "\u20ac"),
        ("X", b"bytes"),
        ("X", 5),
        ("X\r\nY", "a"),
        ("X:", "a"),
        ("X Y", "a"),
        ("", "a"),
        ("\xe9", "a"),
        (b"X", "a"),
        ("Connection", "close"),
        ("transfer-encoding", "chunked"),
        ("Keep-Alive", "timeout=5"),
        ("Upgrade", "h2c"),
        ("Content-Length", "-1"),
        ("Content-Length", "+1"),
        ("Content-Length", "1_0"),
        ("Content-Length", ""),
        ("Content-Length", "\xb2"),
    ],
)
def test_headers_are_checked_before_anything_is_sent(name, value, caplog):
    seen = []

    def application(environ, start):
        try:
            start("200 OK", [(name, value)])
        except ValueError as error:
            seen.append(error)
            raise
        return []

    with wired(application) as wire:
        answer = wire.ask(GET)
        assert answer.status == 500
        assert "y" not in answer.fields
    assert seen or not isinstance(value, str) or not isinstance(name, str)


def test_a_content_length_is_said_once(caplog):
    def application(environ, start):
        start("200 OK", [("Content-Length", "1"), ("content-length", "1")])
        return [b"x"]

    with wired(application) as wire:
        assert wire.ask(GET).status == 500


def test_latin_1_in_values():
    def application(environ, start):
        start("200 Fine", [("X", "\xe9\t\xa0\xad"), ("Y", "")])
        return []

    with wired(application) as wire:
        answer = wire.ask(GET)
        assert answer.fields["x"] == "\xe9\t\xa0\xad"
        assert answer.fields["y"] == ""


def test_a_failure_can_replace_an_answer_that_was_not_begun():
    import sys

    def application(environ, start):
        start("200 OK", [*TEXT, ("Content-Length", "5")])
        try:
            raise KeyError
        except KeyError:
            start("404 Not Found", TEXT, sys.exc_info())
        return [b"no"]

    with wired(application) as wire:
        answer = wire.ask(GET)
        assert (answer.status, answer.body) == (404, b"no")


def test_a_failure_cannot_replace_an_answer_that_was_begun(caplog):
    import sys

    def application(environ, start):
        start("200 OK", TEXT)(b"begun")
        try:
            raise KeyError
        except KeyError:
            start("404 Not Found", TEXT, sys.exc_info())
        return [b"no"]

    with wired(application) as wire:
        with pytest.raises(Truncated):
            wire.ask(GET)
        assert wire.has_ended()


def short(environ, start):
    start("200 OK", [("Content-Length", "10")])
    yield b"12345"


def long(environ, start):
    start("200 OK", [("Content-Length", "10")])
    yield b"12345"
    yield b"123456"


def breaks(environ, start):
    start("200 OK", [("Content-Length", "10")])
    yield b"12345"
    raise RuntimeError


def breaks_in_chunks(environ, start):
    start("200 OK", TEXT)
    yield b"12345"
    raise RuntimeError


def text_in_chunks(environ, start):
    start("200 OK", TEXT)
    yield b"12345"
    yield "text"


@pytest.mark.parametrize("application", [short, long, breaks, breaks_in_chunks, text_in_chunks])
def test_an_answer_that_is_not_finished_is_cut(application, caplog):
    with wired(application) as wire:
        with pytest.raises(Truncated):
            wire.ask(GET)
        assert wire.has_ended()
    [record] = caplog.records
    assert record.getMessage().startswith("GET / HTTP/1.1 is cut: ")


def test_an_answer_without_a_length_is_broken_off(caplog):
    with wired(breaks_in_chunks) as wire:
        # Otherwise it would look like a whole one.
        wire.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            wire.answer()


@pytest.mark.parametrize(("body", "size"), [(b"12345", 10), (b"12345", 4), (b"", 1)])
def test_a_wrong_length_of_all_is_a_500(body, size, caplog):
    def application(environ, start):
        start("200 OK", [("Content-Length", str(size))])
        return [body]

    with wired(application) as wire:
        assert wire.ask(GET).status == 500


def test_what_is_iterated_is_closed(caplog):
    closed = []

    class Body:
        def __init__(self, pieces):
            self.pieces = pieces

        def __iter__(self):
            for piece in self.pieces:
                if piece is None:
                    raise RuntimeError
                yield piece

        def close(self):
            closed.append(self)

    bodies = [Body([b"a"]), Body([]), Body([None]), Body([b"a", None]), Body(["a"])]

    def application(environ, start):
        body = bodies[int(environ["PATH_INFO"][1:])]
        start("200 OK", TEXT)
        return body

    for number, body in enumerate(bodies):
        with wired(application) as wire:
            wire.send(GET.replace(b"/ ", b"/%d " % number))
            wire.end()
            wire.rest()
        assert closed == [body]
        closed.clear()


def test_an_application_that_fails_at_the_end_has_answered(caplog):
    class Body(list):
        def close(self):
            raise RuntimeError

    def application(environ, start):
        start("200 OK", TEXT)
        return Body([b"whole"])

    with wired(application) as wire:
        assert wire.ask(GET).body == b"whole"
        assert wire.ask(GET).body == b"whole"
    assert "and then failed" in caplog.records[0].getMessage()


def test_a_client_that_goes_away_ends_the_application(caplog):
    closed = threading.Event()

    def application(environ, start):
        start("200 OK", TEXT)
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    with wired(application) as wire:
        wire.send(GET)
        wire.sock.recv(10)
        wire.close()
        assert closed.wait(DEADLINE)
    assert caplog.records == []


def test_what_is_refused_is_logged_in_one_line(caplog):
    caplog.set_level(logging.INFO, "encore.storage.server")
    with wired(hello) as wire:
        assert wire.ask(b"GET \x1b[31m HTTP/1.1\r\n\r\n").status == 400
    [record] = caplog.records
    assert record.getMessage() == "127.0.0.1 refused: 400, there are control characters in the head"


def test_what_a_client_sends_is_escaped_in_the_log(caplog):
    with wired(fails_at_once) as wire:
        wire.ask(b'G%T /\xe9\x9b"' + b"x" * 1000 + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    [record] = caplog.records
    line = record.getMessage()
    assert line.startswith("G%T /\\xe9\\x9b%22xxx")
    assert line.endswith("x... HTTP/1.1 failed")
    assert len(line) < 600
