"""Calls: statuses as errors, what is tried again, redirects, what is refused before it is sent."""

import copy
import json
import pickle
import time

import pytest
from hostile_server import HostileServer, answer, close, ok, read, reset, silence
from http_clients import Clock, close_all, new_client

from encore.storage._http import Client, Headers, Response, quote_key
from encore.storage._http_connections import HTTPTransport
from encore.storage._http_errors import http_date, retry_after, shown_url
from encore.storage.errors import (
    AuthenticationError,
    AuthorizationError,
    IntegrityError,
    PreconditionError,
    StoreError,
    StoreFullError,
    StoreOSError,
    TemporaryError,
)
from encore.storage.retry_policy import RetryPolicy, is_temporary, may_have_happened


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


# Keys


@pytest.mark.parametrize(
    ("key", "quoted"),
    [
        ("a", "a"),
        ("a/b.c", "a/b.c"),
        ("a b", "a%20b"),
        ("ä/€", "%C3%A4/%E2%82%AC"),
        ("~!$&'()*+,;=:@-_.x", "~!$&'()*+,;=:@-_.x"),
        ('?#%[]"<>\\^`{|}', "%3F%23%25%5B%5D%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("%2E", "%252E"),
        ("\n\x00", "%0A%00"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        (".a", ".a"),
        ("a/..b", "a/..b"),
        ("a/./b", "a%2F%2E%2Fb"),
        ("../a.b", "%2E%2E%2Fa.b"),
        ("/a", "%2Fa"),
        ("a/", "a%2F"),
        ("a//b/c", "a%2F%2Fb%2Fc"),
        ("/", "%2F"),
    ],
)
def test_keys_are_quoted_for_paths(key, quoted):
    from urllib.parse import unquote

    assert quote_key(key) == quoted
    assert unquote(quoted) == key


# Statuses


STATUSES = {
    300: StoreError,
    302: StoreError,
    304: StoreError,
    400: StoreError,
    401: AuthorizationError,
    403: AuthorizationError,
    404: KeyError,
    405: StoreError,
    407: AuthorizationError,
    408: TemporaryError,
    409: StoreError,
    410: KeyError,
    412: PreconditionError,
    413: StoreError,
    416: StoreError,
    418: StoreError,
    425: TemporaryError,
    429: TemporaryError,
    500: TemporaryError,
    501: StoreError,
    502: TemporaryError,
    503: TemporaryError,
    504: TemporaryError,
    505: StoreError,
    507: StoreFullError,
    599: TemporaryError,
    600: TemporaryError,
    999: TemporaryError,
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses_are_errors(status):
    why = b"" if status == 304 else b"why"
    with HostileServer([read, answer(why, f"{status} Because"), ok]) as server:
        client = new_client()
        with pytest.raises(STATUSES[status]) as caught:
            client.request("GET", server.url + "data", key="key")
        error = caught.value
        assert error.status == status
        if status != 507:
            assert type(error) is STATUSES[status]
        if isinstance(error, KeyError):
            assert error.args == ("key",)
        else:
            assert error.key == "key"
            assert f"127.0.0.1:{server.port}/data: status {status}" in str(error)
        # The connection is kept.
        assert client.request("GET", server.url).read() == b"2"
        assert server.connections == 1


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_missing_is_no_key_error_where_there_is_no_key(status):
    with (
        HostileServer([read, answer(b"", f"{status} No"), close]) as server,
        pytest.raises(StoreError),
    ):
        new_client().request("GET", server.url)


@pytest.mark.parametrize("status", [200, 201, 206, 299, 304, 404, 412, 503])
def test_expected_statuses_are_answers(status):
    with HostileServer([read, answer(b"", f"{status} Ok"), close]) as server:
        response = new_client().request("GET", server.url, expect=(304, 404, 412, 503))
        assert response.status == status


@pytest.mark.parametrize(
    ("status", "happened"),
    [(408, False), (425, False), (429, False), (500, None), (502, None), (503, None)],
)
def test_some_statuses_say_that_nothing_was_done(status, happened):
    with HostileServer([read, answer(b"", f"{status} No"), close]) as server:
        with pytest.raises(TemporaryError) as caught:
            new_client().request("GET", server.url)
        assert caught.value.happened is happened


def refusal(status, **said):
    return answer(json.dumps(said).encode(), f"{status} No", Content_Type="application/json")


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "ValueError", ValueError),
        (400, "TypeError", TypeError),
        (401, "AuthenticationError", AuthenticationError),
        (403, "AuthorizationError", AuthorizationError),
        (404, "ValueError", KeyError),
        (500, "IntegrityError", IntegrityError),
        (500, "StoreFullError", TemporaryError),
        (500, "SystemExit", TemporaryError),
        (500, ["x"], TemporaryError),
        (501, "NotImplementedError", NotImplementedError),
        (501, "StoreError", StoreError),
        (503, "ValueError", TemporaryError),
    ],
)
def test_a_refusal_says_what_kind_of_error_it_is(status, kind, expected):
    with HostileServer([read, refusal(status, error="why", kind=kind), close]) as server:
        with pytest.raises(expected) as caught:
            new_client().request("GET", server.url, key="key")
        assert type(caught.value) is expected
        if expected is not KeyError:
            assert str(caught.value) == f"{server.url}: why"


