"""What the server takes for the head of a request, and what it refuses: without a socket."""

from __future__ import annotations

import pytest

from encore.storage._http_server_head import (
    MAX_FIELDS,
    MAX_HEAD,
    RequestError,
    check_beginning,
    check_field,
    parse_head,
)


def head(line="GET / HTTP/1.1", *fields, host="Host: h"):
    return "\r\n".join([line, *([host] if host else []), *fields]).encode("latin-1")


def refused(data):
    with pytest.raises(RequestError) as caught:
        parse_head(data)
    assert caught.value.message.isascii()
    return caught.value.status


def test_a_head_is_read():
    parsed = parse_head(
        b"PUT /keys/a%2Fb/data?x=%20&y HTTP/1.1\r\nhOsT:localhost:8080\r\nX-Any:  two words \t\r\n"
        b"Accept: a\r\naccept: b\r\nCookie: a=1\r\nCookie: b=2\r\nContent-Length: 12\r\nEmpty:"
    )
    assert parsed.method == "PUT"
    assert parsed.target == "/keys/a%2Fb/data?x=%20&y"
    assert (parsed.path, parsed.query) == ("/keys/a/b/data", "x=%20&y")
    assert parsed.version == "HTTP/1.1"
    assert parsed.length == 12
    assert parsed.keep_alive
    assert not parsed.expects_continue
    assert parsed.fields == {
        "HTTP_HOST": "localhost:8080",
        "HTTP_X_ANY": "two words",
        "HTTP_ACCEPT": "a, b",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_CONTENT_LENGTH": "12",
        "HTTP_EMPTY": "",
    }


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/?", "/", ""),
        ("/a?b?c", "/a", "b?c"),
        ("//a//", "//a//", ""),
        ("/../a/./b", "/../a/./b", ""),
        ("/%2e%2E/%00%ff%25", "/../\0\xff%", ""),
        ("/caf\xc3\xa9", "/caf\xc3\xa9", ""),
        ("/a\\b\"<>^`{|}'", "/a\\b\"<>^`{|}'", ""),
        ("http://other:99/a?b", "/a", "b"),
        ("HTTPS://other", "/", ""),
        ("http://other?b/c", "/", "b/c"),
        ("/http://other/", "/http://other/", ""),
    ],
)
def test_the_target_is_decoded_once_and_no_path_is_resolved(target, path, query):
    parsed = parse_head(head(f"GET {target} HTTP/1.1"))
    assert (parsed.path, parsed.query, parsed.target) == (path, query, target)


def test_the_host_of_an_absolute_target_counts():
    parsed = parse_head(head("GET http://other:99/a HTTP/1.1"))
    assert parsed.fields["HTTP_HOST"] == "other:99"


def test_options_may_be_of_the_server_as_a_whole():
    assert parse_head(head("OPTIONS * HTTP/1.1")).path == "*"


@pytest.mark.parametrize(
    "host", ["h", "h:", "h:8080", "127.0.0.1", "[::1]", "[fe80::1]:80", "[::ffff:1.2.3.4]", "a_b.c"]
)
def test_hosts(host):
    assert parse_head(head(host=f"Host: {host}")).fields["HTTP_HOST"] == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a:1:2",
        "[::1",
        "::1",
        "[]",
        "[::1]x",
        "[g]",
        "a,b",
        "h\xe9",
    ]
    + ["h:-1", "h:+1", "a#b", "a?b", '"h"', "<h>", "a\\b"],
)
def test_what_is_no_host(host):
    assert refused(head(host=f"Host: {host}")) == 400