def test_a_refusal_that_nothing_was_done_is_believed():
    with HostileServer([read, refusal(503, error="why", happened=False), close]) as server:
        with pytest.raises(TemporaryError) as caught:
            new_client().request("GET", server.url)
        assert caught.value.happened is False


@pytest.mark.parametrize(
    "body",
    [b"[]", b"1", b"{", b"\xff", b'{"error": 5}', b"[" * 50_000, b'{"error": "' + b"x" * 100_000],
)
def test_what_a_refusal_says_may_be_nonsense(body):
    script = [read, answer(body, "409 No", Content_Type="application/json"), close]
    with HostileServer(script) as server, pytest.raises(StoreError, match="status 409"):
        new_client().request("GET", server.url)


def test_what_a_refusal_says_is_one_short_line():
    said = "a\nb\x1b[31m\x00" + "x" * 1000
    with HostileServer([read, refusal(409, error=said), close]) as server:
        with pytest.raises(StoreError) as caught:
            new_client().request("GET", server.url)
        text = str(caught.value)
        assert text.startswith(f"{server.url}: a b [31m")
        assert text.isprintable()
        assert len(text) < 400


def test_no_message_shows_a_secret():
    with HostileServer([read, answer(b"", "409 No"), close]) as server:
        url = f"http://user:secret@127.0.0.1:{server.port}/a?token=secret#secret"
        with pytest.raises(StoreError) as caught:
            new_client().request("GET", url, headers={"Authorization": "secret"})
        assert "secret" not in str(caught.value)
        assert "/a?..." in str(caught.value)
    client = new_client()
    for bad in ("ht!tp://user:secret@h/", "http://user:secret@h:x/", "http://u:secret@h/ "):
        with pytest.raises(ValueError, match="URL") as refused:
            client.request("GET", bad)
        assert "secret" not in str(refused.value)
    assert shown_url("http://[") == "an invalid URL"


# Retry-After


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        ("0", 0.0),
        ("-5", None),
        ("5.5", None),
        ("\xb2", None),
        ("9" * 1000, 9999999999.0),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thursday, 01-Jan-70 00:01:40 GMT", 90.0),
        ("Thu Jan  1 00:01:40 1970", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:01 GMT", None),
        ("Thu, 01 Jan 99999 00:00:01 GMT", None),
    ],
)
def test_when_to_come_again(text, seconds):
    assert retry_after(text, now=10.0) == seconds


def test_dates():
    assert http_date(None) is None
    assert http_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777.0
    assert abs(retry_after("Fri, 31 Dec 2100 00:00:00 GMT") + time.time() - 4133894400) < 60


# What is tried again


def failing(*failures):
    """Scripts of connections: each failure, then an answer."""
    return [[*each] if isinstance(each, tuple) else [read, each] for each in failures] + [[ok]]


BUSY = answer(b"", "503 Busy")


@pytest.mark.parametrize(
    "failure",
    [
        (reset,),
        (read, reset),
        (read, close),
        (read, b"HTTP/1.1 2", close),
        (read, answer(b"abc", Content_Length="5"), close),
        (read, BUSY, close),
        (read, answer(b"", "500 Error"), close),
        (read, answer(b"", "429 Too many"), close),
    ],
)
def test_what_is_temporary_is_tried_again_if_that_does_no_harm(failure):
    with HostileServer(*failing(failure, failure)) as server:
        clock = Clock()
        response = new_client(attempts=3, clock=clock).request("GET", server.url, whole=True)
        assert response.read() == b"%d" % len(server.requests)
        assert server.connections == 3
        assert clock.sleeps == [0.1, 0.2]


def test_what_is_not_temporary_is_not_tried_again():
    with HostileServer([read, b"garbage\r\n\r\n", close]) as server:
        clock = Clock()
        with pytest.raises(StoreError):
            new_client(attempts=3, clock=clock).request("GET", server.url)
        assert (server.connections, clock.sleeps) == (1, [])


def test_at_last_the_error_comes():
    with HostileServer([read, BUSY, close]) as server:
        with pytest.raises(TemporaryError) as caught:
            new_client(attempts=3).request("GET", server.url)
        assert caught.value.attempts == 3
        assert len(server.requests) == 3


def test_by_default_there_are_three_attempts():
    policy = Client(HTTPTransport())._policy
    assert (policy.attempts, policy.first_delay, policy.factor) == (3, 0.1, 2.0)


def test_a_server_says_when_to_come_again():
    with HostileServer([read, answer(b"", "503 Busy", Retry_After="3"), ok]) as server:
        clock = Clock()
        new_client(attempts=3, clock=clock).request("GET", server.url)
        assert clock.sleeps == [3.0]
        assert server.connections == 1


@pytest.mark.parametrize("when", ["11", "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_nobody_waits_longer_than_there_is_time(when):
    with HostileServer([read, answer(b"", "503 Busy", Retry_After=when), close]) as server:
        clock = Clock()
        with pytest.raises(TemporaryError) as caught:
            new_client(attempts=3, clock=clock, timeout=10.0).request("GET", server.url)
        assert caught.value.retry_after > 10
        assert clock.sleeps == []


def test_no_attempt_begins_when_the_time_is_over():
    with HostileServer([read, BUSY, close]) as server:
        clock = Clock(step=1.0)
        with pytest.raises(TemporaryError):
            new_client(attempts=1000, clock=clock, timeout=30.0).request("GET", server.url)
        assert 1 < len(server.requests) < 10
        assert clock.now < 40


def test_a_policy_may_have_less_time_and_is_not_changed():
    policy = RetryPolicy(deadline=5.0)
    assert Client(HTTPTransport(), policy=policy)._policy.deadline == 5.0
    assert Client(HTTPTransport(), policy=policy, timeout=2.0)._policy.deadline == 2.0
    assert policy.deadline == 5.0
    assert Client(HTTPTransport(), policy=RetryPolicy(deadline=None))._policy.deadline == 30.0


@pytest.mark.parametrize(
    ("method", "headers", "safe", "is_repeated"),
    [
        ("GET", {}, None, True),
        ("HEAD", {}, None, True),
        ("OPTIONS", {}, None, True),
        ("GET", {"If-None-Match": "x"}, None, True),
        ("GET", {}, False, False),
        ("PUT", {}, None, True),
        ("DELETE", {}, None, True),
        ("PUT", {"If-Match": "x"}, None, False),
        ("PUT", {"if-none-match": "*"}, None, False),
        ("DELETE", {"If-Unmodified-Since": "x"}, None, False),
        ("PUT", {}, False, False),
        ("POST", {}, None, False),
        ("POST", {}, True, True),
    ],
)
def test_what_may_have_been_done_is_repeated_only_if_that_does_no_harm(
    method, headers, safe, is_repeated
):
    body = b"abc" if method in ("PUT", "POST") else None
    for failure in ((read, BUSY, close), (read, reset)):
        with HostileServer(*failing(failure)) as server:
            client = new_client(attempts=2)
            arguments = {"headers": headers, "safe": safe, "body": body}
            if is_repeated:
                assert client.request(method, server.url, **arguments).status == 200
                assert [each.body for each in server.requests] == [body or b""] * 2
            else:
                with pytest.raises(TemporaryError) as caught:
                    client.request(method, server.url, **arguments)
                assert caught.value.happened is None
                assert len(server.requests) == 1


def test_what_was_certainly_not_done_is_repeated():
    with HostileServer([read, answer(b"", "429 Too many"), ok]) as server:
        assert new_client(attempts=2).request("POST", server.url, body=b"x").read() == b"2"


def free_port():
    with HostileServer([ok]) as server:
        return server.port


def test_a_refused_connection_did_nothing():
    clock = Clock()
    with pytest.raises(TemporaryError) as caught:
        new_client(attempts=3, clock=clock).request(
            "POST", f"http://127.0.0.1:{free_port()}/", body=b"x"
        )
    error = caught.value
    assert isinstance(error, StoreOSError)
    assert error.strerror == "Connection refused"
    assert error.happened is False
    assert error.attempts == 3


def test_what_may_have_happened_in_an_earlier_attempt_is_not_denied():
    server = HostileServer([read, reset])
    with server:
        clock = Clock()
        client = new_client(attempts=2, clock=clock)
        # Nobody is there any more when it is tried again.
        leave = server.leave
        clock.sleep = client._policy.sleep = lambda seconds: leave()
        with pytest.raises(TemporaryError, match="refused") as caught:
            client.request("PUT", server.url, body=b"x")
    error = caught.value
    assert may_have_happened(error)
    assert error.__cause__.happened is False
    assert len(server.requests) == 1


def test_an_unknown_host_did_nothing_and_is_not_asked_again(monkeypatch):
    import socket

    def fail(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    clock = Clock()
    with pytest.raises(StoreError, match="not known") as caught:
        new_client(attempts=3, clock=clock).request("GET", "http://nowhere.invalid/")
    assert caught.value.happened is False
    assert not isinstance(caught.value, OSError)
    assert clock.sleeps == []


def test_a_host_whose_name_cannot_be_looked_up_is_an_error():
    with pytest.raises(StoreError, match="not the name of a host") as caught:
        new_client(attempts=3).request("GET", f"http://{'a' * 70}/")
    assert caught.value.happened is False


def test_a_name_server_that_is_busy_is_asked_again(monkeypatch):
    import socket

    def fail(*_):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    clock = Clock()
    with pytest.raises(TemporaryError) as caught:
        new_client(attempts=3, clock=clock).request("POST", "http://nowhere.invalid/", body=b"x")
    assert caught.value.happened is False
    assert len(clock.sleeps) == 2


def test_each_address_of_a_host_is_tried(monkeypatch):
    import socket

    with HostileServer([ok]) as server:
        kinds = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*kinds, ("127.0.0.1", free_port())), (*kinds, ("127.0.0.1", server.port))]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_: found)
        assert new_client().request("GET", "http://two.invalid/").read() == b"1"
        assert server.requests[0].headers["host"] == "two.invalid"
        found.clear()
        with pytest.raises(StoreError, match="no address"):
            new_client().request("GET", "http://two.invalid/")