def test_a_host_is_needed_once():
    assert refused(head(host=None)) == 400
    assert refused(head("GET / HTTP/1.1", "Host: h")) == 400
    assert refused(head("GET / HTTP/1.1", "HOST: other")) == 400
    assert refused(head("GET / HTTP/1.0", "Host: h")) == 400
    assert parse_head(head("GET / HTTP/1.0", host=None)).fields == {}


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /", 400),  # HTTP/0.9
        ("GET", 400),
        ("", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        (" GET / HTTP/1.1", 400),
        ("GET\t/\tHTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET / a HTTP/1.1", 400),
        ("GET /a\tb HTTP/1.1", 400),
        ("GET / HTTP/1.1\t", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1", 400),
        ("GET / HTTP/1.10", 400),
        ("GET / HTTP/1.x", 400),
        ("GET / HTTP/+.1", 400),
        ("GET / HTTP/\xb2.1", 400),
        ("GET / HTTPS/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("PRI * HTTP/2.0", 505),  # what HTTP/2 begins with
        ("G(T / HTTP/1.1", 400),
        ("G\xc9T / HTTP/1.1", 400),
        ("GET a HTTP/1.1", 400),
        ("GET ../a HTTP/1.1", 400),
        ("GET ?a HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET h:80 HTTP/1.1", 400),
        ("GET ftp://h/ HTTP/1.1", 400),
        ("GET file:///etc/passwd HTTP/1.1", 400),
        ("GET http:///a HTTP/1.1", 400),
        ("GET http://u:p@h/ HTTP/1.1", 400),
        ("GET http:/h/ HTTP/1.1", 400),
        ("GET /a#b HTTP/1.1", 400),
        ("GET /%zz HTTP/1.1", 400),
        ("GET /%4 HTTP/1.1", 400),
        ("GET /% HTTP/1.1", 400),
        ("GET /%+1 HTTP/1.1", 400),
        ("GET /%u0041 HTTP/1.1", 400),
        ("CONNECT h:443 HTTP/1.1", 501),
        ("CONNECT / HTTP/1.1", 501),
    ],
)
def test_request_lines_that_are_refused(line, status):
    assert refused(head(line)) == status


def test_any_method_is_the_application_s():
    for method in ("get", "BREW", "X-Y!", "TRACE"):
        assert parse_head(head(f"{method} / HTTP/1.1")).method == method


def test_versions_of_http_1():
    assert parse_head(head("GET / HTTP/1.2")).keep_alive
    assert not parse_head(head("GET / HTTP/1.0")).keep_alive


@pytest.mark.parametrize(
    "field",
    [
        "Content-Length : 5",
        "Content-Length\t: 5",
        " Content-Length: 5",
        "\tX: folded",
        " folded",
        "no colon",
        ": no name",
        "na me: x",
        "n\xe4me: x",
        "name(: x",
        'na"me: x',
        "X: \0",
        "X\0: y",
        "X: \x7f",
        "X: \x1b[31m",
        "X: a\rY: b",
        "X: a\nY: b",
        "X: a\r",
        "X: a\n",
        "\rX: a",
        "X: a\r\r",
        "",
    ],
)
def test_fields_that_are_malformed(field):
    assert refused(head("GET / HTTP/1.1", field, "Y: z")) == 400


def test_line_breaks_of_one_character_are_none():
    assert refused(head().replace(b"\r\n", b"\n")) == 400
    assert refused(head().replace(b"\r\n", b"\r")) == 400
    assert refused(head().replace(b"\r\n", b"\r\r\n")) == 400
    assert refused(head() + b"\n") == 400


@pytest.mark.parametrize(
    "value",
    ["+5", "-5", "5 5", "5,5", "5, 5", "0x5", "5.0", "5_0", "", "five", "\xb2", "1e3", "5;", "'5'"],
)
def test_a_content_length_is_digits(value):
    assert refused(head("PUT / HTTP/1.1", f"Content-Length: {value}")) == 400


def test_a_content_length_is_one_and_not_beyond_everything():
    for second in ("5", "6", "05"):
        fields = ("Content-Length: 5", f"Content-Length: {second}")
        assert refused(head("PUT / HTTP/1.1", *fields)) == 400
    assert refused(head("PUT / HTTP/1.1", f"Content-Length: {'9' * 19}")) == 413
    assert refused(head("PUT / HTTP/1.1", f"Content-Length: {'9' * 5000}")) == 413
    assert parse_head(head("PUT / HTTP/1.1", "Content-Length: 007")).length == 7
    assert parse_head(head("PUT / HTTP/1.1")).length == 0


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 400),  # CL.TE
        (["Transfer-Encoding: chunked", "Content-Length: 5"], 400),  # TE.CL
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),  # TE.TE
        (["Transfer-Encoding: chunked", "Transfer-encoding: identity"], 400),
        (["Transfer-Encoding: chunked, chunked"], 400),
        (["Transfer-Encoding: chunked, identity"], 400),
        (["Transfer-Encoding: xchunked"], 400),
        (["Transfer-Encoding: chunked;a=b"], 400),
        (["Transfer-Encoding: identity"], 400),
        (["Transfer-Encoding: gzip"], 400),
        (["Transfer-Encoding:"], 400),
        (["Transfer-Encoding: \x0bchunked"], 400),
        (["Transfer-Encoding: 'chunked'"], 400),
        (["Transfer-Encoding : chunked"], 400),
        (["X: y\r Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: identity, chunked"], 501),
        (["Content-Length: 0", "Transfer-Encoding: chunked"], 400),
    ],
)
def test_lengths_that_are_not_clear(fields, status):
    assert refused(head("POST / HTTP/1.1", *fields)) == status


def test_chunks():
    assert parse_head(head("PUT / HTTP/1.1", "Transfer-Encoding: Chunked")).length is None
    assert refused(head("PUT / HTTP/1.0", "Transfer-Encoding: chunked")) == 400