def test_what_was_tried_before_is_told():
    with HostileServer([read, BUSY, read, answer(b"", "404 Gone"), close]) as server:
        with pytest.raises(KeyError) as caught:
            new_client(attempts=2).request("DELETE", server.url, key="key")
        assert caught.value.repeated is True


def test_a_refusal_that_is_cut_off_has_not_happened():
    conflict = answer(b"abc", "409 No", Content_Length="5")
    with HostileServer([read, conflict, close]) as server:
        with pytest.raises(TemporaryError) as caught:
            new_client().request("POST", server.url, body=b"x", whole=True, expect=(409,))
        assert caught.value.happened is None


def test_the_first_attempt_is_no_repetition():
    with HostileServer([read, answer(b"", "404 Gone"), close]) as server:
        with pytest.raises(KeyError) as caught:
            new_client(attempts=2).request("DELETE", server.url, key="key")
        assert caught.value.repeated is False


def test_an_answer_that_is_cut_off_says_that_it_has_happened():
    with HostileServer([read, answer(b"abc", Content_Length="5"), close]) as server:
        with pytest.raises(TemporaryError) as caught:
            new_client(attempts=2).request("POST", server.url, body=b"x", whole=True)
        assert caught.value.happened is True
        assert len(server.requests) == 1


# Redirects


def redirect(url, status=302, body=b""):
    return answer(body, f"{status} Elsewhere", Location=url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "where", ["/there?x=1", "there?x=1", "{url}there?x=1#part", "//{host}/there?x=1"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_redirects_are_followed(status, where, method):
    with HostileServer() as server:
        host = f"127.0.0.1:{server.port}"
        location = where.format(url=server.url, host=host)
        last = answer(b"" if method == "HEAD" else b"abc")
        server.scripts = [
            [read, redirect(location, status, b"" if method == "HEAD" else b"x" * 50), read, last]
        ]
        response = new_client().request(method, server.url + "here", headers={"X": "y"})
        assert response.url == server.url + "there?x=1"
        first, second = server.requests
        assert (first.target, second.target) == ("/here", "/there?x=1")
        assert first.method == second.method == method
        assert second.headers["x"] == "y"
        # On one connection.
        assert server.connections == 1


@pytest.mark.parametrize(
    "location", ["/a b", "/\xc3\xa4", "/%C3%A4?\xe2\x82\xac", "http://user:secret@{host}/"]
)
def test_odd_locations_are_quoted(location):
    with HostileServer() as server:
        server.scripts = [[read, redirect(location.format(host=f"127.0.0.1:{server.port}")), ok]]
        response = new_client().request("GET", server.url + "x")
        assert server.requests[1].target in ("/a%20b", "/%C3%A4", "/%C3%A4?%E2%82%AC", "/")
        assert "secret" not in response.url
        assert "authorization" not in server.requests[1].headers


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "data:,x",
        "javascript:x",
        "gopher://h/",
        "http://h:99999/",
        "http://h:x/",
        "http://[::1/",
        "http://h%00/",
    ],
)
def test_redirects_elsewhere_than_http_are_refused(location):
    with HostileServer([read, redirect(location), close]) as server:
        with pytest.raises(StoreError, match="redirected to what is no URL") as caught:
            new_client(attempts=3).request("GET", server.url)
        assert not is_temporary(caught.value)
        assert len(server.requests) == 1


def test_a_redirect_without_a_location_is_an_error():
    with (
        HostileServer([read, answer(b"", "302 Elsewhere"), close]) as server,
        pytest.raises(StoreError, match="status 302"),
    ):
        new_client().request("GET", server.url)


def test_redirects_in_a_circle_are_found():
    with HostileServer([read, redirect("/b"), read, redirect("/a"), close]) as server:
        with pytest.raises(StoreError, match="in a circle") as caught:
            new_client(attempts=3).request("GET", server.url + "a")
        assert not is_temporary(caught.value)
        assert len(server.requests) == 2


@pytest.mark.parametrize("location", ["/a", "", "http://", "http:///a", "//", "#part", "./a"])
def test_a_redirect_to_itself_is_a_circle(location):
    with (
        HostileServer([read, redirect(location), close]) as server,
        pytest.raises(StoreError, match="in a circle"),
    ):
        new_client().request("GET", server.url + "a")


def test_there_are_five_redirects_at_most():
    script = [step for n in range(6) for step in (read, redirect(f"/{n}"))]
    with HostileServer([*script, close]) as server:
        with pytest.raises(StoreError, match="more than 5"):
            new_client().request("GET", server.url)
        assert len(server.requests) == 6
    with HostileServer([*script[:10], ok]) as server:
        assert new_client().request("GET", server.url).read() == b"6"


def test_a_redirect_may_be_expected():
    with HostileServer([read, redirect("/b"), close]) as server:
        response = new_client().request("GET", server.url, expect=(302,))
        assert response.headers.get("location") == "/b"


SECRETS = {"Authorization": "secret", "cookie": "secret", "Proxy-Authorization": "secret", "X": "y"}


def test_another_server_is_told_no_secrets():
    with HostileServer() as home, HostileServer([ok]) as other:
        back = f"{home.url}back"
        home.scripts = [[read, redirect(other.url), ok]]
        other.scripts = [[read, redirect(back)]]
        assert new_client().request("GET", home.url, headers=SECRETS).read() == b"2"
        assert "secret" not in str(other.requests[0].headers)
        assert other.requests[0].headers["x"] == "y"
        for request in home.requests:
            assert request.headers["authorization"] == request.headers["cookie"] == "secret"


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_writes_are_not_redirected_to_reads(status, method):
    with HostileServer([read, redirect("/b", status), close]) as server:
        with pytest.raises(StoreError, match="redirected"):
            new_client(attempts=3).request(method, server.url, body=b"x")
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_writes_are_repeated_elsewhere_if_the_server_says_so(status, method):
    with HostileServer([read, redirect("/b", status), ok]) as server:
        assert new_client().request(method, server.url, body=b"abc").read() == b"2"
        assert [each.body for each in server.requests] == [b"abc", b"abc"]
        assert [each.method for each in server.requests] == [method, method]