@pytest.mark.parametrize("name", ["Content_Length", "Transfer_Encoding", "X_Forwarded-For", "_"])
def test_names_with_underscores_are_ignored(name):
    parsed = parse_head(head("PUT / HTTP/1.1", f"{name}: 5"))
    assert parsed.fields == {"HTTP_HOST": "h"}
    assert parsed.length == 0


@pytest.mark.parametrize(
    "name", ["Authorization", "Content-Type", "Expect", "Range", "If-Range", "RANGE"]
)
def test_what_comes_once_is_not_repeated(name):
    assert refused(head("GET / HTTP/1.1", f"{name}: a", f"{name.lower()}: a")) == 400


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", "close", False),
        ("1.1", "Close", False),
        ("1.1", "x, CLOSE ,y", False),
        ("1.1", "keep-alive, close", False),
        ("1.1", "keep-alive", True),
        ("1.1", "closed", True),
        ("1.1", "", True),
        ("1.0", "keep-alive", True),
        ("1.0", "Keep-Alive", True),
        ("1.0", "x", False),
        ("1.0", "keep-alive, close", False),
    ],
)
def test_how_long_a_connection_goes_on(version, connection, kept):
    parsed = parse_head(head(f"GET / HTTP/{version}", f"Connection: {connection}"))
    assert parsed.keep_alive == kept


def test_expectations():
    expect = "Expect: 100-Continue"
    assert parse_head(head("PUT / HTTP/1.1", expect, "Content-Length: 5")).expects_continue
    chunks = "Transfer-Encoding: chunked"
    assert parse_head(head("PUT / HTTP/1.1", expect, chunks)).expects_continue
    assert not parse_head(head("PUT / HTTP/1.1", expect)).expects_continue
    assert not parse_head(head("PUT / HTTP/1.0", expect, "Content-Length: 5")).expects_continue
    assert refused(head("PUT / HTTP/1.1", "Expect: 200-ok")) == 417


def test_sizes_are_bounded():
    fields = [f"X-{number}: y" for number in range(MAX_FIELDS - 1)]
    assert len(parse_head(head("GET / HTTP/1.1", *fields)).fields) == MAX_FIELDS
    assert refused(head("GET / HTTP/1.1", *fields, "Z: y")) == 431
    rest = MAX_HEAD - len(head("GET / HTTP/1.1", "X: "))
    assert parse_head(head("GET / HTTP/1.1", "X: " + "x" * rest)).fields["HTTP_X"] == "x" * rest
    assert refused(head("GET / HTTP/1.1", "X: x" + "x" * rest)) == 431


def test_what_was_a_name_once_is_no_line_without_colon():
    assert check_field("X-Known: y") == ("HTTP_X_KNOWN", "y")
    with pytest.raises(RequestError):
        check_field("X-Known")


# What has not come whole yet


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),  # TLS
        (b"\0", 400),
        (b"\r\n", 400),
        (b" GET", 400),
        (b"GET /\r\n", 400),  # HTTP/0.9
        (b"GET /\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\nHost: h\r\n", 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"x" * (MAX_HEAD + 1), 414),
    ],
)
def test_what_is_no_http_is_seen_early(data, status):
    with pytest.raises(RequestError) as caught:
        check_beginning(data)
    assert caught.value.status == status


def test_what_may_become_a_request_is_waited_for():
    line = b"GET / HTTP/1.1\r\n"
    for end in range(len(line)):
        assert check_beginning(line[:end]) is False
    assert check_beginning(line) is True
    assert check_beginning(line + b"Ho") is True
    assert check_beginning(b"x" * MAX_HEAD) is False


def test_whatever_comes_is_read_or_refused():
    """Heads with a few bytes changed: nothing else is raised, and nothing slips through."""
    import random

    chance = random.Random(1)
    whole = (
        b"PUT /keys/a%2Fb?x HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"
        b"\r\nConnection: keep-alive, x\r\nExpect: 100-continue\r\nX-Any: y"
    )
    lines = whole.split(b"\r\n")
    read = 0
    for _ in range(3000):
        kept = [lines[0], *(line for line in lines[1:] if chance.random() < 0.7)]
        data = bytearray(b"\r\n".join(kept))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = bytes(
                chance.choices(b"\0\t\n\r :;,aZ0%\xff", k=chance.randrange(3))
            )
        for end in (len(data), chance.randrange(len(data) + 1)):
            try:
                parsed = parse_head(bytes(data[:end]))
            except RequestError:
                continue
            read += 1
            fields = parsed.fields
            assert not {"HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"} <= set(fields)
            assert parsed.path[:1] in ("/", "*")
            for name, value in fields.items():
                assert name == name.upper()
                assert not set("\r\n\0").intersection(name + value)
    assert read > 500