def test_redirects_have_the_time_of_one_call():
    script = [step for n in range(4) for step in (read, redirect(f"/{n}"))]
    with HostileServer([*script, silence]) as server:
        clock = Clock(step=1.0)
        with pytest.raises(TemporaryError, match="timed out"):
            new_client(clock=clock, timeout=12.0).request("GET", server.url)
        assert len(server.requests) < 4


class Wandering:
    """A transport that is redirected all the time, and takes six seconds each."""

    def __init__(self, clock):
        self.clock = clock
        self.calls = []

    def send(self, method, url, headers, body, timeout, *, foreign=False):
        self.calls.append((url, timeout, foreign))
        self.clock.now += 6.0
        there = Headers([("Location", f"/{len(self.calls)}")])
        return Response(302, url, there, None, 0)

    def close(self):
        self.is_closed = True


def test_each_step_has_the_time_that_is_left():
    clock = Clock()
    transport = Wandering(clock)
    policy = RetryPolicy(sleep=clock.sleep, clock=clock)
    client = Client(transport, timeout=10.0, policy=policy)
    with pytest.raises(TemporaryError, match=r"timed out: 'http://h/2'"):
        client.request("GET", "http://h/")
    assert transport.calls == [("http://h/", 10.0, False), ("http://h/1", 4.0, False)]
    client.close()
    assert transport.is_closed


# What is refused before anything is sent


@pytest.mark.parametrize(
    "path",
    [
        "a\r\nX: y",
        "a\nb",
        "a\rb",
        "a\x00b",
        "a b",
        "a\tb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "a HTTP/1.1\r\nX: y\r\n\r\n",
        "?a\r\nb",
    ],
)
def test_nothing_is_smuggled_in_a_url(path):
    with HostileServer([ok]) as server:
        client = new_client()
        for _ in range(2):
            with pytest.raises(ValueError, match="URL"):
                client.request("GET", server.url + path)
            # Now the server is known.
            if not server.requests:
                client.request("GET", server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["h\r\nX: y", "h h", "h\x00", "h\t"])
def test_nothing_is_smuggled_in_a_host(host):
    with pytest.raises(ValueError, match="URL"):
        new_client().request("GET", f"http://{host}/a")


@pytest.mark.parametrize(
    "url",
    ["", "a", "/a", "ftp://h/", "file:///x", "http:", "http://", "http://:80/", "http://h:x/",
     "http://h:0/", "http://h:65536/", "http://[::1/", "http://\ud800/", "http://h%41/", "http://" + "a" * 70 + "ä/"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match=r"URL|encode"):
        new_client().request("GET", url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nY: z"),
        ("X", "a\nb"),
        ("X", "a\rb"),
        ("X", "a\x00b"),
        ("X", "\x7f"),
        ("X", "€"),
        ("X\r\nY", "z"),
        ("X: y", "z"),
        ("X ", "z"),
        ("", "z"),
        ("ä", "z"),
        ("Transfer-Encoding", "chunked"),
        ("host", "elsewhere"),
        ("Expect", "100-continue"),
        ("Content-Length", "-1"),
        ("Content-Length", "1\r\nX: y"),
        ("Content-Length", "5"),
    ],
)
def test_nothing_is_smuggled_in_a_header(name, value):
    with HostileServer([ok]) as server:
        with pytest.raises(ValueError, match=r"\w"):
            new_client(attempts=3).request("PUT", server.url, headers={name: value}, body=b"abc")
        assert server.connections == 0


@pytest.mark.parametrize("headers", [{"X": 5}, {"X": b"y"}, {5: "x"}, {"X": None}])
def test_headers_are_str(headers):
    with pytest.raises(TypeError, match="headers are str"):
        new_client().request("GET", "http://127.0.0.1/", headers=headers)


@pytest.mark.parametrize(
    "method", ["", "GET ", "GET\r\n", "G\x00", "ä", "GET / HTTP/1.1\r\nX: y\r\n\r\n"]
)
def test_nothing_is_smuggled_in_a_method(method):
    with pytest.raises(ValueError, match="no method"):
        new_client().request(method, "http://127.0.0.1/")


def test_a_length_without_a_body_is_refused():
    with pytest.raises(ValueError, match="no body"):
        new_client().request("PUT", "http://127.0.0.1/", headers={"Content-Length": "5"})


def test_what_may_stand_in_a_header_is_sent():
    with HostileServer([ok]) as server:
        new_client().request("GET", server.url, headers={"X": "\täö ~", "ETag": '"\xff"'})
        assert server.requests[0].headers["x"] == "\täö ~"


def test_a_url_is_sent_as_it_is():
    with HostileServer([ok, ok, ok, ok, ok]) as server:
        client = new_client()
        targets = ["/a/%2E%2e/b//c;x?y=%20&z=/?", "/./../a", "/%2F", "/x?a=b"]
        for target in targets:
            client.request("GET", server.url[:-1] + target).close()
        client.request("GET", server.url[:-1] + "?q").close()
        assert [each.target for each in server.requests] == [*targets, "/?q"]


def test_letters_beyond_ascii_are_quoted():
    with HostileServer([ok]) as server:
        new_client().request("GET", f"{server.url}ä%20€?ö#ü")
        assert server.requests[0].target == "/%C3%A4%20%E2%82%AC?%C3%B6"


def test_the_usual_headers_are_sent():
    from encore import __version__

    with HostileServer([ok]) as server:
        new_client().request("GET", server.url)
        assert server.requests[0].headers == {
            "host": f"127.0.0.1:{server.port}",
            "user-agent": f"encore/{__version__}",
            "accept-encoding": "identity",
        }
        new_client().request(
            "GET", server.url, headers={"user-agent": "me", "accept-encoding": "gzip"}
        )
        assert server.requests[1].headers["user-agent"] == "me"
        assert server.requests[1].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_positive(timeout):
    with pytest.raises(ValueError, match="timeout"):
        Client(HTTPTransport(), timeout=timeout)


@pytest.mark.parametrize("timeout", [None, "1", True])
def test_a_timeout_is_a_number(timeout):
    with pytest.raises(TypeError, match="timeout"):
        Client(HTTPTransport(), timeout=timeout)


def test_a_timeout_may_be_longer_than_the_system_knows():
    with HostileServer([ok]) as server:
        assert new_client(timeout=1e300).request("GET", server.url).read() == b"1"
        assert new_client(timeout=float("inf")).request("GET", server.url).read() == b"2"


# Odds and ends


def test_headers_have_names_of_any_case():
    headers = Headers([("Content-Type", "a"), ("X", "b"), ("x", "c")])
    assert headers.get("CONTENT-type") == "a"
    assert headers.get("x") == "b, c"
    assert headers.get("y") is None
    assert headers.get("y", "z") == "z"
    assert "content-TYPE" in headers
    assert "y" not in headers
    assert list(headers) == ["content-type", "x"]
    assert repr(headers) == "<Headers content-type x>"


class Pieces:
    """A body of pieces, as another transport has it."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.is_closed = False

    def read(self, size):
        return self.pieces.pop(0) if self.pieces else b""

    def close(self):
        self.is_closed = True


def test_the_length_of_a_body_is_checked_for_every_transport():
    body = Pieces(b"ab", b"c")
    response = Response(200, "http://h/", Headers(), body, 3)
    assert response.read() == b"abc"
    response.close()
    assert body.is_closed
    with pytest.raises(TemporaryError, match="1 bytes too early"):
        Response(200, "http://h/", Headers(), Pieces(b"ab"), 3).read()
    with pytest.raises(StoreError, match="more data than was promised"):
        Response(200, "http://h/", Headers(), Pieces(b"abcd"), 3).read()
    assert Response(200, "http://h/", Headers(), Pieces(b"abcd")).read() == b"abcd"


def test_a_response_is_a_stream():
    response = Response(200, "http://h/", Headers(), Pieces(b"abc"), 3)
    assert response.readable()
    assert not response.seekable()
    assert repr(response) == "<Response 200>"
    with response:
        assert response.read(0) == b""
        assert response.read(None) == b"abc"
    assert response.closed


def test_a_client_can_be_pickled_and_copied():
    with HostileServer([ok]) as server:
        client = new_client()
        assert client.request("GET", server.url).read() == b"1"
        for other in (
            pickle.loads(pickle.dumps(Client(HTTPTransport(), timeout=5.0))),
            copy.deepcopy(client),
        ):
            assert other.request("GET", server.url).status == 200
            other.close()
        assert server.connections == 3
        assert repr(client) == "<Client of <HTTPTransport>>"
